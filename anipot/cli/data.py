"""anipot data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.app import App
from anipot.cli.fetch import fetch
from anipot.cli.pack import pack
from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.cli.resolve import resolve
from anipot.data.check import read_and_check, warn_of_labels
from anipot.data.describe import describe
from anipot.data.load import read_files
from anipot.data.mapping import ReadOptions
from anipot.data.published.bundled import bundled_path

data_app = App(
    help="Describe (info), check, resolve, pack and fetch data sets.",
    short_help="Describe, check, pack and fetch data sets.",
    no_args_is_help=True,
)

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        help="HDF5, extended XYZ or .npz files; default: the bundled data.", metavar="FILE"
    ),
]


@data_app.command()
@reads_data()
def info(
    files: Files = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Describe data files, read as one data set.

    Example:

    \b
    anipot data info

    Prints molecules, conformers, elements, energy range, labels, level of theory and memory.

    In Python:

    \b
    from anipot.data.describe import describe
    from anipot.data.load import load_dataset
    print(describe(load_dataset("FILE")))
    """
    data = read_files(files or [bundled_path()], read)
    typer.echo(str(describe(data)))
    warn_of_labels(data, read)


@data_app.command()
@reads_data()
def check(
    files: Files = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Check data files for mistakes; exit with 1 if there are any.

    Example:

    \b
    anipot data check

    Finds shapes that disagree, NaN, unknown elements, atoms or periodic images that are too close,
    lengths, energies, forces and stress in another unit or with the wrong sign, forces that
    contradict the energies, and duplicate conformers. Reports the first place of each.

    In Python:

    \b
    from anipot.data.check import check_file
    print(*check_file("FILE"), sep="\\n")
    """
    failed = False
    for file in files or [bundled_path()]:
        data, problems = read_and_check(file, read)
        for problem in problems:
            typer.echo(f"{file}: {problem}")
        if problems:
            failed = True
        elif data is not None:
            typer.echo(f"{file}: no problem found in {len(data):,} conformers")
    if failed:
        raise typer.Exit(1)


data_app.command(short_help="Report how well AEV settings resolve a data set.")(resolve)
data_app.command(short_help="Pack data files into a store that streams.")(pack)
data_app.command(short_help="Download a published data set.")(fetch)
