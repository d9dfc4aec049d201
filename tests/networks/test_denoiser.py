"""The networks of diffusion models."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from flp.networks.denoiser import Denoiser, Dense
from flp.networks.mlp import standardize
from flp.networks.relu import ReLUMLP
from flp.randomness.streams import RunStreams


def test_layers_start_as_flax_s():
    weight = Dense(RunStreams([0, 1]), 400, 300, lecun=True).weight
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(2 / 20 / 0.8796, rel=0.001)
    limit = math.sqrt(6 / 700)
    assert Dense(RunStreams([0]), 400, 300).weight.abs().max().item() == pytest.approx(limit, rel=0.001)


@pytest.mark.parametrize(
    "network",
    [
        lambda streams: Denoiser(streams, 3, 2, 8, 2),
        lambda streams: _OfState(ReLUMLP(streams, 3, [8], 2, members=2)),
        lambda streams: _OfState(ReLUMLP(streams, 3, [8], 2, normalize=True)),
    ],
)
def test_observations_are_standardized(network):
    streams = RunStreams([1, 2])
    net = network(streams)
    other = copy.deepcopy(net)
    mean, std = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, 2.0, 4.0])
    standardize(net, mean, std, 6.0)
    s, x, k = streams.normal(7, 3), streams.normal(7, 2), torch.full((2, 7, 1), 3.0)
    torch.testing.assert_close(net(s, x, k), other(6 * (s - mean) / std, x, k), rtol=1e-4, atol=1e-5)


class _OfState(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, s, x, k):
        return self.net(s)
