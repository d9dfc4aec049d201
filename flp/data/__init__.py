"""Transitions in, and what may be wrong with them: environments, controllers, generation, download, files, labels."""
