"""`--use-conda`: each stage in the environment that Snakemake has made for it, and in no other.

A small stand-in does as conda does where Snakemake meets it: it makes an environment at a prefix (a venv that borrows
this one's packages), and `activate` swaps the active environment's folder within PATH, wherever that is. Whether the
real environment can be solved, only a real conda tells; it is asked where there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy
import pytest
from workflow_support import DATASETS, STAGES, Checkout, jobs, new_checkout

pytestmark = pytest.mark.slow(15)

CONDA = """#!{python}
import json, pathlib, subprocess, sys
match sys.argv[1:]:
    case ["--version"]:
        print("conda 26.7.1")
    case ["info", "--json"]:
        print(json.dumps({{"conda_prefix": "{base}", "platform": "linux-64"}}))
    case ["config", "--get", "channel_priority", "--json"]:
        print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
    case ["env", "create", *options]:
        prefix = options[options.index("--prefix") + 1]
        subprocess.run(["{python}", "-m", "venv", "--without-pip", prefix], check=True)
        (packages,) = pathlib.Path(prefix).glob("lib/python*/site-packages")
        (packages / "borrowed.pth").write_text("{packages}")
    case ["clean", *_]:
        pass
    case _:
        sys.exit(f"no such command here: {{sys.argv}}")
"""
# As conda does: the new environment's folder takes the old one's place in PATH, or else comes first.
ACTIVATE = """
[ -d "$1" ] || { echo "EnvironmentLocationNotFound: Not a conda environment: $1" >&2; return 1; }
case ":$PATH:" in
    *":${CONDA_PREFIX:-/nowhere}/bin:"*) PATH=":$PATH:"; PATH="${PATH/":$CONDA_PREFIX/bin:"/":$1/bin:"}" ;;
    *) PATH="$1/bin:$PATH" ;;
esac
PATH="${PATH#:}"; PATH="${PATH%:}"
export PATH CONDA_PREFIX="$1" CONDA_SHLVL=$(( ${CONDA_SHLVL:-0} + 1 ))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the stand-in is installed: conda's base environment, with a Python of its own."""
    base = tmp_path / "base"
    (base / "bin").mkdir(parents=True)
    packages = Path(numpy.__file__).parents[1]
    (base / "bin" / "conda").write_text(CONDA.format(python=sys.executable, base=base, packages=packages))
    (base / "bin" / "conda").chmod(0o755)
    (base / "bin" / "activate").write_text(ACTIVATE)
    (base / "bin" / "python").symlink_to("/bin/false")
    return base


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A clone in which nothing has been made; its stages are the real ones."""
    return new_checkout(tmp_path / "a checkout", stand_ins=False, datasets=DATASETS[:1])


def active(base: Path, checkout: Checkout) -> dict[str, str]:
    """The variables of a shell in which conda's base is active, and then this environment."""
    folders = [checkout.env["PATH"], str(base / "bin"), os.environ["PATH"]]
    return {"CONDA_PREFIX": str(base), "CONDA_SHLVL": "1", "PATH": ":".join(folders)}


def interpreters(root: Path, *stages: str) -> set[str]:
    """The Pythons that the logs of these stages begin with."""
    logs = [log for stage in stages for log in (root / ".flp" / "logs" / stage).rglob("*.log")]
    assert len(logs) >= len(stages)
    first = [log.read_text().splitlines()[0] for log in logs]
    assert all("torch " in line for line in first)
    return {line.split("(")[1].split(")")[0] for line in first}


def test_stages_run_in_the_environment_that_was_made_for_them(base: Path, checkout: Checkout) -> None:
    conda = active(base, checkout)
    checkout.run("snakemake", "--cores", "2", "--use-conda", "pretrain_flow_all", **conda)
    (environment,) = (path for path in (checkout.root / ".snakemake" / "conda").iterdir() if path.is_dir())
    own = str(environment / "bin" / "python")
    assert interpreters(checkout.root, "download_dataset", "pretrain_flow") == {own}
    manifest = json.loads(checkout.read(f"results/{DATASETS[0]}/flow/model/seed0/flow.json"))
    assert manifest["interpreter"] == own and manifest["versions"]["torch"]
    for flags in ([], ["--use-conda"]):  # neither way is anything made again
        assert "Nothing to be done" in checkout.run("snakemake", "-n", *flags, "pretrain_flow_all", **conda).stdout


def test_they_find_this_checkout_from_another_folder(base: Path, checkout: Checkout, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(checkout.root / "params.yaml", there)
    command = ("snakemake", "--cores", "2", "--directory", there, "--conda-prefix", tmp_path / "envs", "--use-conda")
    checkout.run(*command, "download_dataset_all", **active(base, checkout))
    (own,) = interpreters(there, "download_dataset")
    assert own.startswith(str(tmp_path / "envs"))


@pytest.mark.parametrize("lost", ["the environment's Python", "the activation"])
def test_a_job_outside_its_environment_stops_in_one_line(base: Path, checkout: Checkout, lost: str) -> None:
    conda = active(base, checkout)
    command = ("snakemake", "--cores", "2", "--use-conda", "download_dataset_all")
    checkout.run(*command, "--conda-create-envs-only", **conda)
    (environment,) = (path for path in (checkout.root / ".snakemake" / "conda").iterdir() if path.is_dir())
    if lost == "the activation":
        (base / "bin" / "activate").write_text("false")
        says = "error: conda has not activated this job's environment"
    else:
        (environment / "bin" / "python").unlink()
        says = f"error: this job was given the environment {environment}, but runs on "
    done = checkout.run(*command, check=False, **conda)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert says in said and "Traceback" not in said
    assert not (checkout.root / f"data/{DATASETS[0]}.npz").exists()


@pytest.mark.slow(900 if shutil.which("conda") else 1)
def test_a_real_conda_makes_the_environment_and_runs_every_stage_in_it(tmp_path: Path) -> None:
    if shutil.which("conda") is None:
        pytest.skip("no conda here")
    checkout = new_checkout(tmp_path / "conda", stand_ins=False, datasets=DATASETS[:1])
    checkout.run("snakemake", "--cores", "2", "--use-conda")
    (environment,) = (path for path in (checkout.root / ".snakemake" / "conda").iterdir() if path.is_dir())
    assert interpreters(checkout.root, *STAGES) == {str(environment / "bin" / "python")}
    assert checkout.planned() == checkout.planned("--use-conda") == jobs()
