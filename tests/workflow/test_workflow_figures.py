"""The paper's figures by name, tried with the real snakemake in a fresh clone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from workflow_support import DATASETS, Checkout, Jobs, jobs, new_checkout

pytestmark = pytest.mark.slow(8)

UP_TO_OFFLINE = jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1, offline_train=1)


def announced(checkout: Checkout, *targets: str) -> Jobs:
    """The jobs that `snakemake -n` announces, targets that only collect others aside."""
    output = checkout.run("snakemake", "-n", *targets).stdout
    table = re.search(r"^Job stats:\n.*\n-.*\n((?:\w+ +\d+\n)*)", output, re.MULTILINE)
    counts = dict(line.split() for line in table[1].splitlines()) if table else {}
    return Counter({name: int(n) for name, n in counts.items() if name not in ("total", "all", "all_figures")})


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which nothing has been made."""
    return new_checkout(tmp_path_factory.mktemp("figures") / "clone", datasets=DATASETS[1:])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("figure4", UP_TO_OFFLINE + jobs(offline_sweep=1, figure4=1)),
        (
            "all_figures",
            UP_TO_OFFLINE
            + jobs(offline_sweep=3, online_finetune=1, table1=1, table2=1)
            + jobs(figure2=1, figure3=1, figure4=1, figure5=1),
        ),
    ],
)
def test_a_figure_asks_for_what_it_shows(empty: Checkout, target: str, expected: Jobs) -> None:
    assert announced(empty, target) == expected


def test_a_figure_without_runs_says_why_in_one_line(empty: Checkout, tmp_path: Path) -> None:
    without = tmp_path / "without.yaml"
    without.write_text("offline: {agents: [bc]}\n")
    done = empty.run("snakemake", "-n", "figure4", "--configfile", str(without), check=False)
    assert done.returncode != 0 and "error: figure4 shows FLP" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_sweep_that_is_given_is_one_job_with_the_rest(empty: Checkout, tmp_path: Path) -> None:
    swept = tmp_path / "swept.yaml"
    swept.write_text("offline: {candidates: 4, sweep: {alpha: [0.1, 3.0], candidates: [1, 2]}}\n")
    figures = ("figure3", "figure4", "figure5")
    assert announced(empty, *figures, "--configfile", str(swept)) == UP_TO_OFFLINE + jobs(**dict.fromkeys(figures, 1))


def test_figures_leave_the_experiment_alone_and_are_made_once(tmp_path: Path) -> None:
    work = new_checkout(tmp_path / "clone", datasets=DATASETS[1:])
    work.snakemake()
    policies = work.root / "results/cube-single-play/offline/flp/seed0"
    before = {path: path.read_text() for path in policies.rglob("*") if path.is_file()}
    assert work.snakemake("figure3", "figure4") == jobs(offline_sweep=2, figure=2)
    assert work.snakemake("figure3", "figure4") == jobs()
    assert {path: path.read_text() for path in policies.rglob("*") if path.is_file()} == before
    assert announced(work) == jobs()
    # Figure 5 shares N = 1 with Figure 3, and a drawing that changes trains nothing.
    assert announced(work, "figure5") == jobs(offline_sweep=1, figure5=1)
    work.edit("flp/paper/sweep_figures.py", "\ndef ", "\n_ADDED = 1\n\n\ndef ")
    assert announced(work, "figure3", "figure4") == jobs(figure3=1, figure4=1)
    assert announced(work) == jobs()
    work.change(offline__discount=0.5)
    assert announced(work, "figure4") == jobs(offline_train=1, offline_sweep=1, figure4=1)
