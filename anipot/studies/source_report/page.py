"""Files and output of the protocol as-written: its table, and the defects in numbers."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from anipot.experiments.table.comparison import number
from anipot.experiments.table.figures import cells_figure, notebook_curves
from anipot.experiments.table.settings import options_of, value_in_words, words
from anipot.report.figures import plots
from anipot.report.markup import Row, html_list, html_page, html_table, markdown_table
from anipot.studies.source_report.defects import defects
from anipot.studies.source_report.rows import NotebookRun, NotebookTable
from anipot.system.files import write_text
from anipot.system.text import aligned, markdown

TITLE = "The source's seven iterations, as written"


class NotebookColumn(NamedTuple):
    """A column: heading, unit, what stands in it, and whether a terminal shows it."""

    title: str
    unit: str
    cell: Callable[[NotebookRun], str]
    short: bool = False


def _setting(title: str, option: str) -> NotebookColumn:
    def cell(run: NotebookRun) -> str:
        assert run.row.settings is not None
        return value_in_words(option, options_of(run.row.settings)[option])

    return NotebookColumn(title, "", cell)


def _said(part: str) -> Callable[[NotebookRun], str]:
    return lambda run: number(run.said[part][1])


def _found(part: str, key: str) -> Callable[[NotebookRun], str]:
    return lambda run: number(getattr(run.found[part], key))


def _reported(key: str) -> Callable[[NotebookRun], str]:
    return lambda run: words(run.row.reported[key]) if key in run.row.reported else ""


COLUMNS = (
    NotebookColumn("iteration", "", lambda run: run.name, True),
    _setting("hidden layers", "model.hidden"),
    _setting("learning rate", "training.learning_rate"),
    _setting("batch size", "training.batch_size"),
    _setting("L2", "training.l2"),
    _setting("dropout", "model.dropout"),
    NotebookColumn("validation MAE", "kcal/mol", _said("validation"), True),
    NotebookColumn("test MAE", "kcal/mol", _said("test"), True),
    NotebookColumn("reported MAE", "kcal/mol", _reported("mae"), True),
    NotebookColumn("smallest loss", "(hartree)^2", lambda run: f"{run.train_losses[-1]:.3g}"),
    NotebookColumn("reported loss", "(hartree)^2", _reported("loss")),
    _setting("activation", "model.activation"),
    NotebookColumn("held-out validation MAE", "kcal/mol", _found("validation", "mae"), True),
    NotebookColumn("held-out test MAE", "kcal/mol", _found("test", "mae"), True),
    NotebookColumn("held-out test RMSE", "kcal/mol", _found("test", "rmse")),
    NotebookColumn("updates", "", lambda run: f"{run.updates:,}"),
    NotebookColumn("parameters", "", lambda run: f"{run.parameters:,}"),
    NotebookColumn("epoch", "s", lambda run: number(median(run.seconds))),
)


def notes(table: NotebookTable) -> list[str]:
    """Notes needed to read the table."""
    files = ", ".join(Path(source).name for source in table.data.sources)
    level = f", {table.data.level_of_theory}" if table.data.level_of_theory else ""
    return [
        f"{len(table.data):,} conformers of {files}{level}.",
        f"{table.division.describe().capitalize()}.",
        "Protocol as-written: what the notebook of the source does, its defects included, one run "
        "a row, with anipot's AEVs and networks.",
        "Validation MAE, test MAE and smallest loss are what the notebook prints, and what the "
        "source reports; held-out errors are those of the same weights on the conformers of "
        "the part, in evaluation mode.",
        "The batch size is the one asked for; every row has batches of "
        f"{table.batch_size:,}, {table.batches['train']:,} an epoch, and makes "
        f"{table.runs[0].updates:,} updates. The source makes 2,550 on its file, in 30 epochs of "
        "85.",
        "With one run a row nothing can be said of which setting is better: the protocol "
        "controlled does that.",
        f"Trained and measured in {table.seconds:.0f} s on {table.device}.",
    ]


def write_as_written(table: NotebookTable, folder: Path) -> None:
    """Write table.md, .html, .csv and plots/ into a folder, and print the table."""
    texts = [[c.title, c.unit, *(c.cell(run) for run in table.runs)] for c in COLUMNS]
    figures = {
        "table": cells_figure(texts),
        "curves": notebook_curves(
            {run.name: (run.train_losses, run.val_losses) for run in table.runs}
        ),
    }
    for name, figure in figures.items():
        plots.save_figure(figure, folder / "plots" / name)
    write_text(folder / "table.csv", to_csv(table))
    write_text(folder / "table.md", to_markdown(table))
    write_text(folder / "table.html", to_html(table))
    print(f"\n{in_terminal(table)}\n\n{folder}: table.md, .html, .csv and plots/", flush=True)


def to_markdown(table: NotebookTable) -> str:
    """Table, notes, and the defects by numbers."""
    lines = [f"# {TITLE}", "", *markdown_table(*_cells(table))]
    lines += ["", *(f"- {markdown(note)}" for note in notes(table)), "", "## Defects, by numbers"]
    for k, defect in enumerate(defects(table), start=1):
        lines += ["", f"{k}. **{markdown(defect.title)}**"]
        lines += [f"   - {markdown(line)}" for line in defect.lines]
    lines += ["", "![The table](plots/table.png)", "", "![Losses](plots/curves.png)"]
    return "\n".join(lines) + "\n"


def to_html(table: NotebookTable) -> str:
    """The same as a page."""
    found = "".join(
        f"<li><strong>{html.escape(d.title)}</strong>{html_list(d.lines)}</li>\n"
        for d in defects(table)
    )
    body = (
        f"{html_table(*_cells(table))}{html_list(notes(table))}\n<h2>Defects, by numbers</h2>\n"
        f'<ol>{found}</ol>\n<p><img src="plots/curves.png" alt="Losses"></p>\n'
    )
    return html_page(TITLE, body)


def to_csv(table: NotebookTable) -> str:
    """A line a row and one for each run to compare with, with all their numbers."""
    text = io.StringIO()
    lines = [_numbers(run, run.name) for run in table.runs]
    lines += [_numbers(run, f"to compare: {what}") for what, run in table.controls.items()]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _numbers(run: NotebookRun, name: str) -> dict[str, Any]:
    return {
        "row": name,
        "said_validation_mae": run.said["validation"][1],
        "said_test_mae": run.said["test"][1],
        "reported_mae": run.row.reported.get("mae"),
        "last_train_loss": run.train_losses[-1],
        "reported_loss": run.row.reported.get("loss"),
        **{f"validation_{k}": getattr(run.found["validation"], k) for k in ("mae", "rmse")},
        **{f"test_{k}": getattr(run.found["test"], k) for k in ("mae", "rmse")},
        "first_batch_loss_before": run.first,
        "first_batch_loss_after": run.last,
        "best_epoch": run.best_epoch,
        "restoring_changed": run.restoring_changed,
        "updates": run.updates,
        "parameters": run.parameters,
        "seconds": sum(run.seconds),
    }


def in_terminal(table: NotebookTable) -> str:
    """The most important columns, and the defects."""
    shown = [c for c in COLUMNS if c.short]
    lines = [[c.title for c in shown], [c.unit for c in shown]]
    lines += [[c.cell(run) for c in shown] for run in table.runs]
    text = [*aligned(lines), "", "Defects, by numbers:"]
    for k, defect in enumerate(defects(table), start=1):
        text += [f"{k}. {defect.title}", *(f"     {line}" for line in defect.lines)]
    return "\n".join(text)


def _cells(table: NotebookTable) -> tuple[list[tuple[str, str]], list[Row]]:
    return [(c.title, c.unit) for c in COLUMNS], [
        ([c.cell(run) for c in COLUMNS], None) for run in table.runs
    ]
