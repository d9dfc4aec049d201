"""Bad input, tried by the thousand: accepted and valid, or refused in one line; never a traceback or a huge file."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import REPO

from flp import cli
from flp.data.environments import known_datasets
from flp.data.load import read_dataset
from flp.flow.checkpoint import load_flows, save_flow
from flp.flow.velocity import VelocityField
from flp.own.ogbench_file import import_file
from flp.randomness.streams import RunStreams
from flp.system.artifacts import load_tensors, save_tensors
from flp.system.errors import FLPError
from flp.system.resume import Resume

DATASET = "pointmaze-medium-navigate"
MANY = settings(max_examples=150, deadline=None)
GIB = 2**30


@contextmanager
def in_little_memory(extra=2 * GIB):
    """Let nothing allocate more than some GiB on top of what is there."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


@st.composite
def mutations(draw):
    """A function that damages bytes: flips, cuts, repeats, splices, and numbers of headers."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "cut", "repeat", "splice", "number", "drop"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content):
        for kind, place, junk in changes:
            if not content:
                break
            at = int(place * len(content))
            if kind == "flip":
                content = content[:at] + bytes([content[at] ^ (junk[0] or 1)]) + content[at + 1 :]
            elif kind == "cut":
                content = content[:at]
            elif kind == "repeat":
                content = content[:at] + content[at // 2 :]
            elif kind == "splice":
                content = content[:at] + junk + content[at + len(junk) :]
            elif kind == "drop":
                content = content[:at] + content[at + len(junk) :]
            else:
                digits = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
                at = digits[int(place * len(digits))] if digits else 0
                content = content[:at] + b"9" * len(junk) + content[at + 1 :]
        return content

    return mutate


def refusal_or(load):
    """What `load` gives, or None if it refuses in one line; anything else is a failure."""
    try:
        with in_little_memory():
            return load()
    except FLPError as error:
        assert str(error).strip()
        assert "\n" not in str(error)
        return None


def arrays():
    rows = 6
    generator = np.random.default_rng(0)
    return {
        "observations": generator.normal(size=(rows, 4)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "terminals": np.array([False, False, True] * 2),
        "qpos": generator.normal(size=(rows, 2)).astype(np.float32),
        "qvel": generator.normal(size=(rows, 2)).astype(np.float32),
    }


def npz(**options):
    buffer = io.BytesIO()
    (np.savez_compressed if options.get("compressed") else np.savez)(buffer, **arrays())
    return buffer.getvalue()


def valid_dataset(data):
    """What training relies on."""
    assert len(data.observations) == len(data.actions) == len(data.terminals)
    assert np.isfinite(data.observations).all()
    assert np.abs(data.actions).max() < 1
    assert data.terminals[-1]
    assert 0 <= data.transitions.min() <= data.transitions.max() < len(data.observations) - 1


@MANY
@given(mutate=mutations(), compressed=st.booleans())
def test_a_damaged_dataset_is_valid_or_refused(mutate, compressed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        path.write_bytes(mutate(npz(compressed=compressed)))
        if (data := refusal_or(lambda: read_dataset(path, DATASET))) is not None:
            valid_dataset(data)


@MANY
@given(key=st.sampled_from(sorted(arrays())), mutate=mutations())
def test_a_dataset_with_a_damaged_array_is_valid_or_refused(key, mutate):
    """The archive itself is sound, checksums and all: what the header of an array claims is not to be believed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(io.BytesIO(npz())) as whole:
            for name in whole.namelist():
                content = whole.read(name)
                archive.writestr(name, mutate(content) if name == f"{key}.npy" else content)
        if (data := refusal_or(lambda: read_dataset(path, DATASET))) is not None:
            valid_dataset(data)


@MANY
@given(mutate=mutations(), compressed=st.booleans())
def test_a_users_damaged_file_is_converted_or_refused_and_left_alone(mutate, compressed):
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        path, train, validation = (Path(folder) / name for name in ("mine.npz", "a.npz", "a-val.npz"))
        path.write_bytes(content := mutate(npz(compressed=compressed)))

        def bring():
            import_file(DATASET, path, train, validation)
            return read_dataset(train), read_dataset(validation)

        for data in refusal_or(bring) or ():
            valid_dataset(data)
        assert path.read_bytes() == content


def saved_flow(folder):
    path = Path(folder) / "flow.safetensors"
    model = {"observation_dim": 4, "action_dim": 2, "hidden": [8]}
    model |= {"solver": "euler", "solver_steps": 2, "solver_grading": 1.5}
    save_flow(path, VelocityField(RunStreams([0]), 4, 2, [8]), model=model, dataset_sha256="abc")
    return path


