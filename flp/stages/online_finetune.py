"""Continue in the environment: one environment step per gradient step, the flow frozen.

Reads a job's offline runs; writes results/{dataset}/online/{agent}/seed{seeds}/, laid out like the offline one.
Batches are uniform over the merged buffer. The latent of an online transition is the one the policy drew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from flp import layout
from flp.artifacts import load_tensors, write_json
from flp.cli import Job, run_stage
from flp.devices import runs_on_cpu, set_up
from flp.errors import FLPError
from flp.foresight import foresee_training
from flp.health import Health, HopelessError
from flp.keys import OFFLINE_ONLY
from flp.learner import Logs
from flp.online import Interaction
from flp.params import Params
from flp.progress import Progress
from flp.recorder import Recorder, keep_last_good
from flp.resume import Resume, State, alone, join
from flp.runs import Batchwork, clear_others, is_finished, restore_parameters
from flp.shards import Shard, Turns, plan, run_shards
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
    with alone(str(folder)):
        clear_others(folder, list(keys))
        missing = [run for run in runs if not is_finished(folder / run.name, keys[run.name])]
        if missing:
            on_cpu, threads = runs_on_cpu(job.args.device), job.args.threads
            shards = plan("online-finetune", runs, missing, keys, threads, "cpu" if on_cpu else "cuda")
            foresee_training(
                job.params, name, [len(shard.runs) for shard in shards], job.params.online.steps, cuda=not on_cpu
            )
            before = {run.name: job.keys.offline_run(name, agent, run) for run in runs}
            work = partial(finetune, name, agent, job.params, job.args.device, source, before, folder, keys)
            run_shards(work, shards, threads, together=on_cpu)
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
    shard: Shard,
    turns: Turns,
) -> None:
    """Fine-tune, evaluate and save a batch of runs; `before` holds the keys of their offline runs."""
    steps, every, threads = params.online.steps, params.evaluation.every, shard.threads
    work = Batchwork(dataset, agent_name, shard.runs, params, set_up(threads, device, params.offline.precision))
    agent, replay = work.load(capacity=steps)
    files = {run.name: source / run.name / "policy.safetensors" for run in shard.runs}
    restore_parameters(agent, [load_tensors(files[r], work.device, key=before[r])[0] for r in files])
    # Every update follows an environment step, so there is nothing to capture ahead.
    trainer = Trainer(agent, replay, work.streams("online"), params.offline.batch_size, capture=False)
    resume = Resume(shard.folder)
    label = f"{agent_name} {dataset} online"
    progress = Progress(label, steps, quiet=turns.index > 0)
    rescue = partial(keep_last_good, work, resume, folder, keys)
    health = Health(label, [run.name for run in shard.runs], params.offline, replay, agent, rescue)
    tick = partial(resume.stop_if_asked, lambda: state())
    with (
        closing(Recorder(work, "online", threads, health, tick)) as recorder,
        closing(Interaction(work, threads, health)) as interaction,
    ):

        def state() -> State:
            rest: State = replay.state(), {}
            return join(trainer.state(), rest, interaction.state(), recorder.state(), health.state())

        def at_stop(step: int, logs: Logs) -> None:
            health.look(step, logs)
            if step % every == 0 or step == steps:
                with progress.section("evaluation"):
                    progress.say(recorder.evaluate(agent, step))
            recorder.log(step, logs)

        def checkpoint() -> None:
            with progress.section("checkpoint"):
                resume.maybe(state)

        def interact() -> None:
            with progress.section("environment"):
                replay.add(interaction.step(agent))

        if saved := resume.start():
            trainer.restore(*saved)
            replay.restore(saved[0])
            interaction.restore(*saved)
            recorder.restore(*saved)
            health.restore(saved[1])
        if trainer.step == 0:
            recorder.evaluate(agent, 0)
        stops = (max(1, steps // 100), every)
        with suppress(HopelessError):
            trainer.fit(steps, stops, at_stop, checkpoint, progress, before_update=interact, turn=turns)
        recorder.save(agent, folder, keys, steps)
    resume.clear()
    if health.failed:
        raise FLPError(health.message())


if __name__ == "__main__":
    sys.exit(main())
