"""The real programs, killed: what they leave goes on to the very same files, and nothing else stays behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_once import once
from repository import REPO

sys.path.insert(0, str(REPO))

from benchmarks.torture import (
    DATASET,
    STAGES,
    before,
    command,
    differences,
    finish,
    outputs_in,
    prepare,
    run,
    start,
    survivors,
    torture,
)

pytestmark = pytest.mark.slow(8)


@pytest.fixture(scope="session")
def peace(place):
    """A tiny pipeline that was left in peace, and its stages' seconds."""
    whole = once(place / "reliability", lambda root: prepare(root / "whole")) / "whole"
    return whole, prepare(whole)


@pytest.fixture
def workplace(peace, tmp_path):
    """A folder beside a copy of the source that made the pipeline."""
    (tmp_path / "source").symlink_to(peace[0].parent / "source")
    return tmp_path / "here"


def a_seed():
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown when the test fails
    return seed


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_it_ends_with_the_same_bytes(peace, workplace, stage):
    whole, seconds = peace
    kills = 2 if stage == "offline_train" else 1  # `make torture` kills more often
    outcome = torture(whole, workplace, stage, kills, seconds[stage], a_seed())
    assert not outcome.problems
    assert (outcome.kills, outcome.ends >= 1) == (kills, True)


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("download_dataset", signal.SIGTERM),
        ("pretrain_flow", signal.SIGINT),
    ],
)
def test_asked_to_stop_it_saves_and_goes_on_with_the_same_bytes(peace, workplace, stage, number):
    """The whole process group gets the signal, as from a terminal or a scheduler."""
    whole, seconds = peace
    outcome = torture(whole, workplace, stage, 1, seconds[stage], a_seed(), number)
    assert not outcome.problems


@pytest.mark.parametrize("stage", ["offline_train", "online_finetune"])
def test_stopped_once_it_trains_the_state_is_there_and_the_status_says_so(peace, workplace, stage):
    before(peace[0], workplace, stage)
    process = start(workplace, stage, FLP_CHECKPOINT_SECONDS="1000")
    folder = workplace / ".flp" / "resume" / stage.replace("_", "-")
    until = time.monotonic() + 60
    while len(list(folder.glob("*/begun.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(random.Random(a_seed()).uniform(1, 4))
    os.killpg(process.pid, signal.SIGTERM)
    status, said = finish(process)
    if status == 0:
        pytest.skip("it was faster than the signal")
    assert status == 1, said
    assert "stopped by SIGTERM" in said
    assert "Traceback" not in said
    assert not survivors(workplace)
    run(workplace, stage)
    assert not differences(peace[0], workplace, stage)


def test_a_killed_shard_is_named_and_the_next_run_mends_it(peace, workplace):
    """What the kernel does when memory is short: one process of the job is gone, without a word."""
    before(peace[0], workplace, "offline_train")
    process = start(workplace, "offline_train")
    until, victims = time.monotonic() + 60, []
    while not victims and time.monotonic() < until:
        time.sleep(0.2)
        victims = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if "flp.stages.offline_train" in _line(path) and _parent(path.parent) == process.pid  # a copy of it
        ]
    os.kill(victims[0], signal.SIGKILL)
    status, said = finish(process)
    assert status == 2, said
    assert "a training process died (signal 9)" in said
    assert "Traceback" not in said
    run(workplace, "offline_train")
    assert not differences(peace[0], workplace, "offline_train")


def _line(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def _parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.parametrize("stage", ["download_dataset", "offline_train"])
def test_two_at_once_end_with_both_right(peace, workplace, stage):
    before(peace[0], workplace, stage)
    both = [start(workplace, stage), start(workplace, stage)]
    ends = [finish(process) for process in both]
    assert [status for status, _ in ends] == [0, 0], ends
    assert sum("waiting for it" in said for _, said in ends) == 1
    assert not differences(peace[0], workplace, stage)
    assert not list(workplace.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("stage", "files"),
    [("pretrain_flow", ["flow.safetensors"]), ("invert_to_latent", ["latent.safetensors", "latent.png"])],
)
def test_what_a_killed_writer_left_is_removed(peace, workplace, stage, files):
    before(peace[0], workplace, stage)
    for output, file in zip(outputs_in(workplace, stage), files, strict=True):
        (output / "seed0").mkdir(parents=True)
        (output / "seed0" / f".{file}.0123abcd.tmp").write_bytes(b"half")
    run(workplace, stage)
    assert not differences(peace[0], workplace, stage)


@pytest.mark.parametrize("name", ["-rf", "a b 'c' \"d\" ünï — 数据 $(touch x);`touch y`"])
def test_a_checkout_may_be_called_anything(peace, tmp_path, name):
    """And so may a parameter file in it; nothing of it reaches a shell."""
    root = tmp_path / name
    root.mkdir()
    params = name + ".yaml"
    shutil.copyfile(peace[0] / "params.yaml", root / params)
    environment = os.environ | {"PYTHONPATH": str(peace[0].parent / "source"), "OMP_NUM_THREADS": "1"}
    line = command("download_dataset")
    subprocess.run([*line, f"--params={params}"], cwd=root, env=environment, check=True, capture_output=True)
    assert sorted(path.name for path in (root / "data").iterdir()) == [
        f"{DATASET}-val.npz",
        f"{DATASET}.json",
        f"{DATASET}.npz",
    ]
    assert sorted(path.name for path in root.iterdir()) == sorted([".flp", params, "data"])
