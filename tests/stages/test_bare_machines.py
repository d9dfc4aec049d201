"""The real stages on machines that lack something dispensable: the same bytes as elsewhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from repository import REPO
from test_pipeline import tiny

POINT = "pointmaze-medium-navigate"
OF = ["--dataset", POINT, "--threads", "2"]
STAGES = [
    ["download-dataset", *OF],
    ["pretrain-flow", *OF, "--seed", "0"],
    ["invert-to-latent", *OF, "--seed", "0"],
    ["offline-train", *OF],
    ["report"],
]
RUN = f"import sys; from flp import cli; sys.exit(max(map(cli.main, {STAGES!r})))"
MADE = [f"data/{POINT}.npz", f"results/{POINT}/flow/model/seed0/flow.safetensors"]
MADE += [f"results/{POINT}/offline/flp/seed0/task{task}_seed0/policy.safetensors" for task in (1, 2, 4)]


def experiment(folder):
    """Three runs on two threads: shards, which take turns."""
    folder.mkdir()
    params = tiny(yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8")), POINT)
    params["download"] |= {"episodes": 12}
    params["offline"]["tasks"] = [1, 2, 4]
    params["online"]["steps"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def run(folder, prefix=()):
    """The files that the stages make there, by name."""
    command = [*prefix, sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, output
    assert "Traceback" not in output
    assert not [path.name for path in folder.iterdir() if path.name not in {"params.yaml", "data", "results", ".flp"}]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MADE}


@pytest.mark.parametrize("dataset", ["scene-play", "antsoccer-arena-navigate"])
def test_no_environment_needs_a_renderer_and_the_setting_stays(tmp_path, dataset):
    code = f"""
import os
from flp.evaluation.pool import EnvironmentPool
from flp.data.environments import make_environment
make_environment({dataset!r}, 1).reset()
for workers in (0, 1):
    with EnvironmentPool({dataset!r}, [1], workers=workers) as pool:
        pool.reset([0], [0])
assert os.environ["MUJOCO_GL"] == "bogus"
"""
    given = {**os.environ, "PYTHONPATH": str(REPO), "MUJOCO_GL": "bogus"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# Without /dev/shm

READ_ONLY = "mount -t tmpfs -o ro tmpfs /dev/shm"
MISSING = """mkdir -p dev && for name in null zero random urandom; do
touch dev/$name && mount --bind /dev/$name dev/$name; done && ln -sfn /proc/self/fd dev/fd && mount --rbind dev /dev"""


def in_own_mounts(how, folder):
    """What runs a command where something is mounted otherwise."""
    return ["unshare", "--mount", "sh", "-c", f'cd {folder} && {how} && cd "$OLDPWD" && exec "$@"', "sh"]


def permitted(prefix):
    """Whether a command may be run in that way here."""
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


SHARE = """
import os
from pathlib import Path
from flp.data.archive import write_npz
from flp.data.generate import generate
from flp.evaluation.pool import EnvironmentPool
from flp.params.run import Run
from flp.runs.shards import Shard, run_shards

def work(shard, turns):
    with turns(0):
        shard.folder.mkdir()

if __name__ == "__main__":
    assert not os.access("/dev/shm", os.W_OK)
    shards = [Shard([Run(task, 0, 1.0, 4)], 1, Path(f"shard{task}")) for task in (1, 2, 3)]
    run_shards(work, shards, 2)
    assert len([shard.folder.rmdir() for shard in shards]) == 3
    generate("pointmaze-medium-navigate", "a.npz", "b.npz", seed=0, episodes=8, steps_per_episode=9, workers=2)
    with EnvironmentPool("pointmaze-medium-navigate", [1, 2], workers=2) as pool:
        pool.reset([0, 1], [0, 1])
