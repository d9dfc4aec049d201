"""Map a dataset's actions to latents z = f⁻¹(a) with the decoder's own solver, and judge the flow.

Reads the dataset and its flow; writes results/{dataset}/latent/seed{seed}/latent.safetensors and, under
results/{dataset}/flow/quality/seed{seed}/, quality.json and a picture of the latents against the prior.
"""

from __future__ import annotations

import io
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flp.data.load import load_dataset
from flp.experiment.program import BOARDS, Job, stage
from flp.flow.behavior import Flow
from flp.flow.checkpoint import load_flow
from flp.flow.inversion import invert
from flp.flow.quality import judge, negative_log_likelihood
from flp.learner.devices import set_up, to_device
from flp.supervision.boards import Boards
from flp.supervision.status import Status
from flp.system import layout
from flp.system.artifacts import atomic_write, save_tensors, write_json
from flp.system.errors import FLPError
from flp.system.locks import once
from flp.system.progress import Progress, Tell
from flp.system.resume import Resume, State

PIECE = 2**15  # actions between two looks at the clock: some seconds on a core


def run(job: Job) -> None:
    """Make one flow's latents."""
    name, seed = job.args.dataset, job.args.seed
    path, key = layout.LATENT.format(dataset=name, seed=seed), job.keys.latent(name, seed)
    quality = layout.QUALITY.format(dataset=name, seed=seed)
    once(path, path + ".json", key, partial(invert_dataset, job, path, key), quality)


def invert_dataset(job: Job, path: str, key: str) -> None:
    """Invert one flow's dataset and write the files."""
    name, seed, settings = job.args.dataset, job.args.seed, job.params.invert
    device = set_up(job.args.threads, job.args.device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    train, validation = (load_dataset(layout.DATA.format(dataset=name) + suffix) for suffix in (".npz", "-val.npz"))
    flow_path = layout.FLOW.format(dataset=name, seed=seed) + ".safetensors"
    flow, (manifest,) = load_flow([flow_path], device, dataset_sha256=train.sha256)
    observations = to_device(train.observations[train.transitions], device)
    actions = to_device(train.actions[train.transitions], device)
    made_by = {"batch_size": settings.batch_size, "device": device.type}
    resume = Resume(layout.resume_folder("invert-to-latent", key), made_by=made_by)
    status = Status(resume.file.parent, len(actions), stage="invert-to-latent", dataset=name, makes=path)
    latents, errors = invert_all(flow, observations, actions, settings.batch_size, threads, resume, status.reach)
    quality = {"key": key, "dataset": name, "seed": seed, **judge(latents.numpy(), errors.numpy())}
    rows = validation.transitions[: settings.likelihood_samples]
    quality |= {
        "validation_loss": manifest["validation_loss"],
        "validation_nll": negative_log_likelihood(
            flow,
            to_device(validation.observations[rows], device),
            to_device(validation.actions[rows], device),
        )
        if len(rows)
        else None,
        "clipped_fraction": train.clipped_fraction,
        "solver": flow.solver,
        "solver_steps": flow.steps,
        "solver_grading": flow.grading,
    }
    check(quality, settings.max_roundtrip_error, flow_path)
    folder = Path(layout.QUALITY.format(dataset=name, seed=seed))
    with atomic_write(folder / "latent.png") as file:
        file.write(picture(latents.numpy(), quality))
    write_json(folder / "quality.json", quality)
    with closing(Boards(job.params.report, folder, settings.keyed() | manifest["parameters"])) as boards:
        boards.follow("quality", [quality | {"step": manifest["parameters"]["steps"]}])
    save_tensors(
        path + ".safetensors",
        {"latents": latents},
        kind="latents",
        key=key,
        dataset=name,
        seed=seed,
        dataset_sha256=train.sha256,
        flow_sha256=manifest["sha256"],
    )
    resume.clear()
    print(
        f"{name} seed {seed}: {len(latents)} latents, round trip {quality['roundtrip_mean']:.1e} mean "
        f"{quality['roundtrip_p99']:.1e} p99, std {np.round(quality['latent_std'], 2).tolist()}",
        file=sys.stderr,
    )


def invert_all(
    flow: Flow,
    observations: Tensor,
    actions: Tensor,
    batch_size: int,
    threads: int,
    resume: Resume,
    tell: Tell = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """Latents and round-trip errors, `[n, a]` each, on the CPU: piece by piece, from the saved state if there is one.

    A piece is some whole batches, so that every batch is the same however often the job was stopped.
    """
    tensors, done = {name: torch.empty_like(actions, device="cpu") for name in ("latents", "errors")}, 0
    if saved := resume.start():
        tensors, done = saved[0], saved[1]["step"]

    def state() -> State:
        return tensors, {"step": done}

    whole = batch_size * threads
    piece = whole * max(1, PIECE // whole)
    progress = Progress("inverting", len(actions), "actions", tell=tell)
    progress.begin(done)
    for start in range(done, len(actions), piece):
        rows = slice(start, start + piece)
        latents, errors = invert(flow, observations[rows], actions[rows], batch_size, threads)
        tensors["latents"][rows], tensors["errors"][rows] = latents.cpu(), errors.cpu()
        done = min(start + piece, len(actions))
        progress.update(done)
        resume.maybe(state)
    progress.close()
    return tensors["latents"], tensors["errors"]


def check(quality: dict[str, Any], limit: float, path: str) -> None:
    """Refuse a flow that does not invert.

    Raises:
        FLPError: the mean round-trip error is above the limit, or not a number.
    """
    error = quality["roundtrip_mean"]
    if not error <= limit:
        raise FLPError(
            f"{path}: mean round-trip error {error:.2e} is above invert.max_roundtrip_error {limit:g}; take "
            "more flow.solver_steps or a solver of higher order (flow.solver: rk4), or train the flow longer"
        )


def picture(latents: NDArray[np.float32], quality: dict[str, Any]) -> bytes:
    """Histograms of the latents against the prior's density, one per dimension, as PNG."""
    from matplotlib.figure import Figure

    dim = latents.shape[1]
    columns = min(dim, 5)
    rows = -(-dim // columns)
    figure = Figure(figsize=(2.4 * columns, 2.0 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    grid = np.linspace(-4, 4, 161)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    for i, axis in enumerate(axes):
        if i >= dim:
            axis.set_visible(False)
            continue
        axis.hist(latents[:, i], bins=80, range=(-4, 4), density=True, color="#4c78a8", alpha=0.6)
        axis.plot(grid, density, color="#222222", linewidth=1)
        axis.set_title(
            f"z{i + 1}: mean {quality['latent_mean'][i]:.2f}, std {quality['latent_std'][i]:.2f}", fontsize=8
        )
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
    figure.suptitle("Latents of the dataset's actions against the prior N(0, 1)", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


main = stage("invert-to-latent", ("dataset", "seed", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
