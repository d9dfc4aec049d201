"""How good a flow is: does it invert, are its latents the prior's, how likely are the data.

What depends on the state is the business of `two_sample`; here is what it compares, and what is to be done about it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from flp.data.load import ACTION_LIMIT, Dataset
from flp.flow.behavior import Flow
from flp.flow.saturation import saturated
from flp.flow.two_sample import Rows
from flp.learner.devices import to_device
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams

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
    normal = ndtri(levels)[:, None]
    mean, std = spread.mean(0), spread.std(0)
    standard = (spread - mean) / std
    correlation = np.corrcoef(spread, rowvar=False).reshape(spread.shape[1], -1)
    return {
        "roundtrip_mean": float(errors.mean()),
        "roundtrip_p99": float(np.quantile(errors, 0.99)),
        "roundtrip_max": float(errors.max()),
        "latent_mean": mean.tolist(),
        "latent_std": std.tolist(),
        "latent_skew": (standard**3).mean(0).tolist(),
        "latent_kurtosis": ((standard**4).mean(0) - 3).tolist(),
        "latent_wasserstein": np.abs(np.sort(spread, 0) - normal).mean(0).tolist(),
        "latent_max_correlation": float(np.abs(correlation - np.eye(len(correlation))).max()),
    }


def validation_rows(data: Dataset, actions: NDArray[np.float32], device: torch.device) -> Rows:
    """A validation file's transitions with their actions `[rows, a]` as the flow is to learn them."""
    rows = data.transitions
    episodes: NDArray[np.int64] = np.cumsum(data.terminals) - data.terminals
    arrays = data.observations, actions, saturated(data.actions), episodes
    states, learnt, coordinates, numbers = (to_device(array[rows], device) for array in arrays)
    return Rows(states, learnt, coordinates.any(1), numbers)


@torch.no_grad()
def two_samples(flow: Flow, held: Rows, seed: int) -> tuple[Rows, Rows]:
    """Latents of rows, and draws of the prior at their states, saturated where they decode to such an action."""
    device = held.values.device
    noise = RunStreams([seed_of("prior", seed)], place=device).normal(*held.values.shape)
    states = held.observations[None]
    decoded = flow(states, noise)[0].abs() >= np.float32(ACTION_LIMIT)
    latents = flow.inverse(states, held.values[None])[0]
    return replace(held, values=latents), replace(held, values=noise[0], saturated=decoded.any(1))


def likelihoods(flow: Flow, held: Rows) -> dict[str, float | None]:
    """Mean −log π_β(a | s) in nats over rows, and over those with and without a saturated coordinate.

    Of the actions as the flow is to learn them: flows of another `flow.saturation_noise` do not compare.
    """
    parts = {"saturated": held.only(held.saturated), "other": held.only(~held.saturated)}
    means = {f"validation_nll_{name}": _nll(flow, rows) for name, rows in parts.items()}
    known = [(len(rows), mean) for rows, mean in zip(parts.values(), means.values(), strict=True) if mean is not None]
    total = sum(count * mean for count, mean in known) / len(held) if known else None
    return {"validation_nll": total, **means}


def _nll(flow: Flow, rows: Rows) -> float | None:
    return negative_log_likelihood(flow, rows.observations, rows.values) if len(rows) else None


def negative_log_likelihood(flow: Flow, observations: Tensor, actions: Tensor) -> float:
    """Mean −log π_β(a | s) in nats over `[n, o]`, `[n, a]`, by the change of variables."""
    return float(-flow.log_density(observations[None], actions[None]).mean())


def warning(quality: dict[str, Any], parameters: dict[str, Any], limit: float) -> str | None:
    """What is wrong with latents that a classifier tells from the prior's draws too often, and the remedy.

    Args:
        quality: with `dataset`, `seed`, `clipped_fraction` and `two_sample`.
        parameters: the flow's.
        limit: the accuracy that is tolerated.
    """
    found = quality["two_sample"]["all"]
    accuracy, interval = found["accuracy"], found["interval"]
    if accuracy <= limit or (interval is not None and interval[0] <= 0.5):  # at chance, for all that is known
        return None
    remedies = ["train the flow longer or wider (flow.steps, flow.hidden)"]
    if parameters.get("schedule", "constant") == "constant":
        remedies.insert(0, "set flow.schedule to cosine")
    if parameters.get("saturation_noise", 0) == 0 and quality["clipped_fraction"] > 0.001:
        remedies.insert(0, "set flow.saturation_noise to 0.1, for actions lie at the limits")
    return (
        f"{quality['dataset']} seed {quality['seed']}: a classifier tells the latents from the prior's draws "
        f"{accuracy:.1%} of the time, more than invert.max_distinguishable {limit:.1%}: the KL to the prior is not "
        f"that to the behaviour; {', or '.join(remedies)}"
    )
