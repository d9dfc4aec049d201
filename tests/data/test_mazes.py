"""The layout of a maze, as it is drawn."""

from __future__ import annotations

from flp.data.mazes import maze_map


def test_maze_map():
    layout = maze_map("pointmaze-medium-navigate")
    assert layout.walls.shape == (8, 8) and layout.walls[0].all() and not layout.walls[1, 1]
    x, y = layout.goals[0]
    row, column = round((y + layout.offset) / layout.unit), round((x + layout.offset) / layout.unit)
    assert (row, column) == (6, 6) and layout.goal_radius == 1.0
    assert maze_map("antsoccer-arena-navigate").goals.shape == (5, 2)
    assert maze_map("scene-play") is None
