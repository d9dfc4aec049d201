"""Which Python and torch a program runs on, and whether they are the ones that its job was given."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from flp.system.artifacts import versions
from flp.system.errors import FLPError

# Set by Snakemake's jobs to the conda environment that they have activated (workflow/lib/job_shell.py).
GIVEN = "FLP_ENVIRONMENT"


def described() -> str:
    """`Python 3.11.7 (/…/bin/python), torch 2.13.0 (/…/site-packages/torch)`, without loading torch."""
    installed, spec = versions(), find_spec("torch")
    torch = f"torch {installed.get('torch')} ({Path(spec.origin).parent})" if spec and spec.origin else "no torch"
    return f"Python {installed['python']} ({sys.executable}), {torch}"


def in_place(program: str) -> None:
    """Start the log of a workflow's job with the interpreter, and check that it is the one that the job was given.

    Raises:
        FLPError: the job was given an environment, and this Python belongs to another.
    """
    if "FLP_PARAMS" in os.environ:  # set by the workflow
        print(f"{program}: {described()}", file=sys.stderr, flush=True)
    given = os.environ.get(GIVEN)
    if given and Path(sys.prefix).resolve() != Path(given).resolve():
        raise FLPError(
            f"this job was given the environment {given}, but runs on {sys.executable}; remove that folder, and "
            "Snakemake will make it again"
        )
