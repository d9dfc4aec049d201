"""Tables 1 and 2 of the paper beside what was measured here, as a page, as Markdown and as CSV."""

from __future__ import annotations

import pandas as pd

from flp.experiment.keys import Keys, TableKeys
from flp.report import quoted
from flp.report.collect import Results, collect
from flp.report.tables import finals
from flp.report.templating import render

TITLES = {
    "table1": "Table 1: offline success, percent",
    "table2": "Table 2: success before → after fine-tuning, percent",
}
RULES = {
    "table1": "Mean of the last {last} evaluations, ± standard deviation over seeds where there are several.",
    "table2": "The last evaluation of either phase, ± standard deviation over seeds where there are several.",
}
QUOTED = (
    "The paper: 50 episodes, 8 seeds, 1M steps; columns 'paper' quote it, columns 'measured' were run here, "
    "and nothing that was not run has a number there."
)
SAID = {"paper": "the paper's numbers (quoted)", "measured": "measured here"}


def make(keys: Keys, table: str) -> dict[str, str]:
    """The table's texts by suffix.

    Raises:
        FLPError: a result that the table shows is missing or unreadable.
    """
    results = collect(TableKeys(keys.params, table))
    final = finals(results.evaluations, results.params.report.average_last)
    cells = (quoted.table1 if table == "table1" else quoted.table2)(results, final)
    notes = [RULES[table].format(last=results.params.report.average_last), QUOTED]
    return {
        ".html": _page(TITLES[table], notes, cells),
        ".md": _markdown(TITLES[table], notes, cells, results),
        ".csv": cells.to_csv(index=False, lineterminator="\n"),
    }


def _shown(cells: pd.DataFrame) -> list[str]:
    """The columns of numbers: the paper's, then ours."""
    return [name for name in cells.columns if name.startswith(("paper ", "measured "))]


def _scale(row: dict[str, str]) -> str:
    """What was run; nothing for an environment that was not."""
    if not row["steps"]:
        return ""
    parts = [f"{row['steps']} steps", f"evaluations averaged: {row['evaluations']} × {row['episodes']} episodes"]
    parts += [f"seeds: {row['seeds']}", f"tasks: {row['tasks']}", f"networks {row['networks']}", f"data: {row['data']}"]
    return f"{row['environment']}: " + ", ".join(parts)


def _rows(cells: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(name): str(value) for name, value in row.items()} for row in cells.to_dict("records")]


def _page(title: str, notes: list[str], cells: pd.DataFrame) -> str:
    groups = {origin: [name for name in _shown(cells) if name.startswith(f"{origin} ")] for origin in SAID}
    rows = [row | {"best": quoted.near_best(row, groups["paper"]), "scale": _scale(row)} for row in _rows(cells)]
    values = {"groups": groups, "said": SAID, "rows": rows, "columns": len(_shown(cells))}
    helpers = {"mark": quoted.mark}
    return render("table.html", helpers, title=title, notes=notes, footnotes=quoted.footnotes(cells), **values)


def _markdown(title: str, notes: list[str], cells: pd.DataFrame, results: Results) -> str:
    columns = _shown(cells)
    lines = [
        f"# {title}",
        "",
        *notes,
        "",
        f"| environment | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    rows = _rows(cells)
    for row in rows:
        shown = [row[name] + quoted.mark(row["environment"], name) for name in columns]
        lines.append(f"| {row['environment']} | {' | '.join(shown)} |")
    lines += ["", *(f"{text}\n" for text in quoted.footnotes(cells))]
    lines += [f"- {scale}" for scale in map(_scale, rows) if scale]
    if results.stale:
        lines.append(f"- other parameters or another version of the source made {len(results.stale)} of the artifacts")
    return "\n".join(lines) + "\n"
