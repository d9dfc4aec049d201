"""What can be trained: stacked parameters of R runs, their optimizers, and how they update.

A learner draws the randomness of its updates ahead and updates by pure tensor code, without synchronising with
the host, so that updates can be captured into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flp.streams import RunStreams

Batch = dict[str, Tensor]
"""`observations`, `actions` and more, each `[R, B, ...]`."""
Logs = dict[str, Tensor]
"""Per-run scalars `[R]`."""

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Learner(nn.Module):
    """Base of all that is trained."""

    optimizers: list[Adam]

    def draw(self, streams: RunStreams, updates: int, batch_size: int) -> dict[str, Tensor]:
        """Draw the random numbers of some updates, each `[updates, R, batch_size, ...]`."""
        raise NotImplementedError

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step of every network on a batch `[R, B, ...]`; return per-run scalars."""
        raise NotImplementedError

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimizer tensors by a flat name, `{optimizer}.{parameter}.{field}`."""
        return {
            f"{i}.{name}": t for i, optimizer in enumerate(self.optimizers) for name, t in optimizer.state().items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave."""
        for i, optimizer in enumerate(self.optimizers):
            optimizer.restore({k.removeprefix(f"{i}."): t for k, t in tensors.items() if k.startswith(f"{i}.")})


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
