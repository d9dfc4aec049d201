"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def test_every_promise_names_tests_that_exist():
    lines = (TESTS.parent / "docs" / "reliability.md").read_text().splitlines()
    promises = [line for line in lines if line.startswith("| ") and not line.startswith(("| Promise", "| ---"))]
    assert len(promises) > 20
    for line in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)
        assert named, line
        for file, test in named:
            assert re.search(rf"def {test}\(", (TESTS / file).read_text()), f"{file}::{test}"
