"""Train policies and critics offline (Algorithm 1), all runs of the job at once.

Reads the dataset, the flows and the latents; writes results/{dataset}/offline/{agent}/seed{seeds}/: one folder
per run with its parameters, evaluations, log and trajectories, and a manifest. Runs that are there already
with the right key are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import torch

from flp import layout
from flp.artifacts import write_json
from flp.cli import Job, run_stage
from flp.devices import runs_on_cpu, set_up
from flp.errors import FLPError
from flp.foresight import foresee_training
from flp.health import Health, HopelessError
from flp.learner import Logs
from flp.params import Params
from flp.progress import Progress
from flp.recorder import Recorder, keep_last_good
from flp.resume import Resume, State, alone, join
from flp.runs import Batchwork, clear_others, is_finished
from flp.shards import Shard, Turns, plan, run_shards
from flp.trainer import CHUNK, Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return the exit status."""
    return run_stage("offline-train", ("dataset", "agent", "seeds"), run, argv, __doc__)


def run(job: Job) -> None:
    """Train the job's runs that are not there yet."""
    name, agent, seeds = job.args.dataset, job.require_agent(), job.seeds
    folder = Path(layout.OFFLINE.format(dataset=name, agent=agent, seeds=layout.join_seeds(seeds)))
    runs = job.keys.runs(name, agent, seeds)
    keys = {run.name: job.keys.offline_run(name, agent, run) for run in runs}
    with alone(str(folder)):
        clear_others(folder, list(keys))
        missing = [run for run in runs if not is_finished(folder / run.name, keys[run.name])]
        if missing:
            on_cpu, threads = runs_on_cpu(job.args.device), job.args.threads
            shards = plan("offline-train", runs, missing, keys, threads, "cpu" if on_cpu else "cuda")
            foresee_training(job.params, name, [len(shard.runs) for shard in shards], 0, cuda=not on_cpu)
            work = partial(train, name, agent, job.params, job.args.device, folder, keys)
            run_shards(work, shards, threads, together=on_cpu)
        key = job.keys.offline_job(name, agent, seeds)
        write_json(folder / "manifest.json", {"key": key, "dataset": name, "agent": agent, "runs": keys})


def train(
    dataset: str,
    agent_name: str,
    params: Params,
    device: str,
    folder: Path,
    keys: dict[str, str],
    shard: Shard,
    turns: Turns,
) -> None:
    """Train, evaluate and save a batch of runs."""
    offline, every = params.offline, params.evaluation.every
    work = Batchwork(dataset, agent_name, shard.runs, params, set_up(shard.threads, device, offline.precision))
    agent, replay = work.load()
    autocast = torch.bfloat16 if offline.precision == "bfloat16" else None
    trainer = Trainer(agent, replay, work.streams("offline"), offline.batch_size, autocast=autocast)
    resume = Resume(shard.folder)
    label = f"{agent_name} {dataset} offline"
    progress = Progress(label, offline.steps, quiet=turns.index > 0)
    health = Health(
        label,
        [run.name for run in shard.runs],
        offline,
        replay,
        agent,
        partial(keep_last_good, work, resume, folder, keys),
    )
    tick = partial(resume.stop_if_asked, lambda: state())
    with closing(Recorder(work, "offline", shard.threads, health, tick)) as recorder:

        def state() -> State:
            return join(trainer.state(), recorder.state(), health.state())

        def at_stop(step: int, logs: Logs) -> None:
            health.look(step, logs)
            if step % every == 0 or step == offline.steps:
                with progress.section("evaluation"):
                    progress.say(recorder.evaluate(agent, step))
            recorder.log(step, logs)

        def checkpoint() -> None:
            with progress.section("checkpoint"):
                resume.maybe(state)

        if saved := resume.start():
            trainer.restore(*saved)
            recorder.restore(*saved)
            health.restore(saved[1])
        else:
            health.start()
        with progress.section("evaluation"):
            recorder.evaluate_behavior(agent)
        stops = (max(CHUNK, offline.steps // 100), every)
        with suppress(HopelessError):
            trainer.fit(offline.steps, stops, at_stop, checkpoint, progress, turn=turns)
        recorder.save(agent, folder, keys, offline.steps)
    resume.clear()
    if health.failed:
        raise FLPError(health.message())


if __name__ == "__main__":
    sys.exit(main())
