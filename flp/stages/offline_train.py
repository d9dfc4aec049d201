"""Train policies and critics offline (Algorithm 1), all runs of the job at once.

Reads the dataset and, for FLP, the flows and the latents; writes results/{dataset}/offline/{agent}/seed{seeds}/:
one folder per run with its parameters, evaluations, log and trajectories, and a manifest. Runs that are there
already with the right key are kept, and those that a figure, or a job of other seeds together, has trained are taken
over.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from flp.experiment.graph import require_current
from flp.experiment.program import BOARDS, Job, stage
from flp.params.sections import offline_steps
from flp.runs.session import Assignment, Session, carry_out
from flp.runs.shards import Shard
from flp.runs.turns import Turns
from flp.system import layout


def run(job: Job) -> None:
    """Train the job's runs that are not there yet."""
    name, agent, seeds = job.args.dataset, job.require_agent(), job.seeds
    require_current(job.keys, name, seeds if job.keys.reads_flow(name, agent) else (), latents=True)
    folder = Path(layout.OFFLINE.format(dataset=name, agent=agent, seeds=layout.join_seeds(seeds)))
    runs = job.keys.runs(name, agent, seeds)
    keys = {run.name: job.keys.offline_run(name, agent, run) for run in runs}
    assignment = Assignment("offline-train", name, agent, job.params, job.args.device, folder, keys)
    key = job.keys.offline_job(name, agent, seeds)
    lenders = [*layout.siblings(folder), *layout.sweep_folders(name, agent, seeds)]
    carry_out(assignment, runs, key, partial(train, assignment), job.args.threads, lenders=lenders)


def train(assignment: Assignment, shard: Shard, turns: Turns) -> None:
    """Train, evaluate and save a batch of runs; what only learns online is evaluated as it starts."""
    steps = offline_steps(assignment.agent, assignment.params.offline)
    with Session(assignment, shard, turns, steps) as session:
        if not session.go_on():
            session.health.start()
        session.evaluate_behavior()
        if steps == 0:
            with turns(0):
                session.evaluate(0)
                session.recorder.log(0, {})
        session.fit()


main = stage("offline-train", ("dataset", "agent", "seeds", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
