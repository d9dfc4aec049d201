"""Put the report together: the page (and one per dataset), its CSV and JSON companions, the manifest last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from flp.experiment.keys import Keys
from flp.flow.card import percents
from flp.params.sections import OFFLINE_ONLY, ONLINE_ONLY
from flp.report import comparisons, curves, quoted, tables
from flp.report.charts import thousands
from flp.report.clips import Video, videos
from flp.report.collect import FlowRecord, Results, collect
from flp.report.curves import Maze, Panels
from flp.report.measures import SUCCESS, Measure
from flp.report.tables import FLOW_METHOD, Cell, SuccessTable
from flp.report.templating import render
from flp.system import layout
from flp.system.artifacts import FORMAT_VERSION, made_with, versions, write_json, write_text
from flp.system.hashing import sha256_of
from flp.system.units import duration


@dataclass(frozen=True)
class DatasetView:
    """What a page shows of one dataset."""

    name: str
    label: str
    scale: str
    success: SuccessTable
    earned: list[dict[str, str]]
    learning: Panels
    mazes: list[Maze]
    videos: list[Video]
    diagnostics: list[Panels]
    flows: list[FlowRecord]
    by_seed: dict[int, dict[str, float]]
    pictures: list[str]
    flow_loss: str
    sweeps: list[Panels]

    @property
    def flow(self) -> Cell | None:
        """The frozen flow's mean over tasks."""
        return self.success.overall(FLOW_METHOD)

    @property
    def lead(self) -> str:
        """The agent of the headline: FLP where it ran."""
        agents = [method for method in self.success.methods if method != FLOW_METHOD]
        return "flp" if "flp" in agents else agents[0]

    @property
    def offline(self) -> Cell | None:
        """The leading agent's mean over tasks."""
        return self.success.overall(self.lead)

    @property
    def outcomes(self) -> list[str]:
        """What stands beside a flow's quality: its own success and the leading agent's."""
        return [m for m in self.success.methods if m == FLOW_METHOD or m.partition(" ")[0] == self.lead]

    @property
    def online(self) -> Cell | None:
        """The same after fine-tuning."""
        return self.success.overall(f"{self.lead} online")


def build(keys: Keys) -> str:
    """Make the whole report in `results/report/`; return the success table as text.

    Raises:
        FLPError: something to report is missing or unreadable, or the folder cannot be written.
    """
    results = collect(keys)
    final = tables.finals(results.scores, results.params.report.average_last)
    views = [_view(results, final, dataset) for dataset in results.params.datasets]
    folder = Path(layout.REPORT)
    (folder / "manifest.json").unlink(missing_ok=True)
    table = tables.plain([view.success for view in views])
    if results.stale:
        table += f"note: other parameters or another version of the source made {len(results.stale)} of the artifacts\n"
    table += f"\nreport: {folder / 'index.html'}\n"
    texts = _companions(results, final, views) | _pages(results, final, views) | {"table.txt": table}
    for page in folder.glob("*.html") if folder.exists() else ():
        if page.name not in texts:
            page.unlink()
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "metrics.json", tables.metrics([view.success for view in views]))
    files = {name: sha256_of(folder / name) for name in sorted([*texts, "metrics.json"])}
    manifest = {"format_version": FORMAT_VERSION, "kind": "report", "key": keys.report}
    manifest |= {"files": files, "params": results.params.model_dump(mode="json"), **made_with()}
    write_json(folder / "manifest.json", manifest)
    return table


def _view(results: Results, final: pd.DataFrame, dataset: str) -> DatasetView:
    params = results.of(dataset)
    flows = [flow for flow in results.flows if flow.dataset == dataset]
    agents, episodes = params.offline.agents, params.evaluation.episodes
    measure = results.measures[dataset]
    taught = [agent for agent in agents if agent not in ONLINE_ONLY]
    offline = quoted.with_own(results, dataset, taught, lambda params, steps: thousands(steps))
    able = [agent for agent in agents if agent not in OFFLINE_ONLY]
    online = quoted.with_own(results, dataset, able, lambda params, steps: thousands(params.online.steps))
    scale = f"{thousands(params.flow.steps)} flow steps, {offline} offline steps, "
    if online != "0":
        scale += f"{online} online steps, "
    return DatasetView(
        name=dataset,
        label=results.label(dataset),
        scale=scale + ("no simulator" if measure.estimated else f"{episodes} episodes per evaluation"),
        success=tables.success_table(final, dataset, agents, results.params.report.bootstrap, measure),
        earned=earned(results, dataset),
        learning=curves.learning_curves(results, dataset),
        mazes=curves.mazes(results, dataset),
        videos=videos(results, dataset),
        diagnostics=[curves.diagnostics(results, dataset, agent) for agent in agents],
        flows=flows,
        by_seed=comparisons.success_by_seed(final, dataset, "flp" if "flp" in agents else agents[0]),
        pictures=[curves.data_uri(flow.picture) for flow in flows],
        flow_loss=curves.flow_loss(results, dataset),
        sweeps=curves.sweeps(results, final, dataset),
    )


