"""Clones of this repository in which the real `snakemake` and `dvc` run, and a count of the jobs they ran.

With stand-ins (the default here) a job does not train: a `sitecustomize` on PYTHONPATH takes the place of
`python -m flp.stages.…`, writes the stage's files with the right keys, and notes the job. Sources, keys, rules,
Snakemake and DVC are the real ones, so what would run is what counts.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from repository import REPO

BIN = Path(sys.executable).parent
STAND_INS = REPO / "tests" / "stand_ins"
NO_NETWORK = REPO / "tests" / "no_network"
STAGES = ("download_dataset", "pretrain_flow", "invert_to_latent", "offline_train", "online_finetune", "report")
NOT_INHERITED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # sources are compiled once, as in anyone's checkout
DATASETS = ("pointmaze-medium-navigate", "cube-single-play")

Jobs = Counter[str]


def jobs(**counts: int) -> Jobs:
    """Expected jobs by stage."""
    return Counter(counts)


def recipes() -> list[tuple[str, str]]:
    """Who runs what in docs/sharing.md, or in which case."""
    return re.findall(r"^```sh (\w+)\n(.*?)^```$", (REPO / "docs" / "sharing.md").read_text(), re.MULTILINE | re.DOTALL)


@cache
def warm_snakemake() -> str:
    """Where a process listens that has imported Snakemake, for all that this test process runs (stand_ins/warm_…)."""
    folder = tempfile.TemporaryDirectory()
    path = str(Path(folder.name) / "socket")
    server = subprocess.Popen(
        [sys.executable, STAND_INS / "warm_snakemake.py", path],
        env={name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        | {"PYTHONPATH": str(STAND_INS), "FLP_STAND_IN": os.devnull},
        stdin=subprocess.PIPE,  # it ends when this closes, however this process ends
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return path


class Checkout:
    """A clone of the repository."""

    def __init__(self, root: Path, *, stand_ins: bool = True) -> None:
        self.root = root
        self.log = root / ".flp" / "stand_ins.log"
        self.env = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root / ".flp" / "dvc"),
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
            "XDG_CACHE_HOME": str(root / ".flp" / "xdg"),
        }
        for name in NOT_INHERITED:
            self.env.pop(name, None)
        self.warm = {}  # for run() only: what start() returns is stopped and killed, and must be the process itself
        if stand_ins:
            self.env |= {"PYTHONPATH": str(STAND_INS), "FLP_STAND_IN": str(self.log)}
            self.warm = {"FLP_STAND_IN_WARM": warm_snakemake()}

    def run(self, *command: str | Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; on failure show its output."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.env | self.warm | env,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
        return done

    def follow(self, case: str) -> subprocess.CompletedProcess[str]:
        """Do what docs/sharing.md says for a case."""
        (text,) = (text for who, text in recipes() if who == case)
        return self.run("bash", "-euo", "pipefail", "-c", text)

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        silent = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.root, env=self.env | env, stdout=silent, stderr=silent, start_new_session=True
        )

    def snakemake(self, *args: str, cores: int = 4, **env: str) -> Jobs:
        """Run `snakemake`; return the jobs that really ran."""
        self.ran()
        self.run("snakemake", "--cores", str(cores), *args, **env)
        return self.ran()

    def dvc(self, *args: str, **env: str) -> Jobs:
        """Run `dvc`; return the jobs that really ran."""
        self.ran()
        self.run("dvc", *args, **env)
        return self.ran()

    def planned(self, *args: str, **env: str) -> Jobs:
        """The jobs that `snakemake -n` announces."""
        return planned_in(self.run("snakemake", "-n", *args, **env).stdout)

    def ran(self) -> Jobs:
        """The jobs that ran since last asked."""
        found = Counter(name.split("/")[0] for name in self.ran_names())
        self.log.unlink(missing_ok=True)
        return found

    def ran_names(self) -> list[str]:
        """The stage and name of each job that ran since `ran` was last asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1] for line in lines if line.startswith("end ")]

    def params(self) -> dict[str, Any]:
        """The parameters."""
        values: dict[str, Any] = yaml.safe_load((self.root / "params.yaml").read_text())
        return values

    def change(self, **values: Any) -> None:
        """Set parameters, `offline__alpha=3.0` for `offline.alpha`."""
        params = self.params()
        for name, value in values.items():
            *sections, last = name.split("__")
            place = params
            for section in sections:
                place = place[section]
            place[last] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file."""
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1))

    def commit(self, message: str = "change") -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def read(self, path: str) -> str:
        """A file's text."""
        return (self.root / path).read_text()

    def copy(self, to: Path) -> Checkout:
        """A copy of everything, times and links included."""
        subprocess.run(["cp", "-a", f"{self.root}/.", str(to)], check=True)
        other = Checkout(to, stand_ins="FLP_STAND_IN" in self.env)
        other.ran()
        return other

    def clone(self, to: Path) -> Checkout:
        """What a colleague gets from git."""
        subprocess.run(["git", "clone", "-q", str(self.root), str(to)], check=True)
        return Checkout(to, stand_ins="FLP_STAND_IN" in self.env)


def empty_namespace() -> list[str]:
    """Words before a command that leave it no network at all, or none where the system allows no namespaces."""
    words = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else []


def planned_in(output: str) -> Jobs:
    """The jobs in Snakemake's table of job counts."""
    table = re.search(r"^Job stats:\n.*\n-.*\n((?:\w+ +\d+\n)*)", output, re.MULTILINE)
    counts = dict(line.split() for line in table[1].splitlines()) if table else {}
    return Counter({stage: int(counts[stage]) for stage in STAGES if stage in counts})


def new_checkout(
    root: Path, *, stand_ins: bool = True, datasets: Sequence[str] = DATASETS, seeds: Sequence[int] = (0,)
) -> Checkout:
    """A committed copy of this working tree with an experiment of seconds."""
    names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(names, cwd=REPO, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file() and not name.startswith("dvc.lock"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, root / name)
    checkout = Checkout(root, stand_ins=stand_ins)
    checkout.change(
        datasets=list(datasets),
        seeds=list(seeds),
        download__episodes=4,
        download__steps_per_episode=51,
        flow__hidden=[8],
        flow__steps=20,
        flow__validate_every=10,
        flow__batch_size=32,
        flow__solver_steps=2,
        invert__likelihood_samples=16,
        invert__max_roundtrip_error=1.0,
        offline__tasks=[1, 2],
        offline__steps=20,
        offline__hidden=[8],
        offline__batch_size=16,
        online__steps=10,
        evaluation__every=10,
        evaluation__episodes=1,
        report__bootstrap=100,
        report__average_last=1,
    )
    checkout.run("git", "init", "-q", "-b", "main")
    checkout.commit("start")
    return checkout


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """kill -9 a process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
