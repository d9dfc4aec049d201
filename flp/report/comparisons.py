"""Figures over all datasets' tasks: which agent is better, and whether a better flow makes a better policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flp.report import charts, statistics
from flp.report.charts import SERIES_COLORS, Line
from flp.report.collect import Results
from flp.report.curves import Panels, color_of, legend_of
from flp.report.tables import matrix, methods, name_of


def quality_scatter(results: Results, final: pd.DataFrame) -> Panels | None:
    """Each flow's quality beside its policy's success; None with a single flow."""
    if len(results.flows) < 2 or "flp" not in set(final["agent"]):
        return None
    rows = results.rated(final)
    rows = rows[(rows["agent"] == "flp") & (rows["variant"] == "") & (rows["phase"] == "offline")]
    if rows.empty:
        return None
    success = rows.groupby(["dataset", "seed"])["success"].mean()
    axes: dict[str, Callable[[dict[str, Any]], float]] = {
        "distinguishable from the prior": lambda q: float(q["two_sample"]["all"]["accuracy"]),
        "latent distance to N(0, 1)": lambda q: float(np.mean(q["latent_wasserstein"])),
        "|std of latents − 1|": lambda q: float(np.abs(np.array(q["latent_std"]) - 1).mean()),
        "mean round-trip error": lambda q: float(q["roundtrip_mean"]),
        "validation loss": lambda q: float(q["validation_loss"]),
    }
    datasets = [d for d in results.params.datasets if d in success.index]
    colors = {dataset: SERIES_COLORS[i % len(SERIES_COLORS)] for i, dataset in enumerate(datasets)}
    svgs = []
    for i, (xlabel, measure) in enumerate(axes.items()):
        points = []
        for dataset, color in colors.items():
            flows = [f for f in results.flows if f.dataset == dataset and (dataset, f.seed) in success.index]
            x = np.array([measure(f.quality) for f in flows])
            points.append((x, np.array([success[dataset, f.seed] for f in flows]), color))
        svgs.append(
            charts.scatter_panel(points, name=f"quality-{i}", title=xlabel, xlabel="", ylabel="policy's success")
        )
    legend = [(dataset, color, False) for dataset, color in colors.items()]
    return Panels("A flow's quality beside its policy's result", svgs, legend, "One point per flow (dataset × seed).")


def success_by_seed(final: pd.DataFrame, dataset: str, agent: str) -> dict[int, dict[str, float]]:
    """What came of each flow: `{seed: {method: mean success over tasks}}`, of the flow itself and of one agent."""
    rows = final[(final["dataset"] == dataset) & (final["variant"] == "") & (final["agent"] == agent)]
    means = rows.groupby(["seed", "method"], as_index=False)["success"].mean()
    found: dict[int, dict[str, float]] = {}
    for seed, method, success in zip(means["seed"], means["method"], means["success"], strict=True):
        found.setdefault(int(seed), {})[str(method)] = float(success)
    return found


def aggregates(results: Results, final: pd.DataFrame) -> Panels | None:
    """Interquartile means, probabilities of improvement and performance profiles, over all datasets' tasks."""
    rows = results.rated(final[final["variant"] == ""])
    rows = rows[(rows["phase"] != "behavior") | (rows["agent"] == "flp")]
    agents: list[str] = list(dict.fromkeys(a for d in results.params.datasets for a in results.of(d).offline.agents))
    names = methods(rows, agents)
    if rows.empty or (len(results.params.seeds) == 1 and len(agents) == 1):
        return None
    strata = {m: set(map(tuple, rows.loc[rows["method"] == m, ["dataset", "task"]].to_numpy())) for m in names}
    widest = set().union(*strata.values())
    omitted = [name_of(m) for m in names if strata[m] != widest]  # a fair comparison is over the same tasks
    names = [m for m in names if strata[m] == widest]
    scores = {m: matrix(rows[rows["method"] == m]) for m in names}
    draws = results.params.report.bootstrap
    iqm = [
        (name_of(m), *statistics.bootstrap(statistics.interquartile_mean, scores[m], resamples=draws), color_of(m))
        for m in names
    ]
    svgs = [charts.interval_panel(iqm, name="iqm", title="interquartile mean of success", xlabel="", level=None)]
    lead = "flp" if "flp" in names else next(m for m in reversed(names) if not m.endswith(" online"))
    poi = [
        (
            f"{name_of(a)} over {name_of(b)}",
            *statistics.bootstrap(statistics.probability_of_improvement, scores[a], scores[b], resamples=draws),
            color_of(b),
        )
        for a, b in comparisons(names, lead)
    ]
    if poi:
        title = "probability of improvement"
        svgs.append(charts.interval_panel(poi, name="poi", title=title, xlabel="", level=0.5))
    tuned = [m for m in names if m.endswith(" online")]
    for phase, part in (("offline", [m for m in names if m not in tuned]), ("fine-tuned", tuned)):
        svgs += [_profiles(part, scores, draws, phase)] if part else []
    count = len(results.params.seeds)
    drawn = "seeds, each with its tasks (of few seeds they are too narrow)" if count > 1 else "episodes"
    note = (
        f"Over {len(widest)} tasks × {count} seed{'s' * (count > 1)}, after rliable; bars and bands are 95 % intervals "
        f"of {draws} resamples of the {drawn}. A profile shows the share of runs above a success rate."
    )
    if omitted:
        note += f" Left out, for not having run on all of the tasks: {', '.join(omitted)}."
    return Panels("Over all tasks", svgs, legend_of(names), note)


def comparisons(names: Sequence[str], lead: str) -> list[tuple[str, str]]:
    """What the leading agent is compared with: its like, offline or fine-tuned, and fine-tuned with itself before."""
    offline = [m for m in names if not m.endswith(" online")]
    tuned = [m for m in names if m.endswith(" online")]
    pairs = [(lead, m) for m in offline if m != lead]
    if f"{lead} online" in tuned:
        pairs += [(f"{lead} online", m) for m in (lead, *tuned) if m != f"{lead} online"]
    return pairs


def _profiles(
    names: list[str], scores: dict[str, tuple[statistics.Array, statistics.Array]], draws: int, phase: str
) -> str:
    thresholds = np.linspace(0, 1, 51)

    def profile(array: statistics.Array) -> statistics.Array:
        return statistics.performance_profile(array, thresholds)

    lines = []
    for method in names:
        value, low, high = statistics.bootstrap(profile, scores[method], resamples=draws)
        online = method.endswith(" online")
        lines.append(Line(100 * thresholds, value, color_of(method), low, high, dashed=method == "flow" or online))
    return charts.line_panel(
        lines,
        name=f"profile-{phase}",
        title=f"share of runs above a success rate, {phase}",
        xlabel="success, %",
        percent=True,
        steps=False,
    )
