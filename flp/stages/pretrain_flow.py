"""Fit the behaviour flow to a dataset's actions by flow matching (Eq. 3).

Reads data/{dataset}.npz; writes results/{dataset}/flow/model/seed{seed}/flow.safetensors with its manifest (.json),
its loss curve (.csv) and its model card (.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flp.data.load import Dataset, read_dataset
from flp.data.moments import observation_moments
from flp.experiment.graph import require_current
from flp.experiment.program import BOARDS, Job, stage
from flp.flow.checkpoint import save_flow
from flp.flow.matching import FlowLearner, Pairs, validation_loss
from flp.flow.saturation import learnable
from flp.flow.velocity import VelocityField
from flp.learner.devices import device_name, set_up, to_device
from flp.learner.trainable import Logs
from flp.learner.trainer import Trainer
from flp.networks.mlp import standardize
from flp.own.task import OwnSpec
from flp.params.sections import FlowSettings
from flp.randomness.seeds import seed_of
from flp.randomness.streams import RunStreams
from flp.supervision.boards import Boards
from flp.supervision.status import Status
from flp.system import layout
from flp.system.artifacts import write_csv, write_text
from flp.system.errors import FLPError
from flp.system.forced import discard_if_forced
from flp.system.locks import once
from flp.system.progress import Progress, Tell
from flp.system.resume import Resume, join

Curve = list[dict[str, float]]


def run(job: Job) -> None:
    """Make one flow."""
    name, seed = job.args.dataset, job.args.seed
    path, key = layout.FLOW.format(dataset=name, seed=seed), job.keys.flow(name, seed)
    once(path, path + ".json", key, partial(train_flow, job, path, key))


def train_flow(job: Job, path: str, key: str) -> None:
    """Train one flow and write its files."""
    name, seed, settings = job.args.dataset, job.args.seed, job.params.flow
    require_current(job.keys, name)
    device = set_up(job.args.threads, job.args.device)

    train, validation = (read_dataset(layout.DATA.format(dataset=name) + suffix) for suffix in (".npz", "-val.npz"))
    field = velocity_field(train, settings, RunStreams([seed_of("flow init", name, seed)], place=device), device)
    decay_steps = settings.steps if settings.schedule == "cosine" else None
    learner = FlowLearner(field, settings.learning_rate, decay_steps, settings.draws)

    def pairs(data: Dataset, file: str) -> Pairs:
        actions = learnable(data, settings.saturation_noise, name, seed, file)
        return Pairs(*(to_device(array, device) for array in (data.observations, actions, data.transitions)))

    streams = RunStreams([seed_of("flow", name, seed)], device)
    trainer = Trainer(learner, pairs(train, "train"), streams, settings.batch_size)
    # Random streams differ between kinds of devices, and generated data between processors.
    made_by = {"device": device.type, "data": [train.sha256, validation.sha256]}
    states = layout.resume_folder("pretrain-flow", key)
    discard_if_forced(Path(path).parent, [states])
    resume = Resume(states, made_by=made_by)
    status = Status(resume.file.parent, settings.steps, stage="pretrain-flow", dataset=name, makes=path)
    held_out, label = pairs(validation, "validation"), f"flow {name} seed {seed}"
    with status:
        with closing(Boards(job.params.report, Path(path).parent, settings.keyed())) as boards:
            show = partial(boards.follow, "flow")
            curve = fit(trainer, learner, held_out, settings, resume, label, status.reach, show)

        manifest = {
            "kind": "flow",
            "key": key,
            "dataset": name,
            "seed": seed,
            "dataset_sha256": train.sha256,
            "model": {
                "observation_dim": train.observation_dim,
                "action_dim": train.action_dim,
                "hidden": settings.hidden,
                "encoder": settings.encoder,
                "solver": settings.solver,
                "solver_steps": settings.solver_steps,
                "solver_grading": settings.solver_grading,
            },
            "parameters": settings.keyed(),
            "clipped_fraction": train.clipped_fraction,
            "validation_loss": curve[-1]["validation_loss"],
            **({"action_range": [spec.low, spec.high]} if isinstance(spec := job.params.spec(name), OwnSpec) else {}),
            "device": device_name(device),
            "seconds": round(resume.seconds, 3),
        }
        write_csv(path + ".csv", curve)
        write_text(path + ".md", model_card(manifest))
        save_flow(path + ".safetensors", field, **manifest)
        resume.clear()


def velocity_field(data: Dataset, settings: FlowSettings, streams: RunStreams, device: torch.device) -> VelocityField:
    """An untrained velocity field of a dataset's sizes, which standardises observations if the settings say so."""
    field = VelocityField(streams, data.observation_dim, data.action_dim, settings.hidden, settings.encoder)
    if settings.observation_scale is not None:
        mean, std = observation_moments(data.observations, device)
        standardize(field.first, mean, std, settings.observation_scale)
    return field


