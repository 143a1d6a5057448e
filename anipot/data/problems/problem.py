"""Problem, the result of a check of data, and ways over large data sets that the checks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from anipot.data.conformers import Conformers

#: A block of this many numbers (8 MB) at a time.
BLOCK = 1 << 20

#: More conformers than this take so long that a terminal is shown how far it is.
_LONG = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind, where it was first seen, and how often it occurs.

    ``kind`` is ``"unreadable"``, ``"close atoms"``, ``"lone atoms"``, ``"cell"``, ``"unit"``,
    ``"unit of length"``, ``"forces"``, ``"stress"``, ``"duplicates"`` or ``"no energies"``.
    """

    kind: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def blocks_of(c: Conformers) -> Iterator[tuple[int, Conformers]]:
    """``c.blocks()``, with a bar on a terminal where there are many."""
    long = len(c) > _LONG
    with tqdm(
        total=len(c), unit=" conformers", unit_scale=True, desc="looking", leave=False,
        disable=None if long else True,
    ) as bar:  # fmt: skip
        for start, part in c.blocks():
            yield start, part
            bar.update(len(part))


def equal_sizes(c: Conformers, per_conformer: int | None = None) -> Iterator[np.ndarray]:
    """Conformers (B,) of equal numbers of atoms, at most BLOCK numbers at a time.

    ``per_conformer`` numbers are needed for each; by default those of all vectors between atoms.
    """
    order = np.argsort(c.n_atoms, kind="stable")
    sizes, starts = np.unique(c.n_atoms[order], return_index=True)
    for n, same in zip(sizes, np.split(order, starts[1:]), strict=True):
        step = max(BLOCK // (per_conformer or max(3 * n * n, 1)), 1)
        for k in range(0, len(same), step):
            yield same[k : k + step]


def atoms_of(c: Conformers, index: np.ndarray) -> np.ndarray:
    """The atoms (B, n) of conformers of one size."""
    found: np.ndarray = c.offsets[index][:, None] + np.arange(c.n_atoms[index[0]])
    return found


def gather(c: Conformers, index: np.ndarray) -> np.ndarray:
    """Coordinates (B, n, 3) float64 of conformers of one size."""
    return c.coordinates[atoms_of(c, index)].astype(np.float64)


def fitting_unit(
    times: float, known: Mapping[str, float], read_as: str, good: tuple[float, float]
) -> str | None:
    """The unit in which values that are ``times`` too large would be of the size ``good``.

    ``known`` has what one of anipot's own unit is in each unit, ``read_as`` is the unit that the
    values were taken to be in (``""``: anipot's own). None where no other unit explains them: a
    unit that is named has been tried on the numbers.
    """
    taken = known.get(read_as, 1.0)
    for unit, per_own in known.items():
        if unit != read_as and good[0] < times * taken / per_own < good[1]:
            return unit
    return None
