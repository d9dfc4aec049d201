"""The prefix of every job's shell commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from snakemake.settings.types import DeploymentMethod

from flp.experiment.interpreter import GIVEN

# A stage that fails is a failed job although its output is piped (`set`, as in Snakemake's own prefix, which this
# replaces). A stage that is asked to stop saves its state first: when a whole process group is signalled, the shell
# waits for the stage (`trap :`, which children do not inherit), and the process that writes its log stays until the
# stage has ended (`trap ''`). A log that can no longer be shown or written (a closed terminal, a full disk) does not
# fail the job.
ALWAYS = """set -euo pipefail; trap : INT TERM; keep() { trap '' INT TERM PIPE; tee "$1" || cat > /dev/null; }; """


def prefix(root: str, deployment: Any) -> str:
    """The commands, for jobs of the checkout at `root` with Snakemake's deployment settings."""
    if deployment is None or DeploymentMethod.CONDA not in deployment.deployment_method:
        return ALWAYS
    return ALWAYS + _in_conda(root, str(Path(deployment.conda_prefix or ".snakemake/conda").absolute()))


def _in_conda(root: str, environments: str) -> str:
    """Put the environment that Snakemake has just activated first, with this checkout's flp.

    Where conda's `base` is active, activation swaps folders in the middle of PATH, behind those of the Python that runs
    Snakemake. And Snakemake clears PYTHONPATH for conda's jobs, so that other packages do not shadow conda's; hence it
    holds only this checkout, and the user's own site packages are disabled.
    """
    lost = shlex.quote(f"error: conda has not activated this job's environment, which is in {environments}")
    return (
        f'[ "${{CONDA_PREFIX:-}}/.." -ef {shlex.quote(environments)} ] || {{ echo {lost} >&2; exit 1; }}; '
        f'export PATH="$CONDA_PREFIX/bin:$PATH" {GIVEN}="$CONDA_PREFIX" PYTHONNOUSERSITE=1 '
        f"PYTHONPATH={shlex.quote(root)}; "
    )
