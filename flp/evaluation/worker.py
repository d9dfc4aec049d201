"""A worker of the environment pool: a process with a share of the environments, and the memory shared with it.

It imports simulators but never PyTorch, and ends when its channel closes.
"""

from __future__ import annotations

import mmap
import signal
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import EnvironmentSpec, make_environment, numpy_seeded, seeded_reset, simulator_importable
from flp.system.errors import FLPError, explained

Request = None | bytes | dict[int, int]
Failure = tuple[str, str]  # message, traceback


def layout(slots: int, workers: int, observation_dim: int, action_dim: int) -> np.dtype[np.void]:
    """Layout of the shared memory; its size is `itemsize`."""
    return np.dtype(
        [
            ("stepping", np.int64, (workers,)),  # the slot each worker is busy with, or -1
            ("observations", np.float32, (slots, observation_dim)),
            ("actions", np.float32, (slots, action_dim)),
            ("rewards", np.float32, (slots,)),
            ("flags", np.bool_, (slots, 3)),  # terminated, truncated, success
        ]
    )


class Arrays:
    """Views of the memory through which a pool and its workers exchange data."""

    def __init__(self, buffer: Any, form: np.dtype[np.void]) -> None:
        fields: list[NDArray[Any]] = list(np.frombuffer(buffer, form)[0])
        self.stepping, self.observations, self.actions, self.rewards, self.flags = fields


@contextmanager
def _shared_models() -> Iterator[None]:
    """Let the manipulation environments made in this block share their compiled models and mesh files.

    OGBench compiles the same two models of about 60 MB for each environment. Later, environments differ in colours and
    in the damping of locked joints, which `Share.step` swaps.
    """
    with simulator_importable():
        import mujoco

        files: Any = import_module("dm_control.utils.io")
    compile_model, read = mujoco.MjModel.from_xml_string, files.GetResource
    models: dict[tuple[str, ...], Any] = {}

    def compile_once(xml: str, assets: dict[str, bytes] | None = None) -> Any:
        key = (xml, *sorted(assets or ()))
        if key not in models:
            models[key] = compile_model(xml, assets)
        return models[key]

    mujoco.MjModel.from_xml_string, files.GetResource = compile_once, cache(read)
    try:
        yield
    finally:
        mujoco.MjModel.from_xml_string, files.GetResource = compile_model, read


class Share:
    """The environments of one worker, `{slot: task}`; observations and other results are written to `arrays`."""

    def __init__(
        self, arrays: Arrays, spec: EnvironmentSpec, tasks: dict[int, int], success_timing: str, worker: int
    ) -> None:
        self.spec, self.tasks, self.success_timing = spec, tasks, success_timing
        self.worker, self.arrays = worker, arrays
        self.slots = np.array(list(tasks))
        # Teleports draw their exits from NumPy's global generator; a user's environment may do so, too.
        self.draws_globally = "teleport" in spec.dataset or not spec.of_ogbench
        self.environments: dict[int, Any] = {}
        self.seeds: dict[int, int] = {}
        self.damping: dict[int, NDArray[np.float64]] = {}

    def handle(self, request: Request) -> Failure | None:
        """Build the environments (None), step slots (one nonzero byte each) or reset (`{slot: seed}`)."""
        try:
            if request is None:
                self.build()
            elif isinstance(request, bytes):
                self.step(self.slots[np.frombuffer(request, np.bool_)].tolist())
            else:
                self.reset(request)
        except FLPError as error:
            return str(error), traceback.format_exc()
        except OSError as error:
            return explained(error), traceback.format_exc()
        except Exception as error:
            return f"{type(error).__name__}: {error}", traceback.format_exc()
        return None

    def build(self) -> None:
        """Make the environments."""
        with _shared_models() if self.spec.of_ogbench else nullcontext():
            for slot, task in self.tasks.items():
                with self._busy_with(slot):
                    environment = self.environments[slot] = make_environment(self.spec, task, self.success_timing)
                    if self.spec.family == "manipulation":
                        environment.unwrapped.reports_info = False  # `step` only reads success
                    seeded_reset(environment, 0)  # manipulation environments compile their model only now

    def reset(self, seeds: dict[int, int]) -> None:
        """Start a seeded episode in some slots."""
        for slot, seed in seeds.items():
            with self._busy_with(slot):
                self.arrays.observations[slot], _ = seeded_reset(self.environments[slot], seed)
                self.seeds[slot] = seed
                self.damping[slot] = self._damping(slot).copy()

    def step(self, slots: Sequence[int]) -> None:
        """Step slots with the actions in the shared memory."""
        arrays = self.arrays
        for slot in slots:
            with self._busy_with(slot), self._own_randomness(slot):
                damping = self._damping(slot)
                damping[:] = self.damping[slot]
                observation, reward, terminated, truncated, info = self.environments[slot].step(
                    arrays.actions[slot].copy()
                )
                arrays.observations[slot] = observation
                arrays.rewards[slot] = reward
                arrays.flags[slot] = terminated, truncated, bool(info["success"])
                self.damping[slot][:] = damping

    def _damping(self, slot: int) -> NDArray[np.float64]:
        """The joints' damping, by which the scene's buttons lock joints, in a model that slots may share."""
        if not self.spec.of_ogbench:
            return np.empty(0)
        damping: NDArray[np.float64] = self.environments[slot].unwrapped.model.dof_damping
        return damping

    @contextmanager
    def _busy_with(self, slot: int) -> Iterator[None]:
        # Not cleared on an error: the pool reads the failed slot here, even after a crash.
        self.arrays.stepping[self.worker] = slot
        yield
        self.arrays.stepping[self.worker] = -1

    def _own_randomness(self, slot: int) -> AbstractContextManager[None]:
        """The slot's own seed for NumPy's global generator, if steps draw from it: a worker's slots share it."""
        if not self.draws_globally:
            return nullcontext()
        self.seeds[slot] += 1
        return numpy_seeded(self.seeds[slot])

    def close(self) -> None:
        """Close the environments."""
        for environment in self.environments.values():
            environment.close()
        self.environments.clear()


def serve(channel_descriptor: int, memory_descriptor: int) -> None:
    """Run a worker until its channel closes; called in the worker process.

    It receives the layout and the arguments of its share, then requests, and answers each with a failure or None.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides; it closes the channel
    warnings.simplefilter("ignore")
    with Connection(channel_descriptor) as channel:
        try:
            form, *arguments = channel.recv()
            arrays = Arrays(mmap.mmap(memory_descriptor, form.itemsize), form)
            share = Share(arrays, *arguments)
            while True:
                channel.send(share.handle(channel.recv()))
        except (EOFError, OSError):
            return
