"""The two-sample test: 50 % for a perfect flow, Bayes' accuracy for one that is off by a known amount."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import make_flow
from scipy import stats

from flp.flow.behavior import Flow
from flp.flow.matching import Pairs
from flp.flow.quality import two_samples, warning
from flp.flow.two_sample import Rows, Scale, _accuracy, saturation_test, two_sample_test

EPISODES, LENGTH, TRAIN = 50, 100, 20_000
SHOWN = Scale(torch.zeros(2), torch.ones(2), 1.0)


def draws(size, dim=2, seed=0):
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))


def states(size, seed):
    return 2 * torch.rand(size, 2, generator=torch.Generator().manual_seed(seed)) - 1


def compared(latent, saturated=None, updates=300, seed=0, scale=SHOWN):
    """The test of latents `latent(s, ε)`; `saturated(s, z)` tells which rows and draws count as such."""
    held = EPISODES * LENGTH
    (s, e), (hs, he) = ((states(n, seed + i), draws(n, seed=seed + 10 + i)) for i, n in enumerate((TRAIN, held)))
    episodes = torch.arange(held) // LENGTH
    noise = draws(held, seed=seed + 20)
    at = saturated or (lambda s, z: torch.zeros(len(z), dtype=torch.bool))
    z = latent(hs, he)
    return two_sample_test(
        Pairs(s, latent(s, e), torch.arange(TRAIN)),
        Rows(hs, z, at(hs, z), episodes),
        Rows(hs, noise, at(hs, noise), episodes),
        scale,
        (32, 32),
        updates,
        seed,
    )


def test_a_perfect_flow_is_right_half_of_the_time():
    """Also among saturated and other rows, although these are selected by what the latent decodes to."""
    found = compared(lambda s, e: e, lambda s, z: z[:, 0] + s[:, 0] > 0.8)
    for name in ("all", "saturated", "other"):
        low, high = found[name]["interval"]
        assert low < 0.5 < high and high - low < 0.06, name
        assert found[name]["r2"] == pytest.approx([0, 0], abs=0.02), name
        assert found[name]["r2_squares"] == pytest.approx([0, 0], abs=0.03), name
    assert found["saturated"]["rows"] + found["other"]["rows"] == found["all"]["rows"] == EPISODES * LENGTH
    assert 0 < found["saturated"]["prior_rows"] == EPISODES * LENGTH - found["other"]["prior_rows"]


def test_intervals_hold_one_half_in_nineteen_of_twenty_trials():
    """Rows of an episode are correlated here: an interval over rows would be far too narrow."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        bias = torch.from_numpy(np.clip(0.5 + 0.2 * rng.standard_normal(EPISODES), 0, 1)).repeat_interleave(LENGTH)
        episodes = torch.arange(EPISODES).repeat_interleave(LENGTH)
        right = [torch.from_numpy(rng.random(len(bias))) < chance for chance in (bias, bias)]
        _, (low, high) = _accuracy(*((r, episodes) for r in right))
        held += low < 0.5 < high
    assert 0.9 < held / 300 < 0.99


