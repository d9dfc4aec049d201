"""What a killed job needs: saved whole, read back exactly, set aside when it cannot be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from flp.system.resume import Resume, join
from flp.system.stopping import ECHO, STOP, InterruptedJobError


def make_state():
    shared = torch.arange(4.0)
    return {"a": torch.ones(2, 3), "b": shared, "c": shared, "scalar": torch.tensor(3), "t": torch.ones(2, 3).T}, {
        "step": 5,
        "evaluations": [{"run": "task1", "success": 0.5}],
    }


def test_a_state_is_read_back_exactly(tmp_path):
    tensors, info = make_state()
    Resume(tmp_path / "key").save(tensors, info)
    found, found_info = Resume(tmp_path / "key").load()
    assert found_info == info
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_the_seconds_of_earlier_sessions_count_by_the_jobs_own_clock(tmp_path):
    now = 1000.0
    first = Resume(tmp_path / "key", clock=lambda: now)
    now += 60
    first.save(*make_state())
    now += 500  # interrupted
    second = Resume(tmp_path / "key", clock=lambda: now)
    assert second.seconds == 0
    second.start()
    now += 5
    assert second.seconds == 65
    second.load()  # a look at the state adds nothing
    assert second.seconds == 65


def test_the_last_state_counts_and_clearing_leaves_none(tmp_path):
    resume = Resume(tmp_path / "key")
    assert resume.load() is None
    for step in (1, 2):
        resume.save({"a": torch.tensor(step)}, {"step": step})
    tensors, info = resume.load()
    assert (tensors["a"].item(), info["step"]) == (2, 2)
    assert [f.name for f in (tmp_path / "key").iterdir()] == ["state.safetensors"]
    resume.clear()
    assert resume.load() is None
    assert not (tmp_path / "key").exists()
    resume.clear()


def test_another_jobs_state_is_not_taken(tmp_path):
    Resume(tmp_path / "one").save(*make_state())
    assert Resume(tmp_path / "other").load() is None


def test_a_state_made_by_something_else_is_passed_over_in_silence(tmp_path, signals, capsys):
    """Random streams of a GPU cannot go on on a CPU: the job starts over, and says nothing else."""
    Resume(tmp_path / "key", made_by={"device": "cuda"}).save(*make_state())
    for made_by in ({"device": "cpu"}, None):
        resume = Resume(tmp_path / "key", made_by=made_by)
        assert resume.start() is None
        assert resume.seconds < 1
    assert capsys.readouterr().err == ""
    assert Resume(tmp_path / "key", made_by={"device": "cuda"}).load() is not None


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk", "no info"])
def test_an_unreadable_state_is_set_aside(tmp_path, capsys, damage):
    resume = Resume(tmp_path / "key")
    resume.save(*make_state())
    content = resume.file.read_bytes()
    if damage == "no info":
        from safetensors.torch import save_file

        save_file({"a": torch.ones(1)}, resume.file)
    else:
        resume.file.write_bytes({"truncated": content[:-5], "empty": b"", "junk": b"\xff" * 100}[damage])
    damaged = resume.file.read_bytes()
    assert resume.load() is None
    warning = capsys.readouterr().err
    assert str(resume.file) in warning
    assert "starting over" in warning
    assert "set aside" in warning
    assert not resume.file.exists()
    assert [f.read_bytes() for f in (tmp_path / "key").iterdir()] == [damaged]
    resume.save(*make_state())  # and a new state can be saved
    assert resume.load() is not None


def test_a_state_is_saved_when_it_is_time(tmp_path):
    asked = []

    def state():
        asked.append(1)
        return make_state()

    resume = Resume(tmp_path / "key")
    resume.maybe(state)
    assert not asked
    resume.saved_at -= 1001
    resume.maybe(state)
    resume.maybe(state)
    assert len(asked) == 1
    assert resume.load() is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_opportunity_and_stops(tmp_path, signals, capsys, number):
    resume = Resume(tmp_path / "key")
    assert resume.start() is None
    os.kill(os.getpid(), number)
    for _ in range(100):
        if STOP.signal is not None:
            break
        time.sleep(0.01)
    assert not resume.file.exists()
    with pytest.raises(InterruptedJobError, match=f"{signal.Signals(number).name}; the state is saved"):
        resume.maybe(make_state)
    assert resume.load()[1]["step"] == 5
    assert signal.Signals(number).name in capsys.readouterr().err


def test_a_signal_between_two_jobs_of_a_process_stops_the_second(tmp_path, signals):
    """Shards train one after the other on a GPU: one is ending, the next one is still loading its data."""
    first, second = Resume(tmp_path / "first"), Resume(tmp_path / "second")
    first.start()
    STOP._on_signal(signal.SIGTERM, None)
    second.start()
    with pytest.raises(InterruptedJobError, match="SIGTERM"):
        second.stop_if_asked(make_state)


def test_starting_again_says_where_it_goes_on(tmp_path, signals, capsys):
    Resume(tmp_path / "key").save(*make_state())
    assert Resume(tmp_path / "key").start()[1]["step"] == 5
    assert "step 5" in capsys.readouterr().err


def test_a_second_signal_stops_at_once(signals):
    STOP.listen()
    STOP._on_signal(signal.SIGTERM, None)
    STOP._on_signal(signal.SIGINT, None)  # an echo of the first: the terminal and the scheduler both send it
    STOP.asked_at -= 2 * ECHO
    with pytest.raises(SystemExit) as stopped:
        STOP._on_signal(signal.SIGTERM, None)
    assert stopped.value.code == 128 + signal.SIGTERM


def test_states_are_joined():
    tensors, info = make_state()
    assert join((tensors, info), ({}, {"more": 3})) == (tensors, info | {"more": 3})


def test_a_job_killed_twice_dies_with_the_signals_status():
    """In a process of its own, which never reaches a checkpoint."""
    code = """
        import time
        from flp.system.stopping import STOP
        STOP.listen()
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert "saving the state" in process.stderr.readline() + process.stderr.readline()
        time.sleep(2 * ECHO)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
