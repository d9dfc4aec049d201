"""The stages: thin programs, one per node of the graph, that read and write the files of `flp.system.layout`."""

import os

# A stage computes with PyTorch. NumPy's threads would be idle, one per core in every process, and would keep a stage
# from forking its processes (flp/runs/shards.py).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
