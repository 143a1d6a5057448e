"""Atomic environments of a data set: their AEVs, and the bonds that chemists would draw."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers, check_conformers
from anipot.elements import symbols_of

#: Atoms closer than this many times the sum of their covalent radii are neighbours: wide enough for
#: bonds stretched by heat, and far from the next atoms but one.
BONDED = 1.3

#: Atoms of which AEVs are computed at once.
CHUNK_ATOMS = 8192


@dataclass(frozen=True, eq=False)
class Environments:
    """The environments of N atoms of a data set, in its order.

    ===============  =======  =====================================================================
    array            shape    meaning
    ===============  =======  =====================================================================
    ``aevs``         (N, L)   float32
    ``numbers``      (N,)     atomic numbers
    ``conformer``    (N,)     conformer in the data set
    ``atom``         (N,)     atom in the data set
    ``neighbours``   (N,)     text: symbols of the bonded neighbours in alphabetical order ("CHHH")
    ===============  =======  =====================================================================
    """

    aevs: np.ndarray
    numbers: np.ndarray
    conformer: np.ndarray
    atom: np.ndarray
    neighbours: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def coordination(self) -> np.ndarray:
        """(N,) int64: how many bonded neighbours each atom has, by distances alone."""
        # A symbol has one capital.
        return np.array([sum(map(str.isupper, text)) for text in self.neighbours], dtype=np.int64)

    def take(self, index: np.ndarray) -> Environments:
        """Those at ``index``, or where a (N,) bool array is true."""
        return Environments(**{name: array[index] for name, array in vars(self).items()})

    def of(self, number: int, most: int | None = None, seed: int = 0) -> Environments:
        """Those of one element; at most so many, drawn at random, in order."""
        index = np.flatnonzero(self.numbers == number)
        if most is not None and len(index) > most:
            index = np.sort(np.random.default_rng(seed).choice(index, most, replace=False))
        return self.take(index)


def environments(data: Conformers, settings: AEVSettings | None = None) -> Environments:
    """The environments of all atoms; AEVs of ``settings`` (default: ANI-1x's constants for the
    elements of the data). 1.5 kB an atom with four elements.

    Raises DataError for an element that is not in the settings.
    """
    check_conformers(data, "environments")
    computer = AEVComputer(settings or AEVSettings.ani1x(data.elements))
    parts = []
    with torch.no_grad():
        for first, chunk in data.blocks(CHUNK_ATOMS):
            batch = Batch.of(chunk, computer.settings.elements, first=first)
            parts.append(batch.conformer_order(computer(batch)).numpy())
    return Environments(
        np.concatenate(parts) if parts else np.zeros((0, computer.length), np.float32),
        data.atomic_numbers,
        np.repeat(np.arange(len(data)), data.n_atoms),
        np.arange(len(data.atomic_numbers)),
        neighbours(data),
    )


def neighbours(data: Conformers) -> np.ndarray:
    """(A,) text: the symbols of each atom's bonded neighbours, by distance (BONDED), sorted."""
    symbols = np.array(symbols_of(data.atomic_numbers), dtype=object)
    found: list[str] = []
    for m in range(len(data)):
        own = slice(data.offsets[m], data.offsets[m + 1])
        radii = BONDED * covalent_radii[data.atomic_numbers[own]]
        x = data.coordinates[own]
        if data.periodic and data.cells is not None and data.pbc is not None and data.pbc[m].any():
            crystal = ase.Atoms(data.atomic_numbers[own], x, cell=data.cells[m], pbc=data.pbc[m])
            i, j = neighbor_list("ij", crystal, radii)
        else:
            close = np.linalg.norm(x[:, None] - x[None], axis=2) < radii[:, None] + radii
            np.fill_diagonal(close, False)
            i, j = np.nonzero(close)
        names = symbols[own]
        found += ["".join(sorted(names[j[i == a]])) for a in range(len(radii))]
    return np.array(found, dtype=str)
