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
    """Write report.html of a run again: results, data, figures, worst conformers, settings.

    The page needs no network and no other file. A run writes it when it ends; this writes it
    anew, for example after an interruption or with another version of anipot.

    In Python:

    \b
    from anipot.report import write_report
    write_report("runs/train-001")
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"{out}: a report is a web page; give it a name that ends in .html")
    from anipot.report import write_report

    existed = (folder / "report.html" if out is None else out).exists()
    typer.echo(f"report written to {written(write_report(folder, out), existed)}")
