"""Files are whole or absent, and whatever is not exactly what was saved is refused with a remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from flp import cli
from flp.system import artifacts
from flp.system.artifacts import (
    atomic_write,
    load_manifest,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
    write_text,
    write_verified,
)
from flp.system.errors import FLPError, explained
from flp.system.hashing import sha256_of
from flp.system.resume import Resume

TENSORS = {"weights": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, dataset_sha256="abc", key="k1")
    return path


def only(folder, *names):
    """Nothing else lies there, temporary files least of all."""
    assert sorted(child.name for child in folder.iterdir()) == sorted(names)


def refused(path, **expected):
    with pytest.raises(FLPError) as error:
        load_tensors(path, **expected)
    message = str(error.value)
    assert "\n" not in message
    assert path.stem in message
    return message


# Reading back


def test_what_is_saved_is_read(saved):
    tensors, manifest = load_tensors(saved, dataset_sha256="abc", key="k1")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert manifest["sha256"] == sha256_of(saved)
    assert manifest["tensors"] == {"weights": [2, 3], "count": []}
    assert torch.__version__.startswith(manifest["versions"]["torch"])  # itself may add +cu130
    only(saved.parent, "model.safetensors", "model.json")


def test_views_are_saved_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "v.safetensors", {"t": base.T, "row": base[1], "grad": base.clone().requires_grad_()})
    tensors, _ = load_tensors(tmp_path / "v.safetensors")
    assert torch.equal(tensors["t"], base.T)
    assert torch.equal(tensors["row"], base[1])


# Refusing


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    message = refused(saved)
    assert "truncated or altered" in message
    assert "delete it and run again" in message


@pytest.mark.parametrize("place", [3, 20, -1])
def test_a_flipped_bit_is_refused(saved, place):
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    assert "truncated or altered" in refused(saved)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, value):
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS | {"bad": torch.tensor([0.0, value])})
    message = refused(path)
    assert "'bad'" in message
    assert "NaN or infinite" in message
    assert "delete it and run again" in message


def test_another_shape_is_refused(saved):
    manifest = read_json(saved.with_suffix(".json"))
    manifest["tensors"]["weights"] = [3, 2]
    write_json(saved.with_suffix(".json"), manifest)
    message = refused(saved)
    assert "'weights'" in message
    assert "shape" in message


def test_another_dataset_is_refused(saved):
    message = refused(saved, dataset_sha256="other")
    assert "dataset_sha256 'abc'" in message
    assert "'other'" in message
    assert "delete it and run again" in message
    assert "None" in refused(saved, flow_sha256="x")


def test_a_newer_format_is_refused(saved):
    manifest = read_json(saved.with_suffix(".json"))
    write_json(saved.with_suffix(".json"), manifest | {"format_version": artifacts.FORMAT_VERSION + 1})
    assert "upgrade flp" in refused(saved)


def test_an_older_format_is_read_or_says_what_to_do(saved, monkeypatch):
    monkeypatch.setattr(artifacts, "FORMAT_VERSION", artifacts.FORMAT_VERSION + 2)
    assert torch.equal(load_tensors(saved)[0]["weights"], TENSORS["weights"])
    monkeypatch.setattr(artifacts, "OLDEST_FORMAT", artifacts.OLDEST_FORMAT + 1)
    assert "format version 1, this flp reads from 2 on; run snakemake to make it again" in refused(saved)


def test_a_missing_file_is_refused(saved):
    message = refused(saved.with_name("none.safetensors"))
    assert "does not exist" in message
    assert "dvc pull" in message
    saved.with_suffix(".json").unlink()
    message = refused(saved)
    assert "model.json does not exist" in message and "dvc pull" in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[1, 2]", b"{}", b'{"format_version": "1"}', b"null"])
def test_a_file_that_is_no_manifest_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    with pytest.raises(FLPError, match=r"model\.json.*delete"):
        load_manifest(saved)


def test_another_kind_of_file_is_refused(saved):
    saved.write_bytes(b"not tensors at all")
    manifest = read_json(saved.with_suffix(".json"))
    write_json(saved.with_suffix(".json"), manifest | {"sha256": sha256_of(saved)})
    assert "not a safetensors file" in refused(saved)


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(FLPError, match=r"x.json is not written: a number in it is NaN"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    only(tmp_path)


# Atomic writing


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half of the new")
        file.flush()
        raise ZeroDivisionError
    assert path.read_text() == "old"
    only(tmp_path, "x.txt")


def test_nothing_is_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with atomic_write(path) as file:
        file.write(b"content")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "content"
    only(path.parent, "x.txt")


def test_it_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append("replace") or replace(a, b))
    write_text(tmp_path / "x", "text")
    assert events == ["fsync", "replace", "fsync"]
    events.clear()
    write_verified(tmp_path / "y", lambda temporary: temporary.write_text("text"))
    assert events == ["fsync", "replace", "fsync"]


def make_text(path):
    write_text(path, "new")


def make_verified(path):
    write_verified(path, lambda temporary: temporary.write_text("new"))


@pytest.mark.parametrize("make", [make_text, make_verified])
class TestBothWriters:
    def test_the_umask_is_kept(self, tmp_path, make):
        old = os.umask(0o027)
        try:
            make(tmp_path / "x")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640

    @pytest.mark.parametrize("link", ["hard", "symbolic"])
    def test_a_link_into_a_cache_is_replaced(self, tmp_path, make, link):
        cached = tmp_path / "cache" / "file"
        cached.parent.mkdir()
        cached.write_text("cached")
        cached.chmod(0o444)
        path = tmp_path / "x"
        if link == "hard":
            path.hardlink_to(cached)
        else:
            path.symlink_to(cached)
        make(path)
        assert path.read_text() == "new"
        assert not path.is_symlink()
        assert cached.read_text() == "cached"
        assert stat.S_IMODE(cached.stat().st_mode) == 0o444
        only(tmp_path, "cache", "x")

    def test_a_place_that_cannot_be_is_refused(self, tmp_path, make):
        (tmp_path / "file").write_text("")
        with pytest.raises(FLPError, match=r"cannot write .*file/x"):
            make(tmp_path / "file" / "x")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ESTALE])
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failing_disk_leaves_the_old_file(self, tmp_path, monkeypatch, make, call, number):
        (tmp_path / "x").write_text("old")

        def fail(*args):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(FLPError, match=rf"cannot write .*x: {re.escape(explained(OSError(number, '')))}"):
            make(tmp_path / "x")
        monkeypatch.undo()
        assert (tmp_path / "x").read_text() == "old"
        only(tmp_path, "x")

    def test_a_disk_that_fails_to_clean_up_too_is_said_in_one_line(self, tmp_path, monkeypatch, make):
        def fail(*args, **options):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(FLPError, match=r"cannot write .*x: Input/output error"):
            make(tmp_path / "x")

    def test_a_folder_that_vanishes_is_said_in_one_line(self, tmp_path, monkeypatch, make):
        folder, fsync = tmp_path / "gone", os.fsync

        def vanish(descriptor):
            fsync(descriptor)
            shutil.rmtree(folder, ignore_errors=True)

        monkeypatch.setattr(os, "fsync", vanish)
        with pytest.raises(FLPError, match=r"cannot write .*gone/x: No such file or directory"):
            make(folder / "x")

    def test_a_read_only_disk_leaves_the_old_file(self, small_disk, make):
        (small_disk / "x").write_text("old")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
        for path in (small_disk / "x", small_disk / "new" / "x"):
            with pytest.raises(FLPError, match=r"cannot write .*x: Read-only file system"):
                make(path)
        assert (small_disk / "x").read_text() == "old"
        only(small_disk, "x")


def test_a_disk_that_lies_is_noticed(tmp_path, monkeypatch):
    digests = iter(["one", "another"])
    monkeypatch.setattr(artifacts, "sha256_of", lambda path: next(digests))
    with pytest.raises(FLPError, match="reads back differently"):
        make_verified(tmp_path / "x")


def test_what_is_returned_is_the_checksum(tmp_path):
    digest = write_verified(tmp_path / "x", lambda temporary: temporary.write_bytes(b"abc"))
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB, where mounting one is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


@pytest.mark.parametrize("stage", ["download-dataset", "pretrain-flow", "offline-train", "report"])
def test_a_stage_in_a_read_only_checkout_says_so_in_one_line(small_disk, monkeypatch, capsys, stage):
    shutil.copy(Path(__file__).parents[2] / "params.yaml", small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
    monkeypatch.chdir(small_disk)
    options = [] if stage == "report" else ["--dataset", "pointmaze-medium-navigate"]
    status = cli.main([stage, *options, *(["--seed", "0"] if stage == "pretrain-flow" else [])])
    monkeypatch.undo()
    told = capsys.readouterr().err.splitlines()
    assert (status, len(told)) == (2, 1), told
    assert "Read-only file system" in told[0] or "does not exist" in told[0]


BIG = {"weights": torch.zeros(2_000_000)}


def big_text(path):
    write_text(path, "x" * 3_000_000)


def big_tensors(path):
    save_tensors(path, BIG, key="k2")


def big_state(path):
    resume = Resume(path.parent)
    resume.file = path
    resume.save(BIG, {"step": 2})


@pytest.mark.parametrize("make", [big_text, big_tensors, big_state])
def test_a_full_disk_leaves_what_was_there(small_disk, make):
    path = small_disk / "model.safetensors"
    save_tensors(path, TENSORS, key="k1")
    with pytest.raises(
        FLPError, match=r"cannot write .*model\.safetensors: .*No space left on device.*free some space"
    ):
        make(path)
    assert torch.equal(load_tensors(path, key="k1")[0]["weights"], TENSORS["weights"])
    only(small_disk, "model.safetensors", "model.json")


@pytest.mark.parametrize("make", [big_tensors, big_state])
def test_a_writer_out_of_space_is_said_in_one_line(tmp_path, monkeypatch, make):
    """The same by fault injection, for machines where nothing may be mounted."""
    import safetensors.torch

    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, key="k1")

    def fail(tensors, temporary, metadata=None):
        Path(temporary).write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(FLPError, match=r"cannot write .*model\.safetensors: .*No space left on device"):
        make(path)
    assert torch.equal(load_tensors(path, key="k1")[0]["weights"], TENSORS["weights"])
    only(tmp_path, "model.safetensors", "model.json")


def test_a_manifest_is_written_last(tmp_path, monkeypatch):
    """A tensor file whose manifest could not be written is no artifact, whatever manifest lay there before."""
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, key="k1")

    def fail(path, value):
        raise FLPError("no")

    monkeypatch.setattr(artifacts, "write_json", fail)
    with pytest.raises(FLPError):
        save_tensors(path, {"weights": torch.ones(2)}, key="k1")
    refused(path, key="k1")
    assert not path.with_suffix(".json").exists()


def test_reading_json_is_refused_in_one_line(tmp_path):
    with pytest.raises(FLPError, match="cannot read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(FLPError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")
