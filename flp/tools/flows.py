"""List the flows of this checkout: quality, size, and whether the experiment needs them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from flp.experiment.graph import Artifact, graph
from flp.experiment.keys import Keys
from flp.experiment.program import tool
from flp.flow.card import percents
from flp.system import layout
from flp.system.artifacts import read_entries
from flp.tools.columns import aligned


@dataclass(frozen=True)
class FlowRow:
    """One flow.

    Attributes:
        dataset: the dataset it was fitted to.
        seed: its seed.
        key: the key in its manifest; None without a readable manifest.
        roundtrip: mean round-trip error; None before it was inverted, or if the quality report is of another flow.
        two_sample: how well its latents can be distinguished from draws of the prior; see `flp.flow.two_sample`.
        saturation: the same by whether they decode to a saturated action.
        latent_std: standard deviation of its latents, averaged over dimensions; 1 for a perfect flow.
        validation_loss: flow-matching loss on the validation set.
        validation_nll: mean −log density of validation actions, in nats.
        size: bytes, companion files included.
        path: its file.
        needed_by: how many offline jobs of the experiment start from it; 0 if it needs another flow instead, or none.
        state: `current`, `stale` (the experiment needs it made again), `missing`, or `unused`.
        warning: what is wrong with its latents, if anything is.
    """

    dataset: str
    seed: int
    key: str | None
    roundtrip: float | None
    two_sample: dict[str, Any]
    saturation: dict[str, Any]
    latent_std: float | None
    validation_loss: float | None
    validation_nll: float | None
    size: int
    path: Path
    needed_by: int
    state: str
    warning: str | None = None


def command(keys: Keys, args: argparse.Namespace) -> int:
    """Print the table of flows; return the exit status."""
    print(table(list_flows(keys)))
    return 0


def list_flows(keys: Keys) -> list[FlowRow]:
    """The flows of this checkout and those that the experiment needs, by dataset and seed."""
    artifacts = graph(keys)
    wanted = {(a.name.split("/")[0], int(a.name.split("/seed")[1])): a for a in artifacts.values() if _is_flow(a)}
    places = set(wanted) | set(_flows_here())
    jobs = [a for a in artifacts.values() if a.stage == "offline_train"]
    return [_row(dataset, seed, wanted.get((dataset, seed)), jobs) for dataset, seed in sorted(places)]


def _is_flow(artifact: Artifact) -> bool:
    return artifact.stage == "pretrain_flow"


def _flows_here() -> Iterator[tuple[str, int]]:
    for path in Path().glob(layout.FLOW.format(dataset="*", seed="*") + ".safetensors"):
        dataset, seed = path.parts[1], path.parent.name.removeprefix("seed")
        if seed.isdecimal():
            yield dataset, int(seed)


def _row(dataset: str, seed: int, wanted: Artifact | None, jobs: list[Artifact]) -> FlowRow:
    base = layout.FLOW.format(dataset=dataset, seed=seed)
    path = Path(base + ".safetensors")
    manifest = read_entries(base + ".json")
    quality = read_entries(layout.QUALITY.format(dataset=dataset, seed=seed) + "/quality.json")
    latent = read_entries(layout.LATENT.format(dataset=dataset, seed=seed) + ".json")
    if latent.get("flow_sha256") != manifest.get("sha256"):
        quality = {}
    if not path.exists():
        state = "missing"
    elif wanted is None:
        state = "unused"
    else:
        state = "current" if wanted.is_current() else "stale"
    std = quality.get("latent_std")
    return FlowRow(
        dataset=dataset,
        seed=seed,
        key=manifest.get("key"),
        roundtrip=quality.get("roundtrip_mean"),
        two_sample=quality.get("two_sample", {}),
        saturation=quality.get("saturation", {}),
        latent_std=sum(std) / len(std) if isinstance(std, list) and std else None,
        validation_loss=manifest.get("validation_loss"),
        validation_nll=quality.get("validation_nll"),
        size=sum(file.stat().st_size for file in path.parent.glob("flow.*") if file.is_file()),
        path=path,
        needed_by=sum(wanted in job.inputs.get("flow", ()) for job in jobs) if state == "current" else 0,
        state=state,
        warning=quality.get("warning"),
    )


COLUMNS = (
    "dataset",
    "seed",
    "key",
    "round trip",
    "distinguishable",
    "at ±1",
    "elsewhere",
    "by saturation",
    "R² of z, z²",
    "R² at ±1",
    "R² elsewhere",
    "latent std",
    "loss",
    "nats",
    "size",
    "state",
    "needed by",
)


def table(rows: list[FlowRow]) -> str:
    """The rows as text, and their warnings."""
    lines: list[tuple[str, ...]] = [COLUMNS]
    for row in rows:
        needed = f"{row.needed_by} offline job{'' if row.needed_by == 1 else 's'}" if row.needed_by else "-"
        key = (row.key or "-")[:8]
        lines.append((row.dataset, str(row.seed), key, *_quality(row), decimal(row.size), row.state, needed))
    return "\n".join([aligned(lines), *(f"warning: {row.warning}" for row in rows if row.warning)])


def _quality(row: FlowRow) -> list[str]:
    def formatted(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    parts = [row.two_sample.get(name) for name in ("all", "saturated", "other")]
    return [
        formatted(row.roundtrip, ".1e"),
        *(percents(part) if part else "-" for part in [*parts, row.saturation]),
        *(f"{max(part['r2']):.2f}, {max(part['r2_squares']):.2f}" if part else "-" for part in parts),
        formatted(row.latent_std, ".3f"),
        formatted(row.validation_loss, ".4f"),
        formatted(row.validation_nll, ".2f"),
    ]


main = tool("flows", {}, command, __doc__)
