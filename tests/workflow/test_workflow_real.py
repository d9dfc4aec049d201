"""The whole graph with the stages themselves, on parameters of seconds: nothing stands in for anything."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_support import NO_NETWORK, STAGES, Checkout, Jobs, empty_namespace, jobs, new_checkout, planned_in

pytestmark = pytest.mark.slow(45)
DATASET = "pointmaze-medium-navigate"


def ran(checkout: Checkout, *command: str, **env: str) -> Jobs:
    """The jobs that a command's Snakemakes announced and ran."""
    done = checkout.run(*command, **env)
    tables = (done.stdout + done.stderr).split("Building DAG of jobs")
    return sum((planned_in(table) for table in tables), Counter())


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask other than the usual one: nothing for strangers."""
    old = os.umask(0o027)
    yield 0o027
    os.umask(old)


def test_both_front_ends_with_the_real_stages(tmp_path: Path, umask: int) -> None:
    checkout = new_checkout(tmp_path / "real", stand_ins=False, datasets=[DATASET])
    checkout.change(offline__tasks=[1])
    whole = [*empty_namespace(), "snakemake", "--cores", "4"]
    assert ran(checkout, *whole, PYTHONPATH=str(NO_NETWORK)) == Counter(STAGES)  # nothing of it needs a network
    made = [path for folder in ("data", "results", ".flp") for path in (checkout.root / folder).rglob("*.*")]
    made += [path for folder in ("data", "results") for path in (checkout.root / folder).rglob("*") if path.is_dir()]
    assert {".npz", ".safetensors", ".html", ".log", ".lock"} <= {path.suffix for path in made}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in made}
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
