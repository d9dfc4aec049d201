"""Saturated actions: what the flow learns in their stead, who sees it, and that clipping gives the actions back."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from small_experiment import MAZE, tiny, train

from flp.data.load import ACTION_LIMIT, read_dataset
from flp.flow.checkpoint import load_flows
from flp.flow.saturation import learnable, saturated
from flp.params.loading import load_params
from flp.params.run import Run
from flp.runs.run_batch import RunBatch
from flp.system import layout
from flp.system.artifacts import load_tensors

LIMIT = np.float32(ACTION_LIMIT)


def of(actions):
    return SimpleNamespace(actions=np.asarray(actions, np.float32))


def test_what_lies_at_the_limit_or_beyond_is_saturated():
    below = np.nextafter(LIMIT, np.float32(0))
    actions = np.array([[0.0, LIMIT, -LIMIT, below, -below, 1.0, -1.0]], np.float32)
    assert saturated(actions).tolist() == [[False, True, True, False, False, True, True]]


def test_saturated_coordinates_lie_half_normally_beyond_and_the_others_as_they_were():
    rng = np.random.default_rng(0)
    stored = np.clip(1.5 * rng.standard_normal((50_000, 2)), -LIMIT, LIMIT).astype(np.float32)
    learnt, at = learnable(of(stored), 0.1, "maze", 0, "train"), saturated(stored)
    assert learnt.dtype == np.float32 and 0.3 < at.mean() < 0.7
    assert np.array_equal(learnt[~at], stored[~at])
    assert np.array_equal(np.sign(learnt[at]), np.sign(stored[at]))
    beyond = np.abs(learnt[at]) - 1
    assert beyond.min() >= 0
    assert beyond.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.02)
    assert np.sqrt(np.square(beyond).mean()) == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(*np.where(at, np.abs(learnt), np.nan)[at.all(1)].T)[0, 1]) < 0.03
    # What is executed is what was done.
    np.testing.assert_allclose(np.clip(learnt, -1, 1), stored, atol=1.1e-5)


def test_a_rows_number_is_named_by_dataset_seed_file_and_row_alone():
    stored = np.full((1000, 2), LIMIT, np.float32)
    learnt = learnable(of(stored), 0.1, "maze", 0, "train")
    assert np.array_equal(learnt, learnable(of(stored), 0.1, "maze", 0, "train"))
    for names in (("cube", 0, "train"), ("maze", 1, "train"), ("maze", 0, "validation")):
        assert not np.isclose(learnt, learnable(of(stored), 0.1, *names), atol=1e-4).all(1).any()
    inner = np.where(np.arange(1000)[:, None] % 2, stored, 0)  # who else is saturated does not matter
    assert np.array_equal(learnable(of(inner), 0.1, "maze", 0, "train")[1::2], learnt[1::2])
    np.testing.assert_allclose(learnable(of(stored), 0.2, "maze", 0, "train") - 1, 2 * (learnt - 1), rtol=1e-3)


def test_without_a_scale_the_actions_are_the_stored_ones():
    data = of(np.full((3, 2), LIMIT))
    assert learnable(data, 0.0, "maze", 0, "train") is data.actions


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pytestconfig):
    """A maze whose controller clips, up to the latents."""
    folder = tmp_path_factory.mktemp("saturated")
    params = tiny(yaml.safe_load((pytestconfig.rootpath / "params.yaml").read_text()), MAZE)
    params["flow"] |= {"saturation_noise": 0.3, "schedule": "cosine", "solver_steps": 20}
    train(folder, params, [])
    return folder


@pytest.mark.slow(10)
def test_the_latents_are_those_of_the_actions_that_the_flow_learnt(trained, monkeypatch):
    monkeypatch.chdir(trained)
    data = read_dataset(layout.DATA.format(dataset=MAZE) + ".npz")
    flow, _ = load_flows([layout.FLOW.format(dataset=MAZE, seed=0) + ".safetensors"])
    latents = load_tensors(layout.LATENT.format(dataset=MAZE, seed=0) + ".safetensors")[0]["latents"]
    rows = data.transitions
    states, at = torch.from_numpy(data.observations[rows]), saturated(data.actions[rows])
    assert at.any()
    learnt = learnable(data, 0.3, MAZE, 0, "train")[rows]
    np.testing.assert_allclose(flow(states[None], latents[None])[0].numpy(), learnt, atol=2e-3)
    executed = flow.decode(states[None], latents[None])[0].numpy()
    np.testing.assert_allclose(executed, data.actions[rows], atol=2e-3)
    assert np.abs(executed[at]).max() == 1 and np.abs(learnt[at]).max() > 1.1


@pytest.mark.slow(10)
@pytest.mark.parametrize("agent", ["fql", "ifql", "bc"])
def test_who_learns_actions_sees_the_stored_ones(trained, monkeypatch, agent):
    monkeypatch.chdir(trained)
    params = load_params(Path("params.yaml"))
    run = Run(task=1, seed=0, alpha=1.0, candidates=1)
    _, replay = RunBatch(MAZE, agent, [run], params, torch.device("cpu")).load()
    data = read_dataset(layout.DATA.format(dataset=MAZE) + ".npz")
    assert np.array_equal(replay.actions[0].numpy(), data.actions[data.transitions])
    assert replay.actions.abs().max() == LIMIT
