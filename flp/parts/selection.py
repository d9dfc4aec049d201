"""Choosing one of N latents: greedily, or by sampling-importance-resampling of Eq. 4's own optimum.

Over all distributions, Eq. 4 is maximised by π*(z | s) ∝ p(z) exp(Q(s, z) / α), of which the Gaussian π_θ is only the
closest of its kind. As N grows, draws of π_θ resampled with weights ∝ p(z) exp(Q / α) / π_θ(z) become draws of π*
(Rubin, 1987; the bias falls as 1 / N). That needs draws wide enough: with `acting_noise` below 1, those are of a
narrower Gaussian, the weights of its tails grow without bound, and the result stays near the policy. The greedy choice
takes the largest Q instead, and with it the critic's largest error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flp.networks.values import Critic


def q_values(critic: Critic, observations: Tensor, actions: Tensor) -> Tensor:
    """Q(s, a_i) of n actions or latents `[R, B, n, a]` at every state `[R, B, o]`: `[R, E, B, n]`."""
    n = actions.shape[2]
    values = critic(observations.repeat_interleave(n, 1), actions.flatten(1, 2))
    return values.view(*values.shape[:2], -1, n)


def best_of_n(values: Tensor, candidates: Tensor) -> Tensor:
    """z* = argmax_i Q(s, z_i) from candidates `[R, B, N, d]` with values `[R, B, N]`: `[R, B, d]`."""
    return _pick(values.argmax(-1), candidates)


def take_best(values: Tensor, actions: Tensor, n: int) -> Tensor:
    """The best of n consecutive actions `[R, B · n, a]` per state, by their values `[R, B · n]`: `[R, B, a]`."""
    runs, _, width = actions.shape
    return best_of_n(values.view(runs, -1, n), actions.view(runs, -1, n, width))


def log_weights(values: Tensor, temperature: Tensor, candidates: Tensor, noise: Tensor) -> Tensor:
    """log p(z) + Q / temperature − log π(z) of z = μ + σ · noise, up to a constant per state, `[R, B, N]`.

    Args:
        values: Q of the candidates, `[R, B, N]`.
        temperature: α, or a multiple of it, per run `[R]`.
        candidates: z, `[R, B, N, d]`.
        noise: draws of N(0, I), `[R, B, N, d]`.
    """
    return values / temperature[:, None, None] + 0.5 * (noise.square() - candidates.square()).sum(-1)


def weighted_mean(log_weight: Tensor, values: Tensor) -> Tensor:
    """Self-normalised importance-sampling mean of values `[R, B, N]` under π*: `[R, B]`."""
    return (log_weight.softmax(-1) * values.masked_fill(log_weight == -torch.inf, 0.0)).sum(-1)


def resample(log_weight: Tensor, candidates: Tensor, uniform: Tensor) -> Tensor:
    """One candidate drawn in proportion to its weight, by inversion at u ~ U[0, 1) `[R, B, 1]`: `[R, B, d]`."""
    cumulative = log_weight.softmax(-1).cumsum(-1)
    return _pick((cumulative < uniform * cumulative[..., -1:]).sum(-1), candidates)


def _pick(index: Tensor, candidates: Tensor) -> Tensor:
    return torch.take_along_dim(candidates, index[..., None, None], 2).squeeze(2)
