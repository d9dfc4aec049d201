"""Claims of speed, measured: `make bench`."""
