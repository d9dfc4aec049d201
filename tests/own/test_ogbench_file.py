"""A user's dataset file: converted without loss, split into episodes by its own keys, or refused and left as it is."""

from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import pytest

from flp.data.archive import write_npz
from flp.data.environments import specification
from flp.data.load import read_dataset, validate
from flp.own.ogbench_file import OwnFile, import_file
from flp.own.reading import check_successors
from flp.own.splitting import own_files
from flp.system.errors import FLPError

NAME = "scene-play"


def make_arrays(episodes=20, steps=25, seed=0):
    spec, rng, rows = specification(NAME), np.random.default_rng(seed), episodes * steps

    def numbers(columns):
        return rng.integers(-8, 9, (rows, columns)).astype(np.float32) / 8  # exact in every float type

    return {
        "observations": numbers(spec.observation_dim),
        "actions": numbers(spec.action_dim),
        "terminals": np.arange(rows) % steps == steps - 1,
        "qpos": numbers(25),
        "qvel": numbers(24),
        "button_states": rng.integers(0, 2, (rows, 2)),
    }


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture
def imported(tmp_path, capsys):
    """Imports a file of these arrays; returns the datasets in data/ and the messages."""

    def call(arrays, validation=None, save=np.savez):
        path = tmp_path / "mine.npz"
        save(path, **arrays)
        if validation is not None:
            save(tmp_path / "mine-val.npz", **validation)
        before = {file: file.read_bytes() for file in tmp_path.glob("mine*")}
        out = [tmp_path / "data" / name for name in ("a.npz", "a-val.npz")]
        try:
            import_file(NAME, path, *out)
        finally:
            assert {file: file.read_bytes() for file in tmp_path.glob("mine*")} == before
        for file in out:
            validate(file, NAME)  # strictly OGBench's format
            with np.load(file) as found:
                assert set(found) == set(make_arrays(1))
        return [read_dataset(file) for file in out], capsys.readouterr().err.splitlines()

    return call


def refusal(imported, tmp_path, arrays, *more):
    with pytest.raises(FLPError) as caught:
        imported(arrays, *more)
    message = str(caught.value)
    assert str(tmp_path / "mine") in message and "\n" not in message
    assert "delete" not in message, "it may be the user's only copy"
    assert not (tmp_path / "data").exists()
    return message


def same(data, arrays, terminals=None):
    expected = arrays["terminals"] if terminals is None else terminals
    assert np.array_equal(np.concatenate([part.terminals for part in data]), expected)
    for key in ("observations", "qpos", "qvel", "button_states"):
        assert np.array_equal(np.concatenate([getattr(part, key) for part in data]), arrays[key]), key


# As it is


def test_a_file_in_the_format_is_copied_byte_by_byte(imported, tmp_path, arrays):
    validation = make_arrays(2, seed=1)
    (train, val), messages = imported(arrays, validation, np.savez_compressed)
    assert messages == []
    for mine, ours in (("mine.npz", "a.npz"), ("mine-val.npz", "a-val.npz")):
        assert (tmp_path / mine).read_bytes() == (tmp_path / "data" / ours).read_bytes()
    same([train], arrays)
    same([val], validation)


def test_without_a_validation_file_a_tenth_of_the_episodes_is_held_out(imported, arrays):
    (train, val), messages = imported(arrays)
    assert messages == [] and (train.terminals.sum(), val.terminals.sum()) == (18, 2)
    same([train, val], arrays)


# Converted

DTYPES = {
    "observations": ["<f8", ">f4", ">f8", "<f2", "<f16", "<i4", ">i2", "|i1", "|b1"],
    "actions": ["<f8", ">f4", "<f2", "<i8"],
    "terminals": ["<f4", "<f8", ">f4", "<f2", "|u1", "|i1", "<i4", ">i8", "<u8"],
    "qpos": ["<f8", ">f4", "<f2"],
    "qvel": ["<f8", "|i1"],
    "button_states": ["|b1", "<f4", ">f8", "|u1", "<i4", ">i8", "<u8"],
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("key", "dtype"), [(key, dtype) for key, dtypes in DTYPES.items() for dtype in dtypes])
def test_numbers_of_any_type_are_converted(imported, arrays, key, dtype, save):
    whole = np.dtype(dtype).kind != "f" and key != "terminals"
    arrays[key] = np.abs(np.rint(arrays[key])) if whole else arrays[key]
    data, messages = imported({**arrays, key: arrays[key].astype(dtype)}, save=save)
    assert len(messages) == 1 and f"{key} ({np.dtype(dtype)})" in messages[0]
    same(data, arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", ["observations", "actions", "qpos", "button_states"])
def test_arrays_by_columns_are_converted(imported, arrays, key, dtype):
    data, messages = imported({**arrays, key: np.asfortranarray(arrays[key].astype(dtype))})
    assert "by columns)" in messages[0]
    same(data, arrays)
    assert all(part.observations.flags.c_contiguous for part in data)


def test_large_arrays_by_columns_are_converted(imported):
    arrays = make_arrays(episodes=40, steps=1001)
    data, _ = imported({**arrays, "observations": np.asfortranarray(arrays["observations"].astype(np.float64))})
    same(data, arrays)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("terminals", (500, 1)), ("terminals", (500, 1, 1)), ("observations", (500, 1, 40)), ("actions", (500, 5, 1))],
)
def test_idle_axes_are_dropped(imported, arrays, key, shape):
    data, messages = imported({**arrays, key: arrays[key].reshape(shape)})
    assert f"{key} (of shape {list(shape)})" in messages[0]
    same(data, arrays)


