"""The plan of the house (docs/architecture.md) holds: rooms, their sizes, names, and the arrows between them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from repository import REPO

from flp.params.sections import AgentName

MODULES = sorted((REPO / "flp").rglob("*.py"))
ROOMS = sorted(path.parent for path in (REPO / "flp").glob("*/__init__.py"))
BESIDE_THE_ROOMS = {"workflow", "project", "benchmarks"}  # tests of what is not in flp/


def test_every_module_lies_in_a_room() -> None:
    assert {path.name for path in (REPO / "flp").glob("*.py")} == {"__init__.py", "cli.py"}
    assert {path.parent for path in MODULES} == {REPO / "flp", *ROOMS}


def test_rooms_and_files_are_small() -> None:
    aside = {"__init__", *get_args(AgentName)}  # an algorithm is one file, however many there are
    files = Counter(path.parent.name for path in MODULES if path.stem not in aside)
    assert {room: count for room, count in files.items() if count > 11} == {}
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 300} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
                if lines > 60:
                    long[f"{path.name}::{node.name}"] = lines
    assert long == {}


def test_a_name_tells_the_file() -> None:
    names = Counter(path.stem for path in MODULES if path.name != "__init__.py")
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_every_room_says_in_one_sentence_what_belongs_there() -> None:
    page = (REPO / "docs" / "architecture.md").read_text()
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), room.name
        assert f"`{room.name}`" in page, room.name


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (REPO / "tests").iterdir() if path.is_dir() and list(path.glob("test_*.py"))}
    assert folders - BESIDE_THE_ROOMS <= {room.name for room in ROOMS}
    assert {room.name for room in ROOMS} <= folders
    tests = sorted((REPO / "tests").rglob("*.py"))
    assert {path.name: n for path in tests if (n := len(path.read_text().splitlines())) > 400} == {}
    names = Counter(path.name for path in tests if path.name.startswith("test_"))
    assert max(names.values()) == 1, names


BREACHES = {
    "a room uses one above it": ("networks/mlp.py", "from flp.parts import base"),
    "a room uses its neighbour": ("flow/quality.py", "from flp.evaluation import evaluator"),
    "science uses plumbing": ("runs/session.py", "from flp.experiment import keys"),
    "two files use each other": ("learner/optimizers.py", "from flp.learner import trainable"),
    "a part knows an algorithm": ("parts/gaussian.py", "from flp.agents import flp"),
    "a late import": ("data/load.py", "def late() -> None:\n    from flp.params import loading"),
    "a room that no floor holds": ("attic/things.py", ""),
}


@pytest.mark.slow(20)
def test_the_arrows_are_kept_and_a_breach_is_noticed(tmp_path: Path) -> None:
    for name in ("flp", "benchmarks"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    assert _lint(tmp_path) == (0, "")
    for what, (file, text) in BREACHES.items():
        path = tmp_path / "flp" / file
        before = path.read_text() if path.exists() else None
        if before is None:
            path.parent.mkdir()
            (path.parent / "__init__.py").touch()
        path.write_text((before or "") + f"\n{text}\n")
        status, broken = _lint(tmp_path)
        assert status == 1 and broken, what
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before)


def _lint(folder: Path) -> tuple[int, str]:
    """The status of import-linter in a folder, and what it says is broken."""
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=folder, env={"PYTHONPATH": str(folder)}, **_CAPTURED)
    return done.returncode, "\n".join(re.findall(r".* BROKEN|.*are not listed.*|.*Missing layer.*", done.stdout))


_CAPTURED = {"capture_output": True, "text": True, "check": False}
