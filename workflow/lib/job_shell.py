"""What the shell of every job begins with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from snakemake.settings.types import DeploymentMethod

from flp.experiment.interpreter import GIVEN

# A stage that fails is a failed job, whoever keeps its log (`set`: this takes the place of Snakemake's own prefix).
# A stage that is asked to stop saves its state first. When a whole process group is asked, the shell waits for the
# stage (`trap :`, which children do not inherit), and what keeps its log stays until it has spoken (`trap ''`). A log
# that cannot be shown or written any more (a terminal that was closed, a full disk) fails no job.
ALWAYS = """set -euo pipefail; trap : INT TERM; keep() { trap '' INT TERM PIPE; tee "$1" || cat > /dev/null; }; """


def prefix(root: str, deployment: Any) -> str:
    """The commands, for jobs of the checkout at `root` with Snakemake's deployment settings."""
    if deployment is None or DeploymentMethod.CONDA not in deployment.deployment_method:
        return ALWAYS
    return ALWAYS + _in_conda(root, str(Path(deployment.conda_prefix or ".snakemake/conda").absolute()))


def _in_conda(root: str, environments: str) -> str:
    """Put the environment that Snakemake has just activated first, and in it this checkout's flp.

    Where conda's `base` is active, activation swaps folders in the middle of PATH, behind those of the Python that
    runs Snakemake. And Snakemake takes PYTHONPATH away from conda's jobs, for the sake of packages that would come
    before conda's; so it gets nothing but this checkout, and the packages of the user's own folder stay out.
    """
    lost = shlex.quote(f"error: conda has not activated this job's environment, which is in {environments}")
    return (
        f'[ "${{CONDA_PREFIX:-}}/.." -ef {shlex.quote(environments)} ] || {{ echo {lost} >&2; exit 1; }}; '
        f'export PATH="$CONDA_PREFIX/bin:$PATH" {GIVEN}="$CONDA_PREFIX" PYTHONNOUSERSITE=1 '
        f"PYTHONPATH={shlex.quote(root)}; "
    )
