"""Train policies and critics offline (Algorithm 1), all runs of the job at once.

Reads the dataset and, for FLP, the flows and the latents; writes results/{dataset}/offline/{agent}/seed{seeds}/:
one folder per run with its parameters, evaluations, log and trajectories, and a manifest. Finished runs with the right
key are kept; those already trained for a figure, or by a job with other seeds, are copied.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from flp.experiment.graph import require_current
from flp.experiment.program import BOARDS, Job, stage
from flp.params.sections import offline_steps
from flp.runs.job import JobSpec, run_job
from flp.runs.session import Session
from flp.runs.shards import Shard
from flp.runs.turns import Turns
from flp.system import layout


def run(job: Job) -> None:
    """Train the job's missing runs."""
    name, agent, seeds = job.args.dataset, job.require_agent(), job.seeds
    require_current(job.keys, name, seeds if job.keys.reads_flow(name, agent) else (), latents=True)
    folder = Path(layout.OFFLINE.format(dataset=name, agent=agent, seeds=layout.join_seeds(seeds)))
    params, runs = job.keys.agent_params(name, agent), job.keys.runs(name, agent, seeds)
    keys = {run.name: job.keys.offline_run(name, agent, run) for run in runs}
    key = job.keys.offline_job(name, agent, seeds)
    lenders = [*layout.siblings(folder), *layout.sweep_folders(name, agent, seeds)]
    spec = JobSpec("offline-train", name, agent, params, job.args.device, folder, keys)
    run_job(spec, runs, key, partial(train, spec), job.args.threads, lenders=lenders)


def train(spec: JobSpec, shard: Shard, turns: Turns) -> None:
    """Train, evaluate and save a batch of runs; an agent that only learns online is evaluated untrained."""
    steps = offline_steps(spec.agent, spec.params.offline)
    with Session(spec, shard, turns, steps) as session:
        if not session.resume_training():
            session.health.start()
        session.evaluate_behavior()
        if steps == 0:
            with turns(0):
                session.evaluate(0)
                if not session.log.rows:
                    session.log.add(0, {})
        session.fit()


main = stage("offline-train", ("dataset", "agent", "seeds", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
