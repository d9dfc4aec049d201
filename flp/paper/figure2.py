"""Figure 2: FLP (top) and FQL (bottom) on a behaviour with distant modes, under several strengths of regularisation.

One state, one step, actions in the plane. Six equal modes lie on a ring; the reward grows towards one of them, and is 0
between the modes, where there are no data. Both algorithms are the real ones, on the same pretrained flow, and each
strength is one run of an agent. The numbers are the policy's mass on each mode and off the support, and its true value.

The critic extrapolates the slope of the reward into the gaps. Were each mode a local maximum instead, FQL would find
the best one under weak regularisation, once its critic has converged.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from flp.agents import make_agent
from flp.flow.behavior import Flow
from flp.flow.matching import FlowLearner, Pairs
from flp.flow.velocity import VelocityField
from flp.learner.replay import Replay
from flp.learner.trainer import Trainer
from flp.params import baselines
from flp.params.sections import Figure2Settings, OfflineSettings
from flp.parts.base import Agent, Spec
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.system.layout import exact

MODES, RADIUS, SPREAD = 6, 0.7, 0.06
SUPPORT = 4 * SPREAD  # actions farther than this from every mode, 0.03 % of the data, count as off the support
TITLES = {"flp": "FLP", "fql": "FQL"}
DATA, DRAWS = 20_000, 2000  # transitions to train on, and draws of each policy to measure
BATCH, HIDDEN, LEARNING_RATE = 128, [64, 64], 1e-3
# The flow trains longer than the policies, so as to match the data closely.
FLOW_BATCH, FLOW_HIDDEN, FLOW_LEARNING_RATE, FLOW_STEPS_PER_STEP = 256, [64, 64, 64], 2e-3, 4

Fit = Callable[[str, Trainer, int], None]
"""Trains a part ("flow", "flp" or "fql") up to a number of steps."""


def fit(part: str, trainer: Trainer, steps: int) -> None:
    """Train in one go."""
    trainer.run_to(steps)


def centres() -> Tensor:
    """The centres of the modes, `[MODES, 2]`; the first is the best."""
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
        actions: the data, `[n, 2]`.
        flow: the behaviour flow, one run.
        steps: gradient steps of each algorithm.
        seed: seed of all random numbers.
        fit: trains each part.
    """

    actions: Tensor
    flow: Flow
    steps: int
    seed: int
    fit: Fit

    def streams(self, purpose: str, runs: int = 1) -> RunStreams:
        """Streams equal for all runs, so that these differ in their strength alone."""
        return RunStreams([seed_of("figure2", self.seed, purpose)] * runs)


def make_toy(steps: int, seed: int, fit: Fit) -> Toy:
    """Draw the data and fit the flow."""
    field = VelocityField(RunStreams([seed_of("figure2", seed, "field")]), 1, 2, FLOW_HIDDEN)
    toy = Toy(torch.empty(0), Flow(field, "midpoint", 10), steps, seed, fit)
    streams = toy.streams("data")
    mode = streams.integers(MODES, DATA)[0]
    toy = replace(toy, actions=centres()[mode] + SPREAD * streams.normal(DATA, 2)[0])
    pairs = Pairs(torch.zeros(DATA, 1), toy.actions, torch.arange(DATA))
    learner = FlowLearner(field, FLOW_LEARNING_RATE)
    fit("flow", Trainer(learner, pairs, toy.streams("flow"), FLOW_BATCH), FLOW_STEPS_PER_STEP * steps)
    toy.flow.freeze()
    return toy


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
        fql_alpha=torch.tensor(strengths),
        candidates=(1,) * runs,
        flow=Flow(field, toy.flow.solver, toy.flow.steps),
    )
    agent = make_agent(name, spec)
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
    toy.fit(name, Trainer(agent, replay, toy.streams("training", runs), BATCH), toy.steps)
    return agent


def _settings(steps: int) -> OfflineSettings:
    """Without best-of-N (N = 1): the figure is about regularisation."""
    return OfflineSettings(
        agents=["flp", "fql"],
        tasks=[1],
        steps=steps,
        alpha=1.0,
        candidates=1,
        hidden=HIDDEN,
        # On centred two-dimensional inputs it would only create a peak at the origin.
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
        baselines=baselines.Baselines(fql=baselines.FQLSettings(flow="pretrained")),
    )


