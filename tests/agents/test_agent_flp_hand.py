"""FLP's targets and choices on a batch worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from reference import make_agent
from torch import nn

from flp.randomness.streams import RunStreams


class Known(nn.Module):
    """An ensemble of two with Q_0 = z_0 + s_0 and Q_1 = 3 − 2 z_0 + z_1."""

    def forward(self, observations, z):
        return torch.stack([z[..., 0] + observations[..., 0], 3 - 2 * z[..., 0] + z[..., 1]], 1)


def known_agent(aggregation, count):
    """One run whose policy is N((1, 0), diag(0.5², 1)) everywhere, with known target values; γ = 0.9."""
    agent = make_agent([1], counts=[count], aggregation=aggregation)
    with torch.no_grad():
        agent.policy.net.biases[-1].copy_(torch.tensor([[[1.0, 0.0, math.log(0.5), 0.0]]]))
    agent.target_critic = Known()
    return agent


HAND_BATCH = {
    "next_observations": torch.tensor([[[10.0, 0, 0], [0.0, 9, 9], [-4.0, 0, 0]]]),
    "rewards": torch.tensor([[-1.0, 0.0, -2.0]]),
    "masks": torch.tensor([[1.0, 0.0, 1.0]]),
}
# Noise 0, 2 and -2 in the first coordinate: z_0 = 1, 2, 0; in the second: z_1 = 0, 4, 1.
HAND_NOISE = torch.tensor([[0.0, 0.0], [2.0, 4.0], [-2.0, 1.0]]).expand(1, 3, 3, 2)
# By hand, candidates (1, 0), (2, 4), (0, 1), row 0 (s_0 = 10): Q_0 = 11, 12, 10; Q_1 = 1, 3, 4.
# Means 6, 7.5, 7; minima 1, 3, 4. Row 2 (s_0 = −4): Q_0 = −3, −2, −4; means −1, 0.5, 0; minima −3, −2, −4.


@pytest.mark.parametrize(
    ("aggregation", "count", "best"),
    [("mean", 1, (6, -1)), ("mean", 3, (7.5, 0.5)), ("min", 1, (1, -3)), ("min", 3, (4, -2))],
)
def test_the_target_of_a_hand_made_batch(aggregation, count, best):
    y = known_agent(aggregation, count).target(HAND_BATCH, HAND_NOISE[:, :, :count])
    assert y.shape == (1, 3)
    assert y[0].tolist() == pytest.approx([-1 + 0.9 * best[0], 0.0, -2 + 0.9 * best[1]])
    assert not y.requires_grad


@pytest.mark.parametrize("aggregation", ["mean", "min"])
def test_acting_decodes_the_best_candidate(aggregation):
    agent = known_agent(aggregation, 3)
    agent.critic = Known()
    agent.critic.target = None
    generator_noise = RunStreams([9]).normal(5, 3, 2)
    observations = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1))
    actions, latents = (act(observations, RunStreams([9])) for act in (agent.act, agent.latents))
    for i in range(5):
        candidates = [(1 + 0.5 * e[0].item(), e[1].item()) for e in generator_noise[0, i]]
        how = min if aggregation == "min" else lambda q: sum(q) / 2
        values = [how([z0 + observations[0, i, 0].item(), 3 - 2 * z0 + z1]) for z0, z1 in candidates]
        assert latents[0, i].tolist() == pytest.approx(candidates[values.index(max(values))], rel=1e-5)
    torch.testing.assert_close(actions, agent.flow.decode(observations, latents))
    assert actions.abs().max() <= 1
