"""The progress line: rate, where the time went, what is left."""

from __future__ import annotations

import re

from flp.system import progress
from flp.system.progress import Progress


def test_the_line_says_where_the_time_went_and_what_is_left(monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    line = Progress("flp", 100, interval=15.0)
    line.begin(20)  # resumed there
    for name, seconds in {"data": 1.0, "update": 3.0, "evaluation": 4.0, "checkpoint": 2.0}.items():
        with line.section(name):
            now += seconds
    line.update(40)
    assert capsys.readouterr().err == ""  # too soon for a line in a log
    line.notes = "loss 1"
    expected = "flp 40/100 | 5 updates/s | data 10 % update 30 % evaluation 40 % checkpoint 20 % | 0:30 left | loss 1"
    assert line.line() == expected
    now += 10.0
    line.update(41)
    assert re.fullmatch(r"flp 41/100 \| .* left \| loss 1\n", capsys.readouterr().err)


def test_a_quiet_one_only_speaks(capsys):
    line = Progress("flp", 10, interval=0.0, quiet=True)
    line.update(5)
    line.close()
    assert capsys.readouterr().err == ""
    line.say("step 5: success 50 %")
    assert capsys.readouterr().err == "flp step 5: success 50 %\n"
