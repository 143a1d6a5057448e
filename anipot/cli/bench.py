"""anipot bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.app import App
from anipot.cli.iterate import Workers

bench_app = App(
    help="Named comparisons on the bundled data, each a table with figures.",
    short_help="Run a named comparison on the bundled data.",
    no_args_is_help=True,
)


@bench_app.callback()
def _bench() -> None:
    """Keep typer from turning a group with one command into that command."""


@bench_app.command()
def architectures(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OPTION=VALUE",
            help="Options of all rows, such as per_molecule=20 batch_size=128.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", "-e", min=1, help="Epochs of each run (default: 30).")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", "-s", min=1, help="Number of runs of each row.")
    ] = 3,
    workers: Workers = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder, new or of the same table (default: runs/bench-architectures-001, ...).",
        ),
    ] = None,
) -> None:
    """Compare network architectures on the bundled data: widths, depths, activations, dropout, L2.

    Example:

    \b
    anipot bench architectures --epochs 2 --seeds 2 per_molecule=10

    Writes a table as 'anipot iterate' does. Run the command again with the same --out to resume.

    In Python:

    \b
    import anipot
    from anipot.experiments.table.presets import architectures
    anipot.iterate(**architectures(epochs=30), seeds=3)
    """
    from anipot.experiments.table.iterate import run_table
    from anipot.experiments.table.presets import architectures as preset
    from anipot.experiments.table.settings import table_settings
    from anipot.runs.run import new_folder
    from anipot.system.options import with_words

    parts = preset() if epochs is None else preset(epochs)
    parts["base"] = with_words(parts["base"], words or [])
    settings = table_settings({**parts, "seeds": seeds})
    run_table(settings, out or new_folder(name="bench-architectures"), workers)
