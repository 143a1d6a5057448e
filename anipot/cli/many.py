"""Options shared by anipot iterate and anipot search."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OPTION=VALUE", help="Options of the base, as epochs=50 per_molecule=20."
    ),
]

Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="FOLDER", help="Resume what is in this folder."),
]

Name = Annotated[
    str | None, typer.Option("--name", help="Name of the study in the shared storage.")
]


def naming(file: Path | None, words: list[str] | None) -> AbstractContextManager[None]:
    """Name the file, and the words that change it, in errors of the block."""
    from anipot.system.files import damage_named

    if file is None:
        return nullcontext()
    return damage_named(f"{file} with {' '.join(words)}" if words else file)


def change_base(parts: dict[str, Any], words: list[str] | None) -> None:
    """Apply the words of the command line to the base of a table or search."""
    from anipot.system.options import with_words

    base = parts.get("base") or {}
    if words and isinstance(base, dict):  # else the check of the parts says what is wrong with it
        parts["base"] = with_words(base, words)
