"""A pool of environments in a few worker processes, stepped together.

An evaluation needs hundreds of cheap environments on a few cores, so each worker owns a share of them, and one message
per worker advances its whole share by one step. Observations, actions, rewards and flags are in memory shared with the
workers: an anonymous file passed by descriptor, not a named segment, so that nothing is left behind, whatever dies.

Why not gymnasium's `AsyncVectorEnv`: it is no faster even with shares, and its workers die of signals to the process
group without saying which.

Workers (`flp.evaluation.worker`) are plain subprocesses; unlike those of `multiprocessing`, they do not run the
caller's main module again. They end when their pipe closes.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flp.data.environments import EnvironmentSpec, spec_of
from flp.evaluation.worker import Arrays, Failure, Request, Share, layout
from flp.system.errors import FLPError

_SERVE = "import sys; from flp.evaluation.worker import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"
MOST = 100_000  # environments; each takes a megabyte or more
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Step:
    """The result of one step, per slot; rows of inactive slots are meaningless.

    Attributes:
        observations: `[S, o]` float32.
        rewards: `[S]` float32.
        terminated: `[S]` bool.
        truncated: `[S]` bool.
        success: `[S]` bool.
    """

    observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]


class _Worker:
    """The pool's handle of a process with a share of the environments."""

    def __init__(self, share: Share, form: np.dtype[np.void], memory: int) -> None:
        self.slots = share.slots
        ours, theirs = socket.socketpair()
        with theirs:
            self.channel = Connection(ours.detach())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                process_group=0,  # signals to the parent's group are handled by the parent
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.send((form, share.spec, share.tasks, share.success_timing, share.worker))

    def send(self, message: object) -> None:
        """Send a request; if the worker is dead, `receive` notices."""
        with suppress(OSError):
            self.channel.send(message)

    def receive(self) -> Failure | None:
        try:
            failure: Failure | None = self.channel.recv()
        except (EOFError, OSError):
            self.channel.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
            return f"its process died (exit status {self.process.poll()}); is there enough memory?", ""
        return failure

    def close(self) -> None:
        self.channel.close()
        self.process.kill()  # it holds nothing that needs an orderly shutdown
        self.process.wait()


class _Local:
    """A share of the environments in this process, with the interface of `_Worker`."""

    def __init__(self, share: Share) -> None:
        self.share, self.slots = share, share.slots
        self.answers: deque[Failure | None] = deque()

    def send(self, message: Request) -> None:
        self.answers.append(self.share.handle(message))

    def receive(self) -> Failure | None:
        return self.answers.popleft()

    def close(self) -> None:
        self.share.close()


class EnvironmentPool(AbstractContextManager["EnvironmentPool", None]):
    """S slots, each with one environment, stepped together by worker processes.

    There is no automatic reset: after an episode ends, the caller resets the slot, and thus sees the true last
    observation. A slot's results depend on its seed and actions alone, not on the other slots or the number of workers.
    Close the pool, or use it as a context manager.

    Args:
        dataset: the environment, by spec or by the name of an OGBench dataset.
        tasks: the task of each slot, from 1.
        workers: number of processes; 0 keeps all environments in this process.
        success_timing: as in `make_environment`.
        names: what messages call the slots instead of by their numbers.

    Raises:
        FLPError: an environment cannot be made, or, in any method, a worker died or its environment failed;
            the message names slot, dataset and task, and the pool is closed.
    """

    def __init__(
        self,
        dataset: EnvironmentSpec | str,
        tasks: Sequence[int],
        *,
        workers: int = 0,
        success_timing: str = "pre",
        names: Sequence[str] | None = None,
    ) -> None:
        if not tasks or workers < 0:
            raise FLPError(f"a pool needs slots and workers >= 0, not {len(tasks)} slots, {workers} workers")
        if len(tasks) > MOST:
            raise FLPError(f"{len(tasks):,} environments are too many at once, {MOST:,} are possible: fewer episodes")
        self.spec, self.tasks, self.success_timing = spec_of(dataset), list(tasks), success_timing
        self.observation_dim, self.action_dim = self.spec.observation_dim, self.spec.action_dim
        self.names = list(names) if names is not None else [f"slot {slot}" for slot in range(len(tasks))]
        self._closed = False
        self._workers: list[_Worker | _Local] = []
        try:
            self._start(workers)
        except BaseException:
            self.close()
            raise

    def _start(self, workers: int) -> None:
        count = max(1, min(workers, len(self)))
        form = layout(len(self), count, self.observation_dim, self.action_dim)
        # Needs neither /dev/shm nor a folder for temporary files.
        with open(os.memfd_create("flp"), "rb+") as file:
            file.truncate(form.itemsize)
            self._arrays = Arrays(mmap.mmap(file.fileno(), form.itemsize), form)
            self._arrays.stepping[:] = -1
            for number in range(count):
                # Slots are dealt round-robin, which spreads those of a task over the workers.
                tasks = {slot: self.tasks[slot] for slot in range(number, len(self), count)}
                share = Share(self._arrays, self.spec, tasks, self.success_timing, number)
                self._workers.append(_Worker(share, form, file.fileno()) if workers else _Local(share))
        for worker in self._workers:
            worker.send(None)
        self._receive()

    def __len__(self) -> int:
        return len(self.tasks)

    def reset(self, slots: Sequence[int] | NDArray[np.int64], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Start a seeded episode in each of the given slots; return all current observations `[S, o]`."""
        self._require_open()
        by_slot = dict(zip(map(int, slots), map(int, seeds), strict=True))
        for worker in self._workers:
            worker.send({slot: by_slot[slot] for slot in worker.slots.tolist() if slot in by_slot})
        self._receive()
        return self._arrays.observations.copy()

    def step(self, actions: ArrayLike, active: ArrayLike) -> Step:
        """Advance the active slots by one step; the others are left unchanged.

        Args:
            actions: `[S, a]`, in [-1, 1].
            active: `[S]` bool.
        """
        self._require_open()
        active = np.array(active, np.bool_)
        self._arrays.actions[active] = np.asarray(actions, np.float32)[active]
        for worker in self._workers:
            worker.send(active[worker.slots].tobytes())
        self._receive()
        arrays = self._arrays
        terminated, truncated, success = arrays.flags.T.copy()
        return Step(arrays.observations.copy(), arrays.rewards.copy(), terminated, truncated, success)

    def _receive(self) -> None:
        """Wait for one answer from every worker."""
        for number, worker in enumerate(self._workers):
            failure = worker.receive()
            if failure is not None:
                self._fail(number, *failure)

    def _fail(self, number: int, message: str, trace: str) -> NoReturn:
        slot = int(self._arrays.stepping[number])
        if slot >= 0:
            place = f"{self.names[slot]} ({self.spec.dataset}, task {self.tasks[slot]})"
        else:
            slots = self._workers[number].slots.tolist()
            tasks = sorted({self.tasks[slot] for slot in slots})
            place = f"{', '.join(self.names[slot] for slot in slots)} ({self.spec.dataset}, tasks {tasks}), idle"
        self.close()
        error = FLPError(f"environment worker {number} failed in {place}: {message}")
        if trace:
            error.add_note(trace)
        raise error

    def _require_open(self) -> None:
        if self._closed:
            raise FLPError(f"the environment pool of {self.spec.dataset} is closed; make a new one")

    def close(self) -> None:
        """Stop the workers and close the environments; may be called twice."""
        self._closed = True
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __exit__(self, *exception: object) -> None:
        self.close()
