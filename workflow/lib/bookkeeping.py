"""The parameter file that the workflow writes for its jobs, and checks of files and of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from flp.params.loading import Params
from flp.system.artifacts import write_json
from flp.system.errors import FLPError
from flp.system.hashing import hash_of

FOLDER = Path(".flp")


def write_params(params: Params) -> str:
    """Write the checked parameters for the stages, in a file named by its content; return the path."""
    values = params.model_dump(mode="json")
    path = FOLDER / "params" / f"{hash_of(values)}.json"
    if not path.exists():
        write_json(path, values)
    return str(path)


def require_no_links(files: Iterable[str]) -> None:
    """Refuse before the work what DVC would refuse afterwards.

    Raises:
        FLPError: a parent folder of one of the files is a symbolic link.
    """
    for folder in sorted({parent for file in files for parent in Path(file).parents}):
        if folder.is_symlink():
            raise FLPError(
                f"{folder} is a link, and DVC versions nothing that lies behind one; make it a folder and put DVC's "
                'cache on the other disk instead (docs/sharing.md, "Another disk"), or run snakemake without DVC'
            )


def require_targets(files: Iterable[str]) -> None:
    """Refuse links that lead nowhere, over which Snakemake and DVC stumble one after the other.

    Raises:
        FLPError: naming the first one.
    """
    lost = [path for path in map(Path, files) if path.is_symlink() and not path.exists()]
    if lost:
        others = f", and so do {len(lost) - 1} others" if lost[1:] else ""
        raise FLPError(
            f"{lost[0]} leads to {lost[0].readlink()}, which is not there{others}; mount that disk, or remove the "
            "links, `find data results -xtype l -delete`, and fetch what they led to, `dvc pull`, or make it again"
        )


def require_single_options(words: Iterable[str]) -> None:
    """Refuse what Snakemake would silently half ignore: of an option that is given twice it keeps the last.

    Raises:
        FLPError: naming the option and what to write.
    """
    for name, spelling in {
        "--configfile": r"--configfiles?(=.*)?",
        "--config": r"--config(=.*)?|-[nktfFpqSD]*C.*",
    }.items():
        if sum(re.fullmatch(spelling, word, re.DOTALL) is not None for word in words) > 1:
            raise FLPError(
                f"{name} is given twice, and Snakemake keeps only the last; give it once, with all its values after it"
            )


def machine_cores() -> int:
    """Cores this process may use: its CPU affinity, and the quota of its container if it has one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no quota, or an older kernel
    return cores


def machine_gpus() -> int:
    """GPUs of this machine, without loading torch."""
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if visible is None else visible_gpus(visible, here)


def visible_gpus(text: str, here: int) -> int:
    """How many devices a CUDA_VISIBLE_DEVICES shows, of `here` devices in the machine (0: unknown).

    As CUDA reads it: numbers, or identifiers of one kind, up to the first invalid one ("-1", Slurm's "NoDevFiles");
    none at all if one is repeated; and of slices of a GPU (MIG) only the first.
    """
    names = [name.strip() for name in text.split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if names[0].startswith(kind)), "")

    def is_device(name: str) -> bool:
        if kind:
            return name.startswith(kind) and name != kind
        return name.isdecimal() and (not here or int(name) < here)

    devices = list(takewhile(is_device, names))
    if len(set(devices)) < len(devices):
        return 0
    return min(len(devices), 1) if kind == "MIG-" else len(devices)
