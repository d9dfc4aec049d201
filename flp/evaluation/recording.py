"""Recordings of episodes, saved as a file of transitions and as films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import EnvironmentSpec
from flp.evaluation.pool import Step
from flp.system.artifacts import atomic_write


class Recording:
    """E episodes of one task, recorded step by step.

    Args:
        dataset: the environment, by spec or by the name of a dataset.
        task: the task's number.
        seed: seed of the episodes.
        episodes: E.
        success_timing: as in `make_environment`.
    """

    def __init__(
        self, dataset: EnvironmentSpec | str, task: int, seed: int, episodes: int, success_timing: str = "pre"
    ) -> None:
        self.dataset, self.task, self.seed, self.success_timing = dataset, task, seed, success_timing
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(episodes)]

    def add(self, observations: NDArray[Any], actions: NDArray[Any], step: Step, active: NDArray[np.bool_]) -> None:
        """Record one step of all active episodes; a `Watch`."""
        for e in np.flatnonzero(active):
            self.rows[e].append(
                {
                    "observations": observations[e],
                    "actions": actions[e],
                    "rewards": step.rewards[e],
                    "next_observations": step.observations[e],
                    "terminals": step.terminated[e],
                    "timeouts": step.truncated[e],
                    "successes": step.success[e],
                }
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """One row per step, one episode after another, in D4RL's layout."""
        rows = [row for episode in self.rows for row in episode]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def save(self, folder: Path, *, films: bool) -> Iterator[Path]:
        """Write `episodes.npz` and a film of each episode; yield the files as they are written.

        Films of an earlier recording in the folder are removed: they would pass for films of these episodes.
        Films need a renderer, chosen before MuJoCo was imported (`headless.choose_renderer`).
        """
        for film in folder.glob("episode[0-9]*.webp"):
            film.unlink()
        with atomic_write(folder / "episodes.npz") as file:
            np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]
        yield folder / "episodes.npz"
        for e in range(len(self.rows) if films else 0):
            with atomic_write(folder / f"episode{e}.webp") as file:
                file.write(self._film(e))
            yield folder / f"episode{e}.webp"

    def _film(self, episode: int) -> bytes:
        """A film of the episode, replayed by its actions."""
        from flp.evaluation.film import film, open_scene, pictures_apart, play
        from flp.params.sections import EvaluationSettings

        steps = iter(self.rows[episode])
        settings = EvaluationSettings(every=1, episodes=len(self.rows), seed=self.seed)
        scene = open_scene(self.dataset, self.task, self.success_timing)
        try:
            played = play(
                lambda rows, streams: np.tile(next(steps)["actions"], (*rows.shape[:2], 1)),
                scene,
                self.task,
                settings,
                episode=episode,
                every=pictures_apart(self.dataset),
            )
        finally:
            scene.close()
        return film([(f"task {self.task}", played)])
