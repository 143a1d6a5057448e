"""Repulsion: nuclei that come too close push each other away, whatever the networks say.

Networks know nothing of distances that their training data never showed, and may let atoms fall
into each other. Below bonding distances the screened repulsion of the nuclei, known in advance, is
added; at bonding distances and beyond it is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from anipot.aev.neighbors import Neighbors, neighbor_pairs
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.elements import number_of, parse_elements
from anipot.errors import DataError, SettingsError
from anipot.units import BOHR_TO_ANGSTROM

#: The universal screening function: sum of c exp(-d x). Ziegler, Biersack, Littmark, The Stopping
#: and Range of Ions in Matter, 1985, chapter 2, with the digits that make phi(0) = 1.
SCREENING = (
    (0.18175, 3.19980),
    (0.50986, 0.94229),
    (0.28022, 0.40290),
    (0.02817, 0.20162),
)

#: The Thomas-Fermi length in bohr, 0.88534: x = r (Zi^0.23 + Zj^0.23) / (THOMAS_FERMI a0).
THOMAS_FERMI = (9 * math.pi**2 / 128) ** (1 / 3)

IN_ONE_PLACE = (
    "atoms {} and {} of {} lie in the same place, where their repulsion is infinite; "
    "mend the coordinates"
)

#: About so many atoms ``Repulsion.of`` looks at together.
ATOMS_AT_ONCE = 1 << 16

#: Angstrom beyond its reach to which ``RepulsionStepper`` looks for pairs, so that they serve many
#: steps: until an atom has moved by half of it.
SKIN = 1.0


def zbl(constants: Any, distances: Any, exp: Callable[[Any], Any] = torch.exp) -> tuple[Any, Any]:
    """(P,) hartree and (P,) hartree/angstrom: energies of pairs and their slopes dE/dr.

    ``constants`` (4, P) are rows of Zi Zj e^2 (hartree angstrom), 1 / screening length, inner and
    outer radius (angstrom) of each pair, ``distances`` (P,) angstrom: tensors (differentiable
    twice), or arrays with ``exp=np.exp``. The formula is that of ``Repulsion``.
    """
    charges, inverse, inner, outer = constants
    terms = [(c * exp(-d * inverse * distances), d * inverse) for c, d in SCREENING]
    coulomb = charges / distances
    bare = coulomb * sum(term for term, _ in terms)
    bare_slope = -bare / distances - coulomb * sum(term * d for term, d in terms)
    t = ((distances - inner) / (outer - inner)).clip(0, 1)
    switch = 1 - t**3 * (10 - 15 * t + 6 * t**2)
    switch_slope = -30 * t**2 * (1 - t) ** 2 / (outer - inner)
    return bare * switch, bare_slope * switch + bare * switch_slope


class Repelled(NamedTuple):
    """The repulsion in a batch of B conformers with N atoms, all float64.

    ``atomic`` (N,) hartree by row, half of each pair's energy at either atom; ``forces`` (N, 3)
    hartree/angstrom by row; ``cells`` (B, 3, 3) hartree/angstrom: minus the derivative by the
    lattice vectors; ``virials`` (B, 3, 3) hartree: dE/dstrain (stress times volume).
    """

    atomic: Tensor
    forces: Tensor
    cells: Tensor
    virials: Tensor


@dataclass(frozen=True)
class Repulsion:
    """The universal repulsion of Ziegler, Biersack and Littmark (ZBL), switched off at bonds.

    ``E = sum over pairs of Zi Zj e^2 / r phi(x) s(r)`` with the screening function phi of SCREENING
    and a switch s that falls from 1 at ``inner`` to 0 at ``outer`` times the sum of the two
    covalent radii (Cordero et al., Dalton Trans. 2008, 2832) as the quintic
    ``1 - t^3 (10 - 15 t + 6 t^2)``: two derivatives are continuous, and since both factors fall, so
    does the energy of every pair. ``outer`` is by default just below the closest contacts in data
    of stable matter (0.72 in vibrating nitriles, 0.78 in molten lithium).

    ``elements`` are those of the model, in its order. Energies are in hartree, distances in
    angstrom; everything is computed in float64. Raises SettingsError for factors that are not
    ``0 <= inner < outer``.
    """

    elements: tuple[str, ...]
    inner: float = 0.4
    outer: float = 0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", parse_elements(self.elements))
        if not 0 <= self.inner < self.outer < math.inf:
            raise SettingsError(
                f"a repulsion is switched off between inner and outer, factors of the sum of "
                f"covalent radii with 0 <= inner < outer, not {self.inner} and {self.outer}"
            )

    @classmethod
    def named(cls, name: str | None, elements: str | Iterable[str]) -> Repulsion | None:
        """``"zbl"`` for ``elements``; None for None."""
        if name is None:
            return None
        if name != "zbl":
            raise SettingsError(f"unknown repulsion {name!r}; known: zbl, or none")
        return cls(parse_elements(elements))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as saved with a potential; ``from_dict`` reads them back exactly."""
        return {"kind": "zbl", "inner": self.inner, "outer": self.outer}

    @classmethod
    def from_dict(cls, values: dict[str, Any], elements: str | Iterable[str]) -> Repulsion:
        """Make a repulsion from ``to_dict``, for the potential's elements. Raises SettingsError."""
        if not isinstance(values, dict) or set(values) != {"kind", "inner", "outer"}:
            raise SettingsError(f"a repulsion has kind, inner and outer, not {values!r}")
        if values["kind"] != "zbl":
            raise SettingsError(f"unknown repulsion {values['kind']!r}; known: zbl")
        return cls(parse_elements(elements), float(values["inner"]), float(values["outer"]))

    # ---- constants by pair of elements -------------------------------------------------------

    @cached_property
    def table(self) -> np.ndarray:
        """(4, E, E): charges times e^2, 1 / screening length, inner and outer radius."""
        numbers = np.array([number_of(e) for e in self.elements])
        radii = covalent_radii[numbers]
        power = numbers**0.23
        together = radii[:, None] + radii
        return np.stack(
            [
                BOHR_TO_ANGSTROM * np.outer(numbers, numbers),
                (power[:, None] + power) / (THOMAS_FERMI * BOHR_TO_ANGSTROM),
                self.inner * together,
                self.outer * together,
            ]
        )

    @property
    def reach(self) -> float:
        """Angstrom beyond which no two of the elements repel each other."""
        return float(self.table[3].max())

    def _constants(self, first: Tensor, second: Tensor) -> Tensor:
        """(4, P): the table's columns of pairs, given as places in ``elements``."""
        return torch.as_tensor(self.table, device=first.device)[:, first, second]

    # ---- batches -----------------------------------------------------------------------------

    def _pairs(self, batch: Batch, coordinates: Tensor, cells: Tensor | None) -> Neighbors:
        """The pairs of a batch that repel each other. DataError for two atoms in one place."""
        pairs = neighbor_pairs(batch, coordinates, cells, self.reach)
        with torch.no_grad():
            distances = pairs.vectors(batch, coordinates, cells).norm(dim=1)
            outer = self._constants(batch.species[pairs.i], batch.species[pairs.j])[3]
            near = torch.nonzero(distances < outer)[:, 0]
        pairs = Neighbors(
            pairs.i[near],
            pairs.j[near],
            None if pairs.shifts is None else pairs.shifts[near],
        )
        if (distances[near] == 0).any():
            k = int(torch.nonzero(distances[near] == 0)[0])
            b = int(batch.conformer[pairs.i[k]])
            first, second = (int(batch.atoms[r[k]] - batch.offsets[b]) for r in (pairs.i, pairs.j))
            where = f"conformer {int(batch.index[b])}"
            raise DataError(IN_ONE_PLACE.format(first, second, where))
        return pairs

    def atomic(
        self, batch: Batch, coordinates: Tensor | None = None, cells: Tensor | None = None
    ) -> Tensor:
        """(N,) float64 hartree by row: half of the energy of each pair at either of its atoms.

        ``coordinates`` (N, 3) and ``cells`` (B, 3, 3) stand in for the batch's own; differentiable
        twice in both. Raises DataError for two atoms in the same place.
        """
        coordinates = (batch.coordinates if coordinates is None else coordinates).double()
        cells = batch.cells if cells is None else cells
        cells = None if cells is None else cells.double()
        pairs = self._pairs(batch, coordinates, cells)
        distances = pairs.vectors(batch, coordinates, cells).norm(dim=1)
        constants = self._constants(batch.species[pairs.i], batch.species[pairs.j])
        halves = zbl(constants, distances)[0] / 2
        energies = halves.new_zeros(len(batch.species))
        return energies.index_add(0, pairs.i, halves).index_add(0, pairs.j, halves)

    def evaluate(self, batch: Batch) -> Repelled:
        """Energies and derivatives of a batch, without a graph. Raises as ``atomic`` does."""
        x = batch.coordinates.detach().double()
        cells = None if batch.cells is None else batch.cells.detach().double()
        pairs = self._pairs(batch, x, cells)
        vectors = pairs.vectors(batch, x, cells)
        distances = vectors.norm(dim=1)
        constants = self._constants(batch.species[pairs.i], batch.species[pairs.j])
        energies, slopes = zbl(constants, distances)
        slopes = (slopes / distances)[:, None] * vectors
        b = batch.conformer[pairs.i]
        atomic, forces = x.new_zeros(len(x)), torch.zeros_like(x)
        by_cells, virials = x.new_zeros(len(batch), 3, 3), x.new_zeros(len(batch), 3, 3)
        atomic.index_add_(0, pairs.i, energies / 2).index_add_(0, pairs.j, energies / 2)
        forces.index_add_(0, pairs.i, slopes).index_add_(0, pairs.j, -slopes)
        virials.index_add_(0, b, vectors[:, :, None] * slopes[:, None, :])
        if pairs.shifts is not None:
            by_cells.index_add_(0, b, -pairs.shifts.double()[:, :, None] * slopes[:, None, :])
        return Repelled(atomic, forces, by_cells, virials)

    def of(self, conformers: Conformers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies (M,) hartree, forces (A, 3) hartree/angstrom, virials (M, 3, 3) hartree.

        All float64, in the conformers' order. A virial is dE/dstrain: the repulsion's part of
        stress times volume. Raises DataError for an element that is not among ``elements``, and
        for two atoms in the same place.
        """
        energies, virials = np.zeros(len(conformers)), np.zeros((len(conformers), 3, 3))
        forces = np.zeros((conformers.total_atoms, 3))
        for conformer, atom, part in conformers.in_memory():
            loader = BatchLoader(part, 1, self.elements, dtype=torch.float64, labels=())
            assert not loader.streams  # the atoms of its batches are those of ``part``
            piece = part.offsets[:-1] // ATOMS_AT_ONCE
            for index in np.split(np.arange(len(part)), np.flatnonzero(np.diff(piece)) + 1):
                if not len(index):
                    continue
                batch = loader.batch(torch.as_tensor(index))
                found = self.evaluate(replace(batch, index=batch.index + conformer))
                energies[conformer + index] = batch.sum_atoms(found.atomic).numpy()
                forces[atom + batch.data_atoms.numpy()] = found.forces.numpy()
                virials[conformer + index] = found.virials.numpy()
        return energies, forces, virials


class Contact(NamedTuple):
    """The repulsion in one geometry: ``energy`` hartree, ``forces`` (N, 3), ``virial`` (3, 3)."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray


class RepulsionStepper:
    """The repulsion of one system, step after step, at next to no cost where no atoms touch.

    Pairs are looked for within the repulsion's reach and SKIN, and looked for again when an atom
    has moved by half of SKIN or the cell has changed (Verlet, Phys. Rev. 1967, 159, 98). What comes
    out does not depend on when that was, to the last bit. ``system`` is one conformer, of which
    elements and periodic directions count.
    """

    def __init__(self, repulsion: Repulsion, system: Conformers) -> None:
        self._repulsion = repulsion
        self._batch = batch = Batch.of(system, repulsion.elements, torch.float64)
        self._atoms = batch.atoms.numpy()
        self._species = batch.conformer_order(batch.species).numpy()
        self._periodic = np.zeros((3, 1), bool) if system.pbc is None else system.pbc[0][:, None]
        self._origin: np.ndarray | None = None
        self._cell = np.zeros((3, 3))

    def __call__(self, coordinates: np.ndarray, cell: np.ndarray | None = None) -> Contact | None:
        """At ``coordinates`` (N, 3) float64 and ``cell`` (3, 3), angstrom; None: there is none.

        Raises DataError for numbers that are not finite, for a flat or missing cell, and for two
        atoms in the same place.
        """
        if not self._serves(coordinates, cell):
            self._look(coordinates, cell)
        vectors = coordinates[self._j] - coordinates[self._i]
        if self._translations is not None:
            vectors += self._translations
        squared = np.einsum("pc,pc->p", vectors, vectors)
        near = np.flatnonzero(squared < self._outer_squared)
        if not len(near):
            return None
        i, j, vectors = self._i[near], self._j[near], vectors[near]
        if not squared[near].all():
            k = int(squared[near].argmin())
            raise DataError(IN_ONE_PLACE.format(i[k], j[k], "the system"))
        distances = np.sqrt(squared[near])
        energies, slopes = zbl(self._constants[:, near], distances, np.exp)
        slopes = (slopes / distances)[:, None] * vectors
        forces = np.zeros_like(coordinates)
        np.add.at(forces, i, slopes)
        np.subtract.at(forces, j, slopes)
        return Contact(float(energies.sum()), forces, vectors.T @ slopes)

    def _serves(self, x: np.ndarray, cell: np.ndarray | None) -> bool:
        """Whether the pairs found last are all that can touch now. False for NaN."""
        if self._origin is None or (cell is not None and not np.array_equal(cell, self._cell)):
            return False
        moved = x - self._origin
        return bool(np.einsum("ac,ac->a", moved, moved).max(initial=0.0) < SKIN**2 / 4)

    def _look(self, x: np.ndarray, cell: np.ndarray | None) -> None:
        lattice = None if cell is None else torch.as_tensor(cell, dtype=torch.float64)[None]
        rows = torch.as_tensor(x[self._atoms])
        pairs = neighbor_pairs(self._batch, rows, lattice, self._repulsion.reach + SKIN)
        i, j = self._atoms[pairs.i.numpy()], self._atoms[pairs.j.numpy()]
        distances = pairs.vectors(self._batch, rows, lattice).norm(dim=1).numpy()
        constants = self._repulsion.table[:, self._species[i], self._species[j]]
        shifts = np.zeros((len(i), 3)) if pairs.shifts is None else pairs.shifts.numpy()
        # In an order of their own, so that sums do not depend on when pairs were looked for.
        order = np.lexsort((*shifts.T, j, i))
        order = order[distances[order] < constants[3, order] + SKIN]
        self._i, self._j, self._constants = i[order], j[order], constants[:, order]
        self._outer_squared = self._constants[3] ** 2
        self._translations = None
        if cell is not None:
            vectors = np.where(self._periodic, cell, 0.0)
            self._translations = (shifts[order][:, :, None] * vectors).sum(1)
        self._origin, self._cell = x.copy(), np.zeros((3, 3)) if cell is None else cell.copy()
