"""Watches training without influencing it: what will not fit, what goes wrong, how long things take."""
