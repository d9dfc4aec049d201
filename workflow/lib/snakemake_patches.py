"""Overrides of Snakemake's internals: one function each, which says what Snakemake would do otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from snakemake.io import _IOFile
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

from flp.system.locks import remove


def accept_any_clock(dag: Any) -> None:
    """Snakemake would fail a job whose inputs seem newer than its outputs, as they do where machines' clocks differ."""

    async def no_check(job: Any, outputs: Any) -> None:
        pass

    dag.check_output_mtime = no_check


def replace_read_only() -> None:
    """Snakemake would refuse to make again what is read-only, as DVC's hard links into its cache are.

    Jobs replace files and never write into them, for which the folder's mode counts.
    """

    async def never(file: Any) -> bool:
        return False

    _IOFile.protected = never


def ignore_records(dag: Any, settings: Any) -> None:
    """Snakemake would rerun jobs by its own records and by the checksums of small inputs.

    Those know nothing of files that DVC or git has swapped. With times as the only trigger, and inputs whose times must
    not count declared `ancient`, a job runs if its output is missing or forced.
    """
    settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    dag.max_checksum_file_size = 0


def force(dag: Any, files: Iterable[str]) -> None:
    """Snakemake would take an existing file for a current one; force the jobs that make these."""
    dag.forcefiles.update(files)


def trust_whole(dag: Any, files: Container[str]) -> None:
    """Snakemake would make again what it did not see finished, as where it was killed while its jobs lived on.

    These files are whole: their manifests, which are written last, carry the keys. Half-written ones are not in them.
    """
    incomplete_files = dag.incomplete_files

    async def other_files() -> list[Any]:
        return [file for file in await incomplete_files() if file not in files]

    dag.incomplete_files = other_files


def delete_undeclared(dag: Any, folders_of: Callable[[list[Any]], Iterable[str]]) -> None:
    """With `--delete-all-output` Snakemake would delete declared outputs only; delete the jobs' folders as well.

    The next run would otherwise keep what no rule declares: policies, tables, videos.
    """
    clean = dag.clean

    async def clean_all(only_temp: bool = False, dryrun: bool = False) -> None:
        await clean(only_temp, dryrun)
        for folder in filter(os.path.lexists, [] if only_temp else folders_of(list(dag.jobs))):
            logger.info(f"{'Would delete' if dryrun else 'Deleting'} {folder}")
            if not dryrun:
                remove(Path(folder))

    dag.clean = clean_all
