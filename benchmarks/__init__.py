"""Measurements behind all claims of speed: `make bench`."""
