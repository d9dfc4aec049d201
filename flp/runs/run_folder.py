"""A run is a folder, whose manifest is written last.

It holds the run's parameters and optimizer state (`policy.safetensors`, with a manifest that contains its key), its
evaluations and training log, a copy of the flow it acts through and, in mazes, some trajectories.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flp.params.run import Run
from flp.parts.base import Agent
from flp.system import layout
from flp.system.artifacts import atomic_write, load_manifest, save_tensors, write_csv, write_verified
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of

Row = dict[str, Any]
POLICY = "policy.safetensors"


def parameters_of(agent: Agent, index: int, runs: int) -> dict[str, Tensor]:
    """One run's parameters and optimizer state, without the shared frozen flow."""
    tensors = {f"agent/{name}": tensor for name, tensor in agent.state_dict().items() if not agent.is_shared(name)}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in agent.optimizer_state().items()}
    return {
        name: tensor if tensor.dim() == 0 else tensor.unflatten(0, (runs, -1))[index]
        for name, tensor in tensors.items()
    }


def restore_parameters(agent: Agent, saved: Sequence[dict[str, Tensor]]) -> None:
    """Load runs' parameters and optimizer states, as returned by `parameters_of`, into one agent."""
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


def write_trajectories(path: Path, trajectories: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> None:
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
    flow: Path | None,
    **manifest: Any,
) -> None:
    """Write one run's folder; the manifest comes last, so that a folder with one is complete.

    The flow that the policy acts through is copied into it: the folder is all that another machine needs, and DVC
    stores equal files only once.
    """
    if flow is not None:
        for file in (flow, flow.with_suffix(".json")):
            write_verified(folder / file.name, partial(shutil.copyfile, file))
        manifest["flow_sha256"] = sha256_of(folder / flow.name)
    write_csv(folder / "evaluations.csv", evaluations)
    write_csv(folder / "log.csv", log)
    save_tensors(
        folder / POLICY,
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
    """Whether the folder holds this very run, completely."""
    try:
        saved_key = load_manifest(folder / POLICY)["key"]
    except (FLPError, KeyError):
        return False
    return bool(saved_key == key) and _is_whole(folder)


def make_room(folder: Path, key: str) -> None:
    """Put another run that is finished aside, and mark the folder as incomplete until its manifest is written again."""
    if _is_whole(folder) and not is_finished(folder, key):
        _put_aside(folder)
    (folder / POLICY).with_suffix(".json").unlink(missing_ok=True)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in layout.RUN_FILES)


def _put_aside(folder: Path) -> None:
    """Move a run to where `adopt` finds it once it is asked for again; of each name, the last one is kept."""
    spare = layout.spare_folder(folder)
    shutil.rmtree(spare, ignore_errors=True)
    spare.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, spare)


def adopt(folder: Path, keys: dict[str, str], others: Sequence[Path]) -> None:
    """Copy the runs that a job's folder lacks from other jobs' folders, if finished there with the same keys."""
    for name, key in keys.items():
        if is_finished(folder / name, key):
            continue
        for other in others:
            if is_finished(other / name, key) and _copied(other / name, folder / name, key):
                break


def _copied(source: Path, target: Path, key: str) -> bool:
    """Copy a run's folder; False if its job has put it aside meanwhile."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file in source.iterdir():
            copy = temporary / file.name
            shutil.copyfile(file, copy)  # without its mode, which may be another user's or a cache's
            os.utime(copy, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    except FileNotFoundError:
        shutil.rmtree(temporary)
        return False
    make_room(target, key)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return True


def clear_others(folder: Path, names: Sequence[str]) -> None:
    """Remove folders that are none of the job's runs, and the job's manifest, which is written again at the end.

    Finished runs are put aside, where `adopt` finds them once their task is asked for again.
    """
    if not folder.exists():
        return
    for child in folder.iterdir():
        if not child.is_dir() or child.is_symlink() or child.name in names:
            continue
        if (child / POLICY).with_suffix(".json").exists():
            _put_aside(child)
        else:
            shutil.rmtree(child)
    (folder / "manifest.json").unlink(missing_ok=True)
