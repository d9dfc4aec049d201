"""The paper's figures and tables, each on its own: a picture or a table, and beside it its numbers."""
