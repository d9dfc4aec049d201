"""Fitted-Q evaluation: the value of a fixed policy, fitted to transitions by regression on its own next values.

Each member sees a bootstrap sample of the episodes, so that their spread says how sure the estimate is (Hao et al.
2021, "Bootstrapping Fitted Q-Evaluation for Off-Policy Inference").
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from flp.learner.nets import Critic, follow, standardize
from flp.learner.optimizers import Adam, descend
from flp.params.sections import OfflineSettings
from flp.parts.common import start_values
from flp.randomness.streams import RunStreams

MEMBERS = 10
_TIMES = 5.0  # by which the start's share falls, each time to 1/e


@dataclass(frozen=True)
class Logged:
    """Transitions, and what a policy does where they lead; n of them, in the order of E episodes.

    Attributes:
        observations: `[n, o]`.
        actions: `[n, a]`.
        rewards: `[n]`.
        masks: `[n]`, 0 where the episode ended by itself.
        next_observations: `[n, o]`.
        next_actions: the policy's, `[n, a]`.
        first: number of each episode's first transition, `[E]`.
        start_actions: the policy's where the episodes begin, `[E, a]`.
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
    """The policy's expected discounted return from the episodes' starts, by each member's estimate, `[members]`.

    Networks, rate, its schedule, discount and steps are those of offline training, but for two things, lest the
    estimate be of where it started: values start from what average reward and mask would make them, and the target
    critic follows at least so fast that e⁻⁵ of the start is left where no episode ends. `tick` is called at every step,
    and may raise to stop it.
    """
    device = data.observations.device
    streams = RunStreams([seed + i for i in range(MEMBERS)], "cpu", device)
    sizes = data.observations.shape[1], data.actions.shape[1]
    critic = Critic(streams, *sizes, offline.hidden, members=1, layer_norm=offline.critic_layer_norm)
    if offline.observation_scale is not None:
        standardize(critic, *moments, offline.observation_scale)
    picked = streams.integers(len(data.first), len(data.first))
    samples = [_transitions(data, picked[m]) for m in range(MEMBERS)]
    rewards, masks = (torch.stack([of[rows].mean() for rows in samples]) for of in (data.rewards, data.masks))
    start_values(critic, rewards / (1 - offline.discount * masks))
    target = deepcopy(critic).requires_grad_(False)
    # With a critic that fits its targets, what is left of the start falls by rate · (1 − γ) at every step.
    target_rate = max(offline.target_rate, min(1.0, _TIMES / (offline.steps * (1 - offline.discount))))
    decay_steps = offline.steps if offline.schedule == "cosine" else None
    optimizer = Adam(critic.parameters(), offline.learning_rate, decay_steps=decay_steps)
    sizes_of = torch.tensor([len(rows) for rows in samples], device=device)[:, None]
    rows_of = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    for _ in range(offline.steps):
        tick()
        drawn = (streams.uniform(offline.batch_size) * sizes_of).long().clamp(max=sizes_of - 1)
        rows = rows_of.gather(1, drawn)
        with torch.no_grad():
            after = target(data.next_observations[rows], data.next_actions[rows])[:, 0]
            y = data.rewards[rows] + offline.discount * data.masks[rows] * after
        loss = (critic(data.observations[rows], data.actions[rows])[:, 0] - y).square().mean(1)
        descend(optimizer, loss)
        follow(target, critic, target_rate)
    with torch.no_grad():
        starts = data.observations[data.first]
        values = critic(starts.expand(MEMBERS, -1, -1), data.start_actions.expand(MEMBERS, -1, -1))[:, 0]
        estimates: Tensor = values.gather(1, picked).mean(1)
    return estimates


def _transitions(data: Logged, episodes: Tensor) -> Tensor:
    """The transitions of episodes, as often as they are named."""
    ends = torch.cat([data.first[1:], data.first.new_tensor([len(data.rewards)])])
    return torch.cat([torch.arange(int(data.first[e]), int(ends[e]), device=data.first.device) for e in episodes])
