"""Which Python and which torch a program runs on, and whether they are those that its job was given."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from flp.system.artifacts import versions
from flp.system.errors import FLPError

# Snakemake's jobs say here which of its conda environments they have activated (workflow/lib/job_shell.py).
GIVEN = "FLP_ENVIRONMENT"


def described() -> str:
    """`Python 3.11.7 (/…/bin/python), torch 2.13.0 (/…/site-packages/torch)`, without loading torch."""
    found, spec = versions(), find_spec("torch")
    torch = f"torch {found.get('torch')} ({Path(spec.origin).parent})" if spec and spec.origin else "no torch"
    return f"Python {found['python']} ({sys.executable}), {torch}"


def in_place(program: str) -> None:
    """Begin the log of a workflow's job with what runs it; see to it that this is what the job was given.

    Raises:
        FLPError: an environment was made for the job, and this Python is another's.
    """
    if "FLP_PARAMS" in os.environ:  # set by the workflow
        print(f"{program}: {described()}", file=sys.stderr, flush=True)
    given = os.environ.get(GIVEN)
    if given and Path(sys.prefix).resolve() != Path(given).resolve():
        raise FLPError(
            f"this job was given the environment {given}, but runs on {sys.executable}; remove that folder, for "
            "Snakemake to make it anew"
        )
