"""A training job: what to train, the runs that are missing, and the job's manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from flp.learner.devices import choose_device
from flp.params.loading import Params
from flp.params.run import Run
from flp.runs.run_folder import adopt, clear_others, flow_digests, is_finished
from flp.runs.shards import TrainShard, begun, plan, run_shards
from flp.supervision.foresight import foresee_training
from flp.system import layout
from flp.system.artifacts import made_with, write_json
from flp.system.forced import discard_if_forced
from flp.system.locks import alone


@dataclass(frozen=True)
class JobSpec:
    """What a job trains; every shard's process gets a copy.

    Attributes:
        stage: the stage's name, such as "offline-train".
        dataset: the dataset's name.
        agent: the algorithm's name.
        params: the algorithm's parameters on the dataset.
        device: the argument `--device`.
        folder: where the runs' folders are written.
        keys: every run's key by its name.
    """

    stage: str
    dataset: str
    agent: str
    params: Params
    device: str
    folder: Path
    keys: dict[str, str]

    @property
    def phase(self) -> str:
        """Either `offline` or `online`."""
        return self.stage.partition("-")[0]


def run_job(
    spec: JobSpec,
    runs: list[Run],
    key: str,
    train: TrainShard,
    threads: int,
    *,
    capacity: int = 0,
    lenders: Sequence[Path] = (),
) -> None:
    """Train the missing runs, in shards, and write the job's manifest.

    Args:
        spec: what to train.
        runs: every run of the job.
        key: the job's key.
        train: trains one shard.
        threads: CPU threads of the job.
        capacity: online transitions to store per run.
        lenders: folders of other jobs, from which finished runs with these runs' keys are copied, or from their spare
            ones.
    """
    device = choose_device(spec.device)
    flows = flow_digests(spec.dataset, spec.agent, spec.params.offline, runs)
    with alone(str(spec.folder)):
        # Whoever forces a job trusts nothing of it: neither what is finished, nor what is half done or was put aside.
        made = (spec.folder / name for name in spec.keys), begun(spec.stage, spec.keys.values())
        forced = discard_if_forced(spec.folder, chain(*made, [layout.spare_folder(spec.folder)]))
        clear_others(spec.folder, list(spec.keys))  # the manifest too, before a run of other values takes a place
        if not forced:
            adopt(spec.folder, spec.keys, [*lenders, *map(layout.spare_folder, [spec.folder, *lenders])], flows)
        missing = [
            run for run in runs if not is_finished(spec.folder / run.name, spec.keys[run.name], flows.get(run.name))
        ]
        if missing:
            shards = plan(spec.stage, runs, missing, spec.keys, threads, device.type)
            foresee_training(spec.params, spec.dataset, spec.agent, [shard.runs for shard in shards], capacity, device)
            run_shards(train, shards, threads, together=device.type == "cpu")
        manifest = {"key": key, "dataset": spec.dataset, "agent": spec.agent, "runs": spec.keys}
        write_json(spec.folder / "manifest.json", manifest | made_with())
