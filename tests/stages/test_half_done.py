"""A half-done flow or inversion goes on only with what it began with, and not where it was forced."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from prepared_maze import DATASET
from safetensors.torch import load_file, save_file

from flp.flow.matching import FlowLearner
from flp.stages import invert_to_latent, pretrain_flow
from flp.system import layout
from flp.system.artifacts import write_text
from flp.system.forced import VARIABLE, marker
from flp.system.hashing import sha256_of
from flp.system.stopping import STOP

OF = ["--dataset", DATASET, "--seed", "0", "--threads", "1", "--device", "cpu"]
FLOW, LATENT = (Path(f"{place.format(dataset=DATASET, seed=0)}.safetensors") for place in (layout.FLOW, layout.LATENT))


def stopped(stage, patch, place, name):
    """The stage, stopped by a signal: a flow in its tenth update, an inversion before its tests."""
    function, left = getattr(place, name), [10 if place is FlowLearner else 1]

    def signalled(*args, **more):
        left[0] -= 1
        if left[0] == 0:
            STOP.signal = signal.SIGTERM
        return function(*args, **more)

    with patch.context() as until:
        until.setattr(place, name, signalled)
        assert stage.main(OF) == 1
    STOP.signal = None


def other_bytes(path):
    """As made elsewhere: the same manifest, hardly other numbers."""
    save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": sha256_of(path)}))


@pytest.mark.parametrize("remade", [False, True])
def test_an_inversion_goes_on_with_its_own_flow_alone(here, monkeypatch, capsys, signals, remade):
    shutil.rmtree(LATENT.parent)
    stopped(invert_to_latent, monkeypatch, invert_to_latent, "compare")
    if remade:
        other_bytes(FLOW)
    capsys.readouterr()
    assert invert_to_latent.main(OF) == 0
    said = capsys.readouterr().err
    assert ("resuming from" in said) != remade and ("is of another start (flow); starting over" in said) == remade
    found = LATENT.read_bytes()
    shutil.rmtree(LATENT.parent)
    assert invert_to_latent.main(OF) == 0
    assert LATENT.read_bytes() == found


@pytest.mark.parametrize(
    ("stage", "output", "owner", "name"),
    [(pretrain_flow, FLOW, FlowLearner, "update"), (invert_to_latent, LATENT, invert_to_latent, "compare")],
    ids=["flow", "inversion"],
)
def test_what_is_forced_begins_anew(here, monkeypatch, capsys, signals, tmp_path, stage, output, owner, name):
    expected = output.read_bytes()
    shutil.rmtree(output.parent)
    stopped(stage, monkeypatch, owner, name)
    with monkeypatch.context() as forced:
        forced.setenv(VARIABLE, str(tmp_path / "markers"))
        write_text(marker(tmp_path / "markers", output.parent), "asked")
        capsys.readouterr()
        stopped(stage, monkeypatch, owner, name)
        assert "resuming from" not in capsys.readouterr().err
    assert stage.main(OF) == 0
    assert "resuming from" in capsys.readouterr().err
    assert output.read_bytes() == expected
