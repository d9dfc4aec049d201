"""What the operating system refuses is said in one line, with the advice that fits its number."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import yaml

from flp import cli
from flp.experiment.program import guarded
from flp.system.artifacts import write_text
from flp.system.errors import _ADVICE, FLPError, explained, user_error

PARAMS = Path(__file__).parents[2] / "params.yaml"
SPACE = ("space", "quota")


def test_only_a_full_disk_is_told_to_free_space():
    about_space = {number for number in _ADVICE if any(word in explained(_error(number)) for word in SPACE)}
    assert about_space == {errno.ENOSPC, errno.EDQUOT}
    about_permissions = {number for number in _ADVICE if "permissions" in explained(_error(number))}
    assert about_permissions == {errno.EACCES, errno.EPERM}


def _error(number):
    return OSError(number, os.strerror(number), "some/file")


@pytest.mark.parametrize("number", _ADVICE)
def test_it_is_one_line_with_the_file(number, capsys):
    def fail():
        raise _error(number)

    assert guarded(fail, "flp x") == 2
    told = capsys.readouterr().err
    assert told == f"flp x: error: some/file: {os.strerror(number)}; {_ADVICE[number]}\n"


def test_a_bug_keeps_its_traceback():
    def fail():
        raise ConnectionResetError(errno.ECONNRESET, "x")

    assert user_error(ConnectionResetError(errno.ECONNRESET, "x")) is None
    with pytest.raises(ConnectionResetError):
        guarded(fail)


def test_what_a_library_adds_is_kept():
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert str(user_error(error)).startswith("No usable temporary directory found in ['/tmp']; check the path")


def test_safetensors_hides_the_number_in_its_text():
    error = safetensors.SafetensorError("I/O error: File name too long (os error 36)")
    assert explained(error) == "File name too long; use shorter names, or a folder with a shorter path"
    assert explained(safetensors.SafetensorError("header too large"), "delete it") == "header too large; delete it"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(PARAMS.read_text())
    values["download"] |= {"episodes": 2, "steps_per_episode": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def stage(capsys, *words):
    status = cli.main([*words])
    told = [line for line in capsys.readouterr().err.splitlines() if "steps/s" not in line]  # the progress
    assert (status, len(told)) == (2, 1), told
    return told[0]


DOWNLOAD = ("download-dataset", "--dataset", "pointmaze-medium-navigate", "--threads", "1")


@pytest.mark.parametrize("place", [".flp", "data"])
def test_a_file_where_a_folder_should_be(folder, capsys, place):
    (folder / place).write_text("")
    told = stage(capsys, *DOWNLOAD)
    assert "; a file stands where a folder" in told or "; something stands in the way" in told
    assert "space" not in told


def test_a_folder_where_a_file_should_be(folder, capsys):
    (folder / "data" / "pointmaze-medium-navigate.npz").mkdir(parents=True)
    assert "Is a directory; a folder stands where a file should" in stage(capsys, *DOWNLOAD)
    (folder / "params.yaml").unlink()
    (folder / "params.yaml").mkdir()
    assert "cannot read params.yaml: Is a directory; a folder stands" in stage(capsys, *DOWNLOAD)


@pytest.mark.parametrize("place", ["/", "."])
def test_a_folder_without_a_name(place):
    with pytest.raises(FLPError, match="is a folder; name a file"):
        write_text(place, "x")


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "loop.npz", "folder.npz", "params.yaml/x.npz"])
def test_a_users_path_that_cannot_be_opened(folder, capsys, name):
    (folder / "loop.npz").symlink_to("loop.npz")
    (folder / "folder.npz").mkdir()
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["download"] |= {"source": "path", "path": name}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    told = stage(capsys, *DOWNLOAD)
    fitting = {"x": "use shorter names", "l": "links lead in a circle", "f": "a folder stands", "p": "a file stands"}
    assert fitting[name[0]] in told and "delete" not in told and "correct your file" not in told


CHILD = """
import resource, sys
resource.setrlimit(resource.{limit}, ({value}, {value}))
from flp import cli
sys.exit(cli.main({words}))
"""


def limited(limit, value, *words):
    code = CHILD.format(limit=limit, value=value, words=list(words))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_limit_of_file_sizes_is_named(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does
    done = limited("RLIMIT_FSIZE", 500, *DOWNLOAD)
    assert done.returncode == 2, done.stderr
    assert "File too large; files may not be so large there" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_limit_of_open_files_is_named(folder):
    """However few are allowed: it works, or the limit is named; a file is never blamed for it."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 40
    for count in (8, 12, 16):
        done = limited("RLIMIT_NOFILE", count, *DOWNLOAD)
        last = (done.stderr.splitlines() or [""])[-1]
        assert done.returncode == 0 or "Too many open files" in last, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_named(folder, capsys):
    (folder / "params.yaml").chmod(0)
    assert "Permission denied; fix the permissions" in stage(capsys, *DOWNLOAD)
