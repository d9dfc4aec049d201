"""Adam over the stacked parameters of R runs, which never mix, with the options that some algorithms need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba, 2015) over stacked parameters, as one fused kernel call per step.

    It is element-wise, so that runs do not mix. `torch.optim.Adam(fused=True)` calls the same kernel, but its
    bookkeeping takes several times as long as the kernel on small networks.

    Args:
        parameters: what to optimize.
        learning_rate: the step size.
        decay_steps: updates, including those in which it rests, over which the rate decays to zero along half a
            cosine; None for a constant rate.
        weight_decay: decoupled weight decay, multiplied by the rate (AdamW, Loshchilov and Hutter, 2019).
        clip_norm: the largest norm of a run's gradient over all parameters; None for no bound.
        runs: how many runs are stacked along the parameters' first axis; needed by `clip_norm`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        decay_steps: int | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        runs: int = 1,
    ) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.learning_rate, self.decay_steps, self.weight_decay = learning_rate, decay_steps, weight_decay
        self.clip_norm, self.runs = clip_norm, runs
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.variance = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self.updates = torch.zeros((), device=self.parameters[0].device)

    def rate(self) -> Tensor | float:
        """The next step's rate; a decaying one is a 0-d tensor, so that a captured update reads its current value."""
        if self.decay_steps is None:
            return self.learning_rate
        done = (self.updates / self.decay_steps).clamp(max=1)
        return 0.5 * self.learning_rate * (1 + torch.cos(math.pi * done))

    def clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients, each run's clipped to a norm of `clip_norm` (as by `torch.nn.utils.clip_grad_norm_`)."""
        if self.clip_norm is None:
            return list(gradients)
        squares = [g.reshape(self.runs, -1).square().sum(1) for g in gradients]
        norm = torch.stack(squares).sum(0).sqrt()
        factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1)
        return [(g.reshape(self.runs, -1) * factor[:, None]).reshape(g.shape) for g in gradients]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step along the gradients, which are in the parameters' order."""
        rate, gradients = self.rate(), self.clipped(gradients)
        self.updates.add_(1)
        if torch.compiler.is_dynamo_compiling():
            self._step_in_parts(gradients, rate)
            return
        torch._foreach_add_(self.steps, 1)
        torch._fused_adamw_(
            self.parameters,
            self._laid_out(gradients),
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

    def _laid_out(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients in the parameters' layout: the kernel goes through memory and would mix up a transposed one."""
        return [
            g if g.is_contiguous() and p.is_contiguous() else torch.empty_like(p).copy_(g)
            for p, g in zip(self.parameters, gradients, strict=True)
        ]

    @torch.no_grad()
    def rest(self) -> None:
        """Count an update in which the parameters do not move."""
        self.updates.add_(1)

    def _step_in_parts(self, gradients: Sequence[Tensor], rate: Tensor | float) -> None:
        """The same step in plain operations, which the compiler can fuse, unlike the kernel."""
        for p, g, mean, variance, steps in zip(
            self.parameters, gradients, self.mean, self.variance, self.steps, strict=True
        ):
            steps.add_(1)
            mean.lerp_(g, 1 - _BETA_1)
            variance.lerp_(g.square(), 1 - _BETA_2)
            root = (variance / (1 - _BETA_2**steps)).sqrt()
            if self.weight_decay:
                p.mul_(1 - rate * self.weight_decay)
            p.sub_(rate / (1 - _BETA_1**steps) * mean / (root + _EPSILON))

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts as `{parameter}.{field}`, and the number of updates."""
        fields = {"mean": self.mean, "variance": self.variance, "step": self.steps, "updates": [self.updates]}
        return {f"{i}.{name}": tensor for name, tensors in fields.items() for i, tensor in enumerate(tensors)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def descend(optimizer: Adam, losses: Tensor, moves: bool | Tensor = True) -> None:
    """One gradient step on per-run losses `[R]`: the gradients of different runs never mix.

    If `moves` (a bool, or a 0-d bool tensor on the device) is false, parameters, moments and step counts stay as they
    are.
    """
    if moves is False:
        optimizer.rest()
        return
    gradients = torch.autograd.grad(losses.sum(), optimizer.parameters)
    if moves is True:
        optimizer.step(gradients)
        return
    state = [*optimizer.parameters, *optimizer.mean, *optimizer.variance, *optimizer.steps]
    before = [tensor.detach().clone() for tensor in state]
    optimizer.step(gradients)
    with torch.no_grad():
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(torch.where(moves, tensor, old))
