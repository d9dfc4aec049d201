"""Training runs: from artifacts to trained and evaluated policies in run folders."""
