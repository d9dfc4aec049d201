"""What all tests share: one thread of arithmetic per process, so that processes beside each other do not fight."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
