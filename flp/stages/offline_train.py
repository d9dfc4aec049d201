"""Train policies and critics offline (Algorithm 1), all runs of the job at once.

Reads the dataset, the flows and the latents; writes results/{dataset}/offline/{agent}/seed{seeds}/: one folder
per run with its parameters, evaluations, log and trajectories, and a manifest. Runs that are there already
with the right key are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from flp import layout
from flp.artifacts import write_json
from flp.cli import Job, run_stage
from flp.devices import runs_on_cpu, set_up
from flp.keys import Run, hash_of
from flp.learner import Logs
from flp.params import Params
from flp.progress import Progress
from flp.recorder import Recorder
from flp.resume import Resume
from flp.runs import Batchwork, clear_others, is_finished
from flp.shards import Turns, deal, run_shards
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
    clear_others(folder, list(keys))
    missing = [run for run in runs if not is_finished(folder / run.name, keys[run.name])]
    if missing:
        device = job.args.device
        shards = deal(missing, job.args.threads) if runs_on_cpu(device) else [missing]
        work = partial(train, name, agent, job.params, device, folder, keys)
        run_shards(work, shards, job.args.threads)
    key = job.keys.offline_job(name, agent, seeds)
    write_json(folder / "manifest.json", {"key": key, "dataset": name, "agent": agent, "runs": keys})


def train(
    dataset: str,
    agent_name: str,
    params: Params,
    device: str,
    folder: Path,
    keys: dict[str, str],
    runs: list[Run],
    threads: int,
    turns: Turns,
) -> None:
    """Train, evaluate and save a batch of runs."""
    offline, every = params.offline, params.evaluation.every
    work = Batchwork(dataset, agent_name, runs, params, set_up(threads, device, offline.precision))
    agent, replay = work.load()
    autocast = torch.bfloat16 if offline.precision == "bfloat16" else None
    trainer = Trainer(agent, replay, work.streams("offline"), offline.batch_size, autocast=autocast)
    key = hash_of([keys[run.name] for run in work.runs])
    resume = Resume(layout.resume_folder("offline-train", key))
    progress = Progress(f"{agent_name} {dataset} offline", offline.steps, quiet=turns.index > 0)
    saved = resume.start()
    with closing(Recorder(work, "offline", threads)) as recorder:
        if saved:
            trainer.restore(*saved)
            recorder.restore(saved[1])

        def at_stop(step: int, logs: Logs) -> None:
            recorder.log(step, logs)
            if step % every == 0 or step == offline.steps:
                with progress.section("evaluation"):
                    progress.say(recorder.evaluate(agent, step))

        def checkpoint() -> None:
            with progress.section("checkpoint"):
                resume.maybe(lambda: resume.join(trainer.state(), **recorder.state()))

        with progress.section("evaluation"):
            recorder.evaluate_behavior(agent)
        stops = (max(CHUNK, offline.steps // 100), every)
        trainer.fit(offline.steps, stops, at_stop, checkpoint, progress, turn=turns)
        recorder.save(agent, folder, keys, offline.steps)
    resume.clear()


if __name__ == "__main__":
    sys.exit(main())
