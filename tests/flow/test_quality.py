"""The flow's quality: zero for latents of the prior, and known numbers for others."""

from __future__ import annotations

import json
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import make_flow
from scipy import stats

from flp.flow import inversion
from flp.flow.inversion import invert
from flp.flow.quality import judge, likelihoods, validation_rows
from flp.flow.two_sample import Rows
from flp.system.resume import Resume
from flp.system.stopping import STOP, InterruptedJobError

N = 100_000


def normal(dim=3):
    """Exactly normal: the quantiles themselves, shuffled per dimension."""
    quantiles = stats.norm.ppf((np.arange(N) + 0.5) / N)
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(quantiles) for _ in range(dim)], 1).astype(np.float32)


def report(latents):
    return judge(latents.astype(np.float32), np.zeros_like(latents, np.float32))


def test_exactly_normal_latents_are_at_no_distance():
    found = report(normal())
    for name, expected in {"mean": 0, "std": 1, "skew": 0, "kurtosis": 0, "wasserstein": 0}.items():
        assert found[f"latent_{name}"] == pytest.approx([expected] * 3, abs=2e-3), name
    assert found["latent_max_correlation"] < 5 / math.sqrt(N)


def test_shifts_and_scales_are_measured_per_dimension():
    found = report(normal() * np.array([1.0, 1.5, 0.5]) + np.array([0.4, 0.0, 0.0]))
    assert found["latent_mean"] == pytest.approx([0.4, 0, 0], abs=1e-3)
    assert found["latent_std"] == pytest.approx([1, 1.5, 0.5], abs=2e-3)
    # W1 of a shift is the shift; of a scale |σ − 1| E|z|.
    distance = 0.5 * math.sqrt(2 / math.pi)
    assert found["latent_wasserstein"] == pytest.approx([0.4, distance, distance], abs=2e-3)
    assert found["latent_skew"] == pytest.approx([0, 0, 0], abs=1e-3)
    assert found["latent_kurtosis"] == pytest.approx([0, 0, 0], abs=3e-3)


def test_shape_and_dependence_are_measured():
    z = normal()
    rng = np.random.default_rng(1)
    exponential = rng.permutation(stats.expon.ppf((np.arange(N) + 0.5) / N)) - 1  # skew 2, excess kurtosis 6
    uniform = rng.permutation((np.arange(N) + 0.5) / N * 2 - 1) * math.sqrt(3)  # skew 0, excess kurtosis -1.2
    mixed = 0.6 * z[:, 0] + 0.8 * z[:, 1]
    found = report(np.stack([exponential, uniform, z[:, 0], -mixed], 1))
    assert found["latent_skew"] == pytest.approx([2, 0, 0, 0], abs=0.05)
    assert found["latent_kurtosis"] == pytest.approx([6, -1.2, 0, 0], abs=0.1)
    assert found["latent_max_correlation"] == pytest.approx(0.6, abs=0.01)


def test_one_dimension_has_no_correlation():
    assert report(normal(1))["latent_max_correlation"] == 0


def test_of_constant_latents_only_what_is_defined_is_given():
    z = normal(3)
    z[:, 1] = 0.5
    found = report(z)
    assert found["latent_skew"][1] is None and found["latent_kurtosis"][1] is None
    assert found["latent_std"][1] == 0 and abs(found["latent_skew"][2]) < 0.1 and found["latent_max_correlation"] < 0.02
    single = report(z[:1])
    assert single["latent_skew"] == [None] * 3 and single["latent_max_correlation"] == 0
    json.dumps([found, single], allow_nan=False)


def test_more_latents_than_are_kept_are_thinned():
    found = report(np.repeat(normal(2), 3, 0))
    assert found["latent_std"] == pytest.approx([1, 1], abs=0.01)
    assert found["latent_wasserstein"] == pytest.approx([0, 0], abs=0.01)


def test_round_trip_errors():
    errors = np.linspace(0, 1, 101, dtype=np.float32).reshape(-1, 1)
    found = judge(normal()[:101, :1], errors)
    assert found["roundtrip_mean"] == pytest.approx(0.5)
    assert found["roundtrip_p99"] == pytest.approx(0.99)
    assert found["roundtrip_max"] == 1.0


