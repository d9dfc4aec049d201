"""Fitted Q-evaluation: the value of a fixed policy, by regression of Q on its own values of the next actions.

Each ensemble member sees a bootstrap sample of the episodes, so that their spread measures the uncertainty of the
estimate (Hao et al., 2021, "Bootstrapping Fitted Q-Evaluation for Off-Policy Inference").
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from flp.learner.optimizers import Adam, descend
from flp.learner.polyak import polyak_update
from flp.networks.mlp import standardize
from flp.networks.values import Critic
from flp.params.sections import OfflineSettings
from flp.parts.critics import initialize_values
from flp.randomness.streams import RunStreams

MEMBERS = 10
_TIME_CONSTANTS = 5.0  # over which the initial value decays


@dataclass(frozen=True)
class Logged:
    """n transitions in the order of their E episodes, with the policy's actions in their next states.

    Attributes:
        observations: `[n, o]`.
        actions: `[n, a]`.
        rewards: `[n]`.
        masks: `[n]`, 0 where the episode terminated.
        next_observations: `[n, o]`.
        next_actions: the policy's, `[n, a]`.
        first: index of each episode's first transition, `[E]`.
        start_actions: the policy's in the episodes' initial states, `[E, a]`.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    masks: Tensor
    next_observations: Tensor
    next_actions: Tensor
    first: Tensor
    start_actions: Tensor


def fitted_q(
    data: Logged,
    offline: OfflineSettings,
    moments: tuple[Tensor, Tensor],
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> Tensor:
    """Each member's estimate of the policy's expected discounted return from the episodes' starts, `[members]`.

    Networks, learning rate and its schedule, discount and steps are those of offline training, with two exceptions that
    keep the initial values out of the estimate: values start from r̄ / (1 − γ m̄) of average reward and mask, and the
    target critic moves fast enough to leave at most e⁻⁵ of them where no episode ends.

    Args:
        data: the transitions.
        offline: hyperparameters of offline training.
        moments: mean and standard deviation of the observations, each `[o]`.
        seed: of initial weights, bootstrap samples and batches.
        tick: called at every step; may raise to stop.
    """
    device = data.observations.device
    streams = RunStreams([seed + i for i in range(MEMBERS)], "cpu", device)
    sizes = data.observations.shape[1], data.actions.shape[1]
    critic = Critic(streams, *sizes, offline.hidden, members=1, layer_norm=offline.critic_layer_norm)
    if offline.observation_scale is not None:
        standardize(critic, *moments, offline.observation_scale)
    episodes = streams.integers(len(data.first), len(data.first))
    samples = [_transitions(data, episodes[m]) for m in range(MEMBERS)]
    rewards, masks = (torch.stack([x[rows].mean() for rows in samples]) for x in (data.rewards, data.masks))
    initialize_values(critic, rewards / (1 - offline.discount * masks))
    target = deepcopy(critic).requires_grad_(False)
    # With a critic that fits its targets, the share of the initial value decays by rate · (1 − γ) per step.
    target_rate = max(offline.target_rate, min(1.0, _TIME_CONSTANTS / (offline.steps * (1 - offline.discount))))
    decay_steps = offline.steps if offline.schedule == "cosine" else None
    optimizer = Adam(critic.parameters(), offline.learning_rate, decay_steps=decay_steps)
    counts = torch.tensor([len(rows) for rows in samples], device=device)[:, None]
    padded = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    for _ in range(offline.steps):
        tick()
        drawn = (streams.uniform(offline.batch_size) * counts).long().clamp(max=counts - 1)
        rows = padded.gather(1, drawn)
        with torch.no_grad():
            next_q = target(data.next_observations[rows], data.next_actions[rows])[:, 0]
            y = data.rewards[rows] + offline.discount * data.masks[rows] * next_q
        loss = (critic(data.observations[rows], data.actions[rows])[:, 0] - y).square().mean(1)
        descend(optimizer, loss)
        polyak_update(target, critic, target_rate)
    with torch.no_grad():
        starts = data.observations[data.first]
        values = critic(starts.expand(MEMBERS, -1, -1), data.start_actions.expand(MEMBERS, -1, -1))[:, 0]
        return values.gather(1, episodes).mean(1)


def _transitions(data: Logged, episodes: Tensor) -> Tensor:
    """Indices of the transitions of episodes, which may be repeated."""
    ends = torch.cat([data.first[1:], data.first.new_tensor([len(data.rewards)])])
    return torch.cat([torch.arange(int(data.first[e]), int(ends[e]), device=data.first.device) for e in episodes])
