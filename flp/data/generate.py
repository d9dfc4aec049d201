"""Generating a dataset: episodes recorded in several processes, stored as they finish, written in OGBench's format."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import traceback
import zipfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.connection import Connection as Channel
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

import numpy as np

from flp.data.archive import write_npz
from flp.data.environments import specification, with_validation
from flp.data.episodes import Arrays, Collector, Recipe
from flp.system.artifacts import versions
from flp.system.errors import FLPError
from flp.system.portability import environment_variable
from flp.system.progress import Progress
from flp.system.stopping import end_with_parent

POLICIES = ("scripted", "random")
_SHARD_STEPS = 4000  # a few seconds of work, so that an interruption loses little

Span = tuple[int, int]
"""The episodes `first`, …, `last - 1`."""


def generate(
    dataset: str,
    train_path: Path | str,
    val_path: Path | str,
    *,
    seed: int,
    workers: int,
    episodes: int | None = None,
    steps_per_episode: int | None = None,
    noise: float | None = None,
    policy: str = "scripted",
    progress: bool = True,
    resume_dir: Path | None = None,
) -> Recipe:
    """Generate training and validation files with OGBench's scripted controllers.

    The data depend on `dataset`, `seed`, `episodes`, `steps_per_episode`, `noise`, `policy` and the library versions;
    not on `workers`, interruptions, or the order in which episodes finish. Source: OGBench,
    `data_gen_scripts/generate_locomaze.py`, `generate_manipspace.py` and `commands.sh`.

    Args:
        dataset: name of the dataset.
        train_path: file for the training episodes (`.npz`).
        val_path: file for the validation episodes: a tenth as many, at least one.
        seed: seed of the dataset; each episode derives its own.
        workers: number of processes; with 1, this one.
        episodes: training episodes; the official number if None.
        steps_per_episode: rows per episode, at least 2; the official number if None.
        noise: scale of the action noise; the official one if None.
        policy: `scripted`, or `random` for uniformly random actions in any environment.
        progress: whether to show the progress.
        resume_dir: folder that stores finished episodes until the files are written, so that an interrupted call can
            resume; None stores nothing.

    Returns:
        The recipe.

    Raises:
        FLPError: an argument out of range, no scripted controller, a full disk, or a worker that died.
    """
    spec = specification(dataset)
    episodes = spec.episodes if episodes is None else episodes
    recipe = Recipe(
        dataset=dataset,
        steps=spec.steps_per_episode if steps_per_episode is None else steps_per_episode,
        seed=seed,
        noise=spec.noise if noise is None else noise,
        policy=policy,
    )
    _check(recipe, episodes, workers)
    total = with_validation(episodes)
    shards = Shards(recipe, _spans(total, recipe.steps), resume_dir)
    rows = _collect(recipe, total, shards, workers, progress)
    split = episodes * recipe.steps
    write_npz(train_path, {key: array[:split] for key, array in rows.items()})
    write_npz(val_path, {key: array[split:] for key, array in rows.items()})
    shards.remove()
    return recipe


def _check(recipe: Recipe, episodes: int, workers: int) -> None:
    if recipe.policy not in POLICIES:
        raise FLPError(f"policy '{recipe.policy}' is unknown; use 'scripted' or 'random'")
    if recipe.policy == "scripted" and not specification(recipe.dataset).can_generate:
        raise FLPError(
            f"{recipe.dataset} needs a trained expert and cannot be generated here; use source 'ogbench' "
            "(download) or 'path' (a file you have)"
        )
    for name, value, least in (
        ("episodes", episodes, 1),
        ("steps_per_episode", recipe.steps, 2),
        ("workers", workers, 1),
        ("seed", recipe.seed, 0),
        ("noise", recipe.noise, 0),
    ):
        if not value >= least:
            raise FLPError(f"{recipe.dataset}: {name} is {value}; it must be at least {least}")


def _spans(total: int, steps: int) -> list[Span]:
    """Cut the episodes into shards, independently of the number of workers."""
    size = max(1, min(_SHARD_STEPS // steps, total // 8))
    return [(first, min(first + size, total)) for first in range(0, total, size)]


class Shards:
    """Finished episodes on disk, in files named by everything that determines their content."""

    def __init__(self, recipe: Recipe, spans: list[Span], folder: Path | None) -> None:
        self.spans = spans
        self.folder = folder
        described = json.dumps([asdict(recipe), versions()], sort_keys=True)
        self._name = hashlib.sha256(described.encode()).hexdigest()[:16]

    def path(self, span: Span) -> Path | None:
        """The file of a shard, whether or not it exists; None if nothing is stored."""
        return self.folder and self.folder / f"{self._name}-{span[0]:06d}-{span[1]:06d}.npz"

    def load(self, span: Span) -> Arrays | None:
        """A stored shard, or None if there is no complete one."""
        path = self.path(span)
        if path is None or not path.exists():
            return None
        try:
            # Opened here, as NumPy does not close a file that it cannot read.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            path.unlink()
            return None

    def save(self, span: Span, arrays: Arrays) -> None:
        """Store a shard."""
        path = self.path(span)
        if path is not None:
            write_npz(path, arrays)

    def remove(self) -> None:
        """Delete this recipe's shards, incomplete ones included, and the folder if that leaves it empty."""
        if self.folder is None or not self.folder.exists():
            return
        for pattern in (f"{self._name}-*.npz", f".{self._name}-*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _collect(recipe: Recipe, total: int, shards: Shards, workers: int, progress: bool) -> Arrays:
    """All rows, in the order of the episodes; stored shards are not made again."""
    rows: Arrays = {}

    def put(span: Span, arrays: Arrays) -> None:
        for key, array in arrays.items():
            if key not in rows:
                rows[key] = np.empty((total * recipe.steps, *array.shape[1:]), array.dtype)
            rows[key][span[0] * recipe.steps : span[1] * recipe.steps] = array

    missing = []
    with Progress(f"generating {recipe.dataset}", total * recipe.steps, "steps", quiet=not progress) as bar:
        for span in shards.spans:
            arrays = shards.load(span)
            if arrays is None:
                missing.append(span)
            else:
                put(span, arrays)
                bar.begin(int(bar.n) + len(arrays["terminals"]))
        with closing(_make(recipe, missing, workers)) as made:
            for span, arrays in made:
                shards.save(span, arrays)
                put(span, arrays)
                bar.update(bar.n + len(arrays["terminals"]))
    return rows


def _make(recipe: Recipe, spans: list[Span], workers: int) -> Generator[tuple[Span, Arrays], None, None]:
    """Make shards and yield each when it is finished."""
    workers = min(workers, len(spans))
    if workers <= 1:
        collector = Collector(recipe) if spans else None
        for span in spans:
            assert collector is not None
            yield span, _join(collector, span)
        return
    try:
        yield from _make_in_processes(recipe, spans, workers)
    except (EOFError, ConnectionError) as error:
        raise FLPError(
            f"{recipe.dataset}: a worker process died, perhaps for want of memory; run again with fewer "
            f"workers than {workers}"
        ) from error


def _make_in_processes(recipe: Recipe, spans: list[Span], workers: int) -> Generator[tuple[Span, Arrays], None, None]:
    """As `_make`, in worker processes, which end with this generator, however it ends.

    They communicate over pipes: the queues of `concurrent.futures` need /dev/shm, which some machines lack.
    """
    # Spawned, as forking a process with threads (PyTorch's) is unsafe.
    context = multiprocessing.get_context("spawn")
    waiting = iter(spans)
    crew: list[tuple[SpawnProcess, Channel]] = []
    given: dict[Channel, list[Span]] = {}
    try:
        with environment_variable("OMP_NUM_THREADS", "1"):
            for _ in range(workers):
                ours, theirs = context.Pipe()
                crew.append((context.Process(target=_work, args=(recipe, theirs), daemon=True), ours))
                crew[-1][0].start()
                theirs.close()
        given = {channel: [] for _, channel in crew}
        # Two shards per worker keep it busy; more would pile up results in memory.
        for channel, span in zip(2 * list(given), waiting, strict=False):
            given[channel].append(span)
            channel.send(span)
        while any(given.values()):
            for channel in cast(list[Channel], connection.wait([c for c, left in given.items() if left])):
                arrays = channel.recv()
                if isinstance(arrays, Exception):
                    raise arrays
                span = given[channel].pop(0)
                if (following := next(waiting, None)) is not None:
                    given[channel].append(following)
                    channel.send(following)
                yield span, arrays
    finally:
        for process, channel in crew:
            channel.close()
            if process.pid is not None:
                process.terminate()
                process.join()


def _join(collector: Collector, span: Span) -> Arrays:
    episodes = list(collector.episodes(*span))
    return {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}


def _work(recipe: Recipe, channel: Channel) -> None:
    """A worker: answers each span with its arrays; leaves Ctrl-C to the parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        collector = Collector(recipe)
        while True:
            span = channel.recv()
            channel.send(_join(collector, span))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        error.add_note(traceback.format_exc())
        channel.send(error)
