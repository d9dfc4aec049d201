"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_every_promise_names_tests_that_exist():
    text = (TESTS.parent / "docs" / "reliability.md").read_text()
    tables = re.findall(r"^\| Promise .*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    promises = [line for table in tables for line in table.splitlines()]
    assert len(promises) > 30
    where = {path.name: path for path in TESTS.rglob("test_*.py")}
    for line in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)
        assert named, line
        for file, test in named:
            assert re.search(rf"def {test}\(", where[file].read_text()), f"{file}::{test}"
