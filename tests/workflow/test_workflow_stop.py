"""A signal to everything that Snakemake has started, as a terminal or a cluster sends it: nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors import safe_open
from workflow_support import new_checkout, wait_until

pytestmark = pytest.mark.slow(12)


def test_a_stopped_graph_leaves_its_stages_states(tmp_path: Path) -> None:
    dataset = "pointmaze-medium-navigate"
    checkout = new_checkout(tmp_path / "stopped", stand_ins=False, datasets=[dataset])
    checkout.change(flow__steps=100_000_000, flow__validate_every=1000)
    log = checkout.root / f".flp/logs/pretrain_flow/{dataset}/seed0.log"
    process = checkout.start("snakemake", "--cores", "1", "pretrain_flow_all")
    wait_until(lambda: log.exists() and "updates/s" in log.read_text(), 120)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) != 0
    wait_until(lambda: "the state is saved" in log.read_text(), 60)
    (state,) = checkout.root.glob(".flp/resume/pretrain-flow/*/state.safetensors")
    with safe_open(state, framework="pt") as file:
        assert json.loads(file.metadata()["info"])["step"] > 0
