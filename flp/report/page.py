"""Put the report together: the page (and one per dataset), its CSV and JSON companions, and last the manifest."""

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
from flp.report.collect import FlowRecord, Results, collect, key_of_page, stale_note
from flp.report.curves import Panels
from flp.report.measures import SUCCESS, Measure, trained
from flp.report.recordings import Maze, Video, mazes, videos
from flp.report.tables import FLOW, Cell, Method, SuccessTable
from flp.report.templating import data_uri, render
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
    returns: list[dict[str, str]]
    learning: Panels
    mazes: list[Maze]
    videos: list[Video]
    diagnostics: list[Panels]
    flows: list[FlowRecord]
    by_seed: dict[int, dict[Method, float]]
    pictures: list[str]
    flow_loss: str
    sweeps: list[Panels]

    @property
    def headline(self) -> list[tuple[Method, Cell | None]]:
        """The mean over tasks of the frozen flow, of the leading agent's policy, and of that fine-tuned."""
        lead = self.success.lead
        return [(method, self.success.overall(method)) for method in (FLOW, Method(lead), Method(lead, "online"))]

    @property
    def on_flow(self) -> list[Method]:
        """The methods whose success is shown next to a flow's quality: the flow's own and the leading agent's."""
        return [method for method in self.success.methods if method.agent == self.success.lead]


def build(keys: Keys) -> str:
    """Make the whole report in `results/report/`; return the success table as text.

    Raises:
        FLPError: a result is missing or unreadable, or the folder cannot be written.
    """
    results = collect(keys)
    final = tables.finals(results.scores, results.params.report.average_last)
    views = [_view(results, final, dataset) for dataset in results.params.datasets]
    folder = Path(layout.REPORT)
    (folder / "manifest.json").unlink(missing_ok=True)
    table = plain([view.success for view in views])
    if results.stale:
        table += f"note: {stale_note(results.stale)}\n"
    table += f"\nreport: {folder / 'index.html'}\n"
    texts = _companions(results, final, views) | _pages(results, final, views) | {"table.txt": table}
    for page in folder.glob("*.html") if folder.exists() else ():
        if page.name not in texts:
            page.unlink()
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "metrics.json", tables.metrics([view.success for view in views]))
    files = {name: sha256_of(folder / name) for name in sorted([*texts, "metrics.json"])}
    manifest = {"format_version": FORMAT_VERSION, "kind": "report", "key": key_of_page(keys.report, results.stale)}
    manifest |= {"files": files, "params": results.params.model_dump(mode="json"), **made_with()}
    write_json(folder / "manifest.json", manifest)
    return table


def _view(results: Results, final: pd.DataFrame, dataset: str) -> DatasetView:
    params = results.of(dataset)
    flows = [flow for flow in results.flows if flow.dataset == dataset]
    agents, episodes = params.offline.agents, params.evaluation.episodes
    trained = set(results.logs.loc[results.logs["dataset"] == dataset, "agent"])
    measure = results.measures[dataset]
    offline_agents = [agent for agent in agents if agent not in ONLINE_ONLY]
    offline = quoted.with_own(results, dataset, offline_agents, lambda params, steps: thousands(steps))
    online_agents = [agent for agent in agents if agent not in OFFLINE_ONLY]
    online = quoted.with_own(results, dataset, online_agents, lambda params, steps: thousands(params.online.steps))
    scale = f"{thousands(params.flow.steps)} flow steps, "
    if offline_agents:
        scale += f"{offline} offline steps, "
    if online != "0":
        scale += f"{online} online steps, "
    success = tables.success_table(final, dataset, agents, results.params.report.bootstrap, measure)
    return DatasetView(
        name=dataset,
        label=results.label(dataset),
        scale=scale + ("no simulator" if measure.estimated else f"{episodes} episodes per evaluation"),
        success=success,
        returns=returns(results, dataset),
        learning=curves.learning_curves(results, dataset),
        mazes=mazes(results, dataset),
        videos=videos(results, dataset),
        diagnostics=[curves.diagnostics(results, dataset, agent) for agent in agents if agent in trained],
        flows=flows,
        by_seed=comparisons.success_by_seed(final, dataset, success.lead),
        pictures=[data_uri(flow.picture, "image/png") for flow in flows],
        flow_loss=curves.flow_loss(results, dataset),
        sweeps=curves.sweeps(results, final, dataset),
    )


