"""What Snakemake is told about the files it finds: which are current, whatever their times say.

Snakemake decides by file times, and file times lie: after `dvc pull`, after `git checkout`, with a wrong clock.
So every job has one more input, its key file, and this module gives that file its time: the epoch if the job's
outputs carry the key they should, and just after the outputs if they do not. Snakemake's own rule, "an input is
newer than the output", then says exactly what the keys say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from flp.experiment.graph import Artifact
from flp.params.loading import Params
from flp.system.artifacts import write_json, write_text
from flp.system.hashing import hash_of

FOLDER = Path(".flp")
_EPOCH = 86_400.0  # some file systems and time zones have trouble with 0


def key_file(artifact: Artifact) -> str:
    """Where an artifact's key file is."""
    return str(FOLDER / "keys" / artifact.stage / f"{artifact.name}.key")


def write_params(params: Params) -> str:
    """Write the checked parameters where the stages read them, named by their content; return the path."""
    values = params.model_dump(mode="json")
    path = FOLDER / "params" / f"{hash_of(values)}.json"
    if not path.exists():
        write_json(path, values)
    return str(path)


def mark(artifacts: Iterable[Artifact], judge: bool = True) -> dict[Artifact, bool]:
    """Write the key files, and tell which artifacts are current.

    Args:
        artifacts: all of the experiment's.
        judge: compare keys and set times. Without it (within a job) nothing that exists is touched.
    """
    current = {}
    for artifact in artifacts:
        path = Path(key_file(artifact))
        try:
            text: str | None = path.read_text(encoding="utf-8")
        except OSError:
            text = None
        if text is None or (judge and text != artifact.key):
            write_text(path, artifact.key)
        current[artifact] = judge and artifact.is_current()
        if judge:
            _set_time(path, artifact, current[artifact])
    return current


def _set_time(path: Path, artifact: Artifact, is_current: bool) -> None:
    now = time.time()
    times = {file: _time(file) for file in artifact.files if os.path.lexists(file)}
    for file, when in times.items():
        if when > now:  # a wrong clock: Snakemake would refuse new outputs that are older than such an input
            times[file] = now - 1
            _touch(file, now - 1)
    # Where nothing is there, Snakemake makes it when it is needed.
    target = min([_EPOCH, *times.values()]) if is_current or not times else max(times.values()) + 0.01
    if path.stat().st_mtime != target:
        os.utime(path, (target, target))


def _time(file: str) -> float:
    """The time Snakemake takes for a file's: of a link and of what it points to, the later."""
    own = os.lstat(file).st_mtime
    try:
        return max(own, Path(file).stat().st_mtime)
    except OSError:
        return own


def _touch(file: str, when: float) -> None:
    for follow in (False, True):
        try:
            os.utime(file, (when, when), follow_symlinks=follow)
        except OSError:
            continue  # someone else's file in a shared cache; the worst that follows is a clear refusal


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
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in {"", "-1"}])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
