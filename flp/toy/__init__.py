"""Small experiments that need no environment."""
