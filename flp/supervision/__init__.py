"""Looks at training and never shapes it: what will not fit, foreseen; what goes wrong, noticed."""
