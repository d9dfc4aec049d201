"""How good a flow is: does it invert, are its latents the prior's, how likely are the data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from flp.flow import Flow

QUANTILES = 100_000


@torch.no_grad()
def invert(
    flow: Flow, observations: Tensor, actions: Tensor, batch_size: int, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """Latents of actions and the round-trip error |a − f(f⁻¹(a))|, each `[n, a]`, in batches.

    Batches small enough for a core's cache are dealt to threads that compute by themselves: on a CPU that is
    several times faster than large batches whose every operation is split over the threads.

    Args:
        flow: a flow of one run.
        observations: `[n, o]`.
        actions: `[n, a]`.
        batch_size: rows at a time.
        threads: batches at a time; use 1 on a GPU.
    """
    latents, errors = torch.empty_like(actions), torch.empty_like(actions)

    def work(start: int) -> None:
        rows = slice(start, start + batch_size)
        s, a = observations[None, rows], actions[None, rows]
        with torch.no_grad():  # a thread has its own gradient mode
            z = flow.inverse(s, a)
            latents[rows], errors[rows] = z[0], (flow(s, z) - a)[0].abs()

    own_threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else own_threads)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, range(0, len(actions), batch_size)):
                pass
    finally:
        torch.set_num_threads(own_threads)
    return latents, errors


def judge(latents: NDArray[np.float32], errors: NDArray[np.float32]) -> dict[str, Any]:
    """Round-trip error, and the latents' distance to N(0, I) per dimension.

    Returns:
        `roundtrip_mean`, `roundtrip_p99`, `roundtrip_max`; lists per dimension: `latent_mean`, `latent_std`,
        `latent_skew`, `latent_kurtosis` (excess), `latent_wasserstein` (to N(0, 1)), and
        `latent_max_correlation`, the largest off-diagonal correlation.
    """
    spread = latents[:: max(1, len(latents) // QUANTILES)].astype(np.float64)
    levels = (np.arange(len(spread)) + 0.5) / len(spread)
    normal = stats.norm.ppf(levels)[:, None]
    correlation = np.corrcoef(spread, rowvar=False).reshape(spread.shape[1], -1)
    return {
        "roundtrip_mean": float(errors.mean()),
        "roundtrip_p99": float(np.quantile(errors, 0.99)),
        "roundtrip_max": float(errors.max()),
        "latent_mean": spread.mean(0).tolist(),
        "latent_std": spread.std(0).tolist(),
        "latent_skew": stats.skew(spread, 0).tolist(),
        "latent_kurtosis": stats.kurtosis(spread, 0).tolist(),
        "latent_wasserstein": np.abs(np.sort(spread, 0) - normal).mean(0).tolist(),
        "latent_max_correlation": float(np.abs(correlation - np.eye(len(correlation))).max()),
    }


def negative_log_likelihood(flow: Flow, observations: Tensor, actions: Tensor) -> float:
    """Mean −log π_β(a | s) in nats over `[n, o]`, `[n, a]`, by the change of variables."""
    return float(-flow.log_density(observations[None], actions[None]).mean())