def measure(actions: Tensor) -> dict[str, float]:
    """The numbers of a policy from its draws `[n, 2]`: their shares on each mode and off the support, and means."""
    distance, mode = (actions.unsqueeze(1) - centres()).norm(dim=-1).min(1)
    on_support = distance <= SUPPORT
    mass = torch.bincount(mode[on_support], minlength=MODES) / len(actions)
    numbers = {f"mode_{i}": share for i, share in enumerate(mass.tolist(), 1)} | {
        "off_support": 1 - mass.sum().item(),
        "distance": distance.mean().item(),
        "value": true_value(actions).mean().item(),
    }
    return {name: round(value, 4) for name, value in numbers.items()}


@dataclass(frozen=True)
class Result:
    """What Figure 2 shows.

    Attributes:
        data: actions of the data `[n, 2]`.
        flow: draws of the flow `[n, 2]`.
        strengths: the regularisation strengths α, by algorithm.
        policies: draws of each strength's policy `[R, n, 2]`, by algorithm.
    """

    data: Tensor
    flow: Tensor
    strengths: dict[str, list[float]]
    policies: dict[str, Tensor]

    def numbers(self) -> pd.DataFrame:
        """A row for the data, one for the flow, and one per algorithm and strength; `mode_1` is the best."""
        rows: list[dict[str, Any]] = [
            {"policy": "data", "strength": None} | measure(self.data),
            {"policy": "flow", "strength": None} | measure(self.flow),
        ]
        for name, policies in self.policies.items():
            pairs = zip(self.strengths[name], policies, strict=True)
            rows += [{"policy": name, "strength": strength} | measure(actions) for strength, actions in pairs]
        return pd.DataFrame(rows)


def make(settings: Figure2Settings, fit: Fit = fit) -> dict[str, str]:
    """The figure's texts by suffix: the picture and its numbers."""
    result = run(settings, fit)
    return {".svg": draw(result), ".csv": result.numbers().to_csv(index=False, lineterminator="\n")}


def run(settings: Figure2Settings, fit: Fit = fit) -> Result:
    """Train the flow and both algorithms, and draw from each."""
    toy = make_toy(settings.steps, settings.seed, fit)
    flow = toy.flow.decode(torch.zeros(1, DRAWS, 1), toy.streams("flow draws").normal(DRAWS, 2))[0].detach()
    strengths = {"flp": list(settings.flp_alpha), "fql": list(settings.fql_alpha)}
    policies = {}
    for name, values in strengths.items():
        agent, runs = train(toy, name, values), len(values)
        policies[name] = agent.act(torch.zeros(runs, DRAWS, 1), toy.streams("draws", runs))
    return Result(toy.actions[:DRAWS], flow, strengths, policies)


def draw(result: Result) -> str:
    """The picture as SVG: data and flow on the left, then a column per strength, in order."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = 1 + max(map(len, result.strengths.values()))
    style = {"svg.hashsalt": "figure2", "font.size": 8, "axes.titlesize": 8, "svg.fonttype": "none"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(1.75 * columns, 3.9), layout="constrained")
        axes = figure.subplots(2, columns, squeeze=False)
        _panel(axes[0, 0], result.data, "data")
        _panel(axes[1, 0], result.flow, "flow")
        for row, (name, policies) in enumerate(result.policies.items()):
            strengths = result.strengths[name]
            for axis in axes[row, 1 + len(strengths) :]:
                axis.set_visible(False)
            for axis, strength, actions in zip(axes[row, 1:], strengths, policies, strict=False):
                numbers = measure(actions)
                note = f"off support {numbers['off_support']:.0%}, value {numbers['value']:.2f}"
                _panel(axis, actions, f"{TITLES[name]}, α = {exact(strength)}", note)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _panel(axis: Any, actions: Tensor, title: str, note: str = "") -> None:
    """Actions on top of the modes' supports; the darker a mode, the more valuable."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    for mode, value in zip(centres().tolist(), true_value(centres()).tolist(), strict=True):
        axis.add_patch(Circle(mode, SUPPORT, facecolor=colormaps["YlOrBr"](0.1 + 0.5 * value), linewidth=0))
    axis.scatter(*actions[:400].T, s=2, color="#1f4e79", alpha=0.6, linewidths=0)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal", title=title, xlabel=note)
