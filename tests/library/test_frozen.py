"""A frozen flow as an object: the very map, density and noise of the flow in the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flp
from flp.flow.checkpoint import load_flows


@pytest.fixture
def folder(experiment):
    return experiment / "results/pointmaze-medium-navigate/flow/model/seed0"


STATES = np.random.default_rng(0).uniform(0, 20, (6, 2))
ACTIONS = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 2))


def test_it_is_the_flow_of_the_file(folder):
    flow = flp.load_flow(folder)
    inner, _ = load_flows([str(folder / "flow.safetensors")])
    s, a = (torch.tensor(x, dtype=torch.float32)[None] for x in (STATES, ACTIONS))
    with torch.no_grad():
        np.testing.assert_array_equal(flow.latent(STATES, ACTIONS), inner.inverse(s, a)[0])
    np.testing.assert_array_equal(flow.log_prob(STATES, ACTIONS), inner.log_density(s, a)[0])
    assert flow.log_prob(STATES[0], ACTIONS[0]).shape == ()
    back = flow.action(STATES, flow.latent(STATES, ACTIONS))
    np.testing.assert_allclose(back, ACTIONS, atol=1e-2)


def test_samples_are_the_priors_images(folder):
    flow = flp.load_flow(folder)
    drawn = flow.sample(STATES[0], n=500)
    assert drawn.shape == (500, 2) and np.abs(drawn).max() <= 1
    inside = (np.abs(drawn) < 0.999).all(1)
    latents = flow.latent(np.repeat(STATES[:1], inside.sum(), 0), drawn[inside])
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).numpy()[inside]
    np.testing.assert_allclose(latents, noise, atol=0.05)
    flow.reset(seed=0)
    np.testing.assert_array_equal(flow.sample(STATES[0], n=500), drawn)
    assert flow.sample(STATES, n=3).shape == (6, 3, 2)


def test_what_is_no_flow_is_refused_by_name(folder, experiment, tmp_path):
    with pytest.raises(flp.FLPError, match=r"flow\.safetensors does not exist"):
        flp.load_flow(tmp_path)
    latent = experiment / "results/pointmaze-medium-navigate/latent/seed0/latent.safetensors"
    with pytest.raises(flp.FLPError, match=r"latent\.safetensors"):
        flp.load_flow(latent)
    with pytest.raises(flp.FLPError, match="n must be"):
        flp.load_flow(folder).sample(STATES[0], n=0)


def test_a_policys_folder_has_its_flow(run_of):
    assert flp.load_flow(run_of("flp")).dataset == "pointmaze-medium-navigate"
