"""anipot report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.output import written
from anipot.errors import SettingsError


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a run, an ensemble or a table.", metavar="FOLDER")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write this .html file (default: FOLDER/report.html)."),
    ] = None,
) -> None:
    """Regenerate the HTML report of a run or a table.

    Example:

    \b
    anipot train epochs=3 per_molecule=10 --out my-run
    anipot report my-run

    Runs and tables write report.html when they end: one page without references to other files,
    with results, data and split, figures, errors by group, the worst conformers in 3-D, settings,
    versions and the command that repeats the run.

    In Python:

    \b
    from anipot.experiments.report import write_report
    write_report("runs/train-001", "my.html")
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"{out}: a report is a web page; give it a name that ends in .html")
    from anipot.experiments.report import write_report

    existed = (folder / "report.html" if out is None else out).exists()
    typer.echo(f"report written to {written(write_report(folder, out), existed)}")
