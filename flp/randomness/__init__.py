"""All randomness of the project: seeds derived from names, and one stream per run."""
