"""The paper's figures and tables by name, and the toy that it opens with."""
