"""anipot data: what a data file holds, and whether anything is wrong with it."""

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
    help="Look at data sets: what they hold (info), what is wrong with them (check), how AEVs "
    "resolve them (resolve). Large ones become a store that is never read into memory (pack); "
    "published ones are downloaded (fetch).",
    short_help="What data files hold, what is wrong; large data.",
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
    """Print what data files hold, read together as one data set.

    Molecules, conformers, elements, energy range, labels, level of theory, memory.

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
    """Look for mistakes in data files; exit with 1 when there is one.

    Shapes that disagree, NaN, unknown elements, atoms or images of a cell that are too close,
    lengths, energies, forces and stress in another unit or of another sign, forces that contradict
    the energies, conformers that occur twice. Names the first bad group and why.

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


data_app.command()(resolve)
data_app.command()(pack)
data_app.command()(fetch)
