"""Flows on disk: one velocity field per file, stacked along the run axis when loaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch

from flp.flow.behavior import Flow
from flp.flow.velocity import VelocityField
from flp.params.fields import Solver
from flp.randomness.streams import RunStreams
from flp.system.artifacts import load_tensors, save_tensors
from flp.system.errors import FLPError


def save_flow(path: Path | str, field: VelocityField, **manifest: Any) -> None:
    """Save the velocity field of a single run with its manifest."""
    save_tensors(path, dict(field.state_dict()), **manifest)


def load_flows(
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
    for path, (tensors, manifest) in files.items():
        _check_model(path, tensors, manifest.get("model"))
    shape = loaded[0][1]["model"]
    field = VelocityField(
        RunStreams([0] * len(paths), place=device),
        shape["observation_dim"],
        shape["action_dim"],
        shape["hidden"],
        shape.get("encoder", ()),
    )
    field.load_state_dict({name: torch.cat([tensors[name] for tensors, _ in loaded]) for name in loaded[0][0]})
    flow = Flow(field, shape["solver"], shape["solver_steps"], shape["solver_grading"]).to(device).freeze()
    return flow, [manifest for _, manifest in loaded]


def _check_model(path: str, tensors: dict[str, Any], model: Any) -> None:
    """Refuse a manifest whose model is not the file's, before networks of its size are made."""
    try:
        encoder = [model["observation_dim"], *model.get("encoder", ())]
        widths = {"net": [encoder[-1] + model["action_dim"] + 1, *model["hidden"], model["action_dim"]]}
        widths |= {"encoder": encoder} if len(encoder) > 1 else {}
        known = model["solver"] in get_args(Solver) and model["solver_steps"] in range(1, 10_001)
        known = known and 1 <= model["solver_grading"] <= 10
        sizes = {f"{net}.weights.{i}": [1, *pair] for net, of in widths.items() for i, pair in enumerate(pairwise(of))}
        whole = known and sizes == {name: list(t.shape) for name, t in tensors.items() if ".weights." in name}
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise FLPError(f"{path}: its manifest describes another model than the file holds; delete both and run again")