"""


@pytest.mark.slow(10)
def test_processes_share_without_names(tmp_path):
    (tmp_path / "share.py").write_text(SHARE, encoding="utf-8")
    prefix = in_own_mounts(MISSING, tmp_path)
    if not permitted(prefix):
        pytest.skip("mounts of one's own are not permitted here")
    given = {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": "/nonexistent"}
    done = subprocess.run([*prefix, sys.executable, "share.py"], cwd=tmp_path, env=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# Without a name, a home, or letters

CAPABILITY = "+dac_read_search"  # the tests' Python may lie where only root may read


NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
NOBODY += [f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}"]
# A user whom the machine does not know, in an empty environment.
NOBODY += ["env", "-i", f"PATH={Path(sys.executable).parent}:{os.defpath}", f"PYTHONPATH={REPO}"]


@pytest.fixture
def as_nobody():
    """What runs a command as such a user."""
    if not permitted(NOBODY):
        pytest.skip("another user cannot be had here")
    return NOBODY


def given_away(folder):
    folder.chmod(0o777)
    for above in [folder, *folder.parents][:4]:
        above.chmod(above.stat().st_mode | 0o055)
    return folder


@pytest.mark.slow(10)
@pytest.mark.parametrize(
    ("front_end", "home"),
    [("snakemake", "NOTHING=1"), *(("dvc", home) for home in ("HOME=/", "HOME=/nonexistent", "NOTHING=1"))],
)
def test_both_front_ends_are_given_a_name_and_a_place(tmp_path, as_nobody, front_end, home):
    """As `make run` and the stages of DVC call them."""
    folder = given_away(experiment(tmp_path / "x"))
    if front_end == "dvc":
        words = ["dvc", "init", "--no-scm", "--quiet"]
    else:
        words = ["snakemake", "download_dataset_all", "--cores", "1", "--quiet", "--configfile", "params.yaml"]
        words += ["--snakefile", str(REPO / "workflow/Snakefile"), "--directory", str(folder)]
    command = [*as_nobody, home, "sh", str(REPO / "workflow/in-venv"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / (".dvc" if front_end == "dvc" else f"data/{POINT}.npz")).exists()
    assert "~" not in {path.name for path in folder.iterdir()}


def test_a_home_that_is_not_known_is_said_in_one_line(tmp_path, as_nobody):
    folder = given_away(experiment(tmp_path / "x"))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["download"] |= {"source": "path", "path": "~/mine.npz"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    command = [*as_nobody, sys.executable, "-m", "flp.cli", "check"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "~/mine.npz: no home folder is known here; write the whole path, or set HOME" in done.stderr


def test_ogbenchs_files_need_no_home(tmp_path, as_nobody):
    """The cache in the home is passed over; the download itself may fail here."""
    folder = given_away(experiment(tmp_path / "x"))
    code = f"""
import ogbench.utils
ogbench.utils.DATASET_URL = "http://127.0.0.1:9"
from flp.data.fetch import fetch
fetch({POINT!r}, "a.npz", "b.npz", retries=0)
"""
    done = subprocess.run([*as_nobody, sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1 and "flp.system.errors.FLPError: cannot get" in done.stderr


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "cp1252:strict"},
]
SPEAK = """
import contextlib, importlib, os, subprocess, sys
from flp import cli
for command in [*cli.STAGES, *cli.TOOLS]:
    program = importlib.import_module(cli.module_of(command))
    for argv in (["--help"], ["--params", os.fsdecode("f\\u207b.yaml".encode())]):
        for speak in (program.main, lambda argv: cli.main([command, *argv])):
            with contextlib.suppress(SystemExit):
                speak(argv)
cli.main(["--help"])
cli.main(["f\\u207b\\u00b9"])
print("said f\\u207b\\u00b9")
sys.stdout.flush()
subprocess.run([sys.executable, "-c", "print('a child says f' + chr(0x207b))"], check=True)
"""


@pytest.mark.slow(5)
@pytest.mark.parametrize("locale", LOCALES[1::2])
def test_everything_is_said_in_any_locale(tmp_path, locale):
    given = {name: value for name, value in os.environ.items() if name not in {"LANG", "PYTHONIOENCODING"}}
    given |= {"PYTHONPATH": str(REPO)} | locale
    done = subprocess.run([sys.executable, "-c", SPEAK], cwd=tmp_path, env=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"a child says f\\u207b" in done.stdout and b"\nsaid f\\u207b" in done.stdout
    assert done.stderr.count(b"cannot read f") >= 10


@pytest.mark.slow(30)
def test_the_stages_need_none_of_all_this(tmp_path):
    """A renderer, /dev/shm, a name, a home, a locale: all are gone at once, so far as this machine lets them be taken.

    Where EGL is there, PYOPENGL_PLATFORM makes it fail.
    """
    made = run(experiment(tmp_path / "anywhere"))
    folder, mounts = given_away(experiment(tmp_path / "x")), in_own_mounts(READ_ONLY, tmp_path)
    prefix = [word for words in (mounts, NOBODY) if permitted(words) for word in words]
    lacking = {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "bogus"} | LOCALES[0]
    assert run(folder, [*prefix, "env", *(f"{name}={value}" for name, value in lacking.items())]) == made


@pytest.mark.parametrize("program", ["flp.cli", "flp.stages.report"])
def test_a_module_run_as_a_program_speaks_too(program):
    given = {**os.environ, "PYTHONPATH": str(REPO)} | LOCALES[0]
    done = subprocess.run([sys.executable, "-m", program, "--help"], env=given, capture_output=True, check=False)
    assert done.returncode == 0 and b"usage: flp" in done.stdout, done.stderr


def test_a_users_path_may_have_letters_that_the_locale_lacks(tmp_path):
    folder = experiment(tmp_path / "x")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["download"] |= {"source": "path", "path": "wür\u0301fel.npz"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    (folder / "wür\u0301fel.npz").write_bytes(b"no archive")
    command = [sys.executable, "-m", "flp.cli", "download-dataset", "--dataset", POINT]
    given = {**os.environ, "PYTHONPATH": str(REPO)} | LOCALES[0]
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, check=False)
    assert done.returncode == 2 and b"is not a whole .npz file (File is not a zip file)" in done.stderr, done.stderr