@MANY
@given(mutate=mutations(), what=st.sampled_from([".safetensors", ".json"]))
def test_a_damaged_artifact_is_valid_or_refused(mutate, what):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
        save_tensors(path, tensors, key="k")
        damaged = path.with_suffix(what)
        damaged.write_bytes(mutate(damaged.read_bytes()))
        loaded = refusal_or(lambda: load_tensors(path))
        if loaded is not None:
            for name, tensor in loaded[0].items():
                assert torch.equal(tensor, tensors[name])


@MANY
@given(mutate=mutations())
def test_a_damaged_flow_is_valid_or_refused(mutate):
    """Its manifest says how large the networks are."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved_flow(folder)
        manifest = path.with_suffix(".json")
        manifest.write_bytes(mutate(manifest.read_bytes()))
        flow = refusal_or(lambda: load_flows([str(path)], dataset_sha256="abc"))
        if flow is not None:
            assert flow[0](torch.zeros(1, 3, 4), torch.zeros(1, 3, 2)).shape == (1, 3, 2)


@pytest.mark.parametrize("grading", [0.5, float("nan"), "1", None])
def test_a_flow_of_impossible_times_is_refused(tmp_path, grading):
    path = saved_flow(tmp_path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    manifest["model"]["solver_grading"] = grading
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(FLPError, match="describes another model"):
        load_flows([str(path)], dataset_sha256="abc")


@MANY
@given(mutate=mutations())
def test_a_damaged_state_is_set_aside_or_the_very_same(mutate):
    tensors, info = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(2), "u": torch.zeros(0)}, {"step": 5}
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()) as told:
        resume = Resume(Path(folder))
        resume.save(tensors, info)
        resume.file.write_bytes(mutate(resume.file.read_bytes()))
        found = refusal_or(resume.load)
        if found is None:
            assert "is set aside, starting over" in told.getvalue()
        else:
            assert found[1] == info
            assert all(torch.equal(found[0][name], tensor) for name, tensor in tensors.items())


def test_a_pickle_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    np.savez(tmp_path / "x.npz", **arrays() | {"observations": np.array([[Bomb()]] * 6)})
    torch.save({"a": Bomb()}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text('{"format_version": 1}')
    assert refusal_or(lambda: read_dataset(tmp_path / "x.npz", DATASET)) is None
    assert refusal_or(lambda: load_tensors(tmp_path / "x.safetensors")) is None
    (tmp_path / "state.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes())
    assert Resume(tmp_path).load() is None


def test_a_zip_bomb_is_refused(tmp_path):
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 4), }"
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in arrays():
            archive.writestr(f"{key}.npy", header.ljust(127) + b"\n" + b"\0" * 1_000_000)
    assert refusal_or(lambda: read_dataset(tmp_path / "x.npz", DATASET)) is None


# The command line

OPTIONS = ["dataset", "seed", "seeds", "threads", "params", "preset", "agent", "device"]
VALUES = [DATASET, "0", "0-1", "flp", "cpu", "cuda", "1e9", "", "params.yaml", "9" * 20, "$(touch x)", "--", "-h", "-1"]
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=12)
WORDS = st.sampled_from([*(f"--{name}" for name in OPTIONS), *VALUES]) | TEXT


@settings(max_examples=80, deadline=None)
@given(command=st.sampled_from([*cli.STAGES, *cli.TOOLS, "", "-x"]), words=st.lists(WORDS, max_size=6))
def test_any_command_line_is_refused_in_one_line(command, words):
    """In an empty folder nothing can succeed but help; argparse shows the usage above its one line."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
            try:
                status = cli.main([command, *words])
            except SystemExit as stop:
                status = stop.code
        assert status in (0, 2)
        said = [line for line in told.getvalue().splitlines() if not line.startswith((" ", "usage:"))]
        assert status == 0 or said[-1].startswith("flp")
        assert not any(path.is_file() for path in Path(folder).rglob("*"))


TITLES = ["$(touch x)", "`touch x`", "'; touch x; '", '"; touch x; "', "a\nb", "{wildcards.dataset}", "--help", "<b>&"]


@pytest.mark.slow
def test_no_value_reaches_a_shell(tmp_path):
    """Snakemake's dry run shows every job's command: no value of a parameter stands in one."""
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["report"]["title"] = "".join(TITLES)
    values["datasets"] = [name for name in known_datasets() if name.endswith("-play")][: len(TITLES)]
    values["overrides"] = {
        name: {"download": {"source": "path", "path": f"{title}.npz"}}
        for name, title in zip(values["datasets"], TITLES, strict=True)
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    line = [sys.executable, "-m", "snakemake", "-n", "-p", "--cores", "1", "--directory", str(tmp_path)]
    line += ["--snakefile", str(REPO / "workflow/Snakefile"), "--configfile", str(tmp_path / "p.yaml")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = [text for text in done.stdout.splitlines() if "python -m flp" in text]
    assert len(commands) > 4 * len(TITLES)
    assert not any(title in text for text in commands for title in TITLES)
    assert not list(tmp_path.rglob("x"))
