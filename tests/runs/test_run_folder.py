"""Run folders that a job does not ask for: finished ones are put aside and taken back, the rest is removed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from repository import REPO

from flp.params.loading import load_params
from flp.runs import job
from flp.runs.run_folder import adopt, clear_others, is_finished, make_room
from flp.system import layout
from flp.system.artifacts import write_json
from flp.system.errors import FLPError


def finish(folder: Path, key: str, text: str = "weights") -> None:
    write_json(folder / "policy.json", {"format_version": 1, "key": key})
    for name in layout.RUN_FILES[:-1]:
        (folder / name).write_text(text)


def ask_for(folder: Path, **keys: str) -> set[str]:
    """What a job does with these runs' keys before it trains; the finished runs that are there then."""
    adopt(folder, keys, [layout.spare_folder(folder)])
    clear_others(folder, list(keys))
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_asked_for_again_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0").absolute() if absolute else Path("results/maze/offline/flp/seed0")
    for name in ("task1_seed0", "task2_seed0", "task3_seed0"):
        finish(job / name, name)
    (job / "task3_seed0/policy.json").unlink()  # half-made
    (job / "manifest.json").write_text("{}")
    assert ask_for(job, task1_seed0="task1_seed0") == {"task1_seed0"}
    assert not (layout.spare_folder(job) / "task3_seed0").exists()
    assert ask_for(job, task2_seed0="task2_seed0") == {"task2_seed0"}
    assert ask_for(job, task1_seed0="task1_seed0", task2_seed0="task2_seed0") == {"task1_seed0", "task2_seed0"}


def test_the_newer_one_is_put_aside_and_a_stale_one_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0")
    for key in ("old", "new"):
        finish(job / "task2_seed0", key, text=key)
        finish(job / "task1_seed0", "own")
        assert ask_for(job, task1_seed0="own") == {"task1_seed0"}
    assert ask_for(job, task1_seed0="own", task2_seed0="old") == {"task1_seed0"}
    assert ask_for(job, task1_seed0="own", task2_seed0="new") == {"task1_seed0", "task2_seed0"}
    assert (job / "task2_seed0/log.csv").read_text() == "new"


def test_a_run_through_another_flow_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0")
    finish(layout.spare_folder(job) / "task1_seed0", "own")
    manifest = layout.spare_folder(job) / "task1_seed0/policy.json"
    write_json(manifest, {"format_version": 1, "key": "own", "flow_sha256": "a"})
    for flow in ("b", "a"):
        adopt(job, {"task1_seed0": "own"}, [layout.spare_folder(job)], {"task1_seed0": flow})
        assert is_finished(job / "task1_seed0", "own", flow) == is_finished(job / "task1_seed0", "own") == (flow == "a")


def test_two_experiments_in_turn_train_their_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job, trained = Path("results/maze/offline/flp/seed0"), []
    for key in ("one", "other", "one", "other", "one"):
        ask_for(job, task1_seed0=key) if job.exists() else None
        if not is_finished(job / "task1_seed0", key):
            make_room(job / "task1_seed0", key)
            finish(job / "task1_seed0", key, text=key)
            (job / "task1_seed0/trajectories.npz").touch()
            trained.append(key)
        assert (job / "task1_seed0/log.csv").read_text() == key
    assert trained == ["one", "other"]
    assert not list(Path(".").rglob(".*.tmp"))


@pytest.mark.parametrize("missing", [*layout.RUN_FILES, "all"])
def test_nothing_half_made_takes_a_finished_runs_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("results/maze/offline/flp/seed0/task1_seed0")
    finish(run, "one")
    make_room(run, "other")
    assert not run.exists()
    finish(run, "other")
    for name in layout.RUN_FILES if missing == "all" else [missing]:
        (run / name).unlink()
    make_room(run, "third")
    assert is_finished(layout.spare_folder(run), "one") and not is_finished(run, "other")


