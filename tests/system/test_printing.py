"""Who reads what is printed may leave, and there may be no room for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from repository import REPO

from flp.system.portability import run_printing


@pytest.fixture(params=["", "1"], ids=["as-it-is", "unbuffered"])
def environment(request):
    return os.environ | {"PYTHONUNBUFFERED": request.param}


def flp(words, environment, stdout, stderr=subprocess.PIPE):
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=REPO, env=environment, stdout=stdout, stderr=stderr, check=False, text=True)


@pytest.fixture
def abandoned():
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("words", [["flp.cli"], ["flp.cli", "check"], ["flp.cli", "schema"]], ids=" ".join)
def test_it_ends_in_silence_when_its_reader_leaves(words, environment, abandoned):
    done = flp(words, environment, abandoned)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_refusal_that_nobody_reads_is_no_fault(environment, abandoned):
    done = flp(["flp.cli", "check", "--config", "a=b"], environment, subprocess.PIPE, stderr=abandoned)
    assert (done.returncode, done.stdout) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_is_named(environment):
    with open("/dev/full", "w") as full:
        done = flp(["flp.cli", "check"], environment, full)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_broken_pipes_are_not_hushed_up():
    def broken():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        run_printing(broken)
