"""Install flp as anyone would, with each Python that pyproject.toml claims: `make installs`.

Each gets an environment of its own in a temporary folder, with the pins of constraints.txt, and is tried there. A
Python that is not on PATH is reported and skipped, and so is the one that runs this, because `.venv` was made with it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
# Run in a folder without another flp than the installed one; each imports different packages.
TRIALS = (
    ("flp", "--version"),
    ("flp", "check", "--params", str(ROOT / "params.yaml")),
    ("flp", "offline-train", "--help"),
    ("python", "-c", "import dvc.cli, snakemake.cli, ogbench.manipspace"),
)


def claimed() -> list[str]:
    """The versions that `requires-python` allows, such as `3.11`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    return [f"3.{minor}" for minor in range(40) if f"3.{minor}.0" in allowed]


def main() -> int:
    """Try them all; return the exit status."""
    failed = 0
    for version in claimed():
        python = f"python{version}"
        if version == f"3.{sys.version_info.minor}":
            print(f"{python}: .venv is made with it")
        elif not is_at_hand(python):
            print(f"{python}: not tried, it is not installed")
        else:
            print(f"{python}: installing …", flush=True)
            works = install(python)
            print(f"{python}: {'installs and runs' if works else 'FAILS'}")
            failed += not works
    return min(failed, 1)


def is_at_hand(python: str) -> bool:
    """Whether it runs: the shims that some version managers put on PATH may not."""
    return bool(shutil.which(python)) and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def install(python: str) -> bool:
    """Make an environment, install flp, run the trials; print what fails."""
    pip = ("python", "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        for program, *arguments in ((*pip, "-c", str(ROOT / "constraints.txt"), str(ROOT)), *TRIALS):
            command = [f"{folder}/bin/{program}", *arguments]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                print(f"{' '.join(command)}\n{done.stdout}")
                return False
    return True


if __name__ == "__main__":
    sys.exit(main())