def test_no_manifest_vouches_for_runs_that_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed among them and asked for the former values again, a job would take the new runs for theirs."""
    monkeypatch.chdir(tmp_path)
    folder, other = Path("results/maze/offline/flp/seed0"), Path("results/maze/offline/flp/seed0-1")
    finish(folder / "task1_seed0", "former")
    write_json(folder / "manifest.json", {"key": "former"})
    finish(other / "task1_seed0", "new")

    def killed(*arguments: object) -> None:
        adopt(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "adopt", killed)
    spec = job.JobSpec(
        "offline-train", "maze", "flp", load_params(REPO / "params.yaml"), "cpu", folder, {"task1_seed0": "new"}
    )
    with pytest.raises(KeyboardInterrupt):
        job.run_job(spec, [], "new", lambda *shard: None, 1, lenders=[other])
    assert is_finished(folder / "task1_seed0", "new") and not (folder / "manifest.json").exists()


def test_a_run_that_cannot_be_moved_costs_none_that_was_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a colleague's umask forbids it: neither the one in place nor the one that is taken back is lost."""
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0")
    finish(job / "task1_seed0", "mine", text="mine")
    make_room(job / "task1_seed0", "theirs")
    finish(job / "task1_seed0", "theirs", text="theirs")
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self == job / "task1_seed0":
            raise PermissionError(errno.EACCES, "Permission denied", "log.csv")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(FLPError, match=rf"^cannot move {job}/task1_seed0 to .*: .*[Pp]ermission"):
            ask_for(job, task1_seed0="mine")
    assert is_finished(job / "task1_seed0", "theirs")
    assert is_finished(layout.spare_folder(job) / "task1_seed0", "mine")
    assert ask_for(job, task1_seed0="mine") == {"task1_seed0"}
    assert is_finished(layout.spare_folder(job) / "task1_seed0", "theirs")
    assert (job / "task1_seed0/log.csv").read_text() == "mine"


def put_results_on_another_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where `results` is a link to one, so that what is put aside is copied."""
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if self.parts[0] != Path(target).parts[0]:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)


def test_runs_are_put_aside_from_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0")
    put_results_on_another_disk(monkeypatch)
    for key in ("one", "other", "one"):
        ask_for(job, task1_seed0=key) if job.exists() else None
        if not is_finished(job / "task1_seed0", key):
            make_room(job / "task1_seed0", key)
            finish(job / "task1_seed0", key, text=key)
    assert (job / "task1_seed0/log.csv").read_text() == "one"
    assert is_finished(layout.spare_folder(job) / "task1_seed0", "other")
    assert not list(Path(".").rglob(".*.tmp"))


def test_a_disk_that_fills_up_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("results/maze/offline/flp/seed0")
    finish(job / "task1_seed0", "mine")
    make_room(job / "task1_seed0", "theirs")
    finish(job / "task1_seed0", "theirs")

    def full(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "log.csv").touch()
        raise shutil.Error([(source, target, "[Errno 28] No space left on device")])

    put_results_on_another_disk(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(FLPError, match=r"^cannot move .*No space left"):
            make_room(job / "task1_seed0", "third")
    assert is_finished(job / "task1_seed0", "theirs")
    assert is_finished(layout.spare_folder(job) / "task1_seed0", "mine")
    assert not list(Path(".").rglob(".*.tmp"))


def test_a_kill_between_two_renames_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job, rename = Path("results/maze/offline/flp/seed0"), Path.rename
    finish(job / "task1_seed0", "mine")
    make_room(job / "task1_seed0", "theirs")
    finish(job / "task1_seed0", "theirs")

    def killed(self: Path, target: Path) -> Path:
        if self == job / "task1_seed0":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        make_room(job / "task1_seed0", "third")
    assert ask_for(job, task1_seed0="mine") == {"task1_seed0"}
    assert is_finished(job / "task1_seed0", "mine")
    assert is_finished(layout.spare_folder(job) / "task1_seed0", "theirs")
