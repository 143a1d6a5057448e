"""report.html of a table of runs, from what is in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anipot.config import RunSettings
from anipot.errors import SettingsError
from anipot.experiments.table.collecting import OPTIONS, load_table
from anipot.experiments.table.columns import columns, with_spread
from anipot.experiments.table.comparison import compare
from anipot.experiments.table.pages import FIGURES as TABLE_FIGURES
from anipot.experiments.table.pages import claim_lines, comparisons, effect_lines, notes, rule
from anipot.experiments.table.table import IterationRow, IterationTable, SeedResult
from anipot.experiments.table.tuning import tried
from anipot.report.rendering import figures, render_results
from anipot.runs.folder import RunFolder, files_in
from anipot.runs.option_table import options
from anipot.runs.page import FIGURES, asks, page_or_warning
from anipot.system.files import write_text

#: The table is on the page itself.
_FIGURES = [(name, what, f"{what}.") for name, what in TABLE_FIGURES.items() if name != "table"]


def is_table(folder: str | Path) -> bool:
    """Whether a folder is that of a table, and not that of a run."""
    return (Path(folder) / OPTIONS).exists()


def write_table_page(table: IterationTable | str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a table, or of the one in a folder, complete or not; returns its path.

    ``out``: another file than ``report.html`` in the folder. Raises SettingsError for a folder
    without a table, or one in which no run has come to its end.
    """
    if not isinstance(table, IterationTable):
        table = load_table(table)
    best = table.best_row
    if best is None:
        raise SettingsError(
            f"{table.folder} holds a table of which no run has come to its end; go on with it: "
            f"anipot iterate --resume {table.folder}"
        )
    run = best.ended[0].folder
    way_out = f"remove {run}, and it is trained again"
    page = render_results("table.html", lambda: _values(table, best), run / "run.json", way_out)
    path = table.folder / "report.html" if out is None else Path(out)
    write_text(path, page)
    return path


def try_table_page(table: IterationTable) -> None:
    """``write_table_page`` when runs have come to their end, with a warning where it fails."""
    if table.best_row is not None:
        with page_or_warning(table.folder):
            write_table_page(table)


def _values(table: IterationTable, best: IterationRow) -> dict[str, Any]:
    # One run stands for the row where a page can show only one: the first that ended.
    run = RunFolder.read(best.ended[0].folder)
    settings = RunSettings.model_validate(table.base)
    shown = columns(table)
    return {
        **run.shown(),
        "table": table,
        "columns": shown,
        "rows": [_row(table, row, [c.cell(row) for c in shown]) for row in table.rows],
        "best": best,
        "best_error": with_spread(best.error(table.judged)),
        "best_rmse": with_spread(best.error(table.judged, "rmse")),
        "against_base": _against_base(table, best),
        "run": run.run,
        "run_folder": _link(table, best.ended[0]),
        "machine": run.machine,
        "asks": asks(run),
        "notes": notes(table),
        "tried": tried(table),
        "claims": claim_lines(table),
        "comparisons": comparisons(table),
        "rule": rule(table),
        "effects": effect_lines(table),
        "figures": figures(table.folder / "plots", _FIGURES),
        "run_figures": figures(run.folder / "plots", FIGURES),
        "options": options(settings, run.n_train),
        "file": OPTIONS,
        "files": files_in(table.folder),
    }


def _row(table: IterationTable, row: IterationRow, cells: list[str]) -> dict[str, Any]:
    """Cells of a row, and links to the pages of its runs by seed."""
    runs = [
        (run.seed, f"{_link(table, run)}/report.html")
        for run in row.runs
        if (run.folder / "report.html").exists()
    ]
    return {"name": row.name, "cells": cells, "runs": runs}


def _link(table: IterationTable, run: SeedResult) -> str:
    return run.folder.relative_to(table.folder).as_posix()


def _against_base(table: IterationTable, best: IterationRow) -> str:
    """The best row against the base, in words; nothing where they are the same."""
    base = table.base_row
    return "" if best is base else compare(best, base, table.judged).sentence(table.unit)
