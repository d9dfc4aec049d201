"""Train the runs that a figure of the paper needs in addition to the experiment's own (Figures 3, 4 and 5).

Reads what offline-train reads; writes results/{dataset}/sweep/{figure}/seed{seeds}/: one folder per run of FLP, task ×
seed × value, as offline-train writes them, and a manifest. The experiment's own runs are not changed; finished
runs with the right key are kept, and those that the experiment or another figure has trained are copied.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from flp.experiment import variants
from flp.experiment.graph import require_current
from flp.experiment.program import BOARDS, Job, stage
from flp.runs.job import JobSpec, run_job
from flp.stages.offline_train import train
from flp.system import layout
from flp.system.errors import FLPError


def run(job: Job) -> None:
    """Train the figure's missing runs.

    Raises:
        FLPError: the figure shows nothing of the dataset, or only the experiment's own runs.
    """
    figure, name, seeds = job.require("figure", variants.QUANTITY), job.args.dataset, job.seeds
    params = job.keys.agent_params(name, "flp")
    if name in params.tasks or "flp" not in params.offline.agents:
        raise FLPError(f"{figure} shows FLP on OGBench's datasets, and so nothing of {name}: there is nothing to train")
    runs = job.keys.extra_runs(name, figure, seeds)
    quantity = variants.QUANTITY[figure]
    if not runs:
        raise FLPError(f"{figure} needs no run of {name} but those that offline.{quantity} and offline.sweep ask for")
    require_current(job.keys, name, seeds, latents=True)
    values = ", ".join(layout.exact(value) for value in variants.extra_values(figure, params.offline))
    print(
        f"{figure} compares what params.yaml does not sweep: {quantity} {values}, trained in addition to its own runs"
    )
    folder = Path(layout.SWEEP.format(dataset=name, figure=figure, seeds=layout.join_seeds(seeds)))
    own = Path(layout.OFFLINE.format(dataset=name, agent="flp", seeds=layout.join_seeds(seeds)))
    lenders = [*layout.siblings(folder), *layout.sweep_folders(name, "flp", seeds), own]
    keys = {run.name: job.keys.offline_run(name, "flp", run) for run in runs}
    spec = JobSpec("offline-train", name, "flp", params, job.args.device, folder, keys)
    key = job.keys.job_of(name, "flp", runs)
    run_job(spec, runs, key, partial(train, spec), job.args.threads, lenders=lenders)


main = stage("offline-sweep", ("dataset", "figure", "seeds", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
