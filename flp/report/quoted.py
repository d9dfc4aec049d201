"""The paper's Tables 1 and 2 next to the results measured here; a quoted number never fills a measured column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from typing import Any

import pandas as pd

from flp.data.environments import specification
from flp.params.loading import Params
from flp.params.sections import OFFLINE_ONLY, ONLINE_ONLY, offline_steps
from flp.report.collect import Results
from flp.report.tables import NAMES, Cell, cell, name_of
from flp.system.units import counted

OFFLINE = ["BC", "IQL", "ReBRAC", "IDQL", "SRPO", "CAC", "FAWAC", "FBRAC", "IFQL", "FQL", "FLP"]
ONLINE = ["ReBRAC", "Cal-QL", "RLPD", "IFQL", "FQL", "FLP"]
# Footnotes to quoted cells, which stay as the paper prints them, by environment and column; each begins with its mark.
FOOTNOTES = {
    (
        "scene-play",
        "paper Cal-QL",
    ): "† As printed in the paper; the FQL paper, from which it is taken, has 1±2→50±53 (Table 4)."
}
SCALE = ["steps", "evaluations", "episodes", "seeds", "tasks", "networks", "data"]


def quoted() -> pd.DataFrame:
    """The paper's numbers as it prints them: `mean±std` in percent, Table 2 `offline→online`."""
    text = resources.files("flp.report").joinpath("paper.csv").read_text(encoding="utf-8")
    return pd.read_csv(StringIO(text), keep_default_na=False, dtype=str)


def with_own(results: Results, dataset: str, agents: Iterable[str], describe: Callable[[Params, int], str]) -> str:
    """A setting of a dataset, followed by the algorithms for which it differs: `1000000 (IDQL 3000000)`.

    Args:
        results: all results.
        dataset: its name.
        agents: the algorithms to look at.
        describe: the setting as text, from an algorithm's parameters and its number of offline steps.
    """
    params = results.of(dataset)
    shared, exceptions = describe(params, params.offline.steps), list[str]()
    for agent in agents:
        own = results.keys.agent_params(dataset, agent)
        text = describe(own, offline_steps(agent, own.offline))
        if text != shared:
            exceptions.append(f"{name_of(agent)} {text}")
    return f"{shared} ({', '.join(exceptions)})" if exceptions else shared


def table1(results: Results, final: pd.DataFrame) -> pd.DataFrame:
    """Offline results on the paper's ten environments and on ours: columns `paper …` and `measured …`."""
    rows = []
    ours = [dataset for dataset in results.params.datasets if dataset not in results.params.tasks]
    for dataset, row in _rows("1", OFFLINE, ours).items():
        if dataset in ours:
            runs = _base(final, dataset, "offline")
            runs = runs[~runs["agent"].isin(ONLINE_ONLY)]
            for agent in runs["agent"].unique():
                value = cell(runs[runs["agent"] == agent], results.params.report.bootstrap)
                row[f"measured {name_of(agent)}"] = value.text if value else ""
            row |= _scale(results, dataset, runs, lambda params, offline: f"{offline}")
        rows.append(row)
    return pd.DataFrame(rows, columns=_columns(results, OFFLINE, ONLINE_ONLY), dtype=object).fillna("")


def table2(results: Results, final: pd.DataFrame) -> pd.DataFrame:
    """Offline→online: the last evaluation of each phase, on the environment's default task if it was run."""
    jobs = results.keys.online_jobs()
    tuned = list(dict.fromkeys(dataset for dataset, _, _ in jobs if dataset not in results.params.tasks))
    rows = []
    for dataset, row in _rows("2", ONLINE, tuned).items():
        if dataset in tuned:
            online = _base(final, dataset, "online")
            default = specification(dataset).default_task
            tasks = {default} if default in set(online["task"]) else set(online["task"])
            online = online[online["task"].isin(tasks)]
            offline = _base(final, dataset, "offline")
            offline = offline[offline["task"].isin(tasks)]
            for agent in sorted(set(online["agent"])):
                cells = [
                    _last(part[part["agent"] == agent], results.params.report.bootstrap) for part in (offline, online)
                ]
                row[f"measured {name_of(agent)}"] = "→".join(c.text if c else "" for c in cells)
            row |= _scale(results, dataset, online, lambda params, offline: f"{offline} + {params.online.steps}")
            row["evaluations"] = "1"
        rows.append(row)
    return pd.DataFrame(rows, columns=_columns(results, ONLINE, OFFLINE_ONLY), dtype=object).fillna("")


