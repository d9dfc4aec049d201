"""Everything that the report reads, written with known numbers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from repository import REPO

from flp.experiment.keys import Keys
from flp.params.loading import merge, parse
from flp.params.run import Run
from flp.params.sections import ONLINE_ONLY
from flp.system import layout

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000" + "1f15c4890000000d49444154789c6360f8cf500f0003"
    "850181b5e33f4b0000000049454e44ae426082"
)
TOLD = {
    "rows": 9,
    "prior_rows": 8,
    "accuracy": 0.53,
    "interval": [0.51, 0.55],
    "r2": [0.01, 0.02],
    "r2_squares": [0.0, 0.03],
}
QUALITY = {
    "roundtrip_mean": 1e-4,
    "roundtrip_p99": 1e-3,
    "roundtrip_max": 2e-3,
    "latent_mean": [0.0, 0.1],
    "latent_std": [1.0, 0.98],
    "latent_wasserstein": [0.02, 0.03],
    "validation_loss": 1.05,
    "validation_nll": None,
    "validation_nll_saturated": -1.5,
    "validation_nll_other": None,
    "two_sample": {"all": TOLD, "saturated": TOLD | {"accuracy": 0.61}, "other": None},
    "saturation": {"data": 0.5, "prior": 0.4, "accuracy": 0.55, "interval": [0.54, 0.56]},
    "warning": None,
    "clipped_fraction": 0.01,
    "solver": "midpoint",
    "solver_steps": 10,
    "solver_grading": 1.0,
}
OVERLAY: dict[str, Any] = {
    "datasets": ["cube-single-play"],
    "offline": {"tasks": [1, 2], "steps": 400},
    "online": {"steps": 100},
    "evaluation": {"every": 100, "episodes": 10},
    "report": {"bootstrap": 200},
}


def write(path: str | Path, content: str | bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def evaluations(phase: str, steps: list[int], success: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"phase": phase, "step": steps, "success": success, "episodes": 10, "return": -1.0, "length": 9}
    )


def write_run(folder: Path, key: str, run: Run, table: pd.DataFrame, agent: str) -> None:
    manifest = {"format_version": 1, "key": key, "task": run.task, "seed": run.seed, "seconds": 61.5, "device": "cpu"}
    manifest["sha256"] = key
    write(folder / "policy.json", json.dumps(manifest | {"versions": {"python": "3.11"}}))
    write(folder / "evaluations.csv", table.to_csv(index=False))
    log = {"step": [200, 400], "critic_loss": [0.5, 0.25]} | ({"kl": [0.0, 1.0]} if agent == "flp" else {})
    write(folder / "log.csv", pd.DataFrame(log).to_csv(index=False))


def offline_success(agent: str, run: Run) -> list[float]:
    """Four evaluations; the last three average to 0.2 × task (FLP), half of that for others."""
    level = 0.2 * run.task * (1.0 if agent == "flp" else 0.5)
    return [1.0, level - 0.1, level, level + 0.1]


def make_inputs(overlay: dict[str, Any], success: Callable[[str, Run], list[float]] = offline_success) -> Keys:
    """Write everything the report reads, into the working directory."""
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    keys = Keys(parse(merge(merge(values, OVERLAY), overlay)))
    Path("params.yaml").write_text(yaml.safe_dump(keys.params.model_dump(mode="json")))
    for dataset, seed in itertools.product(keys.params.datasets, keys.params.seeds):
        folder, flow = layout.QUALITY.format(dataset=dataset, seed=seed), layout.FLOW.format(dataset=dataset, seed=seed)
        write(f"{folder}/quality.json", json.dumps(QUALITY | {"key": keys.latent(dataset, seed)}))
        write(f"{folder}/latent.png", PNG)
        write(flow + ".csv", "step,loss,validation_loss\n100,1.5,1.4\n200,1.2,1.3\n")
        manifest = {"model": {"action_dim": 2}, "versions": {"python": "3.11"}, "seconds": 30.0, "device": "cpu"}
        write(flow + ".json", json.dumps(manifest))
        write(layout.DATA.format(dataset=dataset) + ".json", json.dumps({"label": "made <here>"}))
    for dataset, agent, seeds in keys.jobs():
        folder = layout.OFFLINE.format(dataset=dataset, agent=agent, seeds=layout.join_seeds(seeds))
        for run in keys.runs(dataset, agent, seeds):
            table = evaluations("offline", [100, 200, 300, 400], success(agent, run))
            if agent in ONLINE_ONLY:
                table = evaluations("offline", [0], [0.02])
            if agent == "flp":
                table = pd.concat([evaluations("behavior", [0], [0.1]), table])
            write_run(Path(folder, run.name), keys.offline_run(dataset, agent, run), run, table, agent)
    for dataset, agent, seeds in keys.online_jobs():
        folder = layout.ONLINE.format(dataset=dataset, agent=agent, seeds=layout.join_seeds(seeds))
        for run in keys.online_runs(dataset, agent, seeds):
            table = evaluations("online", [0, 100], [0.3, 0.9])
            write_run(Path(folder, run.name), keys.online_run(dataset, agent, run), run, table, agent)
    return keys
