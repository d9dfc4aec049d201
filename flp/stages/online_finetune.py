"""Continue in the environment: one environment step per gradient step, the flow frozen.

Reads a job's offline runs; writes results/{dataset}/online/{agent}/seed{seeds}/, laid out like the offline folder.
Batches are uniform over offline and online transitions, or half of each (Cal-QL, RLPD). An online transition's latent
is the one the policy drew.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from flp.experiment.graph import require_current, require_key
from flp.experiment.program import BOARDS, Job, stage
from flp.params.sections import OFFLINE_ONLY, AgentName
from flp.runs.interaction import Interaction
from flp.runs.job import JobSpec, run_job
from flp.runs.run_folder import flow_digests, require_flow, restore_parameters
from flp.runs.session import Session
from flp.runs.shards import Shard
from flp.runs.turns import Turns
from flp.system import layout
from flp.system.artifacts import load_manifest, load_tensors
from flp.system.errors import FLPError


def run(job: Job) -> None:
    """Fine-tune the job's missing runs."""
    name, agent, seeds = job.args.dataset, job.require_agent(), job.seeds
    params = job.keys.agent_params(name, agent)
    steps = params.online.steps
    if agent in OFFLINE_ONLY:
        able = ", ".join(name for name in get_args(AgentName) if name not in OFFLINE_ONLY)
        raise FLPError(f"--agent {agent} learns offline only; those that learn online too are {able}")
    if job.keys.is_estimated(name):
        raise FLPError(f"{name} has no simulator to fine-tune in (its task says environment: null): nothing to do")
    if steps == 0:
        raise FLPError("online.steps is 0: there is nothing to do; set it in params.yaml")
    require_current(job.keys, name, seeds if job.keys.reads_flow(name, agent) else (), latents=True)
    where = {"dataset": name, "agent": agent, "seeds": layout.join_seeds(seeds)}
    source, folder = Path(layout.OFFLINE.format(**where)), Path(layout.ONLINE.format(**where))
    runs = job.keys.online_runs(name, agent, seeds)
    keys = {run.name: job.keys.online_run(name, agent, run) for run in runs}
    before = {
        run.name: (source / run.name / "policy.safetensors", job.keys.offline_run(name, agent, run)) for run in runs
    }
    key = job.keys.online_job(name, agent, seeds)
    params = params.fine_tuning(agent)
    runs = [replace(run, candidates=params.offline.candidates) for run in runs]
    spec = JobSpec("online-finetune", name, agent, params, job.args.device, folder, keys)
    train, lenders = partial(finetune, spec, before), layout.siblings(folder)
    run_job(spec, runs, key, train, job.args.threads, capacity=steps, lenders=lenders)


def finetune(spec: JobSpec, before: dict[str, tuple[Path, str]], shard: Shard, turns: Turns) -> None:
    """Fine-tune, evaluate and save a batch of runs; `before` holds every run's offline file and key."""
    steps, saved = spec.params.online.steps, [before[run.name] for run in shard.runs]
    flows = flow_digests(spec.dataset, spec.agent, spec.params.offline, shard.runs)
    for run, (file, key) in zip(shard.runs, saved, strict=True):
        require_key(str(file.with_suffix("")), key)
        require_flow(file, flows.get(run.name))
    starts = {run.name: load_manifest(file)["sha256"] for run, (file, _) in zip(shard.runs, saved, strict=True)}
    # Every update follows an environment step, so there is nothing to capture ahead.
    with (
        Session(spec, shard, turns, steps, capacity=steps, capture=False, starts=starts) as session,
        closing(Interaction(session.batch, shard.threads, session.health)) as interaction,
    ):
        restore_parameters(session.agent, [load_tensors(f, session.batch.device, key=key)[0] for f, key in saved])
        session.parts += [session.replay, interaction]

        def interact() -> None:
            with session.progress.section("environment"):
                session.replay.add(interaction.step(session.agent))
                session.replay.end(interaction.ended)

        session.resume_training()
        if session.trainer.step == 0:
            with turns(0):
                session.evaluate(0)
        session.fit(before_update=interact)


main = stage("online-finetune", ("dataset", "agent", "seeds", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
