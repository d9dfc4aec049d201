"""What runs when: each promise of the workflow is tried with the real snakemake and dvc in fresh clones."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest
from workflow_clones import (
    BELOW_OFFLINE,
    BELOW_OFFLINE_OF_ONE,
    EVERYTHING,
    EVERYTHING_OF_ONE,
    NOTHING,
    SAME,
    agrees,
)
from workflow_support import (
    DATASETS,
    Checkout,
    Jobs,
    jobs,
)

pytestmark = pytest.mark.slow(8)


# --- nothing changed ---------------------------------------------------------------------------------------------


def test_a_second_run_of_either_does_nothing(small: Checkout) -> None:
    assert small.snakemake() == NOTHING
    assert small.dvc("repro") == NOTHING
    assert agrees(small)


def test_edits_of_docstrings_and_comments_run_nothing(small: Checkout) -> None:
    for path in ("flp/flow/behavior.py", "flp/agents/flp.py", "flp/stages/pretrain_flow.py"):
        small.edit(path, '"""', '"""Another first sentence. ')
        (small.root / path).write_text(small.read(path) + "\n# a comment\n")
    assert small.planned() == NOTHING
    assert small.dvc("repro", "pretrain_flow") == NOTHING


# --- something changed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # alpha: see test_changing_back…; a task: see test_workflow_real.py; others: see test_workflow_times.py
        pytest.param({"report__title": "Another"}, jobs(report=1), id="report"),
        pytest.param(
            {"invert__max_distinguishable": 0.9}, jobs(invert_to_latent=1, report=1), id="how a flow is judged"
        ),
        pytest.param({"seeds": [0, 1]}, EVERYTHING_OF_ONE - jobs(download_dataset=1), id="a seed more"),
    ],
)
def test_a_change_runs_what_depends_on_it(small: Checkout, change: dict[str, Any], expected: Jobs) -> None:
    small.change(**change)
    assert small.planned() == expected
    assert small.dvc("repro") == expected
    assert agrees(small)


def test_data_of_another_key_and_the_same_bytes_make_all_of_it_anew(small: Checkout) -> None:
    """As where a default is written out, or a user's file is saved again: keys have changed, and DVC sees bytes."""
    before = (small.root / "data/cube-single-play.npz").read_bytes()
    small.change(download__noise=0.5)
    assert small.dvc("repro", **SAME) == EVERYTHING_OF_ONE
    assert (small.root / "data/cube-single-play.npz").read_bytes() == before
    assert agrees(small)


def test_a_change_of_one_dataset_leaves_the_others(work: Checkout) -> None:
    """One is new, one gets another flow, and the third stays as it is."""
    work.change(datasets=[*DATASETS, "scene-play"], overrides={DATASETS[0]: {"flow": {"steps": 30}}})
    expected = EVERYTHING_OF_ONE + EVERYTHING_OF_ONE - jobs(download_dataset=1, report=1)
    assert work.snakemake() == expected
    assert work.planned() == NOTHING


def test_snakemake_alone_does_the_same(small: Checkout) -> None:
    small.change(offline__alpha=3.0)
    assert small.snakemake() == BELOW_OFFLINE_OF_ONE
    assert small.snakemake() == NOTHING
    small.change(offline__alpha=3.0, online__steps=20)
    assert small.snakemake() == jobs(online_finetune=1, report=1)
    assert small.dvc("repro") == NOTHING
    assert agrees(small)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"offline__sweep__alpha": [0.1]}, jobs(offline_train=2, report=1), id="a sweep"),
        pytest.param({"offline__agents": ["flp", "fql"]}, BELOW_OFFLINE, id="an agent more"),
        pytest.param(
            {"seeds": [0, 1], "offline__seeds_per_job": 2},
            jobs(pretrain_flow=2, invert_to_latent=2, offline_train=2, online_finetune=2, report=1),
            id="two seeds a job",
        ),
    ],
)
def test_other_changes_plan_what_depends_on_them(work: Checkout, change: dict[str, Any], expected: Jobs) -> None:
    work.change(**change)
    assert work.planned() == expected


