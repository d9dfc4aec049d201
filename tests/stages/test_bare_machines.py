"""The real stages on machines that lack something nobody needs: the same bytes as anywhere else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_pipeline import tiny

ROOT = Path(__file__).resolve().parents[2]
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
    params = tiny(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")), POINT)
    params["download"] |= {"episodes": 12}
    params["offline"]["tasks"] = [1, 2, 4]
    params["online"]["steps"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def run(folder, prefix=(), code=RUN, **environment):
    """What the stages make there, by name, and what they told; an environment's None removes the variable."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [*prefix, sys.executable, "-c", code]
    found = {name: value for name, value in given.items() if value is not None}
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, check=False)
    told = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, told
    assert "Traceback" not in told
    assert not [path.name for path in folder.iterdir() if path.name not in {"params.yaml", "data", "results", ".flp"}]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MADE}, told


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory):
    return run(experiment(tmp_path_factory.mktemp("anywhere") / "x"))[0]


@pytest.mark.slow(60)
@pytest.mark.parametrize("renderer", ["bogus", "egl"])
def test_no_stage_needs_a_renderer(tmp_path, anywhere, renderer):
    """Where the libraries are there, PYOPENGL_PLATFORM makes them fail."""
    made, _ = run(experiment(tmp_path / "x"), MUJOCO_GL=renderer, PYOPENGL_PLATFORM="bogus")
    assert made == anywhere


@pytest.mark.parametrize("dataset", [POINT, "scene-play", "antsoccer-arena-navigate"])
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
    given = {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "bogus"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# Without /dev/shm

READ_ONLY = "mount -t tmpfs -o ro tmpfs /dev/shm"
MISSING = """mkdir -p dev && for name in null zero random urandom; do
touch dev/$name && mount --bind /dev/$name dev/$name; done && ln -sfn /proc/self/fd dev/fd && mount --rbind dev /dev"""


def in_own_mounts(how, folder):
    """What runs a command where something is mounted otherwise, if that is permitted here."""
    prefix = ["unshare", "--mount", "sh", "-c", f'cd {folder} && {how} && cd "$OLDPWD" && exec "$@"', "sh"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("mounts of one's own are not permitted here")
    return prefix


@pytest.mark.slow(60)
def test_shared_memory_may_be_read_only(tmp_path, anywhere):
    made, _ = run(experiment(tmp_path / "x"), in_own_mounts(READ_ONLY, tmp_path))
    assert made == anywhere


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
    for threads in (1, 2):
        run_shards(work, shards, threads)
        assert len([shard.folder.rmdir() for shard in shards]) == 3
        options = {"seed": 0, "episodes": 8, "steps_per_episode": 9, "workers": threads}
        generate("pointmaze-medium-navigate", f"{threads}.npz", f"{threads}-val.npz", **options)
        with EnvironmentPool("pointmaze-medium-navigate", [1, 2], workers=threads) as pool:
            pool.reset([0, 1], [0, 1])
    assert Path("1.npz").read_bytes() == Path("2.npz").read_bytes()
"""


@pytest.mark.slow(20)
@pytest.mark.parametrize("how", [READ_ONLY, MISSING])
def test_processes_share_without_names(tmp_path, how):
    (tmp_path / "share.py").write_text(SHARE, encoding="utf-8")
    prefix = in_own_mounts(how, tmp_path)
    given = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": "/nonexistent"}
    done = subprocess.run([*prefix, sys.executable, "share.py"], cwd=tmp_path, env=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
