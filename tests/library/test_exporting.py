"""An exported policy does what the policy does, says what it is, and needs nothing of flp."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from repository import REPO
from small_experiment import MAZE

import flp
from flp import cli
from flp.agents.bc import BC
from flp.library import exporting, onnx_format
from flp.library.exporting import export, opened, verify
from flp.library.noise import inputs_of, noise_of
from flp.params.sections import AgentName
from flp.system.errors import FLPError
from flp.tools.export import name_of

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
FORMATS = ["torch", pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx"))]
DETERMINISTIC = {"bc", "iql", "rebrac", "srpo", "calql", "rlpd"}
# A program in whose Python there is no flp, whatever is installed.
ALONE = "import runpy, sys; sys.modules['flp'] = None; path = sys.argv.pop(1); sys.argv[0] = path; runpy.run_path(path)"


def states(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 20, (count, 2)).astype(np.float32)


# Both formats begin with the same trace of the agent; to write it as it stands, two agents are enough.
TRACES = [(agent, "onnx" if HAS_ONNX else "torch") for agent in get_args(AgentName)]


@pytest.mark.slow(8)
@pytest.mark.parametrize(("agent", "form"), dict.fromkeys([*TRACES, ("bc", "torch"), ("idql", "torch")]))
def test_every_agent_acts_from_its_file_as_from_its_folder(agent, form, run_of, tmp_path):
    policy = flp.load_policy(run_of(agent))
    written, contract = export(policy, form)
    assert str(REPO).encode() not in unpacked(written)  # no path of this machine
    run = opened(written, form)
    for batch, seed in ((1, 0), (2, 1), (50, 2)):
        actions, inputs = inputs_of(policy, noise_of(policy), states(batch), seed)
        policy.reset(seed)
        np.testing.assert_array_equal(actions, policy(states(batch)))
        np.testing.assert_allclose(run(inputs), actions, rtol=0, atol=1e-5)
        shapes = [[batch, *entry["shape"][1:]] for entry in contract["inputs"]]
        assert [list(array.shape) for array in inputs] == shapes
    assert (len(contract["inputs"]) == 1) == (agent in DETERMINISTIC)
    if len(inputs) > 1:  # another noise, another action
        others = inputs_of(policy, noise_of(policy), states(50), 3)[1]
        assert (run([inputs[0], *others[1:]]) != actions).any()


def unpacked(written: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(written)) as file:
            return b"".join(file.read(name) for name in file.namelist())
    except zipfile.BadZipFile:
        return written


@pytest.mark.slow(8)
@pytest.mark.parametrize("form", FORMATS)
def test_the_example_runs_it_where_there_is_no_flp(form, run_of, tmp_path):
    policy, ending = flp.load_policy(run_of("flp")), {"torch": "pt2", "onnx": "onnx"}[form]
    written, _ = export(policy, form)
    (tmp_path / f"policy.{ending}").write_bytes(written)
    lines = "".join(json.dumps(state.tolist()) + "\n" for state in states(3))
    command = [sys.executable, "-c", ALONE, str(REPO / "examples/run_policy.py"), f"policy.{ending}"]
    done = subprocess.run(command, input=lines, cwd=tmp_path, capture_output=True, text=True, check=True)
    generator, run = np.random.default_rng(0), opened(written, form)
    for line, state in zip(done.stdout.splitlines(), states(3), strict=True):
        noise = generator.standard_normal((1, policy.candidates, 2)).astype(np.float32)
        np.testing.assert_allclose(json.loads(line), run([state[None], noise])[0], rtol=0, atol=1e-6)
    assert len((REPO / "examples/run_policy.py").read_text().splitlines()) <= 35


@pytest.mark.parametrize("form", FORMATS)
def test_the_contract_is_in_the_file(form, run_of):
    folder = run_of("flp")
    policy = flp.load_policy(folder)
    policy.candidates = 8
    written, contract = export(policy, form)
    if form == "torch":
        extra = {"contract.json": ""}
        torch.export.load(io.BytesIO(written), extra_files=extra)
        found = json.loads(extra["contract.json"])
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(written)
        found = json.loads(session.get_modelmeta().custom_metadata_map["contract"])
        assert [entry.name for entry in session.get_inputs()] == ["observation", "noise"]
        assert [list(entry.shape) for entry in session.get_inputs()] == [["batch", 2], ["batch", 8, 2]]
        assert [entry.name for entry in session.get_outputs()] == ["action"]
    assert found == contract
    assert [(entry["name"], entry["shape"], entry["dtype"]) for entry in found["inputs"] + found["outputs"]] == [
        ("observation", ["batch", 2], "float32"),
        ("noise", ["batch", 8, 2], "float32"),
        ("action", ["batch", 2], "float32"),
    ]
    assert found["inputs"][1]["distribution"] == "standard normal" and found["outputs"][0]["range"] == [-1, 1]
    manifest = json.loads((folder / "policy.json").read_text())
    for name in ("agent", "dataset", "task", "seed", "step", "key", "sha256"):
        assert found[name] == manifest[name]
    assert found["candidates"] == 8 and found["versions"]["torch"] == torch.__version__
    assert found["trained_with"] == manifest["versions"]


def test_only_what_acts_is_in_the_file(run_of):
    policy = flp.load_policy(run_of("fql"))
    program = torch.export.load(io.BytesIO(export(policy, "torch")[0]))
    assert program.state_dict and all(name.startswith("agent.actor.") for name in program.state_dict)
    assert policy.value(states(1), np.zeros((1, 2))).shape == (1,)  # the policy itself keeps its critic
    policy = flp.load_policy(run_of("flp"))
    for candidates, parts in ((4, {"policy", "critic", "flow"}), (1, {"policy", "flow"})):
        policy.candidates = candidates
        names = torch.export.load(io.BytesIO(export(policy, "torch")[0])).state_dict
        assert {name.split(".")[1] for name in names} == parts


def draws(*shape, kind="normal", per=1):
    """An `act` of BC whose actions are moved by noise of this shape, `per` rows of it for an observation."""

    def act(self, observations, streams):
        batch = observations.shape[1]
        noise = {"normal": streams.normal, "uniform": streams.uniform}[kind](batch * per, *shape)
        return (self.actor(observations) + noise.view(1, batch, -1)[..., :2]).clamp(-1, 1)

    return act


@pytest.mark.parametrize(
    ("act", "name", "shape"),
    [
        (draws(2), "standard normal", ["batch", 2]),
        (draws(3, 2, kind="uniform"), "uniform in [0, 1)", ["batch", 3, 2]),
        (draws(2, per=4), "standard normal", ["batch", 4, 2]),
    ],
)
def test_any_noise_of_an_agent_becomes_an_input(act, name, shape, run_of, monkeypatch):
    monkeypatch.setattr(BC, "act", act)
    policy = flp.load_policy(run_of("bc"))
    written, contract = export(policy, "torch")
    assert (contract["inputs"][1]["distribution"], contract["inputs"][1]["shape"]) == (name, shape)
    actions, inputs = inputs_of(policy, noise_of(policy), states(7), 4)
    np.testing.assert_allclose(opened(written, "torch")(inputs), actions, rtol=0, atol=1e-6)


def test_what_cannot_be_exported_is_said_in_one_line(run_of, monkeypatch, capsys):
    folder = run_of("bc")

    def refused(act):
        monkeypatch.setattr(BC, "act", act)
        assert cli.main(["export", str(folder), "--format", "torch", "--output", "out.pt2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not Path("out.pt2").exists()
        return line

    def shared(self, observations, streams):
        return self.actor(observations) + streams.normal(1, 2)

    def branching(self, observations, streams):
        actions = self.actor(observations)
        return actions if float(actions.sum()) > 0 else -actions

    assert "its noise [1, 2] is not in proportion to observations" in refused(shared)
    assert "cannot be traced" in refused(branching)


def test_a_file_that_acts_otherwise_is_not_written(run_of, monkeypatch, capsys):
    policy = flp.load_policy(folder := run_of("fbc"))
    noise, batch = noise_of(policy), states(256)
    true = opened(export(policy, "torch")[0], "torch")
    verify(policy, noise, true, batch)
    calls = []

    def tied(inputs):  # two rows are decided the other way, once
        calls.append(len(inputs[0]))
        actions = true(inputs).copy()
        actions[[5, 77][: 2 * (calls == [256])]] += 0.5
        return actions

    verify(policy, noise, tied, batch)
    assert calls == [256, 256, 1]

    def wrong(rows, by):
        def run(inputs):
            actions = true(inputs).copy()
            actions[rows] += by
            return actions

        return run

    for run, says in ((wrong([5], 2e-5), "in 1 of 256"), (wrong(slice(None), 0.1), "in 256 of 256")):
        with pytest.raises(flp.FLPError, match=says):
            verify(policy, noise, run, batch)
    with pytest.raises(flp.FLPError, match="differs"):
        verify(policy, noise, wrong([0], np.nan), batch)
    monkeypatch.setattr(exporting, "opened", lambda written, form: wrong(slice(None), 0.1))
    assert cli.main(["export", str(folder), "--format", "torch"]) == 2
    assert "it is not written" in capsys.readouterr().err and not list(Path().glob("*.pt2"))


def test_the_command_names_files_of_a_run_and_its_fine_tuned_and_swept_relatives_apart(run_of):
    folder, names = run_of("bc"), []
    manifest = json.loads((folder / "policy.json").read_text())
    for changed in ({}, {"variant": "alpha=1e-05"}, {"phase": "online"}):
        (folder / "policy.json").write_text(json.dumps(manifest | changed))
        names.append(name_of(flp.load_policy(folder)))
    base = f"bc-{MAZE}-task2-seed0"
    assert names == [base, f"{base}-alpha=1e-05", f"{base}-online"]
    (folder / "policy.json").write_text(json.dumps(manifest | {"variant": "/../../elsewhere"}))
    with pytest.raises(FLPError, match="its manifest's variant is none that flp writes"):
        flp.load_policy(folder)


def test_the_command_tells_what_it_wrote_and_how_fast_it_is(run_of, capsys):
    folder = run_of("flp")
    assert cli.main(["export", str(folder), "--format", "torch"]) == 0
    said, count = capsys.readouterr().out.splitlines(), flp.load_policy(folder).candidates
    assert Path(f"flp-{MAZE}-task2-seed0.pt2").is_file()
    assert said[1:4] == [
        "  observation [batch, 2] float32, finite numbers; far outside the range of the data, actions may be NaN",
        f"  noise [batch, {count}, 2] float32, standard normal",
        "  action [batch, 2] float32, [-1.0, 1.0]",
    ]
    assert re.fullmatch(r"  an action takes [\d.]+ ms on one core of this machine, [\d.]+ ms .*", said[4])


@pytest.mark.parametrize(("form", "name"), [("onnx", "model.pt2"), ("torch", "model.onnx"), ("torch", "model")])
def test_a_name_by_which_programs_would_take_it_for_another_format_is_refused(form, name, run_of, tmp_path, capsys):
    assert cli.main(["export", str(run_of("bc")), "--format", form, "--output", str(tmp_path / name)]) == 2
    assert "programs know the format by the name; end it in ." in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_without_the_extra_one_line_says_so(run_of, monkeypatch, capsys):
    monkeypatch.setattr(onnx_format, "find_spec", lambda name: None)
    assert cli.main(["export", str(run_of("bc")), "--format", "onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ONNX needs onnx, onnxscript, onnxruntime: pip install" in line and not list(Path().glob("*.onnx"))