def test_an_unfinished_last_episode_ends_with_its_last_row(imported, arrays):
    arrays["terminals"][-1] = False
    data, messages = imported(arrays)
    assert "the last episode is unfinished" in messages[0]
    same(data, arrays, np.arange(500) % 25 == 24)


def test_a_validation_file_is_converted_too(imported, arrays):
    validation = make_arrays(2, seed=1)
    (_, val), messages = imported(arrays, validation | {"qpos": validation["qpos"].astype(np.float64)})
    assert len(messages) == 1 and "mine-val.npz: converted" in messages[0]
    same([val], validation)


def test_unknown_keys_are_named_once(imported, arrays):
    more = {"rewards": np.zeros(500), "masks": np.ones(500), "names": np.array(["a"] * 500)}
    data, messages = imported(arrays | more, make_arrays(2) | {"rewards": np.zeros(50)})
    assert len(messages) == 1 and messages[0].endswith("not used: 'rewards', 'masks', 'names'")
    same(data[:1], arrays)


def test_a_large_file_takes_little_memory(tmp_path):
    arrays = make_arrays(episodes=200, steps=1001)
    size = sum(array.nbytes for array in arrays.values())
    write_npz(tmp_path / "mine.npz", arrays | {"observations": arrays["observations"].astype(np.float64)})
    del arrays
    tracemalloc.start()
    try:
        import_file(NAME, tmp_path / "mine.npz", tmp_path / "a.npz", tmp_path / "a-val.npz")
        assert tracemalloc.get_traced_memory()[1] < 0.8 * size
    finally:
        tracemalloc.stop()


# Where episodes end


@pytest.mark.parametrize("key", ["timeouts", "truncations", "dones", "dones_float", "terminations"])
@pytest.mark.parametrize("also", [True, False])
def test_episodes_end_where_any_key_says_so(imported, arrays, key, also):
    ends = arrays.pop("terminals")
    some = ends & (np.arange(500) < 100)
    mine = {**arrays, key: (ends & ~some if also else ends).astype(np.float32)}
    data, messages = imported(mine | {"terminals": some} if also else mine)
    assert "episodes end where" in messages[0] and repr(key) in messages[0]
    same(data, arrays, ends)


def test_d4rls_false_terminals_are_no_single_episode(imported, arrays):
    ends = arrays["terminals"]
    data, _ = imported({**arrays, "terminals": np.zeros(500, bool), "timeouts": ends, "rewards": np.zeros(500)})
    same(data, arrays, ends)
    for part in data:
        assert not part.terminals[part.transitions].any()
    assert sum(map(len, data)) == 20 * 24


@pytest.mark.parametrize("before", [True, False], ids=["terminals before the last state too", "no terminals"])
def test_ogbenchs_compact_form_keeps_to_its_valid_rows(imported, arrays, before):
    """`load_dataset(compact_dataset=True)`: terminals 0 0 1 1, valids 1 1 1 0 are an episode of three transitions."""
    ends = arrays["terminals"]
    terminals = ends | np.roll(ends, -1) if before else np.zeros(500)
    data, _ = imported({**arrays, "terminals": terminals, "valids": 1.0 - ends})
    same(data, arrays, ends)
    assert sum(map(len, data)) == 20 * 24


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_successors_that_agree_are_accepted(imported, arrays, dtype):
    following = np.roll(arrays["observations"], -1, axis=0)
    following[arrays["terminals"]] = 7  # the true last observation, which is no row
    data, messages = imported({**arrays, "next_observations": following.astype(dtype)})
    assert messages[-1].endswith("not used: 'next_observations'")
    same(data, arrays)


