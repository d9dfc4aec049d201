"""Files, processes and machines; nothing about learning. It carries results without shaping them."""
