"""Runs and the sessions that make them: from artifacts to trained, evaluated and written-down policies."""
