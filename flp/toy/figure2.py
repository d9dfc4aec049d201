"""Figure 2: FLP (top) and FQL (bottom) on a behaviour of distant modes, under several strengths of regularisation.

    python -m flp.toy.figure2 --output results/figures/figure2.svg

One state, one step, actions in the plane. Six equal modes lie on a ring; reward grows towards one of them, and off the
modes, where no data tell, there is none. Both algorithms are the real ones, on the same pretrained flow, every
strength a run of one agent. Beside the picture a JSON file of its numbers is written: how much of the policy lies on
which mode, how much on none, and its true value.

The slope is what a critic carries on into the gaps. Were every mode the top of a hill instead, FQL would find the best
one's top under weak regularisation, once its critic has converged.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flp.agents import make_agent
from flp.agents.base import Agent, Spec
from flp.artifacts import atomic_write, write_json
from flp.flow import Flow, VelocityField
from flp.learner import Learner
from flp.pretrain import FlowLearner, Pairs
from flp.replay import Replay
from flp.schema import FQL, Baselines, Offline
from flp.seeds import seed_of
from flp.streams import RunStreams
from flp.trainer import CHUNK, Source, Trainer

MODES, RADIUS, SPREAD = 6, 0.7, 0.06
SUPPORT = 4 * SPREAD  # an action farther than this from every mode is off the data's support: 0.03 % of the data
STRENGTHS = {"flp": (3.0, 1.0, 0.3, 0.1, 0.03), "fql": (30.0, 10.0, 3.0, 1.0, 0.3)}
TITLES = {"flp": "FLP", "fql": "FQL"}
DATA, SHOWN = 20_000, 2000
BATCH, HIDDEN, LEARNING_RATE = 128, [64, 64], 1e-3
# The flow is trained longer than the policies: it is to be as good as the data.
FLOW_BATCH, FLOW_HIDDEN, FLOW_LEARNING_RATE, FLOW_STEPS_PER_STEP = 256, [64, 64, 64], 2e-3, 4


def centres() -> Tensor:
    """The modes, `[MODES, 2]`; the first is the best."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], -1)


def true_value(actions: Tensor) -> Tensor:
    """The reward of actions `[..., 2]`: a slope from 0 at the worst mode to 1 at the best, and 0 off the support."""
    distance = (actions.unsqueeze(-2) - centres()).norm(dim=-1).amin(-1)
    return torch.where(distance <= SUPPORT, (1 + actions[..., 0] / RADIUS) / 2, 0.0)


@dataclass(frozen=True)
class Toy:
    """The data and the flow fitted to it.

    Attributes:
        actions: `[n, 2]`.
        flow: the behaviour flow, of one run.
        steps: gradient steps of either algorithm.
        seed: seed of all random numbers.
    """

    actions: Tensor
    flow: Flow
    steps: int
    seed: int

    def streams(self, purpose: str, runs: int = 1) -> RunStreams:
        """Streams that are equal for all runs, so that strengths differ in strength alone."""
        return RunStreams([seed_of("figure2", self.seed, purpose)] * runs)


def make_toy(steps: int, seed: int) -> Toy:
    """Draw the data and fit the flow."""
    field = VelocityField(RunStreams([seed_of("figure2", seed, "field")]), 1, 2, FLOW_HIDDEN)
    toy = Toy(torch.empty(0), Flow(field, "midpoint", 10), steps, seed)
    streams = toy.streams("data")
    mode = streams.integers(MODES, DATA)[0]
    toy = replace(toy, actions=centres()[mode] + SPREAD * streams.normal(DATA, 2)[0])
    pairs = Pairs(torch.zeros(DATA, 1), toy.actions, torch.arange(DATA))
    learner = FlowLearner(field, FLOW_LEARNING_RATE)
    _fit(learner, pairs, toy.streams("flow"), FLOW_STEPS_PER_STEP * steps, FLOW_BATCH)
    toy.flow.freeze()
    return toy


def _fit(learner: Learner, source: Source, streams: RunStreams, steps: int, batch_size: int) -> None:
    trainer = Trainer(learner, source, streams, batch_size)
    while trainer.step < steps:
        trainer.chunk(min(CHUNK, steps - trainer.step))


def train(toy: Toy, name: str, strengths: Sequence[float]) -> Agent:
    """Train one algorithm, one run per strength."""
    runs = len(strengths)
    field = VelocityField(toy.streams("copies", runs), 1, 2, FLOW_HIDDEN)
    field.load_state_dict({k: v.repeat_interleave(runs, 0) for k, v in toy.flow.field.state_dict().items()})
    spec = Spec(
        streams=toy.streams("init", runs),
        observation_dim=1,
        action_dim=2,
        offline=_settings(toy.steps),
        alpha=torch.tensor(strengths),
        candidates=(1,) * runs,
        flow=Flow(field, toy.flow.solver, toy.flow.steps),
    )
    agent: Any = make_agent(name, spec)
    agent.alpha = spec.alpha
    zeros = torch.zeros(1, DATA)
    actions = toy.flow.inverse(zeros.unsqueeze(-1), toy.actions[None]) if agent.uses_latents else toy.actions[None]
    replay = Replay(
        observations=torch.zeros(DATA + 1, 1),
        transitions=torch.arange(DATA),
        actions=actions.detach(),
        rewards=true_value(toy.actions)[None],
        masks=zeros,
        action_of_run=torch.zeros(runs, dtype=torch.int64),
        task_of_run=torch.zeros(runs, dtype=torch.int64),
    )
    _fit(agent, replay, toy.streams("training", runs), toy.steps, BATCH)
    return agent  # type: ignore[no-any-return]