def fit(
    trainer: Trainer,
    learner: FlowLearner,
    validation: Pairs,
    settings: FlowSettings,
    resume: Resume,
    label: str,
    tell: Tell = lambda step: None,
    show: Callable[[Curve], None] = lambda curve: None,
) -> Curve:
    """Train to the end, resuming from the saved state if there is one; return the loss curve, shown as it grows."""
    curve: Curve = []
    progress = Progress(label, settings.steps, tell=tell)
    if saved := resume.start():
        trainer.restore(*saved)
        curve = saved[1]["curve"]

    def at_stop(step: int, logs: Logs) -> None:
        with progress.section("validation"):
            # The same noise at every validation: the curve shows the flow, not the noise.
            streams = RunStreams([seed_of("flow validation")], trainer.streams.device)
            loss = float(validation_loss(learner, validation, streams))
        if not (loss < 1e6 and bool(torch.isfinite(logs["loss"]).all())):
            earlier = (
                f"it was {curve[-1]['validation_loss']:.4g} at step {curve[-1]['step']}" if curve else "from the start"
            )
            raise FLPError(
                f"{label}: the validation loss is {loss:.4g} at step {step} ({earlier}): training has diverged; lower "
                "flow.learning_rate"
            )
        curve.append({"step": step, "loss": float(logs["loss"]), "validation_loss": loss})
        show(curve)
        progress.notes = f"validation loss {loss:.4f}"

    def checkpoint() -> None:
        with progress.section("checkpoint"):
            resume.maybe(lambda: join(trainer.state(), ({}, {"curve": curve})))

    trainer.fit(settings.steps, (settings.validate_every,), at_stop, checkpoint, progress)
    progress.close()
    return curve


def units(manifest: dict[str, Any]) -> str:
    """The units of a flow's actions."""
    low, high = manifest.get("action_range", ([-1.0], [1.0]))
    if set(low) == {-1.0} and set(high) == {1.0}:
        return "in [-1, 1], as the environment takes them"
    return f"in [-1, 1], scaled from the environment's own range, {list(low)} to {list(high)}"


def model_card(manifest: dict[str, Any]) -> str:
    """What to know before using the flow, as Markdown."""
    parameters = "\n".join(f"- {name}: `{value}`" for name, value in manifest["parameters"].items())
    return f"""# Behaviour flow of {manifest["dataset"]}, seed {manifest["seed"]}

A velocity field v(s, x, t) fitted by flow matching to the actions of `{manifest["dataset"]}`; it carries N(0, I) at
t = 0 to the behaviour's actions at t = 1. Load it with `flp.load_flow`.

- dataset SHA-256: `{manifest["dataset_sha256"]}`
- key: `{manifest["key"]}`
- validation loss: {manifest["validation_loss"]:.5f}
- actions: {units(manifest)}
- clipped action coordinates: {100 * manifest["clipped_fraction"]:.2f} %
- device: {manifest["device"]}

Parameters:

{parameters}

Its quality (round trip, latents against the prior, likelihood) is reported in
`{Path(layout.QUALITY.format(**manifest))}/quality.md`; library versions are in `flow.json`.
"""


main = stage("pretrain-flow", ("dataset", "seed", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
