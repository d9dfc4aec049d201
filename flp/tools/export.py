"""Write a trained policy as one file that runs without flp: observations and noise in, actions out.

POLICY is a run's folder, or its policy.safetensors. A `torch` file (.pt2) needs only PyTorch, an `onnx` file only
onnxruntime. Scaling, candidates, selection and flow are included, and the file describes its inputs and outputs. Before
it is written, it is compared with the policy on observations of its environment; it is also timed on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.filesize import decimal

from flp.experiment.program import program
from flp.system.artifacts import atomic_write
from flp.system.errors import FLPError

if TYPE_CHECKING:
    from flp.library.policy import Policy

ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
SECONDS = 2.0  # of timing
CHOICE: dict[str, dict[str, Any]] = {
    "POLICY": {"help": "a run's folder, such as results/cube-single-play/offline/flp/seed0/task2_seed0"},
    "format": {"required": True, "choices": list(ENDINGS), "help": "what will run it"},
    "output": {"metavar": "FILE", "help": "where to write it (default: here, named by the policy)"},
}


def command(args: argparse.Namespace) -> int:
    """Export, and report what was written; return the exit status."""
    import torch

    from flp.library.exporting import TOLERANCE, export, opened
    from flp.library.policy import load_policy

    torch.set_num_threads(1)
    if args.output and Path(args.output).is_dir():
        raise FLPError(f"--output {args.output} is a folder; name a file in it")
    if args.output and Path(args.output).suffix != ENDINGS[args.format]:
        raise FLPError(
            f"--output {args.output}: programs know the format by the name; end it in {ENDINGS[args.format]}"
        )
    policy = load_policy(args.policy)
    written, contract = export(policy, args.format)
    path = Path(args.output or name_of(policy) + ENDINGS[args.format])
    with atomic_write(path) as file:
        file.write(written)
    typical, slow = latency(opened(written, args.format), contract)
    print(f"{path}: {decimal(len(written))}, {contract['format']}, the policy's actions to {TOLERANCE:g}")
    for entry in (*contract["inputs"], *contract["outputs"]):
        about = entry.get("distribution") or entry["range"]
        print(f"  {entry['name']} [{', '.join(map(str, entry['shape']))}] {entry['dtype']}, {about}")
    print(f"  an action takes {typical:.2f} ms on one core of this machine, {slow:.2f} ms at most in 99 of 100")
    return 0


def name_of(policy: Policy) -> str:
    """`flp-cube-single-play-task2-seed0`, with what distinguishes a sweep's policy and a fine-tuned one."""
    about = policy.manifest
    parts = [policy.agent, policy.dataset, f"task{policy.task}", f"seed{about.get('seed')}", about.get("variant")]
    parts += ["online"] if about.get("phase") == "online" else []
    return "-".join(map(str, filter(None, parts)))


def latency(run: Any, contract: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds for one observation: the median and the 99th percentile."""
    generator = np.random.default_rng(0)
    shapes = [(1, *entry["shape"][1:]) for entry in contract["inputs"]]
    types = [entry["dtype"] for entry in contract["inputs"]]
    inputs = [generator.random(shape).astype(kind) for shape, kind in zip(shapes, types, strict=True)]
    for _ in range(5):
        run(inputs)
    times: list[float] = []
    deadline = time.perf_counter() + SECONDS
    while len(times) < 1000 and (len(times) < 20 or time.perf_counter() < deadline):
        start = time.perf_counter()
        run(inputs)
        times.append(1000 * (time.perf_counter() - start))
    typical, slow = np.quantile(times, [0.5, 0.99])
    return float(typical), float(slow)


main = program("export", CHOICE, command, __doc__)
