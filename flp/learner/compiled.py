"""Updates compiled by PyTorch's Inductor, which fuses what is done to every number between the matrix products."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from flp.learner.trainable import Batch, Logs
from flp.system.errors import first_line

Update = Callable[[Batch, dict[str, Tensor]], Logs]


class Compiled:
    """A learner's update, compiled as a whole when it is first called: that takes a minute, or seconds the next time.

    It is compiled anew where something has changed that the code was made for. Nothing has been computed when
    compilation fails, for want of a C++ compiler for instance. Then one line says so and the update stays as it is.
    """

    def __init__(self, update: Update) -> None:
        self.failure: str | None = None  # why it could not be compiled
        self.update: Update = update
        self.call: Update = torch.compile(update, fullgraph=True, dynamic=False)

    def __call__(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one step, as `Learner.update`."""
        if self.call == self.update:
            return self.update(batch, noise)
        # Imported by those who compile: the compiler takes as long as all else of torch.
        from torch._dynamo import config as dynamo
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor import config as inductor

        # The gradients are part of the update; nothing is chosen by its speed, and no thread taken that was not given.
        with dynamo.patch(trace_autograd_ops=True), inductor.patch(compile_threads=1, deterministic=True):
            try:
                return self.call(batch, noise)
            except TorchDynamoException as error:
                self.failure = first_line(error)
                print(f"warning: offline.compile: {self.failure}; going on without", file=sys.stderr)
        self.call = self.update
        return self.update(batch, noise)
