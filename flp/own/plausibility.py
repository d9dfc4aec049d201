"""Doubts about a user's data that are in order by their form: what is seldom meant, and spoils a result silently."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flp.own.log_file import Rows
from flp.own.reading import column_scales
from flp.own.task import OwnSpec

_FAINT = 1e-3  # of the columns' mean standard deviation: a hundredth of what a column is divided by


def doubts(spec: OwnSpec, rows: Rows) -> Iterator[str]:
    """What is doubtful, a line each; the actions still in the environment's units."""
    yield from _dwarfed_columns(rows["observations"])
    yield from _scaled_actions(spec, rows)
    yield from _time_limits(spec, rows)
    yield from _lost_ends(spec, rows)
    yield from _next_episodes(rows)


def _dwarfed_columns(observations: NDArray[np.float32]) -> Iterator[str]:
    """Columns that networks hardly see: where a column's standard deviation is smaller than a tenth of the columns'
    mean one, it is divided by that (`flp.data.moments`)."""
    std, largest = column_scales(observations)
    faint = np.flatnonzero((std > 1e-6 * largest) & (std < _FAINT * std.mean()))  # none of rounding errors alone
    if len(faint):
        names = ", ".join(map(str, faint[:8])) + (", …" if len(faint) > 8 else "")
        yield (
            f"column {names} of 'observations' varies by {std[faint].max():.3g} at most, all columns by "
            f"{std.mean():.3g} on average, so that networks hardly see it; use units that give similar numbers"
        )


def _scaled_actions(spec: OwnSpec, rows: Rows) -> Iterator[str]:
    """Actions that seem to be scaled to [-1, 1] already, though their range is another one."""
    actions, taken = rows["actions"], ~rows["terminals"][:, None]
    reach = [actions.min(0, where=taken, initial=np.inf), actions.max(0, where=taken, initial=-np.inf)]
    if not spec.in_units and np.allclose(reach, [[-1], [1]], atol=1e-3):
        yield (
            f"actions reach from -1 to 1 in every column, though their range is {list(spec.low)} to "
            f"{list(spec.high)}; if they were scaled to [-1, 1], scale them back to the environment's units"
        )


def _time_limits(spec: OwnSpec, rows: Rows) -> Iterator[str]:
    """Time limits that seem to be stored as terminations; without a simulator, if all episodes are as long."""
    ends = np.flatnonzero(rows["terminals"])
    full = np.diff(ends, prepend=-1) - 1 == spec.horizon
    if (
        spec.horizon > 1
        and full.sum() > 1
        and (spec.simulated or full.all())
        and not rows["masks"][ends[full] - 1].any()
    ):
        limit = "the environment's time limit" if spec.simulated else "which all have"
        yield (
            f"each of the {full.sum()} episodes of {spec.horizon} steps, {limit}, is said to terminate, so that "
            "nothing is worth anything after it; if time had run out, mark its end in 'timeouts'"
        )


def _lost_ends(spec: OwnSpec, rows: Rows) -> Iterator[str]:
    """Episodes that go on beyond the environment's time limit: several in a row whose ends were not recorded."""
    lengths = np.diff(np.flatnonzero(rows["terminals"]), prepend=-1) - 1
    if spec.simulated and (count := int((lengths > spec.horizon).sum())):
        yield (
            f"{count} of {len(lengths)} episodes have more steps than the environment's time limit of {spec.horizon} "
            f"(up to {lengths.max()}); if time ran out within them, mark where in 'timeouts'"
        )


def _next_episodes(rows: Rows) -> Iterator[str]:
    """Last states that are the first ones of the episodes that follow: `next_observations` across a reset."""
    ends = np.flatnonzero(rows["terminals"])[:-1]
    observations = rows["observations"]
    same = (observations[ends] == observations[ends + 1]).all(1)
    varied = len(np.unique(observations[ends + 1], axis=0)) > 1
    if len(ends) > 1 and varied and same.mean() > 0.5:
        yield (
            f"{same.sum()} of {len(ends)} episodes end in the very state in which the next one begins; if the "
            "environment was reset in between, 'next_observations' hold the state after the reset: store the one before"
        )
