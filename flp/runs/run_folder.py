"""A run is a folder, whose manifest is written last.

It holds the run's parameters and optimizer state (`policy.safetensors`, with a manifest that contains its key), its
evaluations and training log, a copy of the flow it acts through and, in mazes, some trajectories.
"""

from __future__ import annotations

import errno
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
from flp.params.sections import OfflineSettings, starts_from_flow
from flp.parts.base import Agent
from flp.system import layout
from flp.system.artifacts import atomic_write, load_manifest, read_entries, save_tensors, write_csv, write_verified
from flp.system.errors import FLPError, explained
from flp.system.hashing import sha256_of
from flp.system.locks import remove

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


def write_trajectories(
    path: Path, trajectories: Mapping[str, Sequence[np.ndarray[Any, Any]]], reached: Mapping[str, Sequence[bool]]
) -> None:
    """Write `{name: [paths [T, 2]]}` as an npz of `{name}_{i}`, and which reach the goal as `{name}_reached`."""
    arrays = {f"{name}_{i}": p for name, paths in trajectories.items() for i, p in enumerate(paths)}
    arrays |= {f"{name}_reached": np.array(each, bool) for name, each in reached.items()}
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def save_run(
    folder: Path,
    key: str,
    run: Run,
    tensors: dict[str, Tensor],
    evaluations: Sequence[Row],
    log: Sequence[Row],
    flow: tuple[Path, str] | None,
    **manifest: Any,
) -> None:
    """Write one run's folder; the manifest comes last, so that a folder with one is complete.

    The flow that the policy acts through, `flow` with its checksum, is copied into it: the folder is all that another
    machine needs, and DVC stores equal files only once.

    Raises:
        FLPError: the flow's file is no longer the one that the policy was trained through.
    """
    if flow is not None:
        path, manifest["flow_sha256"] = flow
        for file in (path, path.with_suffix(".json")):
            write_verified(folder / file.name, partial(shutil.copyfile, file))
        if sha256_of(folder / path.name) != manifest["flow_sha256"]:
            raise FLPError(f"{path} was made again while {folder} was trained through it; run again")
    tables = {"evaluations.csv": evaluations, "log.csv": log}
    for name, rows in tables.items():
        write_csv(folder / name, rows)
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
        tables={name: sha256_of(folder / name) for name in tables},
        **manifest,
    )


def is_finished(folder: Path, key: str, flow: str | None = None) -> bool:
    """Whether the folder holds this very run, completely; if `flow` is given, one that acts through these very bytes.

    A flow made again with the same key need not have the same bytes: on another CPU sums round differently.
    """
    try:
        manifest = load_manifest(folder / POLICY)
    except FLPError:
        return False
    of_another_flow = flow is not None and manifest.get("flow_sha256") != flow
    return manifest.get("key") == key and not of_another_flow and _is_whole(folder)


def flow_digests(dataset: str, agent: str, offline: OfflineSettings, runs: Sequence[Run]) -> dict[str, str]:
    """The checksums of the flows here that runs start from, by the run's name; none for agents that read no flow."""
    if not starts_from_flow(agent, offline):
        return {}
    manifests = {run.name: layout.FLOW.format(dataset=dataset, seed=run.seed) + ".json" for run in runs}
    digests = {name: read_entries(path).get("sha256") for name, path in manifests.items()}
    return {name: digest for name, digest in digests.items() if isinstance(digest, str)}


def require_flow(policy: Path, flow: str | None) -> None:
    """Refuse a policy that was trained through a flow of other bytes; None if its agent reads none.

    Raises:
        FLPError: naming the policy and the remedy.
    """
    if flow is not None and load_manifest(policy).get("flow_sha256") != flow:
        raise FLPError(
            f"{policy} was trained through another flow than the one here, which has the same parameters but other "
            f"bytes (one was made elsewhere); fetch that flow with `dvc pull`, or delete {policy.parent} and run again"
        )


def make_room(folder: Path, key: str, flow: str | None = None) -> None:
    """Put another run that is finished aside, and mark the folder as incomplete until its manifest is written again."""
    if _is_whole(folder) and not is_finished(folder, key, flow):
        _forget(_put_aside(folder))
    (folder / POLICY).with_suffix(".json").unlink(missing_ok=True)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in layout.RUN_FILES)


def _put_aside(folder: Path) -> Path:
    """Move a run to where `adopt` finds it once it is asked for again; of each name, the last one is kept.

    Returns:
        Where the one before it now is, to be removed once nothing needs it any more.

    Raises:
        FLPError: it cannot be moved; everything is as it was.
    """
    spare = layout.spare_folder(folder)
    spare.parent.mkdir(parents=True, exist_ok=True)
    earlier = _displaced_from(spare)
    remove(earlier)
    try:
        if spare.exists():
            _move(spare, earlier)
        try:
            _move(folder, spare)
        except (OSError, FLPError):
            if earlier.exists():
                remove(spare)
                _move(earlier, spare)
            raise
    except OSError as error:
        reason = explained(error) if error.errno else str(error)
        raise FLPError(f"cannot move {folder} to {spare}: {reason}") from error
    return earlier


def _forget(earlier: Path) -> None:
    """Remove a run that was displaced. What a reader on a network file system keeps open goes with the next one."""
    shutil.rmtree(earlier, ignore_errors=True)


def _displaced_from(spare: Path) -> Path:
    """Where a run is kept that another one displaces; put back first, if a process was killed meanwhile."""
    earlier = spare.with_name(f".{spare.name}.earlier.tmp")
    if earlier.exists() and not spare.exists():
        _move(earlier, spare)
    return earlier


def _move(source: Path, target: Path) -> None:
    """Rename a folder; copy it where that cannot be done, as where `results` is a link to another disk."""
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = target.with_name(f".{target.name}.copy.tmp")
    remove(copy)
    try:
        shutil.copytree(source, copy)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    copy.rename(target)
    remove(source)


def adopt(folder: Path, keys: dict[str, str], others: Sequence[Path], flows: Mapping[str, str] | None = None) -> None:
    """Copy the runs that a job's folder lacks from other jobs' folders, if finished there with the same keys and flows.

    Args:
        folder: the job's folder.
        keys: every run's key by its name.
        others: the other jobs' folders.
        flows: the checksums of the runs' flows, see `flow_digests`.
    """
    for name, key in keys.items():
        flow = (flows or {}).get(name)
        if is_finished(folder / name, key, flow):
            continue
        for other in others:
            _displaced_from(other / name)
            if is_finished(other / name, key, flow) and _copied(other / name, folder / name):
                break


def _copied(source: Path, target: Path) -> bool:
    """Copy a run's folder; False if its job has put it aside meanwhile."""
    temporary = target.with_name(f".{target.name}.tmp")
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        for file in source.iterdir():
            copy = temporary / file.name
            shutil.copyfile(file, copy)  # without its mode, which may be another user's or a cache's
            os.utime(copy, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    except FileNotFoundError:
        remove(temporary)
        return False
    # What is put aside may displace the source: that goes last.
    earlier = _put_aside(target) if _is_whole(target) else None
    remove(target)
    temporary.rename(target)
    if earlier:
        _forget(earlier)
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
            _forget(_put_aside(child))
        else:
            remove(child)
    (folder / "manifest.json").unlink(missing_ok=True)
