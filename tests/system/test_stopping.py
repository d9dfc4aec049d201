"""A signal that comes too late: the work is done, and Python is shutting down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from repository import REPO

# Modules are torn down after Python has given up its signal handlers.
LATE = """
import os, sys
from flp.experiment import program

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {number})

late = Late()
program.Job = lambda args: None
sys.exit(program.stage("late", (), lambda job: None, "A stage.")([]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_finished_stage_is_no_failure(number: signal.Signals) -> None:
    code = LATE.format(number=int(number))
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
