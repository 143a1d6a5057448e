"""Write ``report.html`` of a run or a table."""

from __future__ import annotations

from pathlib import Path

from anipot.experiments.table.report_page import is_table, write_table_page
from anipot.runs.page import write_run_page


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of the run, the ensemble or the table in ``folder``; returns its path.

    ``out``: another file than ``report.html`` in the folder. Raises SettingsError for a folder
    without results.
    """
    return write_table_page(folder, out) if is_table(folder) else write_run_page(folder, out=out)
