"""anipot study: the experiments of the source documents, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

study_app = typer.Typer(
    help="Studies: each prints a table with what is published beside what it measures, saves "
    "figures, and says what one learns. An interrupted one goes on with --out FOLDER.",
    short_help="Experiments, each with a table, figures and what one learns.",
    no_args_is_help=True,
)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder: a new one, or that of an interrupted study to go on with "
        "(default: runs/study-NAME-001, ...).",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")]


@study_app.callback()
def _study() -> None:
    """Without it typer would make a command of a group with one study."""
