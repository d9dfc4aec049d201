"""The paper's Tables 1 and 2 beside what was measured here; a quoted number never fills a measured column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from io import StringIO

import pandas as pd

from flp.data.environments import specification
from flp.params.loading import Params
from flp.params.sections import OFFLINE_ONLY, ONLINE_ONLY, offline_steps
from flp.report.collect import Results
from flp.report.tables import NAMES, Cell, cell, name_of

OFFLINE = ["BC", "IQL", "ReBRAC", "IDQL", "SRPO", "CAC", "FAWAC", "FBRAC", "IFQL", "FQL", "FLP"]
ONLINE = ["ReBRAC", "Cal-QL", "RLPD", "IFQL", "FQL", "FLP"]
# What is to be said of quoted cells, which stay as the paper prints them, by environment and column; each with a mark.
FOOTNOTES = {
    ("scene-play", "paper Cal-QL"): "† As the paper prints it; FQL's paper, which it quotes, has 1±2→50±53 (Table 4)."
}
SCALE = ["steps", "evaluations", "episodes", "seeds", "tasks", "networks", "data"]


def quoted() -> pd.DataFrame:
    """The paper's numbers as it prints them: `mean±std` in percent, Table 2 `offline→online`."""
    text = resources.files("flp.report").joinpath("paper.csv").read_text(encoding="utf-8")
    return pd.read_csv(StringIO(text), keep_default_na=False, dtype=str)


def with_own(results: Results, dataset: str, agents: Iterable[str], show: Callable[[Params, int], str]) -> str:
    """What holds for a dataset, with the algorithms of whom something else does: `1000000 (IDQL 3000000)`.

    Args:
        results: what was measured.
        dataset: its name.
        agents: the algorithms that are shown.
        show: tells it of an algorithm's parameters and offline steps.
    """
    params = results.of(dataset)
    shared, found = show(params, params.offline.steps), list[str]()
    for agent in agents:
        own = results.keys.agent_params(dataset, agent)
        told = show(own, offline_steps(agent, own.offline))
        found += [f"{name_of(agent)} {told}"] if told != shared else []
    return f"{shared} ({', '.join(found)})" if found else shared


def table1(results: Results, final: pd.DataFrame) -> pd.DataFrame:
    """Offline results of the paper's ten environments and of ours: `paper …` and `measured …` columns."""
    rows = []
    ours = [dataset for dataset in results.params.datasets if dataset not in results.params.tasks]
    for dataset, row in _rows(results, "1", OFFLINE, ours).items():
        if dataset in ours:
            here = _base(final, dataset, "offline")
            here = here[~here["agent"].isin(ONLINE_ONLY)]
            for agent in here["agent"].unique():
                value = cell(here[here["agent"] == agent], results.params.report.bootstrap)
                row[f"measured {name_of(agent)}"] = value.text if value else ""
            row |= _scale(results, dataset, here, lambda params, offline: f"{offline}")
        rows.append(row)
    return pd.DataFrame(rows, columns=_columns(results, OFFLINE, ONLINE_ONLY), dtype=object).fillna("")


def table2(results: Results, final: pd.DataFrame) -> pd.DataFrame:
    """Offline→online: the last evaluation of either phase, on the environment's default task where it was run."""
    jobs = results.keys.online_jobs()
    tuned = list(dict.fromkeys(dataset for dataset, _, _ in jobs if dataset not in results.params.tasks))
    rows = []
    for dataset, row in _rows(results, "2", ONLINE, tuned).items():
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
    """The columns within 5 % of the row's best (the last figure of each cell), which the paper prints bold."""
    means = {name: float(row[name].rpartition("→")[2].partition("±")[0]) for name in columns if row[name]}
    return [name for name, value in means.items() if value >= 0.95 * max(means.values())]


def mark(environment: str, column: str) -> str:
    """The mark of a cell that has a footnote, else nothing."""
    return FOOTNOTES.get((environment, column), "").partition(" ")[0]


def footnotes(table: pd.DataFrame) -> list[str]:
    """The footnotes of the cells that a table shows."""
    rows = set(table["environment"])
    return [text for (environment, column), text in FOOTNOTES.items() if environment in rows and column in table]


def _last(final: pd.DataFrame, resamples: int) -> Cell | None:
    return cell(final.assign(success=final["last"], episodes=final["trials"]), resamples)


def _base(final: pd.DataFrame, dataset: str, phase: str) -> pd.DataFrame:
    return final[(final["dataset"] == dataset) & (final["variant"] == "") & (final["phase"] == phase)]


def _rows(results: Results, number: str, columns: list[str], ours: list[str]) -> dict[str, dict[str, str]]:
    """A row per environment of the paper's table, then one per other dataset of ours."""
    table = quoted()
    found: dict[str, dict[str, str]] = {}
    for _, paper in table[table["table"] == number].iterrows():
        row = {"environment": str(paper["environment"])}
        found[row["environment"]] = row | {f"paper {name}": str(paper[name]) for name in columns}
    for dataset in ours:
        found.setdefault(dataset, {"environment": dataset})
    return found


def _columns(results: Results, paper: list[str], without: Sequence[str]) -> list[str]:
    agents = {agent for dataset in results.params.datasets for agent in results.of(dataset).offline.agents}
    ordered = [*(agent for agent in NAMES if agent in agents), *sorted(agents - NAMES.keys())]
    measured = [f"measured {name_of(agent)}" for agent in ordered if agent not in without]
    return ["environment", *(f"paper {name}" for name in paper), *measured, *SCALE]


def _scale(results: Results, dataset: str, final: pd.DataFrame, steps: Callable[[Params, int], str]) -> dict[str, str]:
    """What was run here: the reader compares scales before numbers."""
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
