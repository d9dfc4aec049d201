"""The benefit of an encoder and of several draws: validation losses and speeds of flows trained one after another.

In a checkout with the dataset (`data/{dataset}.npz`), each flow is trained for the given steps with a learning rate
that decays to zero, on one thread, and timed by that thread's processor time:

    python -m benchmarks.encoder --dataset cube-double-play --steps 30000
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.measure import least_processor_seconds
from flp.data.load import Dataset, read_dataset
from flp.data.moments import observation_moments
from flp.flow.behavior import Flow
from flp.flow.matching import FlowLearner, Pairs, validation_loss
from flp.flow.saturation import learnable
from flp.flow.velocity import VelocityField
from flp.learner.trainer import Trainer
from flp.networks.mlp import standardize
from flp.randomness.streams import RunStreams
from flp.system import layout

# Widths of the field and of its encoder, and draws per transition.
FLOWS: dict[str, tuple[list[int], list[int], int]] = {
    "512×3": ([512] * 3, [], 1),
    "encoder 512×3, 256": ([256] * 2, [512, 512, 512, 256], 1),
    "the same, 4 draws": ([256] * 2, [512, 512, 512, 256], 4),
}
SCALE, SATURATION, RATE, BATCH = 5.0, 0.1, 1e-3, 256
INVERTED = 4096


def pairs(dataset: str, data: Dataset) -> Pairs:
    """The training pairs of a file."""
    actions = learnable(data, SATURATION, dataset, 0, "benchmark")
    return Pairs(*(torch.tensor(array) for array in (data.observations, actions, data.transitions)))


def trained(train: Pairs, field: VelocityField, steps: int, draws: int) -> tuple[FlowLearner, float]:
    """The trained flow, and its steps per second of processor time."""
    learner = FlowLearner(field, RATE, steps, draws)
    trainer, start = Trainer(learner, train, RunStreams([1]), BATCH), time.process_time()
    while trainer.step < steps:
        trainer.run_chunk()
    return learner, steps / (time.process_time() - start)


def inverted(field: VelocityField, observations: torch.Tensor, actions: torch.Tensor) -> float:
    """Actions inverted per second of processor time, the best of three rounds."""
    flow = Flow(field, "rk4", 4, 1.5).freeze()
    with torch.inference_mode():
        return len(actions) / least_processor_seconds(lambda: flow.inverse(observations[None], actions[None]), 3)


def main() -> None:
    """One line for each flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cube-double-play")
    parser.add_argument("--steps", type=int, default=30_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, held_out = (read_dataset(layout.DATA.format(dataset=arguments.dataset) + s) for s in (".npz", "-val.npz"))
    mean, deviation = observation_moments(data.observations)
    train, validation = pairs(arguments.dataset, data), pairs(arguments.dataset, held_out)
    some = validation.transitions[:INVERTED]
    for name, (hidden, encoder, draws) in FLOWS.items():
        field = VelocityField(RunStreams([0]), data.observation_dim, data.action_dim, hidden, encoder)
        standardize(field.first, mean, deviation, SCALE)
        learner, speed = trained(train, field, arguments.steps, draws)
        learner.draws = 4  # of all
        loss = validation_loss(learner, validation, RunStreams([2]), 4 * INVERTED).item()
        actions = inverted(field, validation.observations[some], validation.actions[some])
        print(f"{name:<20} loss {loss:.4f}, {speed:6.1f} steps/s, {actions:8.0f} actions inverted/s", flush=True)


if __name__ == "__main__":
    main()
