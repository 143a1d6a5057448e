"""report.html: one page that says all of a training run, or of a table of runs, without a network.

A page loads nothing: styles, figures, the 3-D viewer and its structures are in it, and its content
security policy forbids the browser to ask for anything else.
"""

from __future__ import annotations

from pathlib import Path


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of the run, the ensemble or the table in ``folder``; returns its path.

    ``out``: another file than ``report.html`` in the folder. Raises SettingsError for a folder
    without results.
    """
    # Here and not above: runs, which write pages, are what tables are made of.
    from anipot.report.run_page import write_run_page
    from anipot.report.table_page import is_table, write_table_page

    return write_table_page(folder, out) if is_table(folder) else write_run_page(folder, out=out)
