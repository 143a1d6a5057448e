"""The worst conformers of a run, with the structures that its page shows in three dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.elements import symbols_of

#: Larger structures than this are a fog on a page, and a burden to it.
_MOST_ATOMS = 2000


def xyz(conformers: Conformers, index: int) -> str:
    """A conformer as XYZ text, angstrom, with its cell in the second line where it has one."""
    first, last = conformers.offsets[index], conformers.offsets[index + 1]
    comment = ""
    if conformers.cells is not None and np.abs(conformers.cells[index]).any():
        comment = 'Lattice="' + " ".join(f"{x:.4f}" for x in conformers.cells[index].ravel()) + '"'
    lines = [str(last - first), comment]
    for symbol, r in zip(
        symbols_of(conformers.atomic_numbers[first:last]),
        conformers.coordinates[first:last],
        strict=True,
    ):
        lines.append(f"{symbol} " + " ".join(f"{x:.4f}" for x in r))
    return "\n".join(lines) + "\n"


def with_structures(
    worst: Sequence[Mapping[str, Any]], evaluated: Conformers | None
) -> list[dict[str, Any]]:
    """The rows ``worst`` of an evaluation, each with ``xyz``: text, or None where there is none.

    ``evaluated`` are the conformers whose numbers the rows have; None: they cannot be read.
    """
    found = []
    for row in worst:
        index = row["conformer"]
        text = None
        if evaluated is not None:
            own = evaluated.gather(slice(index, index + 1))
            text = xyz(own, 0) if own.total_atoms <= _MOST_ATOMS else None
        found.append({**row, "xyz": text})
    return found
