"""A flow's quality for readers: its card, and a figure of its latents."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def quality_card(quality: dict[str, Any]) -> str:
    """The card of a flow's quality, in Markdown."""
    parts = [(name, part) for name, part in quality["two_sample"].items() if part is not None]
    by_saturation = quality["saturation"]
    rows = "\n".join(
        f"| {name} | {percents(part)} | {_largest(part['r2'])} | {_largest(part['r2_squares'])} | {part['rows']:,} | "
        f"{part['prior_rows']:,} |"
        for name, part in parts
    )
    warning = f"\n**Warning:** {quality['warning']}.\n" if quality["warning"] else ""
    columns = {"all": "validation_nll", "saturated": "validation_nll_saturated", "other": "validation_nll_other"}
    nats = [f"{name} {quality[column]:.3f}" for name, column in columns.items() if quality[column] is not None]
    likelihood = ", ".join(nats) or "not computed"
    return f"""# Quality of the behaviour flow of {quality["dataset"]}, seed {quality["seed"]}
{warning}
The latents z = f⁻¹(s, a) of a perfect flow are N(0, I) at every state: on validation episodes, which it was not trained
on, a classifier between (s, z) and (s, noise) has an accuracy of 50 %, and the state explains nothing of z or z².

| rows | distinguishable | R² of z | R² of z² | data | draws |
|---|---|---|---|---|---|
{rows}

Rows are *saturated* if an action coordinate is at a limit, draws if they decode to such an action. Intervals are 95 %
over episodes; R² is the largest over dimensions.

- key: `{quality["key"]}`
- saturated: {by_saturation["data"]:.1%} of the data, {by_saturation["prior"]:.1%} of the draws, which alone distinguish
  the two {percents(by_saturation)} of the time
- round trip |a − f(f⁻¹(a))|: mean {quality["roundtrip_mean"]:.1e}, 99th percentile {quality["roundtrip_p99"]:.1e}
- standard deviations of the latents: {_listed(quality["latent_std"])}
- their Wasserstein distances to N(0, 1): {_listed(quality["latent_wasserstein"])}
- −log density of validation actions, nats: {likelihood}
"""


def tests_of(quality: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests, by the classifier and by saturation alone, the one that tells latents from draws more often first."""
    tests = quality["two_sample"]["all"], quality["saturation"]
    return sorted(tests, key=lambda test: float(test["accuracy"]), reverse=True)


def percents(part: dict[str, Any]) -> str:
    """How often the classifier is right, with its interval: `53 % [51, 55]`."""
    interval = part["interval"]
    bounds = f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]" if interval is not None else ""
    return f"{100 * part['accuracy']:.0f} %{bounds}"


def _largest(values: list[float]) -> str:
    return f"{max(values):.3f}"


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def picture(latents: NDArray[np.float32], quality: dict[str, Any]) -> bytes:
    """Histograms of latents `[n, a]` against the prior's density, one per dimension, as PNG."""
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
