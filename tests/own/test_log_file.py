"""A user's file in D4RL's layout, `.npz` or HDF5, read as rows whose last ends an episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_tasks import logged

from flp.data.load import read_dataset
from flp.own.importing import TaskSource, import_task, read_task
from flp.own.log_file import as_rows, read_file
from flp.system.errors import FLPError

O = np.arange(10, dtype=np.float32)[:, None]  # noqa: E741


def arrays(**changes):
    found = {"observations": O, "actions": O[:, [0]] / 20, "rewards": O[:, 0], "terminals": O[:, 0] == 3}
    found["timeouts"] = O[:, 0] == 6
    return {key: value for key, value in (found | changes).items() if value is not None}


def save(path: Path, **values) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **values)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for key, value in values.items():
                file.create_dataset(key, data=value, compression="gzip" if value.ndim else None)
            file.create_group("metadata")
    return path


@pytest.mark.parametrize("end", [".npz", ".h5", ".hdf5"])
def test_terminations_keep_their_last_reward_and_cuts_lose_a_transition(tmp_path, end):
    rows = read_file(save(tmp_path / f"x{end}", **arrays()))
    # Episodes 0-3 (terminated: a row more), 4-6 (cut: row 6 is the last state), 7-9 (unfinished).
    assert rows["observations"][:, 0].tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    assert np.flatnonzero(rows["terminals"]).tolist() == [4, 7, 10]
    transitions = ~rows["terminals"]
    assert rows["rewards"][transitions].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert rows["masks"][transitions].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert all(rows[key].dtype == np.float32 for key in ("observations", "actions", "rewards", "masks"))


def test_gymnasiums_words_and_capitals_are_known(tmp_path):
    values = arrays()
    words = {"terminated": values.pop("terminals"), "truncated": values.pop("timeouts")}
    rows, expected = (read_file(save(tmp_path / f"{i}.npz", **v)) for i, v in enumerate((values | words, arrays())))
    assert all(np.array_equal(rows[name], expected[name]) for name in expected)
    (tmp_path / "1.npz").rename(tmp_path / "x.NPZ")
    assert np.array_equal(read_file(tmp_path / "x.NPZ")["masks"], expected["masks"])


def test_a_missing_key_suggests_none_that_is_in_use(tmp_path):
    with pytest.raises(FLPError, match=r"'observations' is missing; did you mean 'observation'\?"):
        read_file(save(tmp_path / "x.npz", **arrays(observations=None, observation=O)))
    with pytest.raises(FLPError, match=r"'observations' is missing; correct"):
        read_file(save(tmp_path / "y.npz", **arrays(observations=None, obs=O)))


def test_actions_out_of_range_are_the_datas_own(tmp_path):
    path = save(tmp_path / "x.npz", **arrays(actions=O + 1))
    with pytest.raises(FLPError, match=r"actions reach from 1 to 9 in column 0, outside -3 to 3"):
        read_task(asked(path, actions=((-3.0,), (3.0,))))


@pytest.mark.parametrize("key", ["dones", "dones_float"])
@pytest.mark.parametrize("left", [{"terminals": None}, {"timeouts": None}, {}])
def test_ends_of_no_kind_are_told_apart_by_the_other_key(tmp_path, key, left):
    ends = np.isin(O[:, 0], (3, 6))
    rows = read_file(save(tmp_path / "x.npz", **arrays(**left, **{key: ends})))
    expected = read_file(save(tmp_path / "y.npz", **arrays()))
    assert all(np.array_equal(rows[name], expected[name]) for name in expected)


@pytest.mark.parametrize("also", [True, False])
@pytest.mark.parametrize("left", ["terminals", "timeouts"])
def test_ogbenchs_compact_form_keeps_to_its_valid_rows(tmp_path, also, left):
    """Row 3 is the state after a termination, row 6 that after a cut, each marked in the row before it, too, or not."""
    flags = {"terminals": O[:, 0] == 3, "timeouts": O[:, 0] == 6}
    if also:
        flags = {key: flag | np.roll(flag, -1) for key, flag in flags.items()}
    valids = ~np.isin(O[:, 0], (3, 6))
    flags = {key: flag if key == left else None for key, flag in flags.items()}
    rows = read_file(save(tmp_path / "x.npz", **arrays(**flags, valids=valids)))
    transitions = ~rows["terminals"]
    assert rows["observations"][transitions, 0].tolist() == [0, 1, 2, 4, 5, 7, 8]
    assert rows["observations"][np.flatnonzero(transitions) + 1, 0].tolist() == [1, 2, 3, 5, 6, 8, 9]
    assert rows["masks"][transitions].tolist() == [1, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("end", [".npz", ".h5"])
def test_with_next_observations_no_transition_is_lost(tmp_path, end):
    following = O + 1
    following[[3, 6]] = 50  # where episodes end, what came after is nowhere else
    rows = read_file(save(tmp_path / f"x{end}", **arrays(next_observations=following)))
    assert rows["observations"][:, 0].tolist() == [0, 1, 2, 3, 50, 4, 5, 6, 50, 7, 8, 9, 10]
    assert rows["rewards"][~rows["terminals"]].tolist() == list(range(10))


def test_every_transition_is_the_one_that_was_logged():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(2, 30))
        s, s2 = rng.normal(size=(2, n, 2)).astype(np.float32)
        a, r = rng.normal(size=(n, 1)).astype(np.float32), rng.normal(size=n).astype(np.float32)
        ends, cuts = rng.random(n) < 0.2, rng.random(n) < 0.2
        known = rng.random() < 0.5
        following = np.where((ends | cuts)[:, None], s2, np.roll(s, -1, 0))
        rows = as_rows(s, a, r, ends, cuts, following if known else None)
        starts = np.flatnonzero(~rows["terminals"])
        last = (ends | cuts) | (np.arange(n) == n - 1)
        kept = np.flatnonzero(~last | ends | known)
        np.testing.assert_array_equal(rows["observations"][starts], s[kept])
        np.testing.assert_array_equal(rows["actions"][starts], a[kept])
        np.testing.assert_array_equal(rows["rewards"][starts], r[kept])
        np.testing.assert_array_equal(rows["masks"][starts], ~ends[kept])
        live = ~ends[kept]
        np.testing.assert_array_equal(rows["observations"][starts + 1][live], following[kept][live])


BAD = {
    "no rewards": ({"rewards": None}, "'rewards' is missing"),
    "no ends": ({"terminals": None, "timeouts": None}, "nothing says where episodes end"),
    "ends of no kind": (
        {"terminals": None, "timeouts": None, "dones": O[:, 0] == 3},
        "'dones' say where .*, but not how",
    ),
    "flags too few": ({"timeouts": np.zeros(9, bool)}, "'timeouts' has 9 rows"),
    "no valid rows": ({"valids": np.zeros(10, bool)}, "'valids' ends an episode in every row"),
    "unequal": ({"rewards": O[:5, 0]}, "'rewards' has 5 rows"),
    "not a number": ({"rewards": np.full(10, np.nan)}, "NaN"),
    "flags of 2": ({"terminals": O[:, 0]}, "expected 0 and 1"),
    "pictures": ({"observations": np.zeros((10, 3, 4, 4))}, "expected 2 axes"),
    "beyond float32": ({"observations": np.full((10, 1), 1e300)}, "what float32 can hold"),
    "discrete actions": ({"actions": np.arange(10)[:, None] % 2}, "discrete ones, where a flow models densities"),
    "words": ({"actions": np.array(["a"] * 10)[:, None]}, "cannot become"),
    "masks of other ends": (
        {"masks": O[:, 0] != 6},
        "'masks' is not 0 in transition 3, where an episode terminated by",
    ),
    "masks of more ends": (
        {"masks": ~np.isin(O, (1, 3))},
        "'masks' is 0 in transition 1, where no episode terminated by the other keys",
    ),
    "other successors": ({"next_observations": O + 7}, "is not 'observations' of the row after"),
}


@pytest.mark.parametrize("masks", [O[:, 0] != 3, 0.9 * (O != 3), np.ones((10, 4)), np.array(["a"] * 10)])
def test_masks_that_agree_and_those_of_another_meaning_change_nothing(tmp_path, masks):
    rows, expected = (
        read_file(save(tmp_path / f"{i}.npz", **arrays(**more))) for i, more in enumerate(({"masks": masks}, {}))
    )
    assert all(np.array_equal(rows[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_safe_is_refused_by_name(tmp_path, case):
    changes, said = BAD[case]
    with pytest.raises(FLPError, match=said):
        read_file(save(tmp_path / "x.npz", **arrays(**changes)))


def test_an_hdf5_that_points_elsewhere_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    other = save(tmp_path / "other.h5", **arrays())
    links = {"link": h5py.ExternalLink(str(other), "rewards"), "soft": h5py.SoftLink("/observations")}
    for name, link in links.items():
        with h5py.File(save(tmp_path / f"{name}.h5", **arrays(rewards=None)), "a") as file:
            file["rewards"] = link
        with pytest.raises(FLPError, match="'rewards' is a link"):
            read_file(tmp_path / f"{name}.h5")
    with h5py.File(save(tmp_path / "virtual.h5", **arrays(rewards=None)), "a") as file:
        layout = h5py.VirtualLayout((10,), np.float32)
        layout[:] = h5py.VirtualSource(str(other), "rewards", (10,))
        file.create_virtual_dataset("rewards", layout)
    with pytest.raises(FLPError, match="no array of this file's own"):
        read_file(tmp_path / "virtual.h5")
    (tmp_path / "broken.h5").write_bytes(other.read_bytes()[:600])
    with pytest.raises(FLPError, match="not a whole HDF5 file"):
        read_file(tmp_path / "broken.h5")


def asked(path: Path, **changes) -> TaskSource:
    known = {"minari": None, "environment": None, "kwargs": {}, "success": "none", "actions": None}
    return TaskSource("mine", str(path), **(known | changes))


def test_without_a_simulator_the_task_says_the_range_of_actions(tmp_path):
    values = logged(4, 20) | {"next_observations": logged(4, 20)["next_observations"]}
    path = save(tmp_path / "mine.npz", **values)
    out = tmp_path / "a.npz", tmp_path / "b.npz"
    with pytest.raises(FLPError, match=r"actions reach from -2 to 2 in column 0, outside -1 to 1"):
        import_task(asked(path), *out)
    found = import_task(asked(path, actions=((-4.0,), (4.0,))), *out)
    data = read_dataset(out[0], found.spec)
    np.testing.assert_allclose(data.actions[data.transitions], values["actions"][:60] / 4, rtol=1e-6)
    assert not found.spec.simulated and found.spec.horizon == 20
    with pytest.raises(FLPError, match="has no simulator"):
        found.spec.make(1)


@pytest.mark.parametrize(("factor", "warned"), [(0.5, True), (0.4, False), (1, False)])
def test_actions_that_seem_to_be_scaled_already_are_warned_of(tmp_path, capsys, factor, warned):
    values = logged(4, 20)  # torques that reach ±2
    path = save(tmp_path / "mine.npz", **values | {"actions": factor * values["actions"]})
    read_task(asked(path, actions=((-2.0,), (2.0,))))
    assert ("scale them back to the environment's units" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("environment", ["Pendulum-v1", None])
@pytest.mark.parametrize(
    ("ends", "warned"),
    [(("terminals", 19), True), (("timeouts", 19), False), (("terminals", 16), None)],
    ids=["terminated", "truncated", "terminated earlier"],
)
def test_time_limits_that_are_stored_as_terminations_are_warned_of(tmp_path, capsys, environment, ends, warned):
    values, (key, last) = logged(4, 20), ends
    rows = np.arange(80) % 20 <= last
    values = {name: array[rows] for name, array in values.items()}
    values |= {"terminals": np.zeros(rows.sum(), bool), "timeouts": np.zeros(rows.sum(), bool)}
    values[key] = (np.arange(80) % 20 == last)[rows]
    path = save(tmp_path / "mine.npz", **values)
    kwargs, actions = ({}, ((-2.0,), (2.0,))) if environment is None else ({"max_episode_steps": 20}, None)
    read_task(asked(path, environment=environment, kwargs=kwargs, actions=actions))
    expected = environment is None if warned is None else warned  # without a limit, equal lengths are one
    assert ("if time had run out, mark its end in 'timeouts'" in capsys.readouterr().err) == expected


def test_episodes_that_go_on_beyond_the_time_limit_are_warned_of(tmp_path, capsys):
    values = logged(4, 20)
    values |= {"terminals": np.zeros(80, bool), "timeouts": np.zeros(80, bool)}
    del values["next_observations"]
    for recorded, warned in (([19, 39, 59, 79], False), ([39, 79], True)):
        values["timeouts"] = np.isin(np.arange(80), recorded)
        path = save(tmp_path / f"{len(recorded)}.npz", **values)
        read_task(asked(path, environment="Pendulum-v1", kwargs={"max_episode_steps": 20}))
        told = capsys.readouterr().err
        assert ("2 of 2 episodes have more steps than the environment's time limit of 20 (up to 39)" in told) == warned


def test_next_observations_from_after_the_reset_are_warned_of(tmp_path, capsys):
    values = logged(4, 20)
    rolled = np.roll(values["observations"], -1, 0)
    for following, warned in ((values["next_observations"], False), (rolled, True)):
        path = save(tmp_path / f"{warned}.npz", **values | {"next_observations": following})
        read_task(asked(path, actions=((-2.0,), (2.0,))))
        told = capsys.readouterr().err
        assert ("3 of 3 episodes end in the very state in which the next one begins" in told) == warned


def test_a_neighbour_holds_the_held_out_episodes(tmp_path):
    save(tmp_path / "mine.npz", **logged(2, 20))
    save(tmp_path / "mine-val.npz", **logged(3, 20))
    import_task(asked(tmp_path / "mine.npz", actions=((-2.0,), (2.0,))), tmp_path / "a.npz", tmp_path / "b.npz")
    assert (len(read_dataset(tmp_path / "a.npz")), len(read_dataset(tmp_path / "b.npz"))) == (40, 60)


@pytest.mark.parametrize(("low", "high"), [(293.15, 303.15), (101225.1, 101425.3), (-0.3, 0.1)])
def test_a_saturated_action_is_within_its_range_however_float32_rounds_it(tmp_path, low, high):
    values = logged(4, 20)
    ends = np.where(values["actions"] > 0, high, low)
    np.savez(tmp_path / "x.npz", **values | {"actions": ends})
    found = read_task(TaskSource("x", str(tmp_path / "x.npz"), None, None, {}, "none", ((low,), (high,))))
    done = ~found.parts[0]["terminals"]
    assert np.abs(found.parts[0]["actions"][done]).min() > 1 - 1e-3 and np.abs(found.parts[0]["actions"]).max() <= 1
    with pytest.raises(FLPError, match="outside"):
        np.savez(tmp_path / "y.npz", **values | {"actions": ends + 0.01 * (high - low)})
        read_task(TaskSource("y", str(tmp_path / "y.npz"), None, None, {}, "none", ((low,), (high,))))


@pytest.mark.parametrize(("offset", "warned"), [(1e8, True), (1e4, False), (0.0, False)])
def test_a_column_of_which_float32_keeps_little_is_warned_of(tmp_path, capsys, offset, warned):
    values = logged(4, 20)
    del values["next_observations"]
    seen = values["observations"].astype(np.float64)
    seen[:, 1] = offset + 3 * np.arange(len(seen))
    np.savez(tmp_path / "x.npz", **values | {"observations": seen})
    read_task(TaskSource("x", str(tmp_path / "x.npz"), None, None, {}, "none", ((-2.0,), (2.0,))))
    assert ("column 1 of 'observations' reaches 1e+08" in capsys.readouterr().err) is warned