def returns(results: Results, dataset: str) -> list[dict[str, str]]:
    """What a user's task reports besides its measure: a row per method of means over seeds, by column title."""
    if dataset not in results.params.tasks:
        return []
    rows = trained(tables.base(results.evaluations))
    rows = rows[rows["dataset"] == dataset]
    columns = {"return": "return", "length": "episode length", "value": "critic's value", "fqe": "fitted-Q estimate"}
    columns |= {"fqe_low": "lower end", "fqe_high": "upper end", "data_value": "return of the data"}
    columns["likelihood"] = "log πᵦ of its actions, nats"
    if reference := results.reference(dataset):
        columns = {"return": "return", "normalised": "normalised score", **columns}
        scale = Measure(zero=reference[0], hundred=reference[1])
        rows = rows.assign(normalised=scale.normalised(rows["return"]))
    last = rows.sort_values("step", kind="stable").groupby(["agent", "phase", "seed"], as_index=False).tail(1)
    table = []
    for (agent, phase), part in last.groupby(["agent", "phase"], sort=False):
        means = {title: part[name].mean() for name, title in columns.items() if name in part}
        numbers = {title: f"{mean:.2f}" for title, mean in means.items() if pd.notna(mean)}
        table.append({"method": Method(str(agent), str(phase)).title, **numbers})
    return table


def plain(success: list[SuccessTable]) -> str:
    """The success tables as text, for the end of the pipeline's output."""
    present = [method for table in success for method in table.methods]
    agents = dict.fromkeys(method.agent for method in present if method != FLOW)
    columns = [method for method in tables.ordered(agents) if method in present]
    all_rates = all(table.measure.rate for table in success)
    rows = []
    for table in success:
        unit = "" if all_rates else table.measure.unit
        for task, cells in table.rows:
            texts = {m: c.text + unit for m, c in zip(table.methods, cells, strict=True) if c}
            rows.append([table.dataset, "mean" if task == "all" else task, *(texts.get(m, "") for m in columns)])
    titles = [f"{m.title} offline" if m.phase == "offline" else m.title for m in columns]
    header = ["dataset", "task", *(f"{title} %" if all_rates else title for title in titles)]
    text = pd.DataFrame(rows, columns=header).to_string(index=False) + "\n"
    parts = [f"note: not run on all tasks of {table.dataset}: {'; '.join(table.partial)}" for table in success]
    return text + "".join(f"{line}\n" for table, line in zip(success, parts, strict=True) if table.partial)


def _companions(results: Results, final: pd.DataFrame, views: list[DatasetView]) -> dict[str, str]:
    companions = {
        "summary.csv": tables.summary(results),
        "sweep.csv": tables.sweep(results),
        "curves.csv": tables.curves(results),
        "table1.csv": quoted.table1(results, final),
        "table2.csv": quoted.table2(results, final),
        "compute.csv": _compute(results),
        "success.csv": _long(views),
    }
    texts = {name: table.to_csv(index=False, lineterminator="\n") for name, table in companions.items()}
    logs = tables.training(results).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    return texts | {"training.csv": logs}


def _compute(results: Results) -> pd.DataFrame:
    """Training times by dataset, agent and stage: the flows', and each run's share of its job's."""
    flows = [
        {"dataset": flow.dataset, "agent": str(FLOW), "stage": "pretraining", "task": "all"}
        | {name: flow.manifest.get(name) for name in ("seconds", "device")}
        for flow in results.flows
    ]
    runs = pd.concat([pd.DataFrame(flows), results.runs], ignore_index=True)
    runs = runs.assign(device=runs["device"].fillna("unknown"), seconds=runs["seconds"].astype(float))
    grouped = runs.groupby(["dataset", "agent", "stage", "device"], as_index=False, sort=False)
    return grouped.agg(
        runs=("task", "size"), seconds_per_run=("seconds", "mean"), seconds=("seconds", lambda s: s.sum(min_count=1))
    ).round(1)


def _long(views: list[DatasetView]) -> pd.DataFrame:
    columns = ["dataset", "task", "method", "mean", "std", "low", "high", "seeds", "tasks", "episodes", "measure"]
    rows = [
        [view.name, task, str(method), *(getattr(value, name) for name in columns[3:-1]), view.success.measure.title]
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
    compute = _compute(results)
    index = {
        "table1": quoted.grouped(quoted.table1(results, final)),
        "table2": quoted.grouped(quoted.table2(results, final)),
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


def _versions(results: Results) -> list[dict[str, Any]]:
    """The package versions recorded in each stage's manifests, and this stage's own last."""
    recorded: list[tuple[str, Any]] = [("data", manifest.get("versions")) for manifest in results.data.values()]
    recorded += [("flow", flow.manifest.get("versions")) for flow in results.flows]
    recorded += list(zip(results.runs["stage"], results.runs["versions"], strict=True))
    recorded.append(("report", versions()))
    lines: dict[str, dict[str, None]] = {}  # dictionaries, whose keys are unique and ordered
    for stage, packages in recorded:
        if isinstance(packages, dict):
            text = ", ".join(f"{name} {version}" for name, version in packages.items())
            lines.setdefault(stage, {})[text] = None
    return [{"stage": stage, "lines": list(texts)} for stage, texts in lines.items()]


def percent(share: float) -> str:
    """`0.634` → `63`."""
    return f"{100 * share:.0f}"


_HELPERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "agent_name": tables.name_of,
    "duration": duration,
    "percents": percents,
    "color_of": curves.color_of,
    "mark": quoted.mark,
}
