"""Files and terminal output of a table."""

from __future__ import annotations

from anipot.experiments.table.columns import columns, rows_csv, runs_csv
from anipot.experiments.table.figures import draw
from anipot.experiments.table.pages import (
    claim_lines,
    comparisons,
    effect_lines,
    rule,
    to_markdown,
    to_page,
)
from anipot.experiments.table.table import IterationTable
from anipot.experiments.table.tuning import tried, tuning_notes
from anipot.report.figures import plots
from anipot.system.files import write_text
from anipot.system.text import aligned

#: Columns that a terminal has room for.
_SHORT = ("iteration", "validation MAE", "test MAE", "test RMSE", "parameters", "run", "note")


def write_table(table: IterationTable) -> None:
    """Write table.md, .html, .csv, runs.csv and the figures into the table's folder."""
    folder = table.folder
    figures = draw(table)
    for name, figure in figures.items():
        plots.save_figure(figure, folder / "plots" / name)
    write_text(folder / "table.csv", rows_csv(table))
    write_text(folder / "runs.csv", runs_csv(table))
    write_text(folder / "table.md", to_markdown(table, list(figures)))
    write_text(folder / "table.html", to_page(table, list(figures)))


def in_terminal(table: IterationTable) -> str:
    """The most important columns, the comparisons, and what each setting did by itself."""
    shown = [c for c in columns(table) if c.title in _SHORT]
    lines = [[c.title for c in shown], [c.unit for c in shown]]
    lines += [[c.cell(row) for c in shown] for row in table.rows]
    text = aligned(lines, left=(0, len(shown) - 1))
    text += [f"{row.name}: {row.failure}" for row in table.rows if row.failure]
    values = tried(table)
    if values is not None:
        cells = [[c + "*" if k == at else c for k, c in enumerate(row)] for row, at in values.rows]
        text += [
            "",
            f"{values.title}; *: the chosen one",
            *aligned([[h for h, _ in values.heads], *cells]),
        ]
        text += tuning_notes(table)[1:]
    text += ["", *comparisons(table), "", rule(table)]
    for option, found in effect_lines(table).items():
        text += ["", f"{option} by itself:", *(f"  {line}" for line in found)]
    if table.claims:
        text += ["", "Which conclusions survive:", *(f"  {line}" for line in claim_lines(table))]
    return "\n".join(text)
