"""Figures over all tasks of all datasets: which agent is better, and whether better flows make better policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flp.flow.card import tests_of
from flp.report import charts, statistics
from flp.report.charts import Interval, LegendEntry, Line
from flp.report.collect import Results
from flp.report.curves import Panels, color_of, legend_of, task_colors
from flp.report.tables import Method, matrix, methods, of_method
from flp.system.units import counted


def quality_scatter(results: Results, final: pd.DataFrame) -> Panels | None:
    """Each flow's quality against the success of FLP's policy on it; None with a single flow or without FLP."""
    rows = of_method(results.rated(final[final["variant"] == ""]), Method("flp"))
    if len(results.flows) < 2 or rows.empty:
        return None
    success = rows.groupby(["dataset", "seed"])["score"].mean()
    qualities: dict[str, Callable[[dict[str, Any]], float]] = {
        "accuracy of the better test": lambda q: float(tests_of(q)[0]["accuracy"]),
        "Wasserstein distance to N(0, 1)": lambda q: float(np.mean(q["latent_wasserstein"])),
        "|standard deviation of z − 1|": lambda q: float(np.abs(np.array(q["latent_std"]) - 1).mean()),
        "mean round-trip error": lambda q: float(q["roundtrip_mean"]),
        "validation loss": lambda q: float(q["validation_loss"]),
    }
    colors = task_colors([d for d in results.params.datasets if d in success.index])
    svgs = []
    for i, (title, quality) in enumerate(qualities.items()):
        points = []
        for dataset, color in colors.items():
            flows = [f for f in results.flows if f.dataset == dataset and (dataset, f.seed) in success.index]
            x = np.array([quality(f.quality) for f in flows])
            points.append((x, np.array([success[dataset, f.seed] for f in flows]), color))
        svgs.append(charts.scatter_panel(points, name=f"quality-{i}", title=title, xlabel="", ylabel="FLP's success"))
    legend = [LegendEntry(dataset, color) for dataset, color in colors.items()]
    note = "Does a better flow make a better policy? One point per flow (dataset and seed); left is better everywhere."
    return Panels("Flow quality and policy success", svgs, legend, note)


def success_by_seed(final: pd.DataFrame, dataset: str, agent: str) -> dict[int, dict[Method, float]]:
    """The mean score over tasks `{seed: {method: score}}` of one agent's methods on each seed's flow."""
    rows = final[(final["dataset"] == dataset) & (final["variant"] == "") & (final["agent"] == agent)]
    means = rows.groupby(["seed", "phase"], as_index=False)["score"].mean()
    by_seed: dict[int, dict[Method, float]] = {}
    for seed, phase, score in zip(means["seed"], means["phase"], means["score"], strict=True):
        by_seed.setdefault(int(seed), {})[Method(agent, phase)] = float(score)
    return by_seed


def aggregates(results: Results, final: pd.DataFrame) -> Panels | None:
    """Interquartile means, probabilities of improvement and performance profiles, after rliable.

    None where there is nothing to compare: one agent with one seed, no success rate, or no method run on all tasks.
    """
    rows = results.rated(final[final["variant"] == ""])
    agents: list[str] = list(dict.fromkeys(a for d in results.params.datasets for a in results.of(d).offline.agents))
    if rows.empty or (len(results.params.seeds) == 1 and len(agents) == 1):
        return None
    runs = {m: of_method(rows, m) for m in methods(rows, agents)}
    tasks = {m: set(zip(part["dataset"], part["task"], strict=True)) for m, part in runs.items()}
    all_tasks = set().union(*tasks.values())
    names = [m for m in runs if tasks[m] == all_tasks]  # a fair comparison is over the same tasks
    if not names:
        return None
    omitted = [m.title for m in runs if m not in names]
    scores = {m: matrix(runs[m]) for m in names}
    resamples = results.params.report.bootstrap
    svgs = [_interquartile_means(scores, resamples)]
    lead = Method("flp") if Method("flp") in names else next((m for m in reversed(names) if not m.online), names[-1])
    if pairs := comparisons(names, lead):
        svgs.append(_improvements(pairs, scores, resamples))
    for online, title in ((False, "performance profile, offline"), (True, "performance profile, fine-tuned")):
        if part := [m for m in names if m.online == online]:
            svgs.append(_profiles(part, scores, resamples, title))
    count = len(results.params.seeds)
    resampled = "seeds, each with its tasks (too narrow for few seeds)" if count > 1 else "episodes of the single seed"
    note = (
        f"Computed as in rliable, over {counted(len(all_tasks), 'task')} × {counted(count, 'seed')}. Bars and bands "
        f"are 95 % bootstrap intervals from {resamples} resamples of the {resampled}. A performance profile shows the "
        "share of runs whose success rate exceeds the value on the x axis."
    )
    if omitted:
        note += f" Omitted, because not run on all tasks: {', '.join(omitted)}."
    return Panels("Aggregate comparison", svgs, legend_of(names), note)


def comparisons(names: Sequence[Method], lead: Method) -> list[tuple[Method, Method]]:
    """The pairs to compare: `lead` with the other offline methods; its fine-tuned policy with it and the other ones."""
    pairs = [(lead, m) for m in names if not m.online and m != lead]
    tuned = Method(lead.agent, "online")
    if tuned in names and tuned != lead:
        pairs += [(tuned, lead), *((tuned, m) for m in names if m.online and m != tuned)]
    return pairs


Scores = dict[Method, tuple[statistics.Array, statistics.Array]]
"""Scores and trials of each method, as `tables.matrix` gives them."""


def _interquartile_means(scores: Scores, resamples: int) -> str:
    rows = []
    for method, runs in scores.items():
        estimate = statistics.bootstrap(statistics.interquartile_mean, runs, resamples=resamples)
        rows.append(Interval(method.title, *estimate, color_of(method)))
    return charts.interval_panel(rows, name="iqm", title="interquartile mean of success")


def _improvements(pairs: Sequence[tuple[Method, Method]], scores: Scores, resamples: int) -> str:
    rows = []
    for a, b in pairs:
        estimate = statistics.bootstrap(
            statistics.probability_of_improvement, scores[a], scores[b], resamples=resamples
        )
        rows.append(Interval(f"{a.title} over {b.title}", *estimate, color_of(b)))
    return charts.interval_panel(rows, name="poi", title="probability of improvement", level=0.5)


def _profiles(names: Sequence[Method], scores: Scores, resamples: int, title: str) -> str:
    thresholds = np.linspace(0, 1, 51)

    def profile(array: statistics.Array) -> statistics.Array:
        return statistics.performance_profile(array, thresholds)

    lines = []
    for method in names:
        value, low, high = statistics.bootstrap(profile, scores[method], resamples=resamples)
        dashed = method.phase != "offline"
        lines.append(Line(100 * thresholds, value, color_of(method), low, high, dashed=dashed))
    return charts.line_panel(
        lines,
        name=f"profile-{'online' if names[0].online else 'offline'}",
        title=title,
        xlabel="success, %",
        percent=True,
        steps=False,
    )
