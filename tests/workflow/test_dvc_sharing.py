"""docs/sharing.md, command by command, and the remotes it speaks of: a real sshd on loopback, a shared cache."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_clones import BELOW_OFFLINE_OF_ONE, agrees
from workflow_support import BIN, DATASETS, REPO, STAND_INS, Checkout, jobs, new_checkout, recipes, wait_until

pytestmark = pytest.mark.slow
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Server:
    """An SSH server of our own on loopback."""

    def __init__(self, folder: Path) -> None:
        assert SSHD is not None
        folder.mkdir()
        self.key = folder / "id_ed25519"
        for key in (self.key, folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host_key",
            "PidFile": "none",
            "AuthorizedKeysFile": f"{self.key}.pub",
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "UsePAM": "no",
            "Subsystem": "sftp internal-sftp",
        }
        (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a root sshd drops its privileges
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=self.log)
        wait_until(self.answers, 15)

    def answers(self) -> bool:
        """Whether the server takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, path: Path) -> str:
        """A folder of this machine through the server."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running SSH server."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd here (Debian: openssh-server)")
    running = Server(tmp_path_factory.mktemp("ssh") / "server")
    yield running
    running.stop()


@pytest.mark.slow(35)
def test_the_document_works_as_written(tmp_path: Path, server: Server) -> None:
    ana = new_checkout(tmp_path / "ana", datasets=DATASETS[:1])
    bare, store = tmp_path / "flp.git", tmp_path / "store"
    subprocess.run(["git", "clone", "-q", "--bare", str(ana.root), str(bare)], check=True)
    ana.run("git", "remote", "add", "origin", bare)
    ana.run("git", "push", "-q", "--set-upstream", "origin", "main")
    for folder in ("ben", "elsewhere", "cache", "smk", "store"):
        (tmp_path / folder).mkdir()
    replaced = {
        "ssh://server.example.org/srv/flp": server.url(store),
        "git@example.org:lab/flp.git": str(bare),
        "~/.ssh/id_ed25519": str(server.key),
        "/srv/flp-cache": str(tmp_path / "cache"),
        "/srv/flp-snakemake": str(tmp_path / "smk"),
    }
    places = {"ana": ana.root, "ben": tmp_path / "ben", "elsewhere": tmp_path / "elsewhere"}
    # What makes a DVC key file of the reader's own known to another project.
    ana.env |= {"DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system")}
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "config").write_text(f"['remote \"team\"']\n    keyfile = {server.key}\n")
    below = jobs(offline_train=1, online_finetune=1, report=1)
    everything = jobs(download_dataset=1, pretrain_flow=1, invert_to_latent=1) + below
    ran = []
    cases = {"locked", "conflict"}  # below, and in test_workflow_faults.py
    assert {who for who, _ in recipes()} == places.keys() | cases
    for who, text in recipes():
        if who in cases:
            continue
        for old, new in replaced.items():
            text = text.replace(old, new)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=places[who], env=ana.env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{who}: {text}\n{done.stdout}\n{done.stderr}"
        if "snakemake -n" in text:
            assert done.stdout.count("Nothing to be done") == text.count("snakemake -n")
        ran.append(ana.ran())
    assert ran[1] == everything  # Ana's dvc repro
    assert ran[3] == below  # Ben's experiment
    assert sum(ran[4:], jobs()) == jobs()  # and all else is there
    got = places["elsewhere"] / "flow" / "seed0" / "flow.safetensors"
    assert got.read_text() == ana.read(f"results/{DATASETS[0]}/flow/model/seed0/flow.safetensors")


@pytest.mark.slow(35)
def test_two_who_have_trained_merge_and_only_what_is_new_runs(small: Checkout, tmp_path: Path) -> None:
    """Ana changes alpha, Ben the page's title: her policies are taken as they are, and the page is made again."""
    small.run("dvc", "remote", "add", "--default", "team", tmp_path / "remote")
    small.commit("remote")
    small.run("git", "checkout", "-q", "-b", "ana")
    small.change(offline__alpha=3.0)
    assert small.dvc("repro") == BELOW_OFFLINE_OF_ONE
    small.commit("alpha 3")
    small.run("dvc", "push", "-q")
    policy = "results/cube-single-play/online/flp/seed0/task1_seed0/policy.safetensors"
    hers = small.read(policy)
    small.run("git", "checkout", "-q", "main")
    small.run("dvc", "checkout", "-q")
    small.change(report__title="Ben's")
    assert small.dvc("repro") == jobs(report=1)
    small.commit("title")
    shutil.rmtree(small.root / ".dvc" / "cache")  # he has not pulled hers
    small.run("dvc", "commit", "-q", "-f")
    assert "CONFLICT (content): Merge conflict in dvc.lock" in small.run("git", "merge", "ana", check=False).stdout
    assert small.run("git", "diff", "--name-only", "--diff-filter=U").stdout.split() == ["dvc.lock"]
    small.ran()
    small.follow("conflict")
    assert small.ran() == jobs(report=1)
    assert small.read(policy) == hers
    small.run("git", "commit", "-qm", "merged")
    assert agrees(small)


def test_a_conflict_is_settled_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    from merge_lock import merged

    def record(text: str) -> dict[str, str]:
        return {"md5": text}

    base = {name: record("old") for name in ("same", "hers", "his", "both", "she drops", "he drops")}
    ours = base | {"hers": record("hers"), "both": record("hers"), "she adds": record("new")}
    theirs = base | {"his": record("his"), "both": record("his"), "he adds": record("new")}
    del ours["she drops"], theirs["he drops"]
    assert merged(base, ours, theirs) == {
        "same": record("old"),
        "hers": record("hers"),
        "his": record("his"),
        "both": record("hers"),
        "she adds": record("new"),
        "he adds": record("new"),
    }


@pytest.mark.slow(7)
def test_folders_that_are_links_are_refused_by_dvc_alone_and_at_once(small: Checkout, tmp_path: Path) -> None:
    for name in ("data", "results"):
        shutil.move(small.root / name, tmp_path / f"scratch-{name}")
        (small.root / name).symlink_to(tmp_path / f"scratch-{name}")
    small.change(report__title="Another")
    assert small.run("git", "status", "--short").stdout.split() == ["M", "params.yaml"]
    done = small.run("dvc", "repro", "report", check=False)
    assert done.returncode != 0 and small.ran() == jobs()
    assert "error: data is a link, and DVC versions nothing that lies behind one" in done.stdout + done.stderr
    assert small.snakemake() == jobs(report=1)
    assert small.planned() == jobs()


def test_the_stand_ins_are_in_the_way(tmp_path: Path) -> None:
    """The table's tests count nothing if this does not hold."""
    checkout = Checkout(tmp_path)
    done = checkout.run(sys.executable, "-m", "flp.stages.report", "--params", "none", check=False)
    assert done.returncode != 0 and "sitecustomize" in done.stderr
    assert (STAND_INS / "sitecustomize.py").exists() and (BIN / "dvc").exists()
