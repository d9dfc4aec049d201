"""What a process sets up before it computes."""

from __future__ import annotations

import errno
import fcntl
import resource
from types import SimpleNamespace

import pytest
import torch

from flp.learner import devices
from flp.learner.devices import choose_device, set_up
from flp.system.errors import FLPError


def test_freed_memory_is_kept() -> None:
    set_up(1, "cpu")

    def work() -> None:
        for _ in range(50):
            torch.zeros(2**20)  # 4 MiB: 1024 pages

    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 5000  # of 51,200 if it were given back


def test_threads_are_bounded_by_the_machine() -> None:
    set_up(10_000, "cpu")
    assert torch.get_num_threads() < 10_000
    set_up(1, "cpu")
    assert torch.get_num_threads() == 1


@pytest.fixture
def four_gpus(monkeypatch, tmp_path):
    """What PyTorch reports on a machine with four GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{7 + index}"))
    held = {}
    monkeypatch.setattr(devices, "_held", held)
    yield tmp_path
    for file in held.values():
        file.release()


def test_a_process_takes_one_gpu_that_is_free_and_keeps_it(four_gpus) -> None:
    folder = four_gpus / ".flp/gpu"
    folder.mkdir(parents=True)
    with open(folder / "gpu-7.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # another job's
        assert [choose_device(name).index for name in ("auto", "cuda", "cuda")] == [1, 1, 1]
    assert sorted(file.name for file in folder.iterdir()) == ["gpu-7.lock", "gpu-8.lock"]
    assert choose_device("cpu").type == "cpu"


def test_gpus_of_another_machine_are_others(four_gpus, monkeypatch) -> None:
    """Which shares the checkout, or of another job to which the scheduler shows them under the same numbers."""
    assert choose_device("auto").index == 0
    monkeypatch.setattr(devices, "_held", elsewhere := {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{70 + index}"))
    assert choose_device("auto").index == 0
    for file in elsewhere.values():
        file.release()


def test_a_gpu_asked_for_by_its_number_is_held_too(four_gpus, monkeypatch) -> None:
    assert choose_device("cuda:0").index == 0
    mine, others = devices._held, {}
    monkeypatch.setattr(devices, "_held", others)  # as in another process
    assert choose_device("auto").index == 1
    assert choose_device("cuda:0").index == 0  # nobody is refused
    for file in [*others.values(), *mine.values()]:
        file.release()


def test_where_there_are_no_locks_the_first_gpu_is_taken(four_gpus, monkeypatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert choose_device("auto").index == 0


@pytest.mark.parametrize("name", ["foo", "cuda:", "cuda:x", "cuda:4", "mps", ""])
def test_a_device_that_is_not_there_is_refused(four_gpus, name) -> None:
    with pytest.raises(FLPError, match=f"^--device {name}: "):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_given() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(FLPError, match=r"^--device cuda:1: no CUDA device"):
        choose_device("cuda:1")