def _settings(steps: int) -> Offline:
    """Best-of-N is left out (N = 1): the picture is about regularisation."""
    return Offline(
        agents=["flp", "fql"],
        tasks=[1],
        steps=steps,
        alpha=1.0,
        candidates=1,
        hidden=HIDDEN,
        # On centred two-dimensional inputs it would only make a peak at the origin.
        critic_layer_norm=False,
        critics=2,
        aggregation="mean",
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        discount=0.0,
        target_rate=0.005,
        log_std_min=-5.0,
        log_std_max=2.0,
        success_timing="pre",
        precision="float32",
        baselines=Baselines(fql=FQL(flow="pretrained")),
    )


def measure(actions: Tensor) -> dict[str, Any]:
    """The numbers of a policy from its draws `[n, 2]`."""
    distance, mode = (actions.unsqueeze(1) - centres()).norm(dim=-1).min(1)
    on_support = distance <= SUPPORT
    mass = torch.bincount(mode[on_support], minlength=MODES) / len(actions)
    return {
        "mass_per_mode": [round(m, 4) for m in mass.tolist()],
        "mass_off_support": round(1 - mass.sum().item(), 4),
        "distance_to_nearest_mode": round(distance.mean().item(), 4),
        "value": round(true_value(actions).mean().item(), 4),
    }


@dataclass(frozen=True)
class Result:
    """What Figure 2 shows: draws of the flow `[n, 2]` and, per algorithm, of every strength's policy `[R, n, 2]`."""

    data: Tensor
    flow: Tensor
    policies: dict[str, Tensor]

    def numbers(self) -> dict[str, Any]:
        """Everything measured, JSON-like."""
        return {
            "support_radius": SUPPORT,
            "best_mode": 0,
            "data": measure(self.data),
            "flow": measure(self.flow),
        } | {
            name: [{"strength": s} | measure(a) for s, a in zip(STRENGTHS[name], actions, strict=True)]
            for name, actions in self.policies.items()
        }


def run(steps: int, seed: int) -> Result:
    """Train everything and draw from it."""
    toy = make_toy(steps, seed)
    flow = toy.flow.decode(torch.zeros(1, SHOWN, 1), toy.streams("flow draws").normal(SHOWN, 2))[0].detach()
    policies = {}
    for name, strengths in STRENGTHS.items():
        agent, runs = train(toy, name, strengths), len(strengths)
        policies[name] = agent.act(torch.zeros(runs, SHOWN, 1), toy.streams("draws", runs))[0]
    return Result(toy.actions[:SHOWN], flow, policies)


def draw(result: Result, path: Path) -> None:
    """Write the picture: data and flow at the left, then a column per strength, the strongest first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 1 + max(map(len, STRENGTHS.values()))
    style = {"svg.hashsalt": "figure2", "font.size": 8, "axes.titlesize": 8, "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        figure, axes = plt.subplots(2, columns, figsize=(1.75 * columns, 3.9), layout="constrained")
        _panel(axes[0, 0], result.data, "data")
        _panel(axes[1, 0], result.flow, "flow")
        for row, (name, policies) in enumerate(result.policies.items()):
            for column, (strength, actions) in enumerate(zip(STRENGTHS[name], policies, strict=True), 1):
                numbers = measure(actions)
                title = f"{TITLES[name]}, α = {strength:g}"
                note = f"off support {numbers['mass_off_support']:.0%}, value {numbers['value']:.2f}"
                _panel(axes[row, column], actions, title, note)
        with atomic_write(path) as file:
            figure.savefig(file, format=path.suffix[1:] or "svg", metadata={"Date": None} if _is_svg(path) else None)
        plt.close(figure)


def _is_svg(path: Path) -> bool:
    return path.suffix in (".svg", "")


def _panel(axis: Any, actions: Tensor, title: str, note: str = "") -> None:
    """Actions over the modes' supports, the darker the more valuable."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    for mode, value in zip(centres().tolist(), true_value(centres()).tolist(), strict=True):
        axis.add_patch(Circle(mode, SUPPORT, facecolor=colormaps["YlOrBr"](0.1 + 0.5 * value), linewidth=0))
    axis.scatter(*actions[:400].T, s=2, color="#1f4e79", alpha=0.6, linewidths=0)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal", title=title, xlabel=note)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the figure and print its numbers."""
    parser = argparse.ArgumentParser(prog="python -m flp.toy.figure2", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/figures/figure2.svg"), help="picture to write")
    parser.add_argument("--steps", type=int, default=2000, help="gradient steps of each algorithm")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # the networks are too small for more
    result = run(args.steps, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    numbers = result.numbers() | {"steps": args.steps, "seed": args.seed}
    write_json(args.output.with_suffix(".json"), numbers)
    draw(result, args.output)
    for name in STRENGTHS:
        for row in numbers[name]:
            print(
                f"{TITLES[name]} α {row['strength']:<5g} best mode {row['mass_per_mode'][0]:4.0%}  "
                f"off support {row['mass_off_support']:4.0%}  value {row['value']:.2f}"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
