"""Run an exported policy without flp: one JSON observation per line in, one JSON action per line out.

A .pt2 needs torch, a .onnx needs onnxruntime:  echo '[0.5, 1.0]' | python run_policy.py policy.pt2
"""

import json
import sys

import numpy as np


def load(path):
    """The policy as a function of arrays, and the contract stored in its file."""
    if path.endswith(".pt2"):
        import torch

        extra = {"contract.json": ""}
        program = torch.export.load(path, extra_files=extra).module()
        return lambda *inputs: program(*map(torch.from_numpy, inputs)).numpy(), json.loads(extra["contract.json"])
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    contract = json.loads(session.get_modelmeta().custom_metadata_map["contract"])
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0], contract


policy, contract = load(sys.argv[1])
generator = np.random.default_rng(0)  # the policy's noise: the same seed gives the same actions
draw = {"standard normal": generator.standard_normal, "uniform in [0, 1)": generator.random}
for line in sys.stdin:
    observation = np.array([json.loads(line)], np.float32)
    noise = [draw[n["distribution"]]((1, *n["shape"][1:])).astype(n["dtype"]) for n in contract["inputs"][1:]]
    print(json.dumps(policy(observation, *noise)[0].tolist()))