def contradictions(arrays):
    ends, rows = arrays["terminals"], len(arrays["terminals"])
    following = np.roll(arrays["observations"], -1, axis=0)
    following[ends] = 7
    yield {"timeouts": ends[1:]}, "'timeouts' has 499 rows, 'observations' has 500"
    yield {"timeouts": np.ones(rows, bool)}, "'timeouts' ends an episode in every row"
    yield {"valids": np.zeros(rows, bool)}, "'valids' ends an episode in every row"
    yield {"timeouts": ~ends}, "'terminals' or 'timeouts' ends an episode in every row"
    yield {"timeouts": np.full(rows, 2)}, "'timeouts' holds 2, expected 0 and 1"
    yield {"terminals": np.zeros(rows), "timeouts": np.zeros(rows)}, "'terminals' or 'timeouts' ends no episode"
    yield {"terminals": np.zeros(rows, bool)}, "'terminals' ends no episode: mark"
    late = np.where(np.arange(rows) == 24, False, ends)
    yield {"terminals": late, "next_observations": following}, "'next_observations' of row 24 is not"
    yield {"next_observations": following[:, 1:]}, "'next_observations' holds float32"
    yield {"next_observations": np.full(following.shape, "x")}, "'next_observations' holds <U1"


@pytest.mark.parametrize("case", range(10))
def test_keys_that_contradict_each_other_are_refused(imported, tmp_path, arrays, case):
    changes, match = list(contradictions(arrays))[case]
    message = refusal(imported, tmp_path, arrays | changes)
    assert match in message and "correct your file (it is left as it is)" in message


# Refused


def spoiled(array, value, row=7):
    array = array.astype(np.promote_types(array.dtype, np.asarray(value).dtype))
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("key", "change", "match"),
    [
        ("observations", lambda a: spoiled(a, np.float64(1e40)), "'observations' holds 1e+40, expected what float32"),
        ("qvel", lambda a: spoiled(a, np.float64(-1e300)), "'qvel' holds -1e+300, expected what float32"),
        ("qpos", lambda a: spoiled(a, np.nan), "'qpos' holds NaN"),
        ("observations", lambda a: a.astype(np.complex64), "'observations' holds complex64, which cannot become"),
        ("observations", lambda a: a.astype(object), "'observations' holds object"),
        ("actions", lambda a: a.astype("U8"), "'actions' holds <U8"),
        ("button_states", lambda a: spoiled(a, 2), "'button_states' holds 2, expected 0 and 1"),
        ("qpos", lambda a: a.astype("M8[s]"), "'qpos' holds datetime64"),
        ("qpos", lambda a: np.zeros(500, [("x", "f4")]), "'qpos' holds [('x'"),
        ("actions", lambda a: a * 2, "'actions' leave [-1, 1]; rescale"),
        ("actions", lambda a: a.astype(np.float64) * 2, "'actions' leave [-1, 1]; rescale"),
        ("terminals", lambda a: a * 2, "'terminals' holds 2, expected 0 and 1"),
        ("terminals", lambda a: a * 0.5, "'terminals' holds 0.5, expected 0 and 1"),
        ("terminals", lambda a: -a.astype(int), "'terminals' holds -1, expected 0 and 1"),
        ("terminals", lambda a: spoiled(a.astype(np.float32), np.nan), "'terminals' holds nan, expected 0 and 1"),
        ("button_states", lambda a: a + 0.5, "expected whole numbers"),
        ("button_states", lambda a: spoiled(a.astype(np.float64), 1e300), "'button_states' holds 1e+300"),
        ("button_states", lambda a: spoiled(a.astype(np.uint64), np.uint64(2**63)), "'button_states' holds 9223372036"),
        ("observations", lambda a: a.reshape(20, 25, 40), "'observations' has shape [20, 25, 40]"),
        ("observations", lambda a: a[:, 0], "'observations' has shape [500]"),
        ("qpos", lambda a: a[1:], "'qpos' has 499 rows"),
        ("actions", lambda a: a[:, 1:], "'actions' has 4 columns, scene-play has 5"),
        ("qpos", lambda a: a[:, :0], "'qpos' has shape [500, 0]"),
    ],
)
def test_what_cannot_be_converted_safely_is_refused(imported, tmp_path, arrays, key, change, match):
    assert match in refusal(imported, tmp_path, {**arrays, key: change(arrays[key])})


@pytest.mark.parametrize("key", ["terminals", "qpos", "button_states"])
def test_a_missing_key_is_named_with_what_may_be_it(imported, tmp_path, arrays, key):
    arrays[f"infos/{key}"] = arrays.pop(key)
    message = refusal(imported, tmp_path, arrays)
    assert f"key '{key}' is missing" in message
    assert key == "button_states" or f"did you mean 'infos/{key}'" in message


