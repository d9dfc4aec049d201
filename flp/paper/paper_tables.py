"""Tables 1 and 2 of the paper next to the results measured here, as a page, as Markdown and as CSV."""

from __future__ import annotations

from flp.experiment.keys import Keys, TableKeys
from flp.report import quoted
from flp.report.collect import Results, collect, stale_note
from flp.report.quoted import GroupedTable
from flp.report.tables import finals
from flp.report.templating import render

TITLES = {
    "table1": "Table 1: offline success, percent",
    "table2": "Table 2: success before → after fine-tuning, percent",
}
RULES = {
    "table1": "Mean of the last {last} evaluations, ± standard deviation over seeds where there are several.",
    "table2": "Last evaluation of each phase, ± standard deviation over seeds where there are several.",
}
QUOTED = (
    "Columns 'paper' quote the paper (50 episodes, 8 seeds, 1M steps), columns 'measured' were run here; cells of what "
    "was not run are blank."
)


def make(keys: Keys, table: str) -> tuple[dict[str, str], list[str]]:
    """The table's texts by suffix, and the stale artifacts that it shows.

    Raises:
        FLPError: a result in the table is missing or unreadable.
    """
    results = collect(TableKeys(keys.params, table))
    last = results.params.report.average_last
    final = finals(results.scores, last)
    cells = (quoted.table1 if table == "table1" else quoted.table2)(results, final)
    notes, grouped = [RULES[table].format(last=last), QUOTED], quoted.grouped(cells)
    texts = {
        ".html": render("table.html", {"mark": quoted.mark}, title=TITLES[table], notes=notes, table=grouped),
        ".md": _markdown(TITLES[table], notes, grouped, results),
        ".csv": cells.to_csv(index=False, lineterminator="\n"),
    }
    return texts, results.stale


def _markdown(title: str, notes: list[str], table: GroupedTable, results: Results) -> str:
    columns = [name for names in table.groups.values() for name in names]
    header = [f"| environment | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines = [f"# {title}", "", *notes, "", *header]
    for row in table.rows:
        cells = [row[name] + quoted.mark(row["environment"], name) for name in columns]
        lines.append(f"| {row['environment']} | {' | '.join(cells)} |")
    lines += ["", *(f"{text}\n" for text in table.footnotes)]
    lines += [f"- {row['environment']}: {row['scale']}" for row in table.rows if row["scale"]]
    if results.stale:
        lines.append(f"- {stale_note(results.stale)}")
    return "\n".join(lines) + "\n"
