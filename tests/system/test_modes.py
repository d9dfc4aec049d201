"""Who may read and write what is made: whoever the umask says, also where others share it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flp.runs.run_folder import adopt, write_trajectories
from flp.supervision.profile import profiled
from flp.system.artifacts import atomic_write, save_tensors, write_csv, write_json, write_text, write_verified
from flp.system.layout import RUN_FILES
from flp.system.locks import alone
from flp.system.resume import Resume

TENSORS = {"weights": torch.arange(6.0)}


@pytest.fixture(params=[0o022, 0o002, 0o027], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask: a user's alone to write, a group's, a group's alone to read."""
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def strangers(root: Path, mask: int) -> dict[str, str]:
    """Files and folders whose modes are not what the umask says."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*") if not path.is_symlink()}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in found}
    return {str(path): oct(mode) for path, mode in found.items() if mode != expected[path]}


def test_every_writer_follows_the_umask(tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "umask", None)  # it is the whole process's, threads and all: nobody may touch it
    write_text("out/text", "x")
    write_json("out/values.json", {})
    write_csv("out/rows.csv", [{"a": 1}])
    with atomic_write("out/binary") as file:
        file.write(b"x")
    write_trajectories(Path("out/paths.npz"), {"offline": [np.zeros((2, 2))]}, {"offline": [True]})
    save_tensors("out/model.safetensors", TENSORS, key="k")
    Resume(Path("out/resume")).save(TENSORS, {"step": 1})
    with profiled(Path("out/trace")):
        torch.ones(2)
    with alone("results/x/offline/flp/seed0"):
        pass
    assert strangers(tmp_path, mask) == {}


@pytest.mark.parametrize("own", [0o600, 0o444, 0o666], ids=oct)
def test_what_is_copied_follows_the_umask_and_not_its_source(tmp_path: Path, mask: int, own: int) -> None:
    """Another user's file, or one that a cache keeps from being written."""
    save_tensors(tmp_path / "there/run/policy.safetensors", TENSORS, key="k")
    for name in RUN_FILES[1:3]:
        (tmp_path / "there/run" / name).touch()
    for file in (tmp_path / "there/run").iterdir():
        file.chmod(own)
    (tmp_path / "there/run").chmod(0o700)
    adopt(tmp_path / "here", {"run": "k"}, [tmp_path / "there"])
    write_verified(tmp_path / "here/copy", lambda temporary: shutil.copy(tmp_path / "there/run/policy.json", temporary))
    assert len(list((tmp_path / "here").rglob("*"))) == 6
    assert strangers(tmp_path / "here", mask) == {}
