"""Queues of evaluations: in a background thread while training continues, or immediately while it waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from flp.evaluation.evaluator import Act
from flp.randomness.streams import RunStreams

Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


class Judge(Protocol[ResultOut]):
    """Evaluates policies: an `Evaluator`, or an estimator where there is no simulator."""

    device: torch.device
    record: int

    def evaluate(self, act: Act) -> ResultOut:
        """Evaluate one policy."""

    def interrupt(self) -> None:
        """Stop an evaluation running in another thread."""

    def close(self) -> None:
        """Release what is open."""


class ImmediateEvaluator(Generic[Result]):
    """A `BackgroundEvaluator` that evaluates in the caller's thread, at once.

    Args:
        evaluator: evaluates; it is closed with this object.
        tick: called before every action; may raise to stop the evaluation.
    """

    def __init__(self, evaluator: Judge[Result], tick: Callable[[], None] = lambda: None) -> None:
        self.evaluator, self.tick = evaluator, tick
        self._results: list[tuple[int, Result]] = []

    def submit(self, step: int, act: Act) -> None:
        """Evaluate a policy."""

        def act_with_tick(observations: Tensor, streams: RunStreams) -> Any:
            self.tick()
            return act(observations, streams)

        self._results.append((step, self.evaluator.evaluate(act_with_tick)))

    def finished(self) -> list[tuple[int, Result]]:
        """Return the new `(step, result)` pairs, in the order of submission."""
        results, self._results = self._results, []
        return results

    def wait(self, timeout: float | None = None) -> list[tuple[int, Result]]:
        """As `finished`: there is nothing to wait for."""
        return self.finished()

    def close(self) -> None:
        """Close the evaluator."""
        self.evaluator.close()


class BackgroundEvaluator(AbstractContextManager["BackgroundEvaluator[Any]", None], Generic[Result]):
    """Evaluates snapshots while the caller continues training.

    Worker processes step the environments, and the policy runs in a thread, which releases the interpreter lock during
    matrix products; on a GPU it uses its own stream. The results equal those of `evaluator.evaluate`.

    Args:
        evaluator: evaluates; it is closed with this object and must not be used elsewhere in the meantime.
    """

    def __init__(self, evaluator: Judge[Result]) -> None:
        self.evaluator = evaluator
        torch.get_num_threads()  # fixes the caller's count before the evaluation thread sets its own
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._submitted: deque[tuple[int, Future[Result]]] = deque()
        on_gpu = evaluator.device.type == "cuda"
        self._stream = torch.cuda.Stream(evaluator.device) if on_gpu else None  # type: ignore[no-untyped-call]

    def submit(self, step: int, act: Act) -> None:
        """Queue an evaluation; `act` must use a copy of the policy that training does not modify."""
        if self._stream is not None:
            # The copy must be complete before it is read.
            torch.cuda.current_stream(self.evaluator.device).synchronize()
        self._submitted.append((step, self._executor.submit(self._evaluate, act)))

    def _evaluate(self, act: Act) -> Result:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            result = self.evaluator.evaluate(act)
        if self._stream is not None:
            self._stream.synchronize()  # a result may hold tensors, which are read on another stream
        return result

    def finished(self) -> list[tuple[int, Result]]:
        """Return the new `(step, result)` pairs, in the order of submission.

        Raises:
            Exception: whatever an evaluation raised.
        """
        results: list[tuple[int, Result]] = []
        while self._submitted and self._submitted[0][1].done():
            if results and self._submitted[0][1].exception():
                break  # return these results; the next call raises
            step, future = self._submitted.popleft()
            results.append((step, future.result()))
        return results

    def wait(self, timeout: float | None = None) -> list[tuple[int, Result]]:
        """Wait for everything submitted, at most `timeout` seconds, then as `finished`."""
        wait([future for _, future in self._submitted], timeout)
        return self.finished()

    def close(self) -> None:
        """Abandon unfinished evaluations and close the evaluator."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.evaluator.interrupt()
        self._executor.shutdown()
        self.evaluator.close()

    def __exit__(self, *exception: object) -> None:
        self.close()
