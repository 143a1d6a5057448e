"""anipot data fetch: published data sets."""

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
        typer.Option(help="How many atoms other than hydrogen: a number or a range of 1 to 8."),
    ] = "1-4",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write (default: ani_gdb_s01_to_s04.h5)."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="The archive, where it has been downloaded already."),
    ] = None,
) -> None:
    """Download a published data set, and write the part of it asked for as one file.

    The archive of ANI-1 has several GB; a download that breaks off goes on when the command is
    given again. The file has the groups of the archive's files, and is checked by the number of
    conformers (864,898 with one to four heavy atoms).

    In Python:

    \b
    from anipot.data.published.fetch_ani1 import fetch_ani1
    fetch_ani1((1, 4), "ani_gdb_s01_to_s04.h5")
    """
    from anipot.data.published.fetch_ani1 import fetch_ani1, heavy_atoms_of

    file, molecules, conformers = fetch_ani1(heavy_atoms_of(heavy_atoms), out, archive=archive)
    typer.echo(f"{file}: {conformers:,} conformers of {molecules:,} molecules, checked")
