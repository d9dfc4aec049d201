"""Offline data: OGBench environments, datasets made or fetched, loading and relabelling."""
