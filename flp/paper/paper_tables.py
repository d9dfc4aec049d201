"""Tables 1 and 2 of the paper beside what was measured here, as a page, as Markdown and as CSV."""

from __future__ import annotations

import html

import pandas as pd

from flp.experiment.keys import Keys, TableKeys
from flp.report import quoted
from flp.report.collect import Results, collect
from flp.report.tables import finals

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
STYLE = """
body{font:14px/1.5 system-ui,"DejaVu Sans",sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#1b1f24;
background:#fff}h1{font-size:1.25rem}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:12px;width:100%}
th,td{padding:.3rem;text-align:right;white-space:nowrap;border-bottom:1px solid #dde1e7}
td:first-child,.environment{text-align:left}.group{text-align:center;border-bottom-width:2px}.measured{background:#fdf0ea}.best{font-weight:700}
.scale td{color:#5b6470;text-align:left;white-space:normal}@media print{body{margin:0}table{font-size:8px}}
"""


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
    columns = _shown(cells)
    printed = [name for name in columns if name.startswith("paper ")]
    origins = {"paper": "the paper's numbers (quoted)", "measured": "measured here"}
    groups = "".join(
        f'<th class="group {origin}" colspan="{sum(name.startswith(origin) for name in columns)}">{said}</th>'
        for origin, said in origins.items()
    )
    split = [name.partition(" ") for name in columns]
    head = "".join(f'<th class="{origin}">{html.escape(name)}</th>' for origin, _, name in split)
    body = []
    for row in _rows(cells):
        best = quoted.near_best(row, printed)
        data = "".join(
            f'<td class="{name.split()[0]}{" best" if name in best else ""}">{html.escape(row[name])}</td>'
            for name in columns
        )
        body.append(f"<tr><td>{html.escape(row['environment'])}</td>{data}</tr>")
        if scale := _scale(row):
            body.append(f'<tr class="scale"><td colspan="{1 + len(columns)}">{html.escape(scale)}</td></tr>')
    paragraphs = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{paragraphs}"
        f'<div class="scroll"><table>\n<tr><th class="environment" rowspan="2">environment</th>{groups}</tr>\n'
        f"<tr>{head}</tr>\n" + "\n".join(body) + "\n</table></div>\n"
        "</html>\n"
    )


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
    lines += [f"| {row['environment']} | {' | '.join(row[name] for name in columns)} |" for row in rows]
    lines += ["", *(f"- {scale}" for scale in map(_scale, rows) if scale)]
    if results.stale:
        lines.append(f"- other parameters or another version of the source made {len(results.stale)} of the artifacts")
    return "\n".join(lines) + "\n"
