"""AdamW with a cosine rate, computed from the step count on the device, so that captured updates know it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flp.learner.optimizers import _BETA_1, _BETA_2, _EPSILON, Adam


class CosineAdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) whose rate falls to zero along half a cosine.

    Args:
        parameters: what to optimize.
        learning_rate: the rate of the first step.
        decay_steps: steps after which the rate is zero.
        weight_decay: the share by which a rate of 1 would shrink every parameter.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, decay_steps: int, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.decay_steps, self.weight_decay = decay_steps, weight_decay

    def rate(self) -> Tensor:
        """The next step's rate, without dimension."""
        done = (self.steps[0] / self.decay_steps).clamp(max=1)
        return 0.5 * self.learning_rate * (1 + torch.cos(math.pi * done))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters down their gradients, in the parameters' order."""
        rate = self.rate()
        if torch.compiler.is_dynamo_compiling():
            self._decayed_step_in_parts(gradients, rate)
            return
        torch._foreach_add_(self.steps, 1)
        torch._fused_adamw_(
            self.parameters,
            list(gradients),
            self.mean,
            self.variance,
            [],
            self.steps,
            lr=rate,
            beta1=_BETA_1,
            beta2=_BETA_2,
            weight_decay=self.weight_decay,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def _decayed_step_in_parts(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        for p, g, mean, variance, steps in zip(
            self.parameters, gradients, self.mean, self.variance, self.steps, strict=True
        ):
            steps.add_(1)
            mean.lerp_(g, 1 - _BETA_1)
            variance.lerp_(g.square(), 1 - _BETA_2)
            root = (variance / (1 - _BETA_2**steps)).sqrt()
            p.mul_(1 - rate * self.weight_decay).sub_(rate / (1 - _BETA_1**steps) * mean / (root + _EPSILON))
