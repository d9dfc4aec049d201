"""A stage that fails is a failed job, at once and by its own words, in every rule there is."""

from __future__ import annotations

import time

import pytest
from workflow_support import Checkout

from flp.system import layout

pytestmark = pytest.mark.slow(45)


def rules(checkout: Checkout) -> list[str]:
    """The rules that run something; the others only collect."""
    listed = checkout.run("snakemake", "--list-rules").stdout.splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    return [name for name in names if not name.startswith("all") and not name.endswith("_all")]


def test_a_stage_that_fails_is_a_failed_job_in_every_rule(small: Checkout) -> None:
    small.snakemake("all_figures")
    others = {*layout.FIGURES, *layout.TABLES} - {layout.FIGURES[0]}  # one rule under many names
    tried = [rule for rule in rules(small) if rule not in others]
    assert len(tried) >= 9
    for rule in tried:
        began = time.monotonic()
        failing = {"FLP_STAND_IN_FAIL": rule, "FLP_STAND_IN_STATUS": "3"}
        command = ("snakemake", "--cores", "2", "--latency-wait", "60", "all", "all_figures", "--forcerun", rule)
        done = small.run(*command, check=False, **failing)
        said = done.stdout + done.stderr
        assert done.returncode != 0, rule
        assert f"Error in rule {rule}" in said, said
        assert 0 <= said.find("told to fail") < said.find(f"Error in rule {rule}"), said
        assert "filesystem latency" not in said and "completed successfully" not in said, said
        assert time.monotonic() - began < 60
