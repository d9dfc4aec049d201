"""Updates compiled by PyTorch's Inductor, which fuses the element-wise operations between matrix products."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from flp.learner.trainable import Batch, Learner, Logs
from flp.system.errors import first_line

_Update = Callable[[Batch, dict[str, Tensor]], Logs]
_LEARNERS = 10_000  # compiled in one process: a sweep over N on a GPU has one for each N


class Compiled:
    """A learner's update, compiled as a whole when it is first called: a minute, or seconds once it is cached.

    It is recompiled when something changes that the code was specialised for, such as on a CPU whether the step is due
    that only some updates take: the others do not compute it. If compilation fails, for want of a C++ compiler for
    instance, nothing has been computed yet; a warning is printed and the update runs uncompiled.
    """

    def __init__(self, learner: Learner) -> None:
        self.failure: str | None = None  # why it could not be compiled
        self.learner = learner
        self.call: _Update = torch.compile(learner.update, fullgraph=True, dynamic=False)

    def __call__(self, batch: Batch, noise: dict[str, Tensor]) -> Logs:
        """Take one gradient step, see `Learner.update`."""
        if self.failure is not None:
            return self.learner.update(batch, noise)
        # Imported here, because importing the compiler takes as long as importing the rest of torch.
        from torch._dynamo import config as dynamo
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor import config as inductor

        # Gradients are part of the update; kernels are not chosen by timing, and compilation takes no further threads.
        # Every learner of a process is a recompilation of the same method, of which PyTorch by default allows eight.
        limits = dynamo.patch(recompile_limit=_LEARNERS, accumulated_recompile_limit=_LEARNERS)
        with limits, dynamo.patch(trace_autograd_ops=True), inductor.patch(compile_threads=1, deterministic=True):
            moves = self.learner.moves()
            self.learner.decided = moves if isinstance(moves, bool) else None
            try:
                return self.call(batch, noise)
            except TorchDynamoException as error:
                self.failure = first_line(error)
                print(f"warning: offline.compile: {self.failure}; going on without", file=sys.stderr)
            finally:
                self.learner.decided = None
        return self.learner.update(batch, noise)
