"""Every random number of the project: seeds derived from names, and one stream per run."""
