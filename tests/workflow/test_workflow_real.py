"""The whole graph with the stages themselves, on parameters of seconds: nothing stands in for anything."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import pytest
from workflow_clones import REAL_UMASK, ran
from workflow_support import Checkout, jobs

pytestmark = pytest.mark.slow(45)
DATASET = "pointmaze-medium-navigate"


def test_both_front_ends_with_the_real_stages(real: Checkout, tmp_path: Path) -> None:
    checkout = real.copy(tmp_path / "real")
    made = [path for folder in ("data", "results", ".flp") for path in (checkout.root / folder).rglob("*.*")]
    made += [path for folder in ("data", "results") for path in (checkout.root / folder).rglob("*") if path.is_dir()]
    assert {".npz", ".safetensors", ".html", ".log", ".lock"} <= {path.suffix for path in made}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~REAL_UMASK for path in made}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in made} == expected
    page = checkout.read("results/report/index.html")
    assert "<html" in page and "://cdn" not in page
    rows = list(csv.DictReader(checkout.read("results/report/summary.csv").splitlines()))
    assert {row["phase"] for row in rows} == {"behavior", "offline", "online"}

    assert ran(checkout, "dvc", "repro") == jobs()
    checkout.commit("made")
    assert json.loads(checkout.run("dvc", "metrics", "show", "--json").stdout)

    flow = f"results/{DATASET}/flow/model/seed0/flow.safetensors"
    run = f"results/{DATASET}/offline/flp/seed0/task1_seed0/policy.safetensors"
    before = {path: (checkout.root / path).read_bytes() for path in (flow, run)}
    checkout.change(offline__tasks=[1, 2])
    assert ran(checkout, "dvc", "repro") == jobs(offline_train=1, online_finetune=1, report=1)
    assert {path: (checkout.root / path).read_bytes() for path in before} == before
    assert (checkout.root / run.replace("task1", "task2")).exists()
    assert "task" in checkout.run("dvc", "params", "diff").stdout
    assert checkout.run("dvc", "metrics", "diff").returncode == 0

    shown = checkout.run("dvc", "plots", "diff", "--out", "plots").stdout
    drawn = Path(shown.strip().removeprefix("file://")).read_text()
    assert "vegaEmbed('#" in drawn and "workspace" in drawn
    assert "cdn.jsdelivr.net" not in drawn  # it opens without a network

    listed = checkout.run("python", "-m", "flp.cli", "flows").stdout
    assert DATASET in listed and "current" in listed
