"""anipot data fetch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Name(StrEnum):
    """The data sets that can be fetched."""

    ani1 = "ani1"


def fetch(
    name: Annotated[Name, typer.Argument(help="ani1: ANI-1, wB97X/6-31G(d).", metavar="NAME")],
    heavy_atoms: Annotated[
        str,
        typer.Option(help="Number of heavy atoms: a number or a range within 1-8."),
    ] = "1-4",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write (default: ani_gdb_s01_to_s04.h5)."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="Use this archive instead of downloading it."),
    ] = None,
) -> None:
    """Download a published data set and write the part of it that is asked for to one file.

    Example:

    \b
    anipot data fetch ani1 --heavy-atoms 1-2 --out ani1_small.h5

    The archive of ANI-1 has several GB; run the command again to resume a download. The number of
    conformers is checked (864,898 with one to four heavy atoms).

    In Python:

    \b
    from anipot.data.published.fetch_ani1 import fetch_ani1
    fetch_ani1((1, 4), "ani_gdb_s01_to_s04.h5")
    """
    from anipot.data.published.fetch_ani1 import fetch_ani1, heavy_atoms_of

    file, molecules, conformers = fetch_ani1(heavy_atoms_of(heavy_atoms), out, archive=archive)
    typer.echo(f"{file}: {conformers:,} conformers of {molecules:,} molecules, checked")
