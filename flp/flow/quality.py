"""The quality of a flow: whether it inverts, whether its latents follow the prior, how likely the data are.

Whether latents depend on the state is tested by `two_sample`; here are the samples it compares, and the remedies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from flp.data.load import ACTION_LIMIT, Dataset
from flp.flow.behavior import Flow
from flp.flow.card import tests_of
from flp.flow.saturation import saturated
from flp.flow.two_sample import Rows
from flp.learner.devices import to_device
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams

QUANTILES = 100_000  # rows that moments and distances are computed from


def judge(latents: NDArray[np.float32], errors: NDArray[np.float32]) -> dict[str, Any]:
    """Round-trip errors, and the latents' distance to N(0, I) per dimension.

    Args:
        latents: z = f⁻¹(s, a), `[n, a]`.
        errors: |a − f(s, z)|, `[n, a]`.

    Returns:
        `roundtrip_mean`, `roundtrip_p99`, `roundtrip_max`; lists per dimension: `latent_mean`, `latent_std`,
        `latent_skew`, `latent_kurtosis` (excess; both None where the latents are constant), `latent_wasserstein` (to
        N(0, 1)), and `latent_max_correlation`, the largest off-diagonal correlation (0 without two that vary).
    """
    thinned = latents[:: max(1, len(latents) // QUANTILES)].astype(np.float64)
    levels = (np.arange(len(thinned)) + 0.5) / len(thinned)
    normal = ndtri(levels)[:, None]
    mean, std = thinned.mean(0), thinned.std(0)
    standard, varying = (thinned - mean) / np.where(std > 0, std, np.nan), thinned[:, std > 0]
    correlation = np.eye(1) if varying.shape[1] < 2 else np.asarray(np.corrcoef(varying, rowvar=False))
    return {
        "roundtrip_mean": float(errors.mean()),
        "roundtrip_p99": float(np.quantile(errors, 0.99)),
        "roundtrip_max": float(errors.max()),
        "latent_mean": mean.tolist(),
        "latent_std": std.tolist(),
        "latent_skew": _known((standard**3).mean(0)),
        "latent_kurtosis": _known((standard**4).mean(0) - 3),
        "latent_wasserstein": np.abs(np.sort(thinned, 0) - normal).mean(0).tolist(),
        "latent_max_correlation": float(np.abs(correlation - np.eye(len(correlation))).max()),
    }


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def validation_rows(data: Dataset, actions: NDArray[np.float32], device: torch.device) -> Rows:
    """A validation file's transitions, with the actions `[rows, a]` that the flow is meant to learn."""
    rows = data.transitions
    episodes: NDArray[np.int64] = np.cumsum(data.terminals) - data.terminals
    arrays = data.observations, actions, saturated(data.actions), episodes
    states, learnt, coordinates, numbers = (to_device(array[rows], device) for array in arrays)
    return Rows(states, learnt, coordinates.any(1), numbers)


@torch.no_grad()
def two_samples(flow: Flow, held: Rows, seed: int) -> tuple[Rows, Rows]:
    """The rows' latents, and draws of the prior at their states, saturated if they decode to a saturated action."""
    device = held.values.device
    noise = RunStreams([seed_of("prior", seed)], place=device).normal(*held.values.shape)
    states = held.observations[None]
    is_saturated = flow(states, noise)[0].abs() >= float(np.float32(ACTION_LIMIT))
    latents = flow.inverse(states, held.values[None])[0]
    return replace(held, values=latents), replace(held, values=noise[0], saturated=is_saturated.any(1))


def likelihoods(flow: Flow, held: Rows) -> dict[str, float | None]:
    """Mean −log π_β(a | s) in nats over all rows, and over those with and without a saturated coordinate.

    It is that of the actions that the flow is meant to learn: not comparable between values of `flow.saturation_noise`.
    """
    parts = {"saturated": held.only(held.saturated), "other": held.only(~held.saturated)}
    means = {f"validation_nll_{name}": _negative_log_likelihood(flow, rows) for name, rows in parts.items()}
    known = [(len(rows), mean) for rows, mean in zip(parts.values(), means.values(), strict=True) if mean is not None]
    total = sum(count * mean for count, mean in known) / len(held) if known else None
    return {"validation_nll": total, **means}


def _negative_log_likelihood(flow: Flow, rows: Rows) -> float | None:
    """Mean −log π_β(a | s) in nats, by the change of variables; None without rows."""
    return float(-flow.log_density(rows.observations[None], rows.values[None]).mean()) if len(rows) else None


def warning(quality: dict[str, Any], parameters: dict[str, Any], limit: float) -> str | None:
    """A warning, with remedies, if latents are distinguished from the prior's draws too often; else None.

    Args:
        quality: with `dataset`, `seed`, `clipped_fraction`, `two_sample` and `saturation`.
        parameters: the flow's.
        limit: the accuracy up to which there is no warning.
    """
    significant = (test for test in tests_of(quality) if test["interval"] is None or test["interval"][0] > 0.5)
    test = next(significant, None)
    if test is None or test["accuracy"] <= limit:
        return None
    remedies = ["train the flow longer or wider (flow.steps, flow.hidden)"]
    if parameters.get("schedule", "constant") == "constant":
        remedies.insert(0, "set flow.schedule to cosine")
    noise = parameters.get("saturation_noise", 0)
    if noise == 0 and quality["clipped_fraction"] > 0.001:
        remedies.insert(0, "set flow.saturation_noise to 0.1, for actions lie at the limits")
    elif quality["clipped_fraction"] > 0.001 and test is quality["saturation"] and test["data"] > test["prior"]:
        remedies.insert(0, f"raise flow.saturation_noise above {noise:g}, where the flow blurs less of the edge at ±1")
    teller = "whether an action is saturated tells" if test is quality["saturation"] else "a classifier tells"
    return (
        f"{quality['dataset']} seed {quality['seed']}: {teller} the latents from the prior's draws "
        f"{test['accuracy']:.1%} of the time, more than invert.max_distinguishable {limit:.1%}: the KL to the prior is "
        f"not that to the behaviour; {', or '.join(remedies)}"
    )
