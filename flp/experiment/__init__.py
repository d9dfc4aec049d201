"""Which artifacts there are, with which keys, made of what; and what every program of the pipeline shares."""
