"""Which Pythons flp claims: one claim everywhere, and one line where it does not hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import installs

ROOT = installs.ROOT
OTHERS = ["3.9.1", "3.10.13", "3.13.0", "3.14.2", "4.0.0"]


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_all_that_names_the_pythons_names_the_same() -> None:
    claim = f"Python {' or '.join(installs.claimed())}"
    assert claim == "Python 3.11 or 3.12"
    for file in ("README.md", "CONTRIBUTING.md", "Makefile"):
        assert claim in (ROOT / file).read_text(), file
    assert "make installs" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("version", [*OTHERS, *map("{}.7".format, installs.claimed())])
def test_make_says_which_python_it_needs_and_how_to_give_it(tmp_path: Path, version: str) -> None:
    """An interpreter that says it is of that version: few machines have them all."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    parts = ", ".join(version.split("."))
    says = f"import sys; sys.version, sys.version_info = '{version} (main)', ({parts}); exec(sys.argv[1])"
    python = program(
        tmp_path / "python", f'[ "$1" = -m ] && exec mkdir .venv; exec "{sys.executable}" -c "{says}" "$2"'
    )
    make = ["make", "-C", str(tmp_path), ".venv/bin/python", f"PYTHON={python}"]
    done = subprocess.run(make, capture_output=True, text=True)
    works = version.rpartition(".")[0] in installs.claimed()
    assert (tmp_path / ".venv").exists() is works
    assert (done.returncode == 0) is works
    if not works:
        (said,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert said == (
            f"flp needs Python 3.11 or 3.12, and {python} is {version}: install one, then make PYTHON=python3.12 "
            ".venv/bin/python"
        )


@pytest.mark.parametrize(("interpreter", "moved"), [("/nowhere/.venv/bin/python", True), (sys.executable, False)])
def test_make_says_that_the_environment_was_made_elsewhere(tmp_path: Path, interpreter: str, moved: bool) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/snakemake").write_text(f"#!{interpreter}\n")
    done = subprocess.run(["make", "-C", str(tmp_path), "in-place"], capture_output=True, text=True)
    assert (done.returncode != 0) is moved
    assert ("make clean-venv" in done.stderr) is moved


def test_make_mends_an_environment_that_is_half_made(tmp_path: Path) -> None:
    """As one is whose making was killed between Python and pip."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    make = ["make", "-C", str(tmp_path), ".venv/.run", f"PYTHON={sys.executable}"]
    done = subprocess.run(make, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    assert (tmp_path / ".venv/bin/pip").exists() and "No module named pip" not in done.stderr


def test_pythons_that_are_not_at_hand_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installs, "claimed", lambda: ["3.98", "3.99", f"3.{sys.version_info.minor}"])
    program(tmp_path / "python3.99", "echo 'python3.99: command not found'; exit 127")  # as version managers do
    assert installs.main() == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[2] for line in told[:2]] == [" not tried, it is not installed"] * 2
    assert told[2].endswith(".venv is made with it")


@pytest.mark.slow(15)
def test_an_install_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A project that this very Python is too new for."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\nrequires-python = "<3"\n')
    (tmp_path / "constraints.txt").touch()
    monkeypatch.setattr(installs, "ROOT", tmp_path)
    monkeypatch.setattr(installs, "claimed", lambda: ["3.99"])
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "python3.99", f'exec "{sys.executable}" "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert installs.main() == 1
    told = capsys.readouterr().out
    assert "requires a different Python" in told and told.rstrip().endswith("python3.99: FAILS")
