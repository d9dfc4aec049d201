"""float32, the networks' type, never makes a column constant without a word."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from flp.own.importing import TaskSource, import_task, read_task
from flp.own.precision import narrowed
from flp.system.errors import FLPError

RNG = np.random.default_rng(0)
FILE = SimpleNamespace(bad=lambda problem: FLPError(f"x: {problem}"))


@pytest.mark.parametrize(
    "column",
    [
        1e9 + RNG.normal(size=99),
        5e6 + 0.05 * RNG.normal(size=99),
        2**40 + RNG.integers(0, 9, 99),
        np.geomspace(1, 9) / 1e50,
    ],
    ids=["offset", "small spread", "integers", "below float32"],
)
def test_a_column_that_float32_makes_constant_is_refused(column):
    both = np.stack([np.arange(len(column)), column], 1)
    with pytest.raises(FLPError, match=r"column 1 of 'observations' .* float32 keeps nothing: subtract an offset"):
        narrowed(FILE, "observations", both)
    with pytest.raises(FLPError, match="x: 'rewards' reaches"):
        narrowed(FILE, "rewards", column)


@pytest.mark.parametrize(
    "column",
    [
        np.full(99, 1e9),
        0.3 + 1e-16 * RNG.integers(0, 2, 99),
        RNG.normal(size=99),
        np.r_[np.zeros(98), 1e9],
        RNG.random(99) > 0.5,
    ],
    ids=["constant", "rounding errors", "noise", "outlier", "truth values"],
)
def test_a_column_that_float32_holds_passes_in_silence(column, capsys):
    np.testing.assert_array_equal(narrowed(FILE, "rewards", column), column.astype(np.float32))
    assert not capsys.readouterr().err


def log(**changes):
    found = {"observations": RNG.normal(size=(80, 2)), "actions": RNG.uniform(-1, 1, (80, 1)), "rewards": np.zeros(80)}
    return found | {"terminals": np.zeros(80, bool), "timeouts": np.arange(80) % 20 == 19} | changes


def source(path, low, high):
    return TaskSource("mine", str(path), None, None, {}, "none", ((low,), (high,)))


@pytest.mark.parametrize("changed", ["observations", "rewards"])
def test_a_task_whose_file_float32_spoils_is_refused(tmp_path, changed):
    np.savez(tmp_path / "x.npz", **log(**{changed: log()[changed] + 1e9 + RNG.normal(size=log()[changed].shape)}))
    with pytest.raises(FLPError, match=f"x.npz: .*'{changed}' reaches 1e\\+09"):
        read_task(source(tmp_path / "x.npz", -1.0, 1.0))


def test_actions_are_scaled_before_they_are_narrowed(tmp_path, capsys):
    actions = log()["actions"]
    np.savez(tmp_path / "x.npz", **log(actions=1e7 + 20 * actions))
    data = read_task(source(tmp_path / "x.npz", 1e7 - 20, 1e7 + 20))
    found = np.concatenate([rows["actions"][~rows["terminals"]] for rows in data.parts])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, actions[np.arange(80) % 20 < 19], atol=1e-6)
    assert "float32 keeps little of the range of actions 9999980 to 10000020" in capsys.readouterr().err


def test_a_range_of_actions_that_float32_cannot_hold_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **log(actions=1e9 + log()["actions"]))
    with pytest.raises(FLPError, match="mine: float32 keeps nothing of the range of actions 999999999 to 1000000001"):
        import_task(source(tmp_path / "x.npz", 1e9 - 1, 1e9 + 1), tmp_path / "a.npz", tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("column", "warned"),
    [(1e5 * RNG.normal(size=40), True), (1e2 * RNG.normal(size=40), False), (np.full(40, 1e5), False)],
    ids=["other unit", "similar", "constant"],
)
def test_columns_that_another_one_dwarfs_are_warned_of(tmp_path, capsys, column, warned):
    values = {"actions": np.zeros((40, 1)), "rewards": np.zeros(40), "terminals": np.arange(40) % 4 == 3}
    np.savez(tmp_path / "x.npz", observations=np.stack([RNG.normal(size=40), column], 1), **values)
    read_task(TaskSource("mine", str(tmp_path / "x.npz"), None, None, {}, "none", None))
    assert ("column 0 of 'observations' varies by" in capsys.readouterr().err) == warned
