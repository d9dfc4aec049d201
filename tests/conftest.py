"""What all tests share: one thread of arithmetic per process, so that processes beside each other do not fight."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _arithmetic_as_it_was():
    """Stages, when run in this process, let subnormal numbers be zero; hypothesis wants them."""
    yield
    torch.set_flush_denormal(False)
