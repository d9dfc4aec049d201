"""How good a flow is: does it invert, are its latents the prior's, how likely are the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from flp.flow.behavior import Flow

QUANTILES = 100_000


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
