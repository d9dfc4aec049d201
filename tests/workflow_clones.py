"""Clones in which everything has been made, once for all test processes; and what making it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_once import once
from workflow_support import DATASETS, Checkout, jobs, new_checkout

BELOW_OFFLINE = jobs(offline_train=2, online_finetune=2, report=1)
EVERYTHING = jobs(download_dataset=2, pretrain_flow=2, invert_to_latent=2) + BELOW_OFFLINE
BELOW_OFFLINE_OF_ONE = jobs(offline_train=1, online_finetune=1, report=1)
EVERYTHING_OF_ONE = jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1) + BELOW_OFFLINE_OF_ONE
NOTHING = jobs()


@pytest.fixture(scope="session")
def single(place: Path) -> Checkout:
    """A clone in which `dvc repro` has made all of one dataset, committed; made once, never changed."""

    def make(root: Path) -> None:
        checkout = new_checkout(root, datasets=DATASETS[1:])
        assert checkout.dvc("repro") == EVERYTHING_OF_ONE
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
