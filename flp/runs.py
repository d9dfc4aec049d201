"""Runs on disk and in memory: many runs are built into one agent, one run is one folder.

A run's folder holds its parameters and optimizer state (`policy.safetensors`, with a manifest that carries its
key), its evaluations, its training log, and in mazes some trajectories.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flp import layout
from flp.agents import make_agent
from flp.agents.base import Agent, Spec
from flp.artifacts import atomic_write, load_manifest, load_tensors, save_tensors, write_csv
from flp.data.load import Dataset, load_dataset
from flp.data.relabel import relabel
from flp.errors import FLPError
from flp.flowfile import load_flow
from flp.keys import Run
from flp.nets import standardize
from flp.params import Params
from flp.replay import Replay
from flp.scale import observation_moments
from flp.seeds import seed_of
from flp.streams import RunStreams

Row = dict[str, Any]


@dataclass(frozen=True)
class Batchwork:
    """The runs of one dataset and agent that train together.

    Attributes:
        dataset: its name.
        agent: the algorithm's name.
        runs: the runs, in the order of the run axis.
        params: the dataset's parameters.
        device: where training happens.
    """

    dataset: str
    agent: str
    runs: Sequence[Run]
    params: Params
    device: torch.device

    def streams(self, purpose: str, *, place: torch.device | None = None) -> RunStreams:
        """One stream per run, from names that no neighbour enters. With `place`, drawn on the CPU."""
        seeds = [seed_of(purpose, self.dataset, self.agent, run.task, run.seed, run.variant) for run in self.runs]
        return RunStreams(seeds, "cpu" if place is not None else self.device, place)

    def load(self, capacity: int = 0) -> tuple[Agent, Replay]:
        """Build the agent and its replay, with room for `capacity` online transitions per run.

        Raises:
            FLPError: a missing or altered artifact, or latents of another flow or dataset.
        """
        data = load_dataset(layout.DATA.format(dataset=self.dataset) + ".npz")
        paths = [layout.FLOW.format(dataset=self.dataset, seed=run.seed) + ".safetensors" for run in self.runs]
        flow, manifests = load_flow(paths, self.device, dataset_sha256=data.sha256)
        offline = self.params.offline
        agent = make_agent(
            self.agent,
            Spec(
                streams=self.streams("init", place=self.device),
                observation_dim=data.observation_dim,
                action_dim=data.action_dim,
                offline=offline,
                alpha=torch.tensor([run.alpha for run in self.runs], device=self.device),
                candidates=tuple(run.candidates for run in self.runs),
                flow=flow,
            ),
        )
        if offline.observation_scale is not None:
            standardize(agent, *observation_moments(data, self.device), offline.observation_scale, skip=flow)
        if agent.uses_latents:
            digests = {run.seed: m["sha256"] for run, m in zip(self.runs, manifests, strict=True)}
            seeds = sorted(digests)
            actions = torch.stack([self._latents(seed, data, digests[seed]) for seed in seeds])
            action_of_run = [seeds.index(run.seed) for run in self.runs]
        else:
            actions = torch.from_numpy(data.actions[data.transitions])[None]
            action_of_run = [0] * len(self.runs)
        return agent, self._replay(data, actions, action_of_run, capacity)

    def _latents(self, seed: int, data: Dataset, flow_sha256: str) -> Tensor:
        path = layout.LATENT.format(dataset=self.dataset, seed=seed) + ".safetensors"
        tensors, _ = load_tensors(path, dataset_sha256=data.sha256, flow_sha256=flow_sha256)
        latents: Tensor = tensors["latents"]
        return latents

    def _replay(self, data: Dataset, actions: Tensor, action_of_run: list[int], capacity: int) -> Replay:
        tasks = sorted({run.task for run in self.runs})
        timing = self.params.offline.success_timing
        labels = [relabel(self.dataset, task, data, success_timing=timing) for task in tasks]

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
        )


def parameters_of(agent: Agent, index: int, runs: int) -> dict[str, Tensor]:
    """One run's parameters and optimizer state, without the shared frozen flow."""
    tensors = {f"agent/{name}": tensor for name, tensor in agent.state_dict().items() if not agent.is_shared(name)}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in agent.optimizer_state().items()}
    return {
        name: tensor if tensor.dim() == 0 else tensor.unflatten(0, (runs, -1))[index]
        for name, tensor in tensors.items()
    }


def restore_parameters(agent: Agent, saved: Sequence[dict[str, Tensor]]) -> None:
    """Put runs' parameters and optimizer states, as `parameters_of` gave them, back into one agent."""
    joined = {
        name: first if first.dim() == 0 else torch.cat([tensors[name] for tensors in saved])
        for name, first in saved[0].items()
    }
    agent.load_state_dict(
        {name.removeprefix("agent/"): tensor for name, tensor in joined.items() if name.startswith("agent/")}
        | {name: tensor for name, tensor in agent.state_dict().items() if agent.is_shared(name)}
    )
    agent.load_optimizer_state(
        {name.removeprefix("optimizer/"): t for name, t in joined.items() if name.startswith("optimizer/")}
    )


def write_trajectories(path: Path, trajectories: dict[str, Sequence[np.ndarray[Any, Any]]]) -> None:
    """Write `{name: [paths [T, 2]]}` as an npz of `{name}_{i}`, atomically."""
    arrays = {f"{name}_{i}": p for name, paths in trajectories.items() for i, p in enumerate(paths)}
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def save_run(
    folder: Path,
    key: str,
    run: Run,
    tensors: dict[str, Tensor],
    evaluations: Sequence[Row],
    log: Sequence[Row],
    **manifest: Any,
) -> None:
    """Write one run's folder; its manifest comes last, so that a folder with one is whole."""
    write_csv(folder / "evaluations.csv", evaluations)
    write_csv(folder / "log.csv", log)
    save_tensors(
        folder / "policy.safetensors",
        tensors,
        kind="run",
        key=key,
        task=run.task,
        seed=run.seed,
        variant=run.variant,
        alpha=run.alpha,
        candidates=run.candidates,
        **manifest,
    )


def is_finished(folder: Path, key: str) -> bool:
    """Whether the folder holds this very run, whole."""
    try:
        return (
            bool(load_manifest(folder / "policy.safetensors")["key"] == key)
            and (folder / "policy.safetensors").exists()
        )
    except (FLPError, KeyError):
        return False


def adopt(folder: Path, keys: dict[str, str], others: Sequence[Path]) -> None:
    """Copy into a job's folder the runs it lacks that are finished, with the very keys, in other jobs' folders."""
    for name, key in keys.items():
        source = next((other / name for other in others if is_finished(other / name, key)), None)
        if source is not None and not is_finished(folder / name, key):
            temporary = folder / f".{name}.tmp"
            for leftover in (temporary, folder / name):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.copytree(source, temporary)
            temporary.rename(folder / name)


def clear_others(folder: Path, names: Sequence[str]) -> None:
    """Remove what is in a job's folder and is none of its runs, and its manifest, which will come anew."""
    if not folder.exists():
        return
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and child.name not in names:
            shutil.rmtree(child)
    (folder / "manifest.json").unlink(missing_ok=True)
