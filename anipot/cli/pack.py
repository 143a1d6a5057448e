"""anipot data pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.data.mapping import ReadOptions


@reads_data()
def pack(
    files: Annotated[
        list[Path],
        typer.Argument(help="HDF5, extended XYZ or .npz files, or stores.", metavar="FILE"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the store.")],
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            min=1,
            help="Number of files read at once (default: number of cores).",
        ),
    ] = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Pack data files into a store: arrays on disk that are mapped into memory, not read.

    Example:

    \b
    anipot data pack FILE1.h5 FILE2.h5 --out STORE
    anipot train STORE

    A store is used like a data file; a training streams from it, so that memory does not grow with
    the data. Checksums are compared whenever it is opened. Run the command again to resume.

    In Python:

    \b
    from anipot.data.pack import pack
    pack(["FILE1", "FILE2"], "STORE")
    """
    import os

    from anipot.data.load import load_dataset
    from anipot.data.pack import pack as pack_files

    store = pack_files(files, out, read, workers=workers or os.cpu_count() or 1)
    data = load_dataset(store)
    size = sum(f.stat().st_size for f in store.iterdir())
    typer.echo(f"{data!r}" + (f", {data.level_of_theory}" if data.level_of_theory else ""))
    typer.echo(f"{store}: {size / 1e6:,.1f} MB, every block read back and checked")