def earned(results: Results, dataset: str) -> list[dict[str, str]]:
    """What a user's task tells beside the measure that counts, a row per method: the means over seeds."""
    rows = tables.base(results.evaluations)
    rows = rows[rows["dataset"] == dataset]
    columns = {"return": "return", "length": "steps", "value": "critic's value", "fqe": "fitted-Q estimate"}
    columns |= {"fqe_low": "from", "fqe_high": "to", "data_value": "the data earned"}
    columns["likelihood"] = "log π of its actions, nats"
    if dataset not in results.params.tasks:
        return []
    if reference := results.reference(dataset):
        columns = {"return": "return", "normalised": "normalised score", **columns}
        scale = Measure(zero=reference[0], hundred=reference[1])
        rows = rows.assign(normalised=scale.score(rows["return"]))
    last = rows.sort_values("step", kind="stable").groupby(["agent", "phase", "seed"], as_index=False).tail(1)
    found = []
    for (agent, phase), part in last.groupby(["agent", "phase"], sort=False):
        method = {"behavior": FLOW_METHOD, "online": f"{agent} online"}.get(str(phase), str(agent))
        means = {title: part[name].mean() for name, title in columns.items() if name in part}
        found.append({"method": method, **{title: f"{value:.2f}" for title, value in means.items() if value == value}})
    return found


def _companions(results: Results, final: pd.DataFrame, views: list[DatasetView]) -> dict[str, str]:
    found = {
        "summary.csv": tables.summary(results),
        "sweep.csv": tables.sweep(results),
        "curves.csv": tables.curves(results),
        "table1.csv": quoted.table1(results, final),
        "table2.csv": quoted.table2(results, final),
        "compute.csv": tables.compute(results),
        "success.csv": _long(views),
    }
    texts = {name: table.to_csv(index=False, lineterminator="\n") for name, table in found.items()}
    logs = tables.training(results).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    return texts | {"training.csv": logs}


def _long(views: list[DatasetView]) -> pd.DataFrame:
    columns = ["dataset", "task", "method", "mean", "std", "low", "high", "seeds", "tasks", "episodes", "measure"]
    rows = [
        [view.name, task, method, *(getattr(value, name) for name in columns[3:-1]), view.success.measure.title]
        for view in views
        for task, cells in view.success.rows
        for method, value in zip(view.success.methods, cells, strict=True)
        if value is not None
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.drop(columns="measure") if all(view.success.measure is SUCCESS for view in views) else table


def _pages(results: Results, final: pd.DataFrame, views: list[DatasetView]) -> dict[str, str]:
    common: dict[str, Any] = {
        "title": results.params.report.title,
        "average_last": results.params.report.average_last,
        "bootstrap": results.params.report.bootstrap,
        "seeds": results.params.seeds,
        "stale": results.stale,
        "key": results.keys.report,
        "views": views,
    }
    compute = tables.compute(results)
    index = {
        "table1": _split(quoted.table1(results, final)),
        "table2": _split(quoted.table2(results, final)),
        "overview": curves.overview(results) if len(views) > 1 else None,
        "aggregates": comparisons.aggregates(results, final),
        "scatter": comparisons.quality_scatter(results, final),
        "compute": compute.to_dict("records"),
        "seconds": compute["seconds"].sum(),
        "config": yaml.safe_dump(
            results.params.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100
        ),
        "versions": _versions(results),
    }
    pages = {"index.html": render("index.html", _HELPERS, **common, **index)}
    if len(views) > 1:
        pages |= {f"{view.name}.html": render("dataset.html", _HELPERS, **common, view=view) for view in views}
    return pages


def _split(table: pd.DataFrame) -> dict[str, Any]:
    """Columns by origin, and rows of cells."""
    by_origin = {o: [c for c in table.columns if c.startswith(o + " ")] for o in ("paper", "measured")}
    rows: list[dict[str, Any]] = [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]
    for row in rows:
        row["bold"] = quoted.near_best(row, by_origin["paper"])
    return {**by_origin, "rows": rows, "footnotes": quoted.footnotes(table)}


def _versions(results: Results) -> list[dict[str, Any]]:
    """Package versions behind each stage, as their manifests recorded them; this stage's own last."""
    found: dict[str, list[str]] = {}

    def note(stage: str, recorded: object) -> None:
        if isinstance(recorded, dict):
            text = ", ".join(f"{name} {value}" for name, value in recorded.items())
            if text not in found.setdefault(stage, []):
                found[stage].append(text)

    for manifest in results.data.values():
        note("data", manifest.get("versions"))
    for flow in results.flows:
        note("flow", flow.manifest.get("versions"))
    for stage, recorded in zip(results.runs["stage"], results.runs["versions"], strict=True):
        note(str(stage), recorded)
    note("report", versions())
    return [{"stage": stage, "lines": lines} for stage, lines in found.items()]


def percent(share: float) -> str:
    """`0.634` → `63`."""
    return f"{100 * share:.0f}"


_HELPERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "method": tables.name_of,
    "duration": duration,
    "percents": percents,
    "color_of": curves.color_of,
    "mark": quoted.mark,
}
