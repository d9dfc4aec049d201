"""Files, processes and machines; knows nothing of learning. It carries results and does not shape them."""
