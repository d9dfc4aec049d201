from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import ogbench
import pytest

from flp.data.archive import write_npz
from flp.data.environments import specification
from flp.data.load import ACTION_LIMIT, read_dataset, validate
from flp.system.errors import FLPError
from flp.system.hashing import sha256_of

NAME = "scene-play"


def make_arrays(episodes=4, steps=25, name=NAME):
    spec = specification(name)
    rng = np.random.default_rng(0)
    rows = episodes * steps

    def normal(columns):
        return rng.normal(size=(rows, columns)).astype(np.float32)

    arrays = {
        "observations": normal(spec.observation_dim),
        "actions": np.clip(normal(spec.action_dim), -1, 1),
        "terminals": np.arange(rows) % steps == steps - 1,
        "qpos": normal(25),
        "qvel": normal(24),
    }
    if spec.has_buttons:
        arrays["button_states"] = rng.integers(0, 2, (rows, 2))
    return arrays


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture
def path(tmp_path, arrays):
    write_npz(tmp_path / "data.npz", arrays)
    return tmp_path / "data.npz"


def refused(path, match, dataset=NAME):
    for read in (validate, read_dataset):
        with pytest.raises(FLPError, match=match) as caught:
            read(path, dataset)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_loads_what_the_official_loader_loads(tmp_path, arrays, save):
    path = tmp_path / "data.npz"
    save(path, **arrays)
    validate(path, NAME)
    data = read_dataset(path, NAME)
    official = ogbench.load_dataset(str(path), add_info=True)
    rows = data.transitions
    assert len(data) == len(official["observations"]) == 4 * 24
    assert np.array_equal(data.observations[rows], official["observations"])
    assert np.array_equal(data.observations[rows + 1], official["next_observations"])
    assert np.array_equal(data.actions[rows], np.clip(official["actions"], -ACTION_LIMIT, ACTION_LIMIT))
    for key in ("qpos", "qvel", "button_states"):
        assert np.array_equal(getattr(data, key)[rows], official[key])
    assert data.observation_dim == 40 and data.action_dim == 5
    assert data.sha256 == sha256_of(path)
    assert data.observations.dtype == data.actions.dtype == np.float32 and rows.dtype == np.int64


def test_actions_are_clipped_and_counted(path, arrays):
    data = read_dataset(path)
    assert 0 < data.clipped_fraction == np.mean(np.abs(arrays["actions"]) > ACTION_LIMIT)
    assert np.abs(data.actions).max() < 1


def test_arrays_cannot_be_changed_by_mistake(path):
    with pytest.raises(ValueError, match="read-only"):
        read_dataset(path).observations[0] = 0


def test_episodes_of_unequal_length(tmp_path, arrays):
    arrays["terminals"][:] = False
    arrays["terminals"][[3, 4, 60, 99]] = True
    write_npz(tmp_path / "data.npz", arrays)
    data = read_dataset(tmp_path / "data.npz")
    assert sorted(set(range(100)) - set(data.transitions.tolist())) == [3, 4, 60, 99]


def test_without_buttons(tmp_path):
    write_npz(tmp_path / "data.npz", make_arrays(name="antmaze-large-navigate"))
    assert read_dataset(tmp_path / "data.npz", "antmaze-large-navigate").button_states is None


def change(arrays, **changes):
    changed = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    return changed


