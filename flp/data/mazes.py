"""Layouts of OGBench's mazes, for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flp.data.environments import EnvironmentSpec, make_environment, spec_of


@dataclass(frozen=True, eq=False)
class MazeMap:
    """A maze's layout.

    Cell `(i, j)` is the square of side `unit` centred at `x = j * unit - offset`, `y = i * unit - offset`.

    Attributes:
        walls: bool `[rows, columns]`, true where there is a wall.
        unit: side of a cell, in the units of the positions `qpos[:, :2]`.
        offset: distance of the first cell's centre from the origin, along both axes.
        goals: float64 `[num_tasks, 2]`, each task's goal, x and y.
        goal_radius: distance to the goal within which a position is a success.
    """

    walls: NDArray[np.bool_]
    unit: float
    offset: float
    goals: NDArray[np.float64]
    goal_radius: float


def maze_map(dataset: EnvironmentSpec | str) -> MazeMap | None:
    """The layout of a dataset's maze or arena; None if it has none.

    Raises:
        FLPError: unknown dataset.
    """
    spec = spec_of(dataset)
    if not spec.in_plane:
        return None
    env = make_environment(spec)
    maze: Any = env.unwrapped
    layout = MazeMap(
        walls=np.asarray(maze.maze_map) == 1,
        unit=float(maze._maze_unit),
        offset=float(maze._offset_x),
        goals=np.array([info["goal_xy"] for info in maze.task_infos], np.float64),
        goal_radius=float(maze._goal_tol),
    )
    env.close()
    return layout
