"""What all tests share: one thread of arithmetic per process, and an order in which processes end together."""

from __future__ import annotations

import gc
import signal
from itertools import islice

import pytest
import torch

from flp.system.stopping import SIGNALS, STOP

pytest_plugins = ["made_once", "prepared_maze", "trained_agents", "workflow_clones"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """So that processes beside each other do not fight."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _arithmetic_as_it_was():
    """Stages, when run in this process, take their threads and let subnormal numbers be zero; hypothesis wants them."""
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


@pytest.fixture
def signals():
    """The signals' handlers as they were, and nobody asked to stop, after the test."""
    old = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    STOP.signal = None
    for number, handler in old.items():
        signal.signal(number, handler)


def pytest_collection_finish(session):
    """What has been imported stays; Python need not look for garbage in it whenever a test has made some objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """Give each of xdist's processes its share, the longest tests first, so that none is left with one at the end.

    A file's slow tests go to one process, for they share what they set up; a process that is done takes from the ends
    of others. Quick tests stay in order.
    """
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers is None:
        return
    files = {}
    for item in filter(_seconds, items):
        # Some files share clones; two processes would wait for each other to make them.
        clone = next((name for name in ("single", "real") if name in item.fixturenames), None)
        files.setdefault(clone or item.path, []).append(item)
    shares = [[] for _ in range(workers)]
    for slow in sorted(files.values(), key=lambda tests: -sum(map(_seconds, tests))):
        min(shares, key=lambda share: sum(map(_seconds, share))).extend(sorted(slow, key=_seconds, reverse=True))
    # Each process begins with an equal number of tests: quick ones fill up its share.
    quick = iter([item for item in items if not _seconds(item)])
    sizes = [len(items) * (i + 1) // workers - len(items) * i // workers for i in range(workers)]
    dealt = []
    for size, share in zip(sizes, shares, strict=True):
        dealt += [*share, *islice(quick, max(0, size - len(share)))]
    items[:] = [*dealt, *quick]


def _seconds(item):
    """What the test's marker says it takes: `slow(40)`."""
    marker = item.get_closest_marker("slow")
    return 0 if marker is None else next(iter(marker.args), 10)