def spoiled(arrays, key, row, value):
    array = arrays[key].copy()
    array[row] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (lambda a: {"qpos": None}, "key 'qpos' is missing"),
        (lambda a: {"button_states": None}, "key 'button_states' is missing"),
        (lambda a: {"observations": a["observations"].astype(np.float64)}, "'observations' holds float64"),
        (lambda a: {"terminals": a["terminals"].astype(np.float32)}, "'terminals' holds float32"),
        (lambda a: {"observations": np.asfortranarray(a["observations"])}, "'observations' holds .* by columns"),
        (lambda a: {"observations": a["observations"][:, 0]}, r"'observations' has shape \[100\]"),
        (lambda a: {"actions": a["actions"][:0]}, r"'actions' has shape \[0, 5\]"),
        (lambda a: {"qvel": a["qvel"][1:]}, "'qvel' has 99 rows"),
        (lambda a: {"observations": a["observations"][:, 1:]}, "'observations' has 39 columns, scene-play has 40"),
        (lambda a: spoiled(a, "observations", 7, np.nan), "'observations' holds NaN"),
        (lambda a: spoiled(a, "qvel", 99, np.inf), "'qvel' holds NaN or infinite"),
        (lambda a: spoiled(a, "actions", 5, 1.5), r"'actions' leave \[-1, 1\]"),
        (lambda a: spoiled(a, "terminals", 99, False), "last episode is cut off"),
        (lambda a: spoiled(a, "terminals", slice(None), True), "no transitions"),
    ],
)
def test_bad_contents_are_refused(tmp_path, arrays, changes, match):
    np.savez(tmp_path / "data.npz", **change(arrays, **changes(arrays)))
    refused(tmp_path / "data.npz", match)


def test_objects_are_refused_without_unpickling(tmp_path, arrays):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    bomb = np.empty((100, 40), object)
    bomb[0, 0] = Bomb()
    np.savez(tmp_path / "data.npz", **change(arrays, observations=bomb))
    refused(tmp_path / "data.npz", "'observations' holds object")
    assert not (tmp_path / "exploded").exists()


def with_member(path, arrays, key, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", content if name == key else buffer.getvalue())


def header(shape, dtype="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(10**15, 40), (10**12, 10**12), (-1, 40), (100, 41)])
def test_lying_headers_do_not_allocate(tmp_path, arrays, shape):
    path = tmp_path / "data.npz"
    with_member(path, arrays, "observations", header(shape) + arrays["observations"].tobytes())
    tracemalloc.start()
    try:
        refused(path, "'observations' (claims|has)")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_absurd_sizes_are_refused_even_if_true(path, monkeypatch):
    monkeypatch.setattr("flp.data.archive.MAX_BYTES", 1000)
    refused(path, "'observations' claims 16000 bytes")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\xff\xff{", b"not numpy", b"\x93NUMPY\x09\x00" + bytes(80)]
)
def test_unreadable_headers_are_refused(tmp_path, arrays, content):
    with_member(tmp_path / "data.npz", arrays, "actions", content)
    refused(tmp_path / "data.npz", "'actions' has an unreadable header")


def test_impossible_truth_values_are_refused(tmp_path, arrays):
    with_member(tmp_path / "data.npz", arrays, "terminals", header((100,), "|b1") + bytes([2] * 100))
    refused(tmp_path / "data.npz", "'terminals' holds other values")


def test_other_files_are_refused(tmp_path, path):
    refused(tmp_path / "absent.npz", "does not exist; fetch or generate")
    (tmp_path / "text.npz").write_text("<html>404</html>")
    refused(tmp_path / "text.npz", "not a whole .npz")
    (tmp_path / "empty.npz").touch()
    refused(tmp_path / "empty.npz", "not a whole .npz")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "cannot read")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_never_goes_unnoticed(tmp_path, arrays, save):
    path = tmp_path / "data.npz"
    save(path, **arrays)
    whole = path.read_bytes()
    original = read_dataset(path, NAME)
    rng = np.random.default_rng(0)
    outcomes = []
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            data = read_dataset(path, NAME)
        except FLPError as error:
            assert str(path) in str(error)
            outcomes.append(True)
        else:  # a bit that means nothing, such as a date in the archive
            outcomes.append(False)
            for key in ("observations", "actions", "terminals", "qpos", "qvel", "button_states"):
                assert np.array_equal(getattr(data, key), getattr(original, key))
    assert sum(outcomes) > 100


def test_memory_stays_near_the_arrays(tmp_path):
    path = tmp_path / "data.npz"
    arrays = make_arrays(episodes=200, steps=1001)
    size = sum(array.nbytes for array in arrays.values())
    write_npz(path, arrays)
    del arrays
    tracemalloc.start()
    try:
        validate(path)
        assert tracemalloc.get_traced_memory()[1] < 0.7 * size
        read_dataset(path)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * size
    finally:
        tracemalloc.stop()
