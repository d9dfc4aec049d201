"""Inversion of a dataset's actions to latents, in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flp.flow.behavior import Flow
from flp.learner import devices


@torch.no_grad()
def invert(
    flow: Flow, observations: Tensor, actions: Tensor, batch_size: int, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """Latents of actions and the round-trip error |a − f(f⁻¹(a))|, each `[n, a]`, in batches.

    Batches that fit a core's cache are dealt to single-threaded workers: on a CPU this is several times faster than
    large batches whose every operation is split over the threads.

    Args:
        flow: a flow of one run.
        observations: `[n, o]`.
        actions: `[n, a]`.
        batch_size: rows per batch.
        threads: batches in parallel; 1 on a GPU.
    """
    latents, errors = torch.empty_like(actions), torch.empty_like(actions)

    def invert_batch(start: int) -> None:
        rows = slice(start, start + batch_size)
        s, a = observations[None, rows], actions[None, rows]
        with torch.no_grad():  # gradient mode is thread-local
            z = flow.inverse(s, a)
            latents[rows], errors[rows] = z[0], (flow(s, z) - a)[0].abs()

    with devices.threads(1 if threads > 1 else torch.get_num_threads()), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(invert_batch, range(0, len(actions), batch_size)):
            pass
    return latents, errors
