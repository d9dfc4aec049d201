"""What the comparison with FQL's official code lacks is said in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import REPO

AGENTS = ("__init__", "fql", "iql", "rebrac", "ifql", "sac")


def said(checkout, *options):
    command = [sys.executable, "-m", "benchmarks.peers", "--fql", str(checkout), *options]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow(10)
def test_a_checkout_or_a_python_that_lacks_something_is_refused_in_one_line(tmp_path):
    assert "agents/__init__.py is missing; give a checkout of github.com/seohongpark/fql" in said(tmp_path / "none")
    (tmp_path / "agents").mkdir()
    for name in AGENTS:
        (tmp_path / "agents" / f"{name}.py").touch()
    (tmp_path / "agents" / "sac.py").unlink()
    assert "sac.py is missing" in said(tmp_path)
    (tmp_path / "agents" / "sac.py").touch()
    assert "No module named 'jax'" in (line := said(tmp_path, "--peer-python", sys.executable))
    assert "-m pip install jax" in line
    assert "give a Python with jax" in said(tmp_path, "--peer-python", str(tmp_path / "python"))
