"""The parameter file that the workflow writes for its jobs, and checks of files and of the machine."""

from __future__ import annotations

import os
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
