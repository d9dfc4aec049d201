"""IDQL's residual network that predicts the noise in an action (networks/resnet.py), with a leading run axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flp.networks.layers import LAYER_NORM_EPSILON, head
from flp.networks.mlp import MLP
from flp.networks.products import affine
from flp.randomness.streams import RunStreams

_FREQUENCY_STD = 0.2  # of the initial frequencies of the time embedding
_TRUNCATED_STD = 0.87962566103423978  # of N(0, 1) truncated to [-2, 2]


class Dense(nn.Module):
    """A linear layer per run, with Glorot-uniform initial weights, or LeCun-normal ones, Flax's default."""

    def __init__(self, streams: RunStreams, inputs: int, outputs: int, *, lecun: bool = False) -> None:
        super().__init__()
        uniform = 2 * streams.uniform(inputs, outputs) - 1
        if lecun:
            truncated = math.sqrt(2) * torch.erfinv(uniform * math.erf(math.sqrt(2)))
            weight = truncated / (_TRUNCATED_STD * math.sqrt(inputs))
        else:
            weight = uniform * math.sqrt(6 / (inputs + outputs))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(streams), 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[R, B, inputs]` to `[R, B, outputs]`."""
        return affine(x, self.weight, self.bias)


class Block(nn.Module):
    """A residual block: x + W₂ SiLU(W₁ LayerNorm(Dropout(x))), four times as wide inside."""

    def __init__(self, streams: RunStreams, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(len(streams), 1, width, device=streams.device))
        self.shift = nn.Parameter(torch.zeros(len(streams), 1, width, device=streams.device))
        self.inner = Dense(streams, width, 4 * width, lecun=True)
        self.outer = Dense(streams, 4 * width, width, lecun=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `[R, B, width]` to the same shape, with a dropout mask of that shape or none."""
        y = x if mask is None else x * mask
        y = torch.addcmul(self.shift, F.layer_norm(y, y.shape[-1:], eps=LAYER_NORM_EPSILON), self.scale)
        y = self.outer(F.silu(self.inner(y)))
        return torch.add(x, y)


class Denoiser(nn.Module):
    """ε_φ(s, x, k): the predicted noise in x at timestep k, one network per run.

    Args:
        streams: the runs' random streams, for initialisation.
        observation_dim: width of s.
        action_dim: width of x.
        width: of the residual stream, at least 4.
        blocks: residual blocks.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, streams: RunStreams, observation_dim: int, action_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(_FREQUENCY_STD * streams.normal(1, width // 4))
        self.time = nn.ModuleList([Dense(streams, 2 * (width // 4), width), Dense(streams, width, width)])
        # A perceptron without hidden layers, because it is the layer that sees observations (see `standardize`).
        self.entry = MLP(streams, observation_dim + action_dim + width, [], width)
        self.blocks = nn.ModuleList([Block(streams, width) for _ in range(blocks)])
        self.exit = Dense(streams, width, action_dim)

    def forward(self, observations: Tensor, x: Tensor, k: Tensor, masks: Tensor | None = None) -> Tensor:
        """Map `[R, B, o]`, `[R, B, a]` and timesteps `[R, B, 1]` to noise `[R, B, a]`.

        Args:
            observations: s.
            x: noisy actions.
            k: their timesteps, as floats.
            masks: dropout masks, `[R, B, blocks, width]`, or None.
        """
        phases = 2 * math.pi * k * self.frequencies
        time = self.time[1](F.silu(self.time[0](torch.cat([phases.cos(), phases.sin()], -1))))
        hidden = self.entry(torch.cat([observations, x, time], -1)).squeeze(1)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, None if masks is None else masks[:, :, i])
        return head(F.silu(hidden), self.exit.weight, self.exit.bias)