def test_inverting_does_not_depend_on_the_batch_size():
    flow = make_flow([1], hidden=(16,), solver="midpoint", steps=10).freeze()
    generator = torch.Generator().manual_seed(0)
    s, a = torch.randn(23, 3, generator=generator), torch.rand(23, 2, generator=generator) * 2 - 1
    latents, errors = invert(flow, s, a, 23)
    torch.testing.assert_close(latents, flow.inverse(s[None], a[None])[0])
    torch.testing.assert_close(errors, (flow(s[None], latents[None])[0] - a).abs(), rtol=1e-3, atol=1e-6)
    assert errors.max() > 0
    for batch_size in (1, 5, 100):
        z, e = invert(flow, s, a, batch_size)
        torch.testing.assert_close(z, latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(e, errors, rtol=0, atol=1e-5)


def test_a_stopped_inversion_goes_on_with_the_same_bytes(tmp_path, signals, monkeypatch):
    """It is stopped in the second of four pieces, and again in the third."""
    monkeypatch.setattr(inversion, "PIECE", 10)
    flow = make_flow([1], hidden=(16,)).freeze()
    generator = torch.Generator().manual_seed(0)
    s, a = torch.randn(33, 3, generator=generator), torch.rand(33, 2, generator=generator) * 2 - 1
    made = []

    def invert_all(folder, stop_at=None, batch_size=5):
        resume = Resume(folder, made_by={"batch_size": batch_size})

        def noted(*args):
            made.append(len(args[2]))
            STOP.signal = signal.SIGTERM if len(made) == stop_at else None
            return invert(*args)

        monkeypatch.setattr(inversion, "invert", noted)
        return inversion.invert_all(flow, s, a, batch_size, 1, resume)

    whole = invert_all(tmp_path / "whole")
    made.clear()
    for stop_at in (2, 3):
        with pytest.raises(InterruptedJobError):
            invert_all(tmp_path / "stopped", stop_at)
    again = invert_all(tmp_path / "stopped")
    assert made == [10, 10, 10, 3]
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))
    # A state of other batches is not taken: its sums may be rounded differently.
    made.clear()
    with pytest.raises(InterruptedJobError):
        invert_all(tmp_path / "other", 1)
    invert_all(tmp_path / "other", batch_size=2)
    assert made == [10, 10, 10, 10, 3]


def test_the_likelihood_of_a_still_flow_is_the_priors():
    flow = make_flow([1])
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    a = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    at = torch.arange(50) < 20
    rows = Rows(torch.zeros(50, 3), a, at, torch.zeros(50, dtype=torch.int64))
    found = likelihoods(flow.freeze(), rows)
    for name, part in {"": a, "_saturated": a[at], "_other": a[~at]}.items():
        expected = 0.5 * part.square().sum(1).mean().item() + math.log(2 * math.pi)
        assert found[f"validation_nll{name}"] == pytest.approx(expected, rel=1e-5), name
    none = likelihoods(flow, rows.only(~at).only(torch.zeros(30, dtype=torch.bool)))
    assert set(none.values()) == {None}
    assert likelihoods(flow, rows.only(at))["validation_nll_other"] is None


def test_held_out_rows_are_all_transitions_with_their_episodes():
    terminals = np.array([False, False, True, False, True])
    actions = np.array([[0, 1], [0.5, 0], [1, 1], [-1, 0], [1, 1]], np.float32)
    data = SimpleNamespace(
        observations=np.arange(10, dtype=np.float32).reshape(5, 2),
        actions=actions,
        terminals=terminals,
        transitions=np.flatnonzero(~terminals),
    )
    rows = validation_rows(data, 2 * actions, torch.device("cpu"))
    assert rows.observations.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert rows.values.tolist() == [[0, 2], [1, 0], [-2, 0]]
    assert rows.saturated.tolist() == [True, False, True]
    assert rows.episodes.tolist() == [0, 0, 1]
