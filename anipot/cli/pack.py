"""anipot data pack: data files as a store."""

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
    out: Annotated[Path, typer.Option("--out", "-o", help="The store to write: a new folder.")],
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", min=1, help="Files read at once (default: a core each)."),
    ] = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Write data files as one store: flat arrays in a folder, mapped into memory and never read.

    A store is data like any file: anipot train STORE streams from it, so that memory does not
    grow with the data. Each of its blocks has a checksum, compared whenever it is opened. A
    packing that was killed goes on where it was when the command is given again.

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