def near_best(row: dict[str, str], columns: list[str]) -> list[str]:
    """The columns within 5 % of the row's best, which the paper prints bold; of `a→b`, b counts."""
    means = {name: float(row[name].rpartition("→")[2].partition("±")[0]) for name in columns if row[name]}
    return [name for name, value in means.items() if value >= 0.95 * max(means.values())]


def mark(environment: str, column: str) -> str:
    """The footnote mark of a cell, or nothing."""
    return FOOTNOTES.get((environment, column), "").partition(" ")[0]


@dataclass(frozen=True)
class GroupedTable:
    """Table 1 or 2, ready for a page.

    Attributes:
        groups: the columns of numbers by origin, `paper` and `measured`.
        rows: the cells by column, with `best`, the quoted columns to print bold, and `scale`, what was run.
        footnotes: those of the cells in the table.
    """

    groups: dict[str, list[str]]
    rows: list[dict[str, Any]]
    footnotes: list[str]


def grouped(table: pd.DataFrame) -> GroupedTable:
    """Group the columns of `table1` or `table2`, and describe its rows."""
    origins = ("paper", "measured")
    groups = {origin: [str(name) for name in table if str(name).startswith(f"{origin} ")] for origin in origins}
    rows: list[dict[str, Any]] = []
    for record in table.astype(str).to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        rows.append(row | {"best": near_best(row, groups["paper"]), "scale": _scale_text(row)})
    environments = set(table["environment"])
    footnotes = [text for (row, column), text in FOOTNOTES.items() if row in environments and column in table]
    return GroupedTable(groups, rows, footnotes)


def _scale_text(row: dict[str, str]) -> str:
    """What was run for a row; empty where nothing was."""
    if not row["steps"]:
        return ""
    tasks = "task" if row["tasks"].isdigit() else "tasks"
    return (
        f"{row['steps']} steps; {counted(row['evaluations'], 'evaluation')} of {row['episodes']} episodes; "
        f"{counted(row['seeds'], 'seed')}; {tasks} {row['tasks']}; networks {row['networks']}; data: {row['data']}"
    )


def _last(final: pd.DataFrame, resamples: int) -> Cell | None:
    return cell(final.assign(score=final["last"], episodes=final["trials"]), resamples)


def _base(final: pd.DataFrame, dataset: str, phase: str) -> pd.DataFrame:
    return final[(final["dataset"] == dataset) & (final["variant"] == "") & (final["phase"] == phase)]


def _rows(number: str, columns: list[str], ours: list[str]) -> dict[str, dict[str, str]]:
    """A row per environment of the paper's table, then one for each of our other datasets."""
    table = quoted()
    rows: dict[str, dict[str, str]] = {}
    for paper in table[table["table"] == number].to_dict("records"):
        environment = str(paper["environment"])
        rows[environment] = {"environment": environment} | {f"paper {name}": str(paper[name]) for name in columns}
    for dataset in ours:
        rows.setdefault(dataset, {"environment": dataset})
    return rows


def _columns(results: Results, paper: list[str], without: Sequence[str]) -> list[str]:
    agents = {agent for dataset in results.params.datasets for agent in results.of(dataset).offline.agents}
    ordered = [*(agent for agent in NAMES if agent in agents), *sorted(agents - NAMES.keys())]
    measured = [f"measured {name_of(agent)}" for agent in ordered if agent not in without]
    return ["environment", *(f"paper {name}" for name in paper), *measured, *SCALE]


def _scale(results: Results, dataset: str, final: pd.DataFrame, steps: Callable[[Params, int], str]) -> dict[str, str]:
    """The scale of what was run here, without which the numbers do not compare."""
    params, agents = results.of(dataset), [str(agent) for agent in final["agent"].unique()]
    return {
        "data": results.label(dataset),
        "steps": with_own(results, dataset, agents, steps),
        "evaluations": str(int(final["evaluations"].min())) if len(final) else "",
        "episodes": str(params.evaluation.episodes),
        "seeds": str(final["seed"].nunique()),
        "tasks": " ".join(str(task) for task in sorted(final["task"].unique())),
        "networks": with_own(results, dataset, agents, _networks),
    }


def _networks(params: Params, offline: int) -> str:
    hidden = params.offline.hidden
    return f"{len(hidden)}×{hidden[0]}" if len(set(hidden)) == 1 else "-".join(map(str, hidden))
