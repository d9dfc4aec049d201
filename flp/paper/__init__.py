"""The paper's figures and tables by name, among them the toy problem it opens with."""
