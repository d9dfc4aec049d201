"""How long an update's matrix products take by themselves: a lower bound that no compiler can beat.

`python -m benchmarks.bound` counts the multiplications of every agent's update (batch 256, observation 28, action 5),
and measures how fast the faster of PyTorch's libraries multiplies a batch by a hidden layer on one thread. Their ratio
is the shortest possible update in float32; half of a peer's time (`benchmarks.peers`) may be shorter.
"""

from __future__ import annotations

import argparse
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import least_processor_seconds
from benchmarks.peers import ACTION, BATCH, OBSERVATION, OFFICIAL, SIZES
from benchmarks.subject import make_trainer
from flp.learner.devices import set_up
from flp.learner.trainer import CHUNK
from flp.networks import products


def counted(agent: str, size: str) -> float:
    """Floating-point operations in the matrix products of an update."""
    width, depth = SIZES[size]
    with patch.object(products, "_PREFERRED", False):  # only PyTorch's own operators are counted
        trainer = make_trainer(1, OBSERVATION, ACTION, [width] * depth, torch.device("cpu"), BATCH, agent=agent)
        trainer.run_chunk()
        with FlopCounterMode(display=False) as counter:
            trainer.run_chunk()
    return float(counter.get_total_flops()) / CHUNK


def rate(width: int, rounds: int = 200) -> float:
    """Floating-point operations a second of a batch times a hidden layer, the best of the rounds in processor time."""
    x, weight, bias = torch.randn(1, BATCH, width), torch.randn(1, width, width), torch.randn(1, 1, width)
    with torch.inference_mode():
        least = least_processor_seconds(lambda: [products.affine(x, weight, bias) for _ in range(10)], rounds)
    return 10 * 2 * BATCH * width**2 / least


def main() -> None:
    """A row for every agent and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=[*OFFICIAL, "flp"], default=[*OFFICIAL, "flp"])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    args = parser.parse_args()
    set_up(1, "cpu", "float32")
    for size in args.sizes:
        speed = rate(SIZES[size][0])
        for agent in args.agents:
            work = counted(agent, size)
            print(
                f"{agent:<7} {size:<6} {work / 1e6:6.0f} MFLOP at {speed / 1e9:.0f} GFLOP/s: "
                f"{1000 * work / speed:6.2f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
