"""What a stage needs, estimated before it starts: memory, the device's memory, disk.

Generous estimates from the files' headers and the parameters. What can never fit stops the stage with a one-line error;
what does not fit at the moment is a warning.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from flp.data.environments import OGBenchSpec, specification, with_validation
from flp.params.loading import Params
from flp.params.run import Run
from flp.params.sections import DownloadSettings
from flp.system import layout
from flp.system.errors import FLPError

if TYPE_CHECKING:
    import torch

_PROCESS = 600e6  # a training process with torch, OGBench and some environments
_CUDA = 1.5e9  # a CUDA context with its libraries and workspaces
_COPIES = 4  # of parameters: values, gradients, two moments of Adam
EMULATED = (
    "offline.precision is bfloat16, which this CPU is not known to support natively (avx512_bf16, amx_bf16): "
    "updates may take many times as long; set offline.precision to float32"
)


@dataclass(frozen=True)
class Needs:
    """Bytes.

    Attributes:
        memory: of the machine.
        device: memory of the GPU.
        states: on the disk of `.flp`, to resume from.
        outputs: on the disk of the folder that the stage writes.
    """

    memory: float
    device: float
    states: float
    outputs: float = 0.0

    @property
    def disk(self) -> float:
        """On all disks."""
        return self.states + self.outputs


def train_needs(
    params: Params,
    agent: str,
    data: Path,
    observation_dim: int,
    action_dim: int,
    shards: Sequence[Sequence[Run]],
    capacity: int,
    *,
    cuda: bool,
) -> Needs:
    """What training runs needs.

    Args:
        params: the dataset's parameters.
        agent: the algorithm.
        data: the dataset's training file.
        observation_dim: width of an observation.
        action_dim: width of an action.
        shards: the runs of each process, or on a GPU those that train at once.
        capacity: size of each run's buffer of online transitions.
        cuda: whether training happens on a GPU, in one process, one shard after another.
    """
    whole, rows = dataset_size(data)
    runs, offline = sum(map(len, shards)), params.offline
    seeds = len(params.seeds)
    merged = rows * 4 * (observation_dim + seeds * action_dim + 3 * len(offline.tasks) + 2)
    buffer = 4 * capacity * (2 * observation_dim + action_dim + 3)
    widths = [observation_dim + action_dim, *offline.hidden, 2 * action_dim]
    network = 4 * sum((a + 1) * b for a, b in pairwise(widths))
    # A policy and the critics are trained, with targets; the flow is of a similar size.
    weights = network * (_COPIES * (1 + offline.critics) + offline.critics + 1)
    # Three times the critics' activations, and three copies of two noise vectors for each of ten updates drawn ahead.
    activations = 4 * offline.batch_size * (3 * offline.critics * sum(widths) + 60 * action_dim)
    training = [
        merged
        + len(shard)
        * (buffer + weights + activations * max(_actions_per_transition(params, agent, run) for run in shard))
        for shard in shards
    ]
    # A state is replaced only once the new one is complete.
    states, outputs = 2.0 * runs * (buffer + weights), float(runs * weights)
    if cuda:
        return Needs(_PROCESS + whole, _CUDA + max(training, default=0), states, outputs)
    return Needs(len(shards) * (_PROCESS + whole) + sum(training), 0, states, outputs)


def _actions_per_transition(params: Params, agent: str, run: Run) -> int:
    """How many actions the critics see at once per transition of a batch, or how many flow steps carry gradients."""
    own = params.offline.baselines
    counts = {
        "flp": params.offline.target_candidates or run.candidates,
        "cac": own.cac.max_backup,
        "calql": 3 * own.calql.draws + 1,  # with their gradient
        "fbrac": 1 + own.fbrac.flow_steps,
    }
    return counts.get(agent, 1)


def generate_needs(dataset: str, settings: DownloadSettings, workers: int) -> Needs:
    """What generating a dataset needs: every row in memory, and on disk in shards and in the files."""
    spec = specification(dataset)
    rows = generated_rows(spec, settings)
    size = 4.0 * rows * (3 * spec.observation_dim + spec.action_dim + 1)  # positions and velocities too
    return Needs(2 * size + workers * _PROCESS, 0, size, size)


def generated_rows(spec: OGBenchSpec, settings: DownloadSettings) -> int:
    """Rows of the training and validation episodes that are generated."""
    episodes = with_validation(settings.episodes or spec.episodes)
    return episodes * (settings.steps_per_episode or spec.steps_per_episode)


def foresee_training(
    params: Params, dataset: str, agent: str, shards: Sequence[Sequence[Run]], capacity: int, device: torch.device
) -> None:
    """Check that training runs fits on a device, and warn if it is needlessly slow.

    Other arguments as in `train_needs`, errors as in `check`.
    """
    cuda = device.type == "cuda"
    if not cuda and emulates(params):
        print(f"warning: {EMULATED}", file=sys.stderr)
    if late := params.offline.late(agent):
        print(f"warning: {dataset}, {agent}: {late}", file=sys.stderr)
    spec = params.spec(dataset)
    data = Path(layout.DATA.format(dataset=dataset) + ".npz")
    needs = train_needs(params, agent, data, spec.observation_dim, spec.action_dim, shards, capacity, cuda=cuda)
    remedy = "train fewer runs together (offline.seeds_per_job, offline.tasks) or on fewer --threads"
    if capacity:
        remedy += ", or lower online.steps"
    what = f"training {sum(map(len, shards))} runs of {dataset}"
    check(what, needs, "results", remedy, device if cuda else None)


def emulates(params: Params) -> bool:
    """Whether `offline.precision` is one that this CPU is not known to support natively."""
    return params.offline.precision == "bfloat16" and not has_bfloat16()


def has_bfloat16() -> bool:
    """Whether this CPU is known to support bfloat16 natively."""
    return bool(set(_read("/proc/cpuinfo").split()) & {"avx512_bf16", "amx_bf16"})


def check(what: str, needs: Needs, folder: str, remedy: str, gpu: torch.device | None = None) -> None:
    """Compare needs with what is available.

    Args:
        what: what is about to start.
        needs: its needs.
        folder: where it writes its outputs; a link to another disk, perhaps.
        remedy: what to do if they are too large.
        gpu: the GPU in use, if any.

    Raises:
        FLPError: it can never fit: more memory than the machine has, or than is free on the disk.
    """
    free, total = memory()
    _compare(what, "memory", needs.memory, free, total, remedy)
    for place, need in _by_disk({str(layout.RESUME.parent): needs.states, folder: needs.outputs}).items():
        disk = shutil.disk_usage(_existing(place)).free
        _compare(what, f"disk at {place}", need, disk, disk, "free some space")
    if gpu is not None:
        import torch

        _compare(what, "GPU memory", needs.device, *torch.cuda.mem_get_info(gpu), remedy)


def _by_disk(needs: dict[str, float]) -> dict[str, float]:
    """Bytes by folder, where folders on the same disk are one: the first, with what all of them need."""
    disks: dict[int, str] = {}
    total: dict[str, float] = {}
    for folder, need in needs.items():
        first = disks.setdefault(_existing(folder).stat().st_dev, folder)
        total[first] = total.get(first, 0.0) + need
    return total


def _existing(folder: str) -> Path:
    """A folder, through links, or its nearest parent that is there."""
    path = Path(folder).resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def _compare(what: str, kind: str, need: float, free: float, total: float, remedy: str) -> None:
    if need > total:
        raise FLPError(f"{what} needs about {_gib(need)} of {kind}, but there are {_gib(total)}; {remedy}")
    if need > free:
        print(
            f"warning: {what} needs about {_gib(need)} of {kind}, but only {_gib(free)} are free now; {remedy}",
            file=sys.stderr,
        )


def memory() -> tuple[float, float]:
    """Free and total bytes of memory: the machine's, or its container's if that has less."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = float(page * os.sysconf("SC_PHYS_PAGES"))
    free = float(page * os.sysconf("SC_AVPHYS_PAGES"))
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" in fields:  # includes caches that can be dropped
        free = 1024.0 * int(fields["MemAvailable"].split()[0])
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal():
        total = min(total, float(limit))
        if used.isdecimal():
            free = min(free, float(limit) - float(used))
    return free, total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def dataset_size(data: Path) -> tuple[int, int]:
    """A dataset's unpacked bytes and its rows, by the file's directory; zeros where that cannot be read."""
    try:
        with zipfile.ZipFile(data) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    except (OSError, zipfile.BadZipFile):
        return 0, 0
    return sum(sizes.values()), sizes.get("terminals.npy", 0)  # a byte for each row