def test_a_bad_validation_file_is_the_one_that_is_named(imported, tmp_path, arrays):
    message = refusal(imported, tmp_path, arrays, {**make_arrays(2), "terminals": np.ones(50, bool)})
    assert "mine-val.npz: 'terminals' ends an episode in every row" in message


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
def test_no_npz_is_refused(tmp_path, content):
    path, out = tmp_path / "mine.npz", (tmp_path / "a.npz", tmp_path / "a-val.npz")
    with pytest.raises(FLPError, match=r"mine\.npz does not exist; correct download\.path"):
        import_file(NAME, path, *out)
    path.write_bytes(content)
    with pytest.raises(FLPError, match=r"mine\.npz is not a whole \.npz file .*; correct your file"):
        import_file(NAME, path, *out)


# Held out


@pytest.mark.parametrize(
    ("lengths", "train", "validation"),
    [
        ([25] * 19 + [1], 18, 2),
        ([25] * 5 + [1] * 5, 4, 6),
        ([1, 25, 1, 1, 25, 1], 4, 2),
        ([1] * 18 + [25, 25], 19, 1),  # a tenth would leave nothing to train on
        ([2, 2], 1, 1),
    ],
)
def test_whole_episodes_are_held_out_until_there_are_transitions(imported, arrays, lengths, train, validation):
    rows = sum(lengths)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    arrays = {key: array[:rows] for key, array in arrays.items()} | {"terminals": ends}
    data, _ = imported(arrays)
    assert [int(part.terminals.sum()) for part in data] == [train, validation]
    assert min(map(len, data)) > 0
    same(data, arrays)


@pytest.mark.parametrize("lengths", [[25], [25, 1, 1], [1, 1, 25]])
def test_too_few_episodes_to_split_is_said_of_the_users_file(imported, tmp_path, arrays, lengths):
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    arrays = {key: array[: len(ends)] for key, array in arrays.items()} | {"terminals": ends}
    message = refusal(imported, tmp_path, arrays)
    assert "mine.npz has o" in message and f"put a validation file at {tmp_path}/mine-val.npz" in message
    imported(arrays, make_arrays(1))


def test_equal_files_give_equal_bytes(imported, tmp_path, arrays):
    written = []
    for _ in range(2):
        imported({**arrays, "qpos": arrays["qpos"].astype(np.float64)})
        written.append((tmp_path / "data" / "a.npz").read_bytes())
    assert written[0] == written[1]
    write_npz(tmp_path / "b.npz", {key: array[: 18 * 25] for key, array in arrays.items()})
    np.savez(tmp_path / "c.npz", **{key: array[: 18 * 25] for key, array in arrays.items()})
    assert written[0] == (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()


def test_held_out_episodes_are_never_taken_for_the_file_itself(tmp_path):
    np.savez(tmp_path / "mine-val.npz", observations=np.zeros((9, 2)))
    assert own_files(tmp_path / "mine.npz") == []
    with pytest.raises(FLPError, match=r"mine\.npz does not exist"):
        import_file(NAME, tmp_path / "mine.npz", tmp_path / "a.npz", tmp_path / "a-val.npz")


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1, 5.3e6), (1e-6, 0), (1e4, -2e6)])
def test_shuffled_successors_are_told_in_any_unit(scale, offset):
    rows = np.random.default_rng(0).normal(size=(400, 3)).cumsum(0)
    observations = (scale * rows + offset).astype(np.float32)
    following, ends = np.roll(observations, -1, 0), np.zeros(400, bool)
    ends[-1] = True
    noise = np.random.default_rng(1).normal(size=following.shape) * 1e-5 * scale
    check_successors(Refused(), observations, (following + noise).astype(np.float32), ends)
    order = np.random.default_rng(2).permutation(400)
    with pytest.raises(FLPError, match="is not 'observations' of the row after"):
        check_successors(Refused(), observations[order], following[order], ends)


class Refused:
    def bad(self, problem):
        return FLPError(problem)


def test_what_is_no_array_in_the_file_does_not_count(tmp_path):
    np.savez(tmp_path / "mine.npz", observations=np.zeros((9, 2)))
    with zipfile.ZipFile(tmp_path / "mine.npz", "a") as archive:
        archive.writestr("rewards", "none")
        archive.writestr("notes/read me.txt", "")
    with pytest.raises(FLPError, match="actions") as error:
        OwnFile(tmp_path / "mine.npz", NAME)
    assert "rewards" not in str(error.value).partition(";")[0]


def test_a_column_that_float32_makes_constant_is_refused_and_one_it_coarsens_warned_of(imported, arrays):
    wide = arrays["observations"].astype(np.float64)
    with pytest.raises(FLPError, match=r"mine.npz: column 0 of 'observations' .* float32 keeps nothing"):
        imported(arrays | {"observations": wide + 1e9})
    for kind in (np.float32, np.float64):
        _, said = imported(arrays | {"observations": (wide + 1e6).astype(kind)})
        assert any("column 0 of 'observations' reaches 1e+06" in line and "keeps little" in line for line in said)
