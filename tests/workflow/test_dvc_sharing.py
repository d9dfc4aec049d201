"""docs/sharing.md, command by command, and the remotes it speaks of: a real sshd on loopback, a shared cache."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_support import BIN, DATASETS, REPO, STAND_INS, Checkout, jobs, new_checkout, wait_until

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


def blocks() -> list[tuple[str, str]]:
    """Who runs what in docs/sharing.md."""
    return re.findall(r"^```sh (\w+)\n(.*?)^```$", (REPO / "docs" / "sharing.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow(70)
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
    for who, commands in blocks():
        text = commands
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


def test_the_stand_ins_are_in_the_way(tmp_path: Path) -> None:
    """The table's tests count nothing if this does not hold."""
    checkout = Checkout(tmp_path)
    done = checkout.run(sys.executable, "-m", "flp.stages.report", "--params", "none", check=False)
    assert done.returncode != 0 and "sitecustomize" in done.stderr
    assert (STAND_INS / "sitecustomize.py").exists() and (BIN / "dvc").exists()
