"""Map a dataset's actions to latents z = f⁻¹(a) with the decoder's own solver, and judge the flow.

Reads the dataset and its flow; writes results/{dataset}/latent/seed{seed}/latent.safetensors and, under
results/{dataset}/flow/quality/seed{seed}/, quality.json, its card (.md) and a picture of the latents against the prior.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flp.data.load import read_dataset
from flp.data.moments import observation_moments
from flp.experiment.graph import require_current
from flp.experiment.program import BOARDS, Job, stage
from flp.flow.behavior import Flow
from flp.flow.card import percents, picture, quality_card, tests_of
from flp.flow.checkpoint import load_flows
from flp.flow.inversion import invert_all, invertible
from flp.flow.matching import Pairs, evenly_spaced
from flp.flow.quality import judge, likelihoods, two_samples, validation_rows, warning
from flp.flow.saturation import learnable
from flp.flow.two_sample import BATCH, Rows, Scale, saturation_test, two_sample_test
from flp.learner.devices import set_up
from flp.randomness.seeds import seed_of
from flp.supervision.boards import Boards
from flp.supervision.status import Status
from flp.system import layout
from flp.system.artifacts import atomic_write, save_tensors, write_json, write_text
from flp.system.errors import FLPError
from flp.system.forced import discard_if_forced
from flp.system.locks import once
from flp.system.resume import Resume

TESTED_ROWS, MOST_UPDATES = 5000, 4000  # of the two-sample test: rows, and at most as many gradient steps


def run(job: Job) -> None:
    """Make one flow's latents."""
    name, seed = job.args.dataset, job.args.seed
    path, key = layout.LATENT.format(dataset=name, seed=seed), job.keys.latent(name, seed)
    quality = layout.QUALITY.format(dataset=name, seed=seed)
    once(path, path + ".json", key, partial(invert_dataset, job, path, key), quality)


def invert_dataset(job: Job, path: str, key: str) -> None:
    """Invert one flow's dataset, judge the flow, and write the files."""
    name, seed, settings = job.args.dataset, job.args.seed, job.params.invert
    require_current(job.keys, name, [seed])
    device = set_up(job.args.threads, job.args.device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    train, validation = (read_dataset(layout.DATA.format(dataset=name) + suffix) for suffix in (".npz", "-val.npz"))
    flow_path = layout.FLOW.format(dataset=name, seed=seed) + ".safetensors"
    flow, (manifest,) = load_flows([flow_path], device, dataset_sha256=train.sha256)
    noise = manifest["parameters"].get("saturation_noise", 0.0)  # invert the very actions that the flow was fitted to
    observations, actions = invertible(train, noise, name, seed, device)

    made_by = {
        "batch_size": settings.batch_size,
        "device": device.type,
        "data": train.sha256,
        "flow": manifest["sha256"],
    }
    states = layout.resume_folder("invert-to-latent", key)
    discard_if_forced(Path(path).parent, [states])
    resume = Resume(states, made_by=made_by)
    with Status(resume.file.parent, len(actions), stage="invert-to-latent", dataset=name, makes=path) as status:
        latents, errors = invert_all(flow, observations, actions, settings.batch_size, threads, resume, status.reach)

        held_out = validation_rows(validation, learnable(validation, noise, name, seed, "validation"), device)
        quality = {
            "key": key,
            "dataset": name,
            "seed": seed,
            **judge(latents.numpy(), errors.numpy()),
            "validation_loss": manifest["validation_loss"],
            **likelihoods(flow, held_out.only(evenly_spaced(len(held_out), settings.likelihood_samples).to(device))),
            "clipped_fraction": train.clipped_fraction,
            "solver": flow.solver,
            "solver_steps": flow.steps,
            "solver_grading": flow.grading,
        }
        check_roundtrip(quality, settings.max_roundtrip_error, flow_path)

        def checkpoint() -> None:
            resume.stop_if_asked(lambda: ({"latents": latents, "errors": errors}, {"step": len(latents)}))

        pairs = Pairs(observations, latents.to(device), torch.arange(len(latents), device=device))
        mean, std = observation_moments(train.observations, device)
        scale = Scale(mean, std, manifest["parameters"].get("observation_scale") or 1.0)
        quality |= compare(flow, pairs, held_out, scale, manifest, checkpoint)
        quality["warning"] = warning(quality, manifest["parameters"], settings.max_distinguishable)

        write_quality(job, quality, latents, manifest["parameters"])
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
        print(summary(quality, len(latents)), file=sys.stderr)


def check_roundtrip(quality: dict[str, Any], limit: float, path: str) -> None:
    """Refuse a flow whose inversion is inaccurate.

    Raises:
        FLPError: the mean round-trip error is above the limit, or not a number.
    """
    error = quality["roundtrip_mean"]
    if not error <= limit:
        raise FLPError(
            f"{path}: mean round-trip error {error:.2e} is above invert.max_roundtrip_error {limit:g}; take "
            "more flow.solver_steps or a solver of higher order (flow.solver: rk4), or train the flow longer"
        )


def compare(
    flow: Flow, train: Pairs, held_out: Rows, scale: Scale, manifest: dict[str, Any], checkpoint: Callable[[], None]
) -> dict[str, Any]:
    """The tests between latents and prior draws, at a fraction of the cost of the flow's own training.

    The classifier is half as wide as the flow and sees three tenths as many rows, half of them prior draws. It trains
    on one thread, which is fastest for small networks and makes sums independent of the number of threads.
    """
    torch.set_num_threads(1)
    trained, seed = manifest["parameters"], seed_of("two samples", manifest["dataset"], manifest["seed"])
    width = max(16, max(trained["hidden"] + trained.get("encoder", [])) // 2)
    updates = min(MOST_UPDATES, max(1, 3 * trained["steps"] * trained["batch_size"] // (20 * BATCH)))
    rows = held_out.only(evenly_spaced(len(held_out), TESTED_ROWS).to(held_out.values.device))
    latents, prior = two_samples(flow, rows, seed)
    found = two_sample_test(train, latents, prior, scale, (width, width), updates, seed, checkpoint)
    return {"two_sample": found, "saturation": saturation_test(latents, prior)}


def write_quality(job: Job, quality: dict[str, Any], latents: Tensor, parameters: dict[str, Any]) -> None:
    """Write the quality report: picture, card and numbers; and show it on the boards."""
    folder = Path(layout.QUALITY.format(**quality))
    with atomic_write(folder / "latent.png") as file:
        file.write(picture(latents.numpy(), quality))
    write_text(folder / "quality.md", quality_card(quality))
    write_json(folder / "quality.json", quality)
    with closing(Boards(job.params.report, folder, job.params.invert.keyed() | parameters)) as boards:
        boards.follow("quality", [quality | {"step": parameters["steps"]}])


def summary(quality: dict[str, Any], count: int) -> str:
    """The stage's last line, after a line for the warning if there is one."""
    line = (
        f"{quality['dataset']} seed {quality['seed']}: {count} latents, round trip {quality['roundtrip_mean']:.1e} "
        f"mean {quality['roundtrip_p99']:.1e} p99, std {np.round(quality['latent_std'], 2).tolist()}, "
        f"distinguishable from the prior's draws {percents(tests_of(quality)[0])}"
    )
    return f"warning: {quality['warning']}\n{line}" if quality["warning"] else line


main = stage("invert-to-latent", ("dataset", "seed", *BOARDS), run, __doc__)

if __name__ == "__main__":
    sys.exit(main())
