"""What all tests share: one thread of arithmetic per process, and an order in which processes end together."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """So that processes beside each other do not fight."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _arithmetic_as_it_was():
    """Stages, when run in this process, let subnormal numbers be zero; hypothesis wants them."""
    yield
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(config, items):
    """Give each of xdist's processes its share, the longest tests first, so that none is left with one at the end.

    Each begins with an equal run of the list and, once done, takes from the ends of others. Quick tests stay in
    order: those of a file share what they set up.
    """
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers is None:
        return
    slow = sorted(filter(_seconds, items), key=_seconds, reverse=True)
    quick = [item for item in items if not _seconds(item)]
    ends = [len(quick) * i // workers for i in range(workers + 1)]
    items[:] = [item for i in range(workers) for item in [*slow[i::workers], *quick[ends[i] : ends[i + 1]]]]


def _seconds(item):
    """What the test's marker says it takes: `slow(40)`."""
    marker = item.get_closest_marker("slow")
    return 0 if marker is None else next(iter(marker.args), 10)
