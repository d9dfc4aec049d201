"""A user's own tasks: files and Minari's datasets in, and their environments as the pipeline acts in them."""
