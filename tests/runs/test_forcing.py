"""Whoever forces a job gets all of it anew: nothing that was finished, half done or put aside before is used."""

from __future__ import annotations

import os
import signal

import pytest
from prepared_maze import train

from flp.agents.flp import FLP
from flp.system import layout
from flp.system.artifacts import write_text
from flp.system.forced import VARIABLE, marker


@pytest.fixture
def stopped(here, monkeypatch):
    """Trains until a signal comes with some update, and saves its state."""

    def stop(update_of_signal: int) -> None:
        update, count = FLP.update, iter(range(100))

        def signalled(self, batch, noise):
            if next(count) == update_of_signal:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, batch, noise)

        with monkeypatch.context() as patch:
            patch.setattr(FLP, "update", signalled)
            assert train() == 1

    return stop


@pytest.fixture
def force(here, monkeypatch, tmp_path):
    """Asks for the job again, as Snakemake and DVC do."""

    def ask() -> None:
        monkeypatch.setenv(VARIABLE, str(tmp_path / "markers"))
        write_text(marker(tmp_path / "markers", here), "asked")

    return ask


def test_a_forced_job_begins_anew_and_goes_on_if_it_is_stopped_itself(here, stopped, force, capsys, signals):
    stopped(45)
    elsewhere = layout.spare_folder(here) / "task1_seed0"
    elsewhere.mkdir(parents=True)
    (elsewhere / "policy.json").write_text("{}")
    other = layout.resume_folder("offline-train", "another's")
    write_text(other / "begun.json", '{"runs": ["0"], "threads": 1}')
    force()
    stopped(25)
    assert "resuming" not in capsys.readouterr().err and not elsewhere.exists()
    stopped(5)
    assert "resuming from" in (said := capsys.readouterr().err) and "(step 30)" in said
    assert train() == 0
    assert "(step 40)" in capsys.readouterr().err
    assert (other / "begun.json").exists() and len(list(other.parent.iterdir())) == 1


def test_an_interrupted_forced_job_goes_on_in_a_plain_run(here, stopped, force, capsys, monkeypatch, signals):
    force()
    stopped(25)
    monkeypatch.delenv(VARIABLE)
    assert train() == 0
    assert "(step 30)" in capsys.readouterr().err
    assert (here / "task1_seed0/policy.safetensors").exists()
