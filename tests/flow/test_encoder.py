"""A velocity field with an encoder: the same map, the state seen once; and several noises per transition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import make_flow

from flp.flow.behavior import Flow
from flp.flow.checkpoint import load_flows, save_flow
from flp.flow.solver import integrate
from flp.flow.velocity import VelocityField, flow_matching_loss
from flp.learner.nets import standardize
from flp.randomness.streams import RunStreams
from flp.system.errors import FLPError


def encoded(seeds=(1, 2), observations=3):
    """A field with an encoder, one per seed."""
    return VelocityField(RunStreams(list(seeds)), observations, 2, [8], (16, 4))


def test_several_draws_are_the_mean_over_them():
    """Every noise and time belongs to the transition of its place in the batch."""
    generator = torch.Generator().manual_seed(0)
    s, x1, x0 = (torch.randn(2, n, d, generator=generator) for n, d in ((5, 3), (5, 2), (15, 2)))
    t = torch.rand(2, 15, 1, generator=generator)
    for field in (make_flow([1, 2]).field, encoded()):
        parts = zip(x0.split(5, 1), t.split(5, 1), strict=True)
        alone = [flow_matching_loss(field, s, x1, noise, time) for noise, time in parts]
        torch.testing.assert_close(flow_matching_loss(field, s, x1, x0, t), torch.stack(alone).mean(0))


def test_an_encoder_sees_the_state_once_for_all_steps_of_the_solver():
    field, generator = encoded(), torch.Generator().manual_seed(0)
    s, z = (torch.randn(2, 5, d, generator=generator) for d in (3, 2))
    flow = Flow(field, "rk4", 4, 1.5).freeze()
    slow = integrate(lambda x, t: field(s, x, torch.full((2, 5, 1), t)), z, flow.times, "rk4")
    seen = []
    field.encoder.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(flow(s, z), slow, rtol=0, atol=1e-6)
    assert len(seen) == 1
    torch.testing.assert_close(flow.inverse(s, slow), z, rtol=0, atol=1e-3)
    assert len(seen) == 2


def test_what_an_encoder_makes_of_a_state_ends_with_the_activation():
    field, s = encoded([1]), torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    first, last = field.encoder.weights
    expected = F.gelu(F.gelu(s @ first, approximate="tanh") @ last, approximate="tanh")  # biases start at 0
    torch.testing.assert_close(field.encode(s), expected)


def test_an_encoder_alone_sees_observations_at_their_scale():
    field = encoded()
    s, x, t = torch.randn(2, 5, 3), torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    mean, std = torch.tensor([1.0, -2, 3]), torch.tensor([0.5, 2, 1])
    expected = field(4 * (s - mean) / std, x, t)
    standardize(field.first, mean, std, 4.0)
    torch.testing.assert_close(field(s, x, t), expected)


def test_runs_with_encoders_do_not_touch():
    together, alone = encoded((1, 2)), encoded((2,))
    s, x, t = torch.randn(2, 5, 3), torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    torch.testing.assert_close(together(s, x, t)[1:], alone(s[1:], x[1:], t[1:]))


def test_a_flow_with_an_encoder_comes_back_from_its_file_or_is_refused(tmp_path):
    field, path = encoded([3]), tmp_path / "flow.safetensors"
    model = {"observation_dim": 3, "action_dim": 2, "hidden": [8], "encoder": [16, 4]}
    model |= {"solver": "rk4", "solver_steps": 4, "solver_grading": 1.5}
    save_flow(path, field, model=model)
    s, z = torch.randn(1, 5, 3), torch.randn(1, 5, 2)
    loaded, _ = load_flows([str(path)])
    assert torch.equal(loaded(s, z), Flow(field, "rk4", 4, 1.5).freeze()(s, z))
    for wrong in ([], [16], [4, 16], [16, 4, 4]):
        save_flow(path, field, model=model | {"encoder": wrong})
        with pytest.raises(FLPError, match="another model than the file holds"):
            load_flows([str(path)])