def test_without_an_online_stage_both_still_work(small: Checkout) -> None:
    small.change(online__steps=0)
    assert small.dvc("repro") == jobs(report=1)
    assert agrees(small)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("flp/data/load.py", EVERYTHING),
        ("flp/stages/pretrain_flow.py", EVERYTHING - jobs(download_dataset=2)),
        ("flp/flow/inversion.py", EVERYTHING - jobs(download_dataset=2, pretrain_flow=2)),
        ("flp/flow/card.py", jobs(invert_to_latent=2, report=1)),
        ("flp/agents/flp.py", BELOW_OFFLINE),
        ("flp/stages/online_finetune.py", jobs(online_finetune=2, report=1)),
        ("flp/stages/report.py", jobs(report=1)),
    ],
)
def test_an_edit_runs_what_uses_the_source(work: Checkout, path: str, expected: Jobs) -> None:
    work.edit(path, "\ndef ", "\n_ADDED = 1\n\n\ndef ")
    assert work.planned() == expected


def test_changing_back_restores_without_training(small: Checkout) -> None:
    page = small.read("results/report/index.html")
    small.change(offline__alpha=3.0)
    assert small.planned() == BELOW_OFFLINE_OF_ONE
    assert small.dvc("repro") == BELOW_OFFLINE_OF_ONE
    assert agrees(small)
    small.commit("alpha 3")
    small.run("git", "checkout", "-q", "HEAD~1")
    assert small.planned() == BELOW_OFFLINE_OF_ONE  # the files are still those of alpha 3
    assert small.dvc("checkout") == NOTHING
    assert small.read("results/report/index.html") == page
    assert agrees(small)
    small.run("git", "checkout", "-q", "main")
    small.dvc("checkout")
    assert agrees(small)
    small.run("git", "checkout", "-q", "HEAD~1", "--", "dvc.lock")
    small.dvc("checkout")
    # Snakemake's last record says alpha 3, params.yaml says alpha 3; only the files do not.
    assert small.planned() == BELOW_OFFLINE_OF_ONE
    assert small.planned("--workflow-profile", "none") == BELOW_OFFLINE_OF_ONE


# --- nothing to go by --------------------------------------------------------------------------------------------


def test_missing_records_and_lying_clocks_hide_no_change(work: Checkout) -> None:
    shutil.rmtree(work.root / ".snakemake")
    work.change(offline__alpha=3.0)
    assert work.planned() == BELOW_OFFLINE
    future = time.time() + 86_400
    for path in [*work.root.glob("results/**/*"), *work.root.glob("data/*")]:
        os.utime(path, (future, future))
    assert work.planned() == BELOW_OFFLINE
    for path in [*work.root.glob("data/*"), *work.root.glob("results/*/flow/**/*")]:
        os.utime(path, (future, future))
    assert work.snakemake() == BELOW_OFFLINE
    shutil.rmtree(work.root / ".flp")
    assert work.planned() == NOTHING


def test_lying_clocks_run_nothing_that_is_current(work: Checkout) -> None:
    shutil.rmtree(work.root / ".snakemake")
    for number, path in enumerate(sorted(work.root.glob("results/**/*"))):
        os.utime(path, (number * 1000, number * 1000))
    for path in work.root.glob("data/*"):
        path.touch()
    assert work.planned() == NOTHING
    assert work.planned("--workflow-profile", "none") == NOTHING


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        pytest.param(
            [
                "results/{}/flow/model/seed0/flow.csv",
                "results/{}/offline/flp/seed0/task2_seed0",
                "results/report/metrics.json",
            ],
            jobs(pretrain_flow=1, offline_train=1, report=1),
            id="flow, offline, report",
        ),
        pytest.param(
            ["data/{}-val.npz", "results/{}/latent/seed0", "results/{}/online"],
            jobs(download_dataset=1, invert_to_latent=1, online_finetune=1),
            id="data, latent, online",
        ),
    ],
)
def test_what_is_lost_is_made_again_and_nothing_else(work: Checkout, lost: list[str], expected: Jobs) -> None:
    """Nor is what lies between the lost levels."""
    for path in lost:
        place = work.root / path.format(DATASETS[1])
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert work.snakemake() == expected
    assert work.planned() == NOTHING


def test_forcing_a_rule_forces_what_is_below(work: Checkout) -> None:
    assert work.planned("--forcerun", "pretrain_flow") == EVERYTHING - jobs(download_dataset=2)
    assert work.planned("--forceall") == EVERYTHING
    flow = "results/cube-single-play/flow/model/seed0/flow.safetensors"
    assert work.planned("--force", flow) == jobs(pretrain_flow=1)
