"""The progress line: rate, where the time went, what is left."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys

import pytest

from flp.system.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [1000.0]
    monkeypatch.setattr("flp.system.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_the_line_says_where_the_time_went_and_what_is_left(clock, capsys):
    line = Progress("flp", 100)
    line.begin(20)  # resumed there
    for name, seconds in {"data": 1.0, "update": 3.0, "evaluation": 4.0, "checkpoint": 2.0}.items():
        with line.section(name):
            clock[0] += seconds
    line.update(40)
    assert capsys.readouterr().err == ""  # too soon for a line in a log
    line.notes = "loss 1"
    spent = "data 10 % update 30 % evaluation 40 % checkpoint 20 %"
    assert str(line) == f"flp 40/100 | 00:10 gone, 00:30 left | 5.00 updates/s | {spent} | loss 1"
    clock[0] += 10.0
    line.update(41)
    assert re.fullmatch(r"flp 41/100 \| 00:20 gone, .* left \| .* \| loss 1\n", capsys.readouterr().err)


def test_a_log_has_whole_lines_now_and_then_and_a_last_one(clock, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")  # of the terminal that the job was started from
    with Progress("a long name of a dataset", 100, "steps") as line:
        for step in range(1, 96):
            clock[0] += 1.0
            line.update(step)
            if step == 50:
                line.say("half")
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert [line.split()[6] for line in lines] == [
        "15/100",
        "30/100",
        "45/100",
        "half",
        "60/100",
        "75/100",
        "90/100",
        "95/100",
    ]
    assert lines[-1] == "a long name of a dataset 95/100 | 01:35 gone, 00:05 left | 1.00 steps/s"
    assert said.isprintable() or set(re.findall(r"[^ -~]", said)) == {"\n"}


def test_work_without_steps_is_seen(clock, capsys):
    line = Progress("flp", 100)
    for _ in range(40):
        clock[0] += 1.0
        line.beat("evaluating")
    said = capsys.readouterr().err.splitlines()
    assert [text.partition(" gone")[0] for text in said] == ["flp 0/100 | 00:15", "flp 0/100 | 00:30"]
    assert all(text.endswith("| evaluating") for text in said)


def test_without_a_step_there_is_no_line(capsys):
    Progress("flp", 10).close()
    assert capsys.readouterr().err == ""


def test_bytes_of_an_unknown_number(clock, capsys):
    with Progress("file", None, "B") as line:
        clock[0] += 2.0
        line.update(3 * 2**20)
        line.update(2**20)  # begun again
    assert re.fullmatch(r"file 1\.00M/\? \| .* \| 512kB/s\n", capsys.readouterr().err)


def test_a_quiet_one_only_speaks(clock, capsys):
    line = Progress("flp", 10, quiet=True)
    clock[0] += 60.0
    line.update(5)
    line.close()
    assert capsys.readouterr().err == ""
    line.say("step 5: success 50 %")
    assert capsys.readouterr().err == "flp step 5: success 50 %\n"


PROGRAM = """
import time
from flp.system.progress import Progress
line = Progress("flp", 4)
for step in range(1, 5):
    time.sleep(0.3)
    line.notes = "loss " + "1" * 60
    line.update(step)
    if step == 2:
        line.say("step 2: success 50 %")
line.close()
"""


def test_on_a_terminal_one_line_is_rewritten_and_no_wider_than_it():
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    said = ""
    while piece := _read(ours):
        said += piece
    lines = said.split("\r\n")
    assert len(lines) == 3 and lines[-1] == ""  # what was said, the last line
    assert lines[0].endswith("\rflp step 2: success 50 %")
    shown = lines[1].split("\r")
    assert len(shown) >= 4 and max(map(len, shown)) <= 60
    assert re.fullmatch(r"flp \|.*\| 4/4 \| 00:01 gone, 00:00 left \| 3\.\d\d upda.*", shown[-1])


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 2**16).decode()
    except OSError:  # the other side is closed
        os.close(descriptor)
        return ""