class Linear:
    """a = μ(s) + δσ + σ z: the exact flow of the behaviour N(μ(s), σ²) if δ = 0."""

    def __init__(self, shift):
        self.shift = torch.tensor([shift, 0.0])

    def __call__(self, s, z):
        return s + 0.5 * (z + self.shift)

    def inverse(self, s, a):
        return (a - s) / 0.5 - self.shift


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_a_flow_that_is_off_by_a_known_shift_gives_bayes_accuracy(shift):
    """Its latents are N(−δ, 1): no classifier exceeds an accuracy of Φ(δ / 2), and the state explains nothing."""
    flow, held = Linear(shift), EPISODES * LENGTH
    s, hs = states(TRAIN, 1), states(held, 2)
    actions = Linear(0.0)(hs, draws(held, seed=3))
    rows = Rows(hs, actions, (actions.abs() >= 1).any(1), torch.arange(held) // LENGTH)
    latents, prior = two_samples(flow, rows, 4)
    train = Pairs(s, flow.inverse(s, Linear(0.0)(s, draws(TRAIN, seed=5))), torch.arange(TRAIN))
    found = two_sample_test(train, latents, prior, SHOWN, (32, 32), 300, 6)
    best, (low, high) = stats.norm.cdf(shift / 2), found["all"]["interval"]
    assert low < best < high and abs(found["all"]["accuracy"] - best) < 0.012
    assert found["all"]["r2"] == pytest.approx([0, 0], abs=0.02)
    if shift == 0:
        for part in ("saturated", "other"):
            low, high = found[part]["interval"]
            assert low < 0.5 < high
        assert found["saturated"]["prior_rows"] == pytest.approx(found["saturated"]["rows"], rel=0.1)


def test_what_depends_on_the_state_is_found_where_marginals_see_nothing():
    """z₁ = m(s) + √(1 − ρ²) ε with mean 0 and variance 1, of which the state explains ρ²."""
    rho, rest = 0.5, math.sqrt(1 - 0.5**2)

    def latent(s, e):
        return torch.stack([rho * math.sqrt(3) * s[:, 0] + rest * e[:, 0], e[:, 1]], 1)

    found = compared(latent)["all"]
    z, means = np.linspace(-8, 8, 4001), rho * math.sqrt(3) * np.linspace(-1, 1, 401)
    overlap = np.minimum(stats.norm.pdf(z, means[:, None], rest), stats.norm.pdf(z)).sum(1).mean() * (z[1] - z[0])
    assert found["accuracy"] == pytest.approx(1 - overlap / 2, abs=0.015)
    assert found["r2"] == pytest.approx([rho**2, 0], abs=0.02)


def test_what_varies_over_short_distances_is_found_too():
    """The same on a fine chequerboard, where a network alone sees nothing in so few steps."""

    def latent(s, e):
        fine = torch.sin(6 * s[:, 0]) * torch.sin(6 * s[:, 1])
        return torch.stack([fine + math.sqrt(3) / 2 * e[:, 0], e[:, 1]], 1)

    found = compared(latent, scale=Scale(torch.zeros(2), torch.full((2,), 0.577), 6.0))["all"]
    assert found["r2"][0] > 0.15 and found["interval"][0] > 0.55


def test_a_spread_that_depends_on_the_state_is_in_the_squares():
    """z = σ(s) ε: E[z²|s] = σ², whose variance is that share of z²'s."""

    def latent(s, e):
        return e * (1 + 0.8 * s[:, :1]).sqrt()

    found = compared(latent)["all"]
    between = 0.8**2 / 3
    share = between / (between + 2 * (1 + between))
    assert found["r2"] == pytest.approx([0, 0], abs=0.02)
    assert found["r2_squares"] == pytest.approx([share, share], abs=0.025)


def test_the_same_seed_gives_the_same_numbers_and_another_others():
    one, two, other = (compared(lambda s, e: e, updates=20, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one["all"]["accuracy"] != other["all"]["accuracy"]


def test_what_is_not_there_is_none():
    found = compared(lambda s, e: e, updates=1)
    assert found["saturated"] is None and found["other"] == found["all"]
    alone = torch.zeros(10, dtype=torch.int64)
    assert _accuracy((draws(10, 1)[:, 0] > 0, alone), (draws(10, 1)[:, 0] > 0, alone))[1] is None


@pytest.mark.parametrize("of_data", [0.3, 0.5, 0.7])
def test_shares_of_saturated_actions_give_an_accuracy_of_their_own(of_data):
    """Of a classifier that takes all that is saturated for the likelier of the two: ½ + |difference| / 2."""
    episodes, held = torch.arange(EPISODES).repeat_interleave(LENGTH), EPISODES * LENGTH
    shares = [torch.rand(held, generator=torch.Generator().manual_seed(i)) < p for i, p in enumerate((of_data, 0.5))]
    data, prior = (Rows(draws(held), draws(held), saturated, episodes) for saturated in shares)
    found = saturation_test(data, prior)
    low, high = found["interval"]
    assert low < found["accuracy"] < high and high - low < 0.05
    assert found["accuracy"] == pytest.approx(0.5 + abs(of_data - 0.5) / 2, abs=0.015) and found["accuracy"] >= 0.5
    assert (found["data"], found["prior"]) == (pytest.approx(of_data, abs=0.02), pytest.approx(0.5, abs=0.02))


def test_a_flow_that_blurs_the_edge_is_told_by_saturation_alone():
    """a = clip(1.2 z) has an atom that the flow a = z lacks a part of: P(1.2 |z| > 1) against P(|z| > 1)."""
    held, episodes = EPISODES * LENGTH, torch.arange(EPISODES * LENGTH) // LENGTH
    z, noise = draws(held, 1, seed=1), draws(held, 1, seed=2)
    found = saturation_test(
        Rows(z, z, (1.2 * z.abs() > 1)[:, 0], episodes), Rows(z, noise, (noise.abs() > 1)[:, 0], episodes)
    )
    exact = 0.5 + float(stats.norm.cdf(-1 / 1.2) - stats.norm.cdf(-1))
    low, high = found["interval"]
    assert low < exact < high and found["accuracy"] == pytest.approx(exact, abs=0.015)


def test_draws_are_saturated_where_they_decode_to_it():
    flow: Flow = make_flow([1], hidden=(16,), solver="rk4", steps=4).freeze()
    s = draws(500, 3)
    held = Rows(s, 2 * draws(500, seed=1), torch.zeros(500, dtype=torch.bool), torch.zeros(500, dtype=torch.int64))
    latents, prior = two_samples(flow, held, 0)
    torch.testing.assert_close(flow(s[None], latents.values[None])[0], held.values, rtol=1e-3, atol=1e-3)
    assert torch.equal(prior.saturated, (flow(s[None], prior.values[None])[0].abs() > 0.99999).any(1))
    assert 0 < prior.saturated.sum() < 500


QUALITY = {"dataset": "maze", "seed": 3, "clipped_fraction": 0.2}


def warned(accuracy, interval, limit=0.55, saturation=0.5, margin=0.01, data=0.2, **parameters):
    bounds = [saturation - margin, saturation + margin]
    by_saturation = {"data": data, "prior": 0.1, "accuracy": saturation, "interval": bounds}
    quality = QUALITY | {"two_sample": {"all": {"accuracy": accuracy, "interval": interval}}}
    return warning(quality | {"saturation": by_saturation}, parameters, limit)


def test_what_is_told_too_often_is_warned_of_with_its_remedy():
    text = warned(0.63, [0.6, 0.66])
    assert text is not None and "\n" not in text and text.startswith("maze seed 3: ")
    assert "63.0%" in text and "invert.max_distinguishable 55.0%" in text
    assert "flow.saturation_noise" in text and "flow.schedule" in text and "flow.steps" in text
    mended = warned(0.63, None, schedule="cosine", saturation_noise=0.1)
    assert mended is not None and "flow.steps" in mended
    assert "flow.saturation_noise" not in mended and "flow.schedule" not in mended
    counted = warned(0.51, [0.5, 0.52], saturation=0.58)
    assert counted is not None and "whether an action is saturated" in counted and "58.0%" in counted
    blurred = warned(0.51, [0.5, 0.52], saturation=0.58, saturation_noise=0.1)
    assert blurred is not None and "raise flow.saturation_noise above 0.1" in blurred
    too_many = warned(0.51, [0.5, 0.52], saturation=0.58, data=0.05, saturation_noise=0.1)
    assert too_many is not None and "raise" not in too_many
    by_chance = warned(0.6, [0.58, 0.62], saturation=0.61, margin=0.12)
    assert by_chance is not None and "a classifier tells" in by_chance and "60.0%" in by_chance
    assert warned(0.55, [0.54, 0.56]) is warned(0.6, [0.49, 0.71]) is None  # not above the limit, or by chance
