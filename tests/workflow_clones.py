"""Clones in which everything has been made, once for all test processes; and what making it takes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from made_once import once
from workflow_support import (
    DATASETS,
    NO_NETWORK,
    STAGES,
    Checkout,
    Jobs,
    empty_namespace,
    jobs,
    new_checkout,
    planned_in,
)

BELOW_OFFLINE = jobs(offline_train=2, online_finetune=2, report=1)
EVERYTHING = jobs(download_dataset=2, pretrain_flow=2, invert_to_latent=2) + BELOW_OFFLINE
BELOW_OFFLINE_OF_ONE = jobs(offline_train=1, online_finetune=1, report=1)
EVERYTHING_OF_ONE = jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
NOTHING = jobs()
SAME = {"FLP_STAND_IN_SAME": "download_dataset"}  # data of the same bytes whenever they are made with this
REAL_UMASK = 0o027  # not the usual one: nothing for strangers


@pytest.fixture(scope="session")
def single(place: Path) -> Checkout:
    """A clone in which `dvc repro` has made all of one dataset, SAME as ever, committed; made once, never changed."""

    def make(root: Path) -> None:
        checkout = new_checkout(root, datasets=DATASETS[1:])
        assert checkout.dvc("repro", **SAME) == EVERYTHING_OF_ONE
        checkout.commit("made")

    return Checkout(once(place / "single", make))


@pytest.fixture(scope="session")
def built(place: Path, single: Checkout) -> Checkout:
    """The same with another dataset, by Snakemake alone."""

    def make(root: Path) -> None:
        checkout = single.copy(root)
        checkout.change(datasets=list(DATASETS))
        assert checkout.snakemake() == EVERYTHING_OF_ONE
        checkout.commit("made")

    return Checkout(once(place / "built", make))


@pytest.fixture(scope="session")
def real(place: Path) -> Checkout:
    """A clone in which the stages themselves have made the maze's one task, without a network and under REAL_UMASK."""

    def make(root: Path) -> None:
        checkout = new_checkout(root, stand_ins=False, datasets=DATASETS[:1])
        checkout.change(offline__tasks=[1])
        whole = [*empty_namespace(), "snakemake", "--cores", "4"]
        old = os.umask(REAL_UMASK)
        try:
            assert ran(checkout, *whole, PYTHONPATH=str(NO_NETWORK)) == Counter(STAGES)
        finally:
            os.umask(old)

    return Checkout(once(place / "real", make), stand_ins=False)


def ran(checkout: Checkout, *command: str, **env: str) -> Jobs:
    """The jobs that a command's Snakemakes announced and ran."""
    done = checkout.run(*command, **env)
    tables = (done.stdout + done.stderr).split("Building DAG of jobs")
    return sum((planned_in(table) for table in tables), Counter())


@pytest.fixture
def work(built: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the made clone, to change."""
    return built.copy(tmp_path / "work")


@pytest.fixture
def small(single: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the one with one dataset."""
    return single.copy(tmp_path / "work")


def agrees(work: Checkout) -> bool:
    """Whether both front ends have nothing to do."""
    status = work.run("dvc", "status").stdout
    return work.planned() == NOTHING and "up to date" in status
