"""Inversion of a dataset's actions to latents, in batches; everything that decides what the latents are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flp.data.load import Dataset
from flp.flow.behavior import Flow
from flp.flow.saturation import learnable
from flp.learner import devices
from flp.system.progress import Progress, Tell
from flp.system.resume import Resume, State

PIECE = 2**15  # actions between checkpoints: some seconds on a core


def invertible(train: Dataset, noise: float, name: str, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Observations `[n, o]` and actions `[n, a]` of a dataset's transitions: the very actions the flow was fitted to.

    Args:
        train: the dataset.
        noise: the flow's `saturation_noise`.
        name: of the dataset; with the flow's seed it seeds the noise.
        seed: the flow's.
        device: where they are put.
    """
    rows = train.transitions
    actions = learnable(train, noise, name, seed, "train")[rows]
    return devices.to_device(train.observations[rows], device), devices.to_device(actions, device)


def invert_all(
    flow: Flow,
    observations: Tensor,
    actions: Tensor,
    batch_size: int,
    threads: int,
    resume: Resume,
    tell: Tell = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """Latents and round-trip errors, `[n, a]` each, on the CPU; resumes from the saved state if there is one.

    A piece consists of whole batches, so that the batches are the same however often the job was stopped.
    """
    tensors, done = {name: torch.empty_like(actions, device="cpu") for name in ("latents", "errors")}, 0
    if saved := resume.start():
        tensors, done = saved[0], saved[1]["step"]

    def state() -> State:
        return tensors, {"step": done}

    unit = batch_size * threads
    piece = unit * max(1, PIECE // unit)
    progress = Progress("inverting", len(actions), "actions", tell=tell)
    progress.begin(done)
    for start in range(done, len(actions), piece):
        rows = slice(start, start + piece)
        latents, errors = invert(flow, observations[rows], actions[rows], batch_size, threads)
        tensors["latents"][rows], tensors["errors"][rows] = latents.cpu(), errors.cpu()
        done = min(start + piece, len(actions))
        progress.update(done)
        resume.maybe(state)
    progress.close()
    return tensors["latents"], tensors["errors"]


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
