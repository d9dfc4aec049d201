"""The pictures of docs/latents.md, from two experiments on a point maze that differ in how their flows were fitted.

In a clone each, with the second's `params.yaml` as it is:

    snakemake --cores 2 invert_to_latent_all --configfile presets/original.yaml
    snakemake --cores 2 invert_to_latent_all

then `python -m benchmarks.latents FIRST SECOND` writes `docs/images/latents-*.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import nn

from flp.data.load import read_dataset
from flp.flow.saturation import saturated
from flp.learner.optimizers import Adam
from flp.parts.gaussian import kl_to_prior, sample
from flp.parts.selection import best_of_n, log_weights, resample
from flp.randomness.streams import RunStreams
from flp.system.artifacts import load_tensors, read_json

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
TITLES = ("actions as stored, constant rate", "atoms put beyond ±1, cosine rate")
BLUE, ORANGE, GREEN, GREY = "#3b82c4", "#e08a1e", "#2fa36b", "#9aa0a6"


def the(folder: Path, pattern: str) -> Path:
    """The one file that matches."""
    (found,) = folder.glob(pattern)
    return found


def draw_atoms(folders: list[Path], plt: Any) -> None:
    """Latents of the rows whose first action coordinate is at ±1, in the plane."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
    for folder, title, panel in zip(folders, TITLES, panels, strict=True):
        data = read_dataset(str(the(folder, "data/*navigate.npz")))
        tensors, _ = load_tensors(str(the(folder, "results/*/latent/seed0/latent.safetensors")))
        x, y = tensors["latents"].numpy()[saturated(data.actions[data.transitions])[:, 0]].T
        panel.hexbin(x, y, gridsize=90, extent=(-4, 4, -4, 4), bins="log", mincnt=1, cmap="viridis", linewidths=0)
        for radius in (1, 2, 3):
            panel.add_patch(plt.Circle((0, 0), radius, fill=False, color="white", lw=0.8, ls="--"))
        panel.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xlabel="z₁")
    panels[0].set_ylabel("z₂")
    save(figure, "atoms", plt)


def draw_test(folders: list[Path], plt: Any) -> None:
    """How often a classifier, and saturation alone, tell the latents from draws of the prior."""
    figure, panel = plt.subplots(figsize=(6, 2.6), layout="constrained")
    names = {"all": "all rows", "saturated": "rows at ±1", "other": "other rows", "counted": "by saturation alone"}
    for i, (folder, color, title) in enumerate(zip(folders, (ORANGE, BLUE), TITLES, strict=True)):
        quality = read_json(the(folder, "results/*/flow/quality/seed0/quality.json"))
        test = quality["two_sample"] | {"counted": quality["saturation"]}
        for k, part in enumerate(names):
            accuracy, (low, high) = 100 * test[part]["accuracy"], (100 * x for x in test[part]["interval"])
            panel.errorbar(
                accuracy,
                k + 0.24 * i - 0.12,
                xerr=[[accuracy - low], [high - accuracy]],
                fmt="o",
                capsize=3,
                color=color,
                label=title if k == 0 else None,
            )
    panel.axvline(50, color=GREY, ls="--", lw=1)
    panel.set_yticks(range(len(names)), list(names.values()))
    panel.set(ylim=(len(names) - 0.5, -0.5), xlabel="told from the prior on held-out episodes, % (a perfect flow: 50)")
    panel.legend(frameon=False, fontsize=8)
    save(figure, "two-sample", plt)


def value(z: torch.Tensor) -> torch.Tensor:
    """Q of one latent: a hump on either side, in units of α."""
    return 3 * torch.exp(-0.5 * ((z - 1.2) / 0.35).square()) + 2.5 * torch.exp(-0.5 * ((z + 1.3) / 0.35).square())


def gaussian_optimum() -> tuple[torch.Tensor, torch.Tensor]:
    """μ and log σ of Eq. 4's best Gaussian."""
    mean, log_std = (nn.Parameter(torch.zeros(1, 1, 1)) for _ in range(2))
    streams, adam = RunStreams([0]), Adam([mean, log_std], 0.01)
    for _ in range(2000):
        z = sample(mean, log_std, streams.normal(4096, 1))
        loss = kl_to_prior(mean, log_std).mean() - value(z).mean()
        adam.step(torch.autograd.grad(loss, [mean, log_std]))
    return mean.detach(), log_std.detach()


def draw_selection(plt: Any) -> None:
    """What is acted by, where Eq. 4's optimum has two humps."""
    mean, log_std = gaussian_optimum()
    streams, n = RunStreams([1]), 10**5
    noise = streams.normals([16], n, 1)
    candidates = sample(mean.unsqueeze(2), log_std.unsqueeze(2), noise)
    values = value(candidates)[..., 0]
    weights = log_weights(values, torch.ones(1), candidates, noise)
    chosen = {
        "one draw": (candidates[0, :, 0, 0], GREY),
        "best of 4": (best_of_n(values[..., :4], candidates[:, :, :4])[0, :, 0], ORANGE),
        "resampled from 16": (resample(weights, candidates, streams.uniform(n, 1))[0, :, 0], BLUE),
    }
    grid = torch.linspace(-3.5, 3.5, 701)
    optimum = torch.exp(value(grid) - 0.5 * grid.square())
    optimum /= torch.trapezoid(optimum, grid)
    figure, panel = plt.subplots(figsize=(6.5, 3), layout="constrained")
    panel.fill_between(
        grid, optimum / torch.trapezoid(optimum, grid), color=GREEN, alpha=0.25, lw=0, label="optimum π*"
    )
    for label, (z, color) in chosen.items():
        panel.hist(z.numpy(), bins=140, range=(-3.5, 3.5), density=True, histtype="step", color=color, label=label)
    panel.set(xlabel="z", ylabel="density", yticks=[])
    panel.legend(frameon=False, fontsize=8)
    save(figure, "selection", plt)


def save(figure: Any, name: str, plt: Any) -> None:
    """Write one of the pictures."""
    figure.savefig(IMAGES / f"latents-{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER", help="the experiments' folders")
    folders = parser.parse_args().folders
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    draw_atoms(folders, plt)
    draw_test(folders, plt)
    draw_selection(plt)


if __name__ == "__main__":
    main()
