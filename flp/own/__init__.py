"""A user's own tasks: import of files and Minari datasets, and adapters for their environments."""
