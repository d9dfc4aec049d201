"""docs/reliability.md links a file of tests for each of its promises."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def test_every_promise_links_tests_that_exist():
    tables = re.findall(r"^\|.* Test \|\n\| ---.*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    promises = [line for table in tables for line in table.splitlines()]
    assert len(promises) > 30
    for line in promises:
        (link,) = re.findall(r"\[\w+\]\((\S+/test_\w+\.py)\) \|$", line)
        assert "def test_" in (PAGE.parent / link).read_text(), line
