"""Datasets of transitions: environments, controllers, generation, download, checks and reward labels."""
