"""Runs that train together: many runs of one dataset, built into one agent and its replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flp.agents import make_agent
from flp.data.environments import EnvironmentSpec
from flp.data.load import Dataset, read_dataset
from flp.data.moments import observation_moments
from flp.data.relabel import relabel
from flp.flow.behavior import Flow
from flp.flow.checkpoint import load_flows
from flp.learner.compiled import Compiled
from flp.learner.replay import Replay
from flp.learner.trainer import Trainer
from flp.networks.mlp import standardize
from flp.own.task import OwnSpec
from flp.params.loading import Params
from flp.params.run import Run
from flp.params.sections import ONLINE_ONLY, starts_from_flow
from flp.parts.base import Agent, Spec
from flp.parts.critics import initialize_values
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.system import layout
from flp.system.artifacts import load_tensors


@dataclass(frozen=True)
class RunBatch:
    """The runs of one dataset and agent that train together.

    Attributes:
        dataset: the dataset's name.
        agent: the algorithm's name.
        runs: the runs, in the order of the run axis.
        params: the algorithm's parameters on the dataset (`Params.for_agent`); else `ValueError`.
        device: the device of the agent and its replay.
        flow_digests: the checksums of the flows that `load` has read, by the run's name.
    """

    dataset: str
    agent: str
    runs: Sequence[Run]
    params: Params
    device: torch.device
    flow_digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse parameters without the algorithm's own values: its keys have them."""
        if self.params.agents:
            raise ValueError(f"these are a dataset's parameters; take for_agent({self.agent!r}) of them")

    def streams(self, purpose: str, *, place: torch.device | None = None) -> RunStreams:
        """A random stream per run, independent of the other runs; with `place`, drawn on the CPU and copied there."""
        seeds = [seed_of(purpose, self.dataset, self.agent, run.task, run.seed, run.variant) for run in self.runs]
        return RunStreams(seeds, "cpu" if place is not None else self.device, place)

    def flow_file(self, run: Run) -> Path:
        """The file of the flow that a run starts from."""
        return Path(layout.FLOW.format(dataset=self.dataset, seed=run.seed) + ".safetensors")

    @cached_property
    def spec(self) -> EnvironmentSpec:
        """The dataset's environment."""
        return self.params.spec(self.dataset)

    @property
    def model(self) -> dict[str, Any]:
        """What an agent is built from besides its α and N, so that its policy can be loaded from the manifest alone."""
        offline = self.params.offline.model_dump(mode="json")
        sizes = {"observation_dim": self.spec.observation_dim, "action_dim": self.spec.action_dim}
        environment = {"environment": self.spec.described()} if isinstance(self.spec, OwnSpec) else {}
        return {**sizes, "offline": offline, **environment}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that all runs share, for a board's table."""
        offline = self.params.offline.model_dump(
            mode="json", exclude={"agents", "tasks", "sweep", "alpha", "candidates"}
        )
        baselines = offline.pop("baselines")
        own = {self.agent: baselines[self.agent]} if self.agent in baselines else {}
        return {"dataset": self.dataset, "agent": self.agent, **offline, **own}

    def load(self, capacity: int = 0) -> tuple[Agent, Replay]:
        """Build the agent and its replay, with room for `capacity` online transitions per run.

        Raises:
            FLPError: a missing or altered artifact, or latents of another flow or dataset.
        """
        data = read_dataset(layout.DATA.format(dataset=self.dataset) + ".npz")
        offline = self.params.offline
        flow, digests = self.load_flows(data) if starts_from_flow(self.agent, offline) else (None, {})
        self.flow_digests.update({run.name: digests[run.seed] for run in self.runs if run.seed in digests})
        spec = Spec(
            streams=self.streams("init", place=self.device),
            observation_dim=data.observation_dim,
            action_dim=data.action_dim,
            offline=offline,
            alpha=torch.tensor([run.alpha for run in self.runs], device=self.device),
            candidates=tuple(run.candidates for run in self.runs),
            flow=flow,
            growing_discount=self.growing_discount,
        )
        agent = make_agent(self.agent, spec)
        if offline.observation_scale is not None:
            mean, std = observation_moments(data.observations, self.device)
            standardize(agent, mean, std, offline.observation_scale, skip=flow)
        if agent.uses_latents:
            seeds = sorted(digests)
            actions = torch.stack([self._latents(seed, data, digests[seed]) for seed in seeds])
            action_of_run = [seeds.index(run.seed) for run in self.runs]
        else:
            actions = torch.from_numpy(data.actions[data.transitions])[None]
            action_of_run = [0] * len(self.runs)
        replay = self._replay(data, actions, action_of_run, capacity, spec.discount, agent)
        if offline.critic_start == "average":
            initialize_values(agent, agent.value_scale * replay.average_value(self._first_discount))
        return agent, replay

    def trainer(self, agent: Agent, replay: Replay, phase: str, steps: int, *, capture: bool = True) -> Trainer:
        """The trainer of a phase of `steps` updates, with the experiment's schedules, precision and compilation."""
        offline = self.params.offline
        self._set_rates(agent, phase, steps)
        return Trainer(
            agent,
            replay,
            self.streams(phase),
            offline.batch_size,
            capture=capture,
            autocast=torch.bfloat16 if offline.precision == "bfloat16" else None,
            observation_noise=self._observation_noise(replay),
            step_fn=Compiled(agent) if offline.compile else None,
            prepare=partial(self._grow_discount, phase, steps),
        )

    @property
    def _first_discount(self) -> float:
        """γ of the first update: where it grows, it does so offline and has reached its final value online."""
        first, last = self.params.offline.discount_start, self.params.offline.discount
        return last if first is None or self.agent in ONLINE_ONLY else first

    @cached_property
    def growing_discount(self) -> Tensor | None:
        """γ as a 0-d tensor that agent and replay share, if it changes during training."""
        offline = self.params.offline
        return None if offline.discount_start is None else torch.tensor(offline.discount, device=self.device)

    def _grow_discount(self, phase: str, steps: int, step: int) -> None:
        """Set γ to its value after `step` of `steps`; in fine-tuning, to its final value."""
        first, last = self.params.offline.discount_start, self.params.offline.discount
        if self.growing_discount is not None and first is not None:
            self.growing_discount.fill_(discount_at(step / steps if phase == "offline" else 1.0, first, last))

    def _set_rates(self, agent: Agent, phase: str, steps: int) -> None:
        """Schedule the learning rates of offline training; scale those of fine-tuning, all by the same factor."""
        offline, online_rate = self.params.offline, self._online_rate(phase)
        for optimizer in agent.optimizers:
            if phase == "offline" and offline.schedule == "cosine":
                optimizer.decay_steps = optimizer.decay_steps or steps
            if online_rate is not None:
                optimizer.learning_rate *= online_rate / offline.learning_rate

    def rate(self, phase: str) -> str:
        """The parameter that sets a phase's learning rate."""
        return "offline.learning_rate" if self._online_rate(phase) is None else "online.learning_rate"

    def _online_rate(self, phase: str) -> float | None:
        """The learning rate of fine-tuning, if it has its own."""
        return self.params.online.learning_rate if phase == "online" and self.agent not in ONLINE_ONLY else None

    def _observation_noise(self, replay: Replay) -> Tensor | None:
        """Standard deviation of the noise added to observations, `[o]`; None for none."""
        noise = self.params.offline.observation_noise
        if noise == 0:
            return None
        _, std = observation_moments(replay.observations.cpu().numpy(), self.device)
        return noise * std

    def load_flows(self, data: Dataset) -> tuple[Flow, dict[int, str]]:
        """The pretrained flows, one per run, and each seed's digest; `FLPError` if they were fitted to other data."""
        paths = [str(self.flow_file(run)) for run in self.runs]
        flow, manifests = load_flows(paths, self.device, dataset_sha256=data.sha256)
        return flow, {run.seed: m["sha256"] for run, m in zip(self.runs, manifests, strict=True)}

    def _latents(self, seed: int, data: Dataset, flow_sha256: str) -> Tensor:
        path = layout.LATENT.format(dataset=self.dataset, seed=seed) + ".safetensors"
        tensors, _ = load_tensors(path, dataset_sha256=data.sha256, flow_sha256=flow_sha256)
        latents: Tensor = tensors["latents"]
        return latents

    def _replay(
        self,
        data: Dataset,
        actions: Tensor,
        action_of_run: list[int],
        capacity: int,
        discount: Tensor | float,
        agent: Agent,
    ) -> Replay:
        tasks = sorted({run.task for run in self.runs})
        timing = self.params.offline.success_timing
        labels = [relabel(self.spec, task, data, success_timing=timing) for task in tasks]

        def tensor(array: Any, dtype: torch.dtype) -> Tensor:
            return torch.tensor(array, dtype=dtype, device=self.device)

        return Replay(
            observations=tensor(data.observations, torch.float32),
            transitions=tensor(data.transitions, torch.int64),
            actions=actions.to(self.device),
            rewards=tensor(np.stack([rewards for rewards, _ in labels]), torch.float32),
            masks=tensor(np.stack([masks for _, masks in labels]), torch.float32),
            action_of_run=tensor(action_of_run, torch.int64),
            task_of_run=tensor([tasks.index(run.task) for run in self.runs], torch.int64),
            capacity=capacity,
            discount=discount,
            n_step=self.params.offline.n_step,
            returns=agent.uses_returns,
            next_actions=agent.uses_next_actions,
        )


def discount_at(progress: float, first: float, last: float) -> float:
    """γ at a fraction of training: 1 − γ decays geometrically from 1 − first to 1 − last over the first half.

    Near rewards are learnt first, and far ones build on them (François-Lavet et al., 2015, "How to Discount Deep
    Reinforcement Learning: Towards New Dynamic Strategies").
    """
    share = min(1.0, 2 * progress)
    gap: float = (1 - first) ** (1 - share) * (1 - last) ** share
    return 1 - gap
