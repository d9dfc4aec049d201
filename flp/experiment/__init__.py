"""The experiment's artifacts with their inputs and keys, what they cost, and what all programs share."""
