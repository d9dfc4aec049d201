"""What a process sets up before it computes."""

from __future__ import annotations

import resource

import torch

from flp.devices import set_up


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
