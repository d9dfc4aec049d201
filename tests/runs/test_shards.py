"""Shards: runs that started together continue together, turns are fair, and nobody waits for dead processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flp.params.run import Run
from flp.runs.shards import Shard, _Family, deal, plan, run_shards
from flp.runs.turns import Permits, SharedNumbers, Turns
from flp.system import layout
from flp.system.errors import FLPError
from flp.system.stopping import InterruptedJobError

# Python 3.12 warns of it; pytest's own threads hold nothing that these need.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make_runs(count):
    return [Run(task, 0, 1.0, 4) for task in range(1, count + 1)]


def keys_of(runs):
    return {run.name: f"key{run.task}" for run in runs}


def tasks_of(shards):
    return [[run.task for run in shard.runs] for shard in shards]


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [(0, 2, []), (1, 4, [1]), (3, 1, [3]), (3, 4, [1, 1, 1]), (5, 2, [2, 1, 1, 1]), (9, 2, [3, 2, 2, 2])],
)
def test_runs_are_dealt_evenly_in_order(count, threads, sizes):
    runs = make_runs(count)
    dealt = deal(runs, threads)
    assert sorted(map(len, dealt), reverse=True) == sizes
    assert [run for part in dealt for run in part] == runs


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, [[1, 1, 4, 4, 16, 16, 32, 32]]),
        (2, [[1, 1, 4, 4], [16, 16], [32], [32]]),
        (4, [[1], [1], [4], [4], [16], [16], [32], [32]]),
    ],
)
def test_runs_of_like_n_stay_together_and_costly_ones_have_their_own_shards(threads, expected):
    """In a sweep over N, a shard scores as many candidates as its largest run needs."""
    runs = [Run(task, 0, 1.0, n, f"n{n}") for task in (1, 2) for n in (1, 4, 16, 32)]
    dealt = deal(runs, threads)
    assert [[run.candidates for run in part] for part in dealt] == expected
    assert sorted(run.name for part in dealt for run in part) == sorted(run.name for run in runs)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_began_together_goes_on_together(here):
    """Whatever has finished in the meantime, and on any number of threads."""
    runs = make_runs(5)
    first = plan("offline-train", runs, runs, keys_of(runs), 2, "cpu")
    assert tasks_of(first) == [[1], [2], [3], [4, 5]]
    assert {shard.threads for shard in first} == {1}
    again = plan("offline-train", runs, [runs[1], runs[4]], keys_of(runs), 8, "cpu")
    assert sorted(tasks_of(again)) == [[2], [4, 5]]
    assert {shard.threads for shard in again} == {1}
    assert {shard.folder for shard in again} < {shard.folder for shard in first}


def test_on_a_gpu_runs_of_one_n_train_at_once_with_all_threads(here):
    runs = [Run(task, 0, 1.0, n, f"n{n}") for task in (1, 2) for n in (32, 4)]
    shards = plan("offline-train", runs, runs, {run.name: run.name for run in runs}, 8, "cuda")
    assert [[run.candidates for run in shard.runs] for shard in shards] == [[4, 4], [32, 32]]
    assert [shard.threads for shard in shards] == [8, 8]


def test_a_single_run_keeps_its_threads(here):
    runs = make_runs(1)
    assert plan("offline-train", runs, runs, keys_of(runs), 4, "cpu")[0].threads == 4
    assert plan("offline-train", runs, runs, keys_of(runs), 1, "cpu")[0].threads == 4


def test_new_runs_join_as_shards_of_their_own(here):
    runs = make_runs(3)
    plan("offline-train", runs[:2], runs[:2], keys_of(runs), 1, "cpu")
    assert sorted(tasks_of(plan("offline-train", runs, runs, keys_of(runs), 1, "cpu"))) == [[1, 2], [3]]


@pytest.mark.parametrize("change", ["key", "stage", "device", "unreadable"])
def test_another_jobs_state_is_not_taken(here, change):
    runs = make_runs(4)
    (before,) = plan("offline-train", runs, runs, keys_of(runs), 1, "cuda")
    keys, stage, device = keys_of(runs), "offline-train", "cuda"
    if change == "key":
        keys[runs[0].name] = "changed"
    elif change == "stage":
        stage = "online-finetune"
    elif change == "device":
        device = "cpu"
    else:
        (before.folder / "begun.json").write_text("{")
    after = plan(stage, runs, runs[2:], keys, 2, device)
    assert tasks_of(after) == ([[3], [4]] if device == "cpu" else [[3, 4]])
    assert before.folder not in {shard.folder for shard in after}
    assert all(shard.folder.parent == layout.resume_folder(stage, "") for shard in after)


# In processes


def make_shards(tmp_path, count):
    return [Shard([run], 1, tmp_path / str(run.task)) for run in make_runs(count)]


def note(shard, turns):
    for step in range(3):
        with turns(step):
            pass
    shard.folder.mkdir()
    (shard.folder / "done").write_text(str(shard.threads))


def fail_second(shard, turns):
    if shard.runs[0].task == 2:
        raise FLPError("task 2 went wrong; do something")
    note(shard, turns)


def die_while_computing(shard, turns):
    if shard.runs[0].task == 1:
        with turns(0):
            os.kill(os.getpid(), signal.SIGKILL)
    note(shard, turns)


def stop_when_asked(shard, turns):
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    (shard.folder.parent / f"ready{shard.runs[0].task}").touch()
    if shard.runs[0].task == 1:
        while len(list(shard.folder.parent.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(multiprocessing.parent_process().pid, signal.SIGTERM)
    while not asked:
        time.sleep(0.01)
    raise InterruptedJobError("stopped")


@pytest.fixture(params=["fork", "spawn"])
def started(request, monkeypatch):
    """Forked and spawned shards; here they need no lock of another thread."""
    monkeypatch.setattr("flp.runs.shards._context", lambda: multiprocessing.get_context(request.param))


def test_every_shard_is_run(started, tmp_path):
    run_shards(note, make_shards(tmp_path, 3), 1)
    assert len(list(tmp_path.glob("*/done"))) == 3


@pytest.mark.parametrize("together", [True, False])
def test_a_failing_shard_does_not_stop_the_others(started, tmp_path, together):
    with pytest.raises(FLPError, match=r"^task 2 went wrong; do something$"):
        run_shards(fail_second, make_shards(tmp_path, 3), 2, together=together)
    assert sorted(path.parent.name for path in tmp_path.glob("*/done")) == ["1", "3"]


def test_nobody_waits_for_a_dead_shards_turn(started, tmp_path):
    """One permit, held by a process that the kernel kills."""
    with pytest.raises(FLPError, match=r"a training process died \(signal 9\); is there enough memory\?"):
        run_shards(die_while_computing, make_shards(tmp_path, 3), 1)
    assert len(list(tmp_path.glob("*/done"))) == 2


def test_a_signal_reaches_every_shard(started, tmp_path, signals):
    with pytest.raises(InterruptedJobError, match="stopped by SIGTERM; the state is saved"):
        run_shards(stop_when_asked, make_shards(tmp_path, 2), 2)


def wait_to_be_stopped(shard, turns):
    (shard.folder.parent / f"ready{shard.runs[0].task}").touch()
    time.sleep(60)


@pytest.mark.parametrize("started_before", [0, 1, 2])
def test_a_signal_between_two_starts_reaches_every_shard(started, started_before, tmp_path, signals, monkeypatch):
    start, count = _Family._start, itertools.count()

    def asked(family, index, shard):
        if next(count) == started_before:
            os.kill(os.getpid(), signal.SIGTERM)
        start(family, index, shard)

    monkeypatch.setattr(_Family, "_start", asked)
    began = time.monotonic()
    with pytest.raises(InterruptedJobError, match="stopped by SIGTERM"):
        run_shards(wait_to_be_stopped, make_shards(tmp_path, 3), 3)
    assert time.monotonic() - began < 30 and not multiprocessing.active_children()


def test_only_a_process_without_other_threads_is_copied():
    """Otherwise a lock held by another thread would stay locked in the fork."""
    code = (
        "import threading, flp.stages.offline_train; from flp.runs.shards import _context;"
        "print(_context().get_start_method()); threading.Thread(target=threading.Event().wait, daemon=True).start();"
        "print(_context().get_start_method())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fork", "spawn"]


def test_alone_everyone_may_always_compute():
    with Turns()(10**9):
        pass


def test_waiting_for_a_turn_costs_nothing():
    permits = Permits(1)
    turns = Turns(0, permits, SharedNumbers(1), SharedNumbers(1))
    before, began = turns.clock(), time.monotonic()
    permits.acquire()
    threading.Timer(0.5, permits.release).start()
    with turns(0):
        time.sleep(0.1)
    elapsed = time.monotonic() - began
    assert elapsed >= 0.6
    assert 0.1 <= turns.clock() - before <= elapsed - 0.4
