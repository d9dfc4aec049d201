"""Flows on disk: one velocity field per file, stacked along the run axis when loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flp.artifacts import load_tensors, save_tensors
from flp.flow import Flow, VelocityField
from flp.streams import RunStreams


def save_flow(path: Path | str, field: VelocityField, **manifest: Any) -> None:
    """Save the velocity field of a single run with its manifest."""
    save_tensors(path, dict(field.state_dict()), **manifest)


def load_flow(
    paths: list[str], device: torch.device | str = "cpu", **expected: Any
) -> tuple[Flow, list[dict[str, Any]]]:
    """Load one flow per run, frozen, and their manifests.

    Args:
        paths: one file per run; runs may share a file.
        device: where to put them.
        expected: manifest entries that must hold, such as `dataset_sha256=…`.

    Raises:
        FLPError: see `load_tensors`.
    """
    files = {path: load_tensors(path, device, **expected) for path in dict.fromkeys(paths)}
    loaded = [files[path] for path in paths]
    shape = loaded[0][1]["model"]
    field = VelocityField(
        RunStreams([0] * len(paths), place=device),
        shape["observation_dim"],
        shape["action_dim"],
        shape["hidden"],
    )
    field.load_state_dict({name: torch.cat([tensors[name] for tensors, _ in loaded]) for name in loaded[0][0]})
    flow = Flow(field, shape["solver"], shape["solver_steps"]).to(device).freeze()
    return flow, [manifest for _, manifest in loaded]
