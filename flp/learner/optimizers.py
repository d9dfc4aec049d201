"""Optimizers over stacked parameters: element-wise, so that runs never mix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba, 2015) over stacked parameters, as one fused kernel call per step.

    Element-wise, so runs do not mix. `torch.optim.Adam(fused=True)` calls the same kernel; its bookkeeping around
    it takes several times as long as the kernel on small networks.

    Args:
        parameters: what to optimize.
        learning_rate: the step size.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.learning_rate = learning_rate
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.variance = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters down their gradients, in the parameters' order."""
        if torch.compiler.is_dynamo_compiling():
            self._step_in_parts(gradients)
            return
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self.mean,
            self.variance,
            [],
            self.steps,
            lr=self.learning_rate,
            beta1=_BETA_1,
            beta2=_BETA_2,
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def _step_in_parts(self, gradients: Sequence[Tensor]) -> None:
        """The same in plain operations: the compiler fuses those, and cannot look into the kernel."""
        for p, g, mean, variance, steps in zip(
            self.parameters, gradients, self.mean, self.variance, self.steps, strict=True
        ):
            steps.add_(1)
            mean.lerp_(g, 1 - _BETA_1)
            variance.lerp_(g.square(), 1 - _BETA_2)
            root = (variance / (1 - _BETA_2**steps)).sqrt()
            p.sub_(self.learning_rate / (1 - _BETA_1**steps) * mean / (root + _EPSILON))

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts, `{parameter}.{field}`."""
        fields = {"mean": self.mean, "variance": self.variance, "step": self.steps}
        return {f"{i}.{name}": tensor for name, tensors in fields.items() for i, tensor in enumerate(tensors)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def descend(optimizer: Adam, losses: Tensor) -> None:
    """One step down the sum of per-run losses `[R]`: gradients of different runs never mix."""
    optimizer.step(torch.autograd.grad(losses.sum(), optimizer.parameters))
