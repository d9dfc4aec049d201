"""The graph on a real Slurm, all of its daemons on this machine; skipped where Slurm cannot start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_support import DATASETS, Checkout, jobs, new_checkout, wait_until

pytestmark = pytest.mark.slow(80)
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MinJobAge=600
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=64000 Gres=gpu:1
PartitionName=main Nodes={host} Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running Slurm; yields the environment in which its commands work."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
    if missing := [name for name in needed if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"no {', '.join(missing)} here (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs for others and needs root")
    known = Path("/etc/slurm/slurm.conf")  # srun within a job looks nowhere else: the plugin takes SLURM_CONF away
    if known.exists():
        pytest.skip(f"this machine has a Slurm of its own ({known})")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    text = CONFIG.format(folder=folder, host=host, ports=free_ports(2), cores=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")  # a stand-in, not a GPU
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    everywhere = os.environ | environment
    commands = (
        ["munged", "--foreground", "--force", *(f"--{o}={folder}/munge.{f}" for o, f in munge.items())],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", host],
    )
    running: list[subprocess.Popen[bytes]] = []
    known.unlink(missing_ok=True)  # a link that leads nowhere: of a test that was killed
    known.parent.mkdir(exist_ok=True)
    known.symlink_to(folder / "slurm.conf")
    with (folder / "out").open("w") as out:
        for command in commands:
            running.append(subprocess.Popen(command, env=everywhere, stdout=out, stderr=out))

        def is_idle() -> bool:
            shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=everywhere, capture_output=True, text=True)
            return shown.stdout.strip() == "idle"

        try:
            try:
                wait_until(is_idle, 40)
            except AssertionError:
                pytest.skip(f"Slurm does not start here: {_last_words(folder)}")
            yield environment
        finally:
            _stop(running)
            known.unlink()


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(running):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(folder: Path) -> str:
    logs = [path.read_text(errors="replace").splitlines() for path in [*folder.glob("*.log"), folder / "out"]]
    return "; ".join(lines[-1] for lines in logs if lines)


def test_all_stages_run_on_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install snakemake-executor-plugin-slurm")
    checkout = new_checkout(tmp_path / "cluster", datasets=DATASETS[:1])
    checkout.env["PATH"] = f"{checkout.env['PATH']}:/usr/sbin"
    checkout.env |= {"SLURM_CONF": slurm["SLURM_CONF"], "FLP_STAND_IN_SLURM": "wanted"}
    submit = (
        "snakemake",
        "--workflow-profile",
        "workflow/profiles/slurm",
        "--slurm-init-seconds-before-status-checks=2",
    )
    submit += (
        "--max-threads",
        "2",
        "--default-resources",
        "slurm_partition=main",
        "mem_mb=200",
        "runtime=5",
        "--latency-wait",
        "20",
    )
    expected = jobs(
        download_dataset=1, pretrain_flow=1, invert_to_latent=1, offline_train=1, online_finetune=1, report=1
    )
    assert run_all(checkout, *submit) == expected
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], env=os.environ | slurm, capture_output=True, text=True, check=True
    ).stdout
    assert shown.count("TresPerJob=gres:gpu:1") == 4  # the four stages that train or invert
    assert checkout.planned() == jobs()
    checkout.change(offline__alpha=3.0)
    assert run_all(checkout, *submit) == jobs(offline_train=1, online_finetune=1, report=1)


def run_all(checkout: Checkout, *command: str) -> dict[str, int]:
    """Run Snakemake to its end, which must come."""
    checkout.ran()
    done = subprocess.run(
        ["timeout", "-k", "5", "240", *command], cwd=checkout.root, env=checkout.env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout.ran()
