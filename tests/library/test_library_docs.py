"""The commands and programs of docs/library.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_experiment import tiny, train

from flp.evaluation import headless

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text()


@pytest.fixture(scope="module")
def arm(tmp_path_factory, pytestconfig):
    """A small experiment on the page's dataset, its results tracked by DVC in a repository."""
    folder = tmp_path_factory.mktemp("arm")
    params = yaml.safe_load((pytestconfig.rootpath / "params.yaml").read_text())
    train(folder, tiny(params, "cube-single-play", download={"source": "generate"}, offline={"tasks": [2]}), ["flp"])
    dvc = str(Path(sys.executable).parent / "dvc")
    for line in (
        ["git", "init", "-q"],
        [dvc, "init", "-q"],
        [dvc, "add", "-q", "results"],
        ["git", "add", "results.dvc", ".gitignore", ".dvc"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "Results"],
    ):
        subprocess.run(line, cwd=folder, check=True)
    return folder


@pytest.mark.slow(10)
def test_the_programs_run(arm, monkeypatch, capsys):
    monkeypatch.chdir(arm)
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == 4
    names: dict = {}
    for program in programs:
        exec(compile(program.replace("episodes=50", "episodes=2"), "library.md", "exec"), names)
    assert re.search(r"success \d of 2 \(\d+%\), return -\d", capsys.readouterr().out)
    assert names["action"].shape == names["latent"].shape == (5,)


@pytest.mark.slow(5)
def test_a_folder_brought_by_dvc_is_enough(arm, tmp_path):
    (command,) = re.findall(r"```sh\n(dvc get .*?)\n```", PAGE)
    words = command.replace("https://github.com/lab/experiment", str(arm)).split()
    dvc = str(Path(sys.executable).parent / "dvc")
    subprocess.run([dvc, *words[1:], "-q"], cwd=tmp_path, check=True)
    code = "import flp; print(flp.load_policy('task2_seed0')([0.0] * 28).shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "(5,)\n"


@pytest.mark.slow(5)
def test_an_environment_is_drawn_if_mujoco_is_imported_first():
    backend = next(filter(headless.works, headless.BACKENDS), None)
    if backend is None:
        pytest.skip(f"needs {headless.PACKAGES}")
    assert "`import mujoco` before you make the first environment" in PAGE
    code = (
        "import mujoco, flp; e = flp.make_environment('cube-single-play', 1); e.reset(seed=0); print(e.render().shape)"
    )
    given = {**os.environ, "MUJOCO_GL": backend}
    done = subprocess.run([sys.executable, "-c", code], env=given, check=True, capture_output=True, text=True)
    assert done.stdout == "(200, 200, 3)\n"
