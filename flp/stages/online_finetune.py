"""Continue in the environment: one environment step per gradient step, the flow frozen.

Reads a job's offline runs; writes results/{dataset}/online/{agent}/seed{seeds}/, laid out like the offline one.
Batches are uniform over the merged buffer. The latent of an online transition is the one the policy drew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from flp import layout
from flp.artifacts import load_tensors, write_json
from flp.cli import Job, run_stage
from flp.devices import runs_on_cpu, set_up
from flp.errors import FLPError
from flp.keys import OFFLINE_ONLY, Run, hash_of
from flp.learner import Logs
from flp.online import Interaction
from flp.params import Params
from flp.progress import Progress
from flp.recorder import Recorder
from flp.resume import Resume
from flp.runs import Batchwork, clear_others, is_finished, restore_parameters
from flp.shards import Turns, deal, run_shards
from flp.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return the exit status."""
    return run_stage("online-finetune", ("dataset", "agent", "seeds"), run, argv, __doc__)


def run(job: Job) -> None:
    """Fine-tune the job's runs that are not there yet."""
    name, agent, seeds = job.args.dataset, job.require_agent(), job.seeds
    if agent in OFFLINE_ONLY:
        raise FLPError(f"--agent {agent}: behaviour cloning has no critic and nothing to fine-tune with")
    if job.params.online.steps == 0:
        raise FLPError("online.steps is 0: there is nothing to do; set it in params.yaml")
    where = {"dataset": name, "agent": agent, "seeds": layout.join_seeds(seeds)}
    source, folder = Path(layout.OFFLINE.format(**where)), Path(layout.ONLINE.format(**where))
    runs = job.keys.online_runs(name, agent, seeds)
    keys = {run.name: job.keys.online_run(name, agent, run) for run in runs}
    clear_others(folder, list(keys))
    missing = [run for run in runs if not is_finished(folder / run.name, keys[run.name])]
    if missing:
        shards = deal(missing, job.args.threads) if runs_on_cpu(job.args.device) else [missing]
        before = {run.name: job.keys.offline_run(name, agent, run) for run in missing}
        work = partial(finetune, name, agent, job.params, job.args.device, source, before, folder, keys)
        run_shards(work, shards, job.args.threads)
    key = job.keys.online_job(name, agent, seeds)
    write_json(folder / "manifest.json", {"key": key, "dataset": name, "agent": agent, "runs": keys})


def finetune(
    dataset: str,
    agent_name: str,
    params: Params,
    device: str,
    source: Path,
    before: dict[str, str],
    folder: Path,
    keys: dict[str, str],
    runs: list[Run],
    threads: int,
    turns: Turns,
) -> None:
    """Fine-tune, evaluate and save a batch of runs; `before` holds the keys of their offline runs."""
    steps, every = params.online.steps, params.evaluation.every
    work = Batchwork(dataset, agent_name, runs, params, set_up(threads, device, params.offline.precision))
    agent, replay = work.load(capacity=steps)
    files = {run.name: source / run.name / "policy.safetensors" for run in runs}
    restore_parameters(agent, [load_tensors(files[r], work.device, key=before[r])[0] for r in files])
    # Every update follows an environment step, so there is nothing to capture ahead.
    trainer = Trainer(agent, replay, work.streams("online"), params.offline.batch_size, capture=False)
    resume = Resume(layout.resume_folder("online-finetune", hash_of([keys[run.name] for run in work.runs])))
    progress = Progress(f"{agent_name} {dataset} online", steps, quiet=turns.index > 0)
    saved = resume.start()
    with closing(Recorder(work, "online", threads)) as recorder, closing(Interaction(work, threads)) as interaction:
        if saved:
            trainer.restore(*saved)
            replay.restore(saved[0])
            recorder.restore(saved[1])
            interaction.restore(*saved)

        def state() -> tuple[dict[str, Tensor], dict[str, Any]]:
            tensors, info = trainer.state()
            more, counts = interaction.state()
            return tensors | replay.state() | more, info | counts | recorder.state()

        def at_stop(step: int, logs: Logs) -> None:
            recorder.log(step, logs)
            if step % every == 0 or step == steps:
                with progress.section("evaluation"):
                    progress.say(recorder.evaluate(agent, step))

        def checkpoint() -> None:
            with progress.section("checkpoint"):
                resume.maybe(state)

        def interact() -> None:
            with progress.section("environment"):
                replay.add(interaction.step(agent))

        if not saved:
            recorder.evaluate(agent, 0)
        stops = (max(1, steps // 100), every)
        trainer.fit(steps, stops, at_stop, checkpoint, progress, before_update=interact, turn=turns)
        recorder.save(agent, folder, keys, steps)
    resume.clear()


if __name__ == "__main__":
    sys.exit(main())
