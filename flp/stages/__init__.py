"""The stages, each a thin program: one node of the graph, reading and writing the files of `flp.system.layout`."""

import os

# All of a stage's arithmetic is PyTorch's. NumPy's threads would only wait, one for each core in every process, and
# where they do a stage's processes cannot start as copies of it (flp/runs/shards.py).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
