"""`flp bench` measures what is there, and `flp check` tells the time by it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from repository import REPO
from small_experiment import MAZE, tiny

from flp.cli import main
from flp.experiment.keys import Keys
from flp.experiment.survey import Survey
from flp.params.loading import parse
from flp.supervision.costs import FILE, load_costs


@pytest.fixture
def write(request, tmp_path, monkeypatch):
    """Writes a small experiment into an empty folder, where nothing was downloaded or trained."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())

    def written(**changes):
        params = tiny(values, MAZE, **changes)
        Path("params.yaml").write_text(yaml.safe_dump(params))
        return parse(params)

    return written


def test_check_tells_where_its_times_are_from(write, capsys):
    write()
    assert main(["check", "--cores", "2"]) == 0
    told = capsys.readouterr().out
    assert "expected on 2 cores: " in told and "by a typical CPU core" in told
    assert all(f"{part} " in told for part in ("pretrain-flow", "offline-train flp", "online-finetune flp", "report"))


@pytest.mark.slow(8)
def test_it_measures_advises_and_check_believes_it(write, capsys):
    params = write(offline={"agents": ["flp", "bc"]})
    assert main(["bench", "--budget", "6", "--cores", "1", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    overlay = told.out[told.out.index("\noffline:") :].split("\n\n")[0]
    advised = yaml.safe_load("\n".join(line for line in overlay.splitlines() if line.startswith(("offline", "  "))))
    assert parse(yaml.safe_load(Path("params.yaml").read_text())) == params  # it is advice, nothing is changed
    assert set(advised["offline"]) == {"precision", "compile", "seeds_per_job"}
    assert advised["offline"]["compile"] is False and "compile was not measured for lack of time" in told.out
    assert f"{MAZE} flp" in told.out and "in all" in told.out
    assert "flp, float32 …" in told.err  # progress

    costs, about = load_costs()
    assert about["device"] == "cpu"
    assert {operation.of for operation in costs.measured if operation.kind == "update"} <= {"flp", "bc"}
    assert min(costs.measured.values()) > 0
    main(["check", "--cores", "1"])
    assert f"by `flp bench` of {about['when']}" in capsys.readouterr().out

    found = json.loads(FILE.read_text())  # slower by a million, the estimate is too
    for operation in found["operations"]:
        operation["seconds"] *= 1e6
    FILE.write_text(json.dumps(found))
    main(["check", "--cores", "1"])
    assert re.search(r"core: \d{3,} h", capsys.readouterr().out)


def test_what_a_task_of_ones_own_is_like_is_not_known_before_its_data(write, capsys):
    params = yaml.safe_load(yaml.safe_dump(write().model_dump(mode="json")))
    params |= {"tasks": {"mine": {"environment": "Pendulum-v1", "data": {"path": "none.npz"}}}, "datasets": ["mine"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main(["bench", "--budget", "2"]) == 2
    assert "before its data are there" in capsys.readouterr().err.replace("their", "its")
    assert not FILE.exists()


def test_without_a_compiler_it_says_so(write, monkeypatch):
    """As on a machine that has none: PyTorch looks for it by this name."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "/nowhere")
    survey = Survey(Keys(write(offline={"agents": ["bc"]})), 10_000, 1, torch.device("cpu"))
    (task, *_) = survey._compiled()
    assert task.work(0.01) == {}
    assert survey.refusal and "compiled" not in " ".join(survey.costs.settings())


def test_stopped_it_leaves_nothing(write, tmp_path):
    write()
    env = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-m", "flp.cli", "bench"], env=env, stderr=subprocess.PIPE, text=True)
    while "…" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in said
    assert not FILE.exists() and not list(tmp_path.rglob("*.tmp"))
