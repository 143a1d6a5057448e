"""Scan: the energy along a distance, an angle or a dihedral, rigid or with all else relaxed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.constraints import FixInternals
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from anipot.errors import AnipotError, SettingsError, SimulationError
from anipot.simulation.constraints import fixed_atoms
from anipot.simulation.relaxation import relax
from anipot.simulation.structures import Stop, never, snapshot

#: Distances up to so many times the sum of covalent radii are bonds.
BOND = 1.2

#: Kind and unit of a coordinate, by its number of atoms.
KINDS = {2: ("distance", "angstrom"), 3: ("angle", "degrees"), 4: ("dihedral", "degrees")}


@dataclass(frozen=True)
class Coordinate:
    """A distance (two atoms, angstrom), an angle (three) or a dihedral (four, degrees).

    ``indices`` count from 0, as ASE's do. When it is set, what hangs on the last atom moves.
    """

    indices: tuple[int, ...]

    @property
    def kind(self) -> str:
        return KINDS[len(self.indices)][0]

    @property
    def unit(self) -> str:
        return KINDS[len(self.indices)][1]

    def __str__(self) -> str:
        return f"{self.kind} {'-'.join(map(str, self.indices))}"

    def check(self, atoms: ase.Atoms) -> None:
        """Raise SettingsError for indices that are not there or that repeat."""
        if len(self.indices) not in KINDS:
            raise SettingsError(f"a coordinate has two to four atoms, not {len(self.indices)}")
        wrong = [i for i in self.indices if not 0 <= i < len(atoms)]
        if wrong:
            raise SettingsError(
                f"{self}: there is no atom {wrong[0]}; atoms are counted from 0 to {len(atoms) - 1}"
            )
        if len(set(self.indices)) < len(self.indices):
            raise SettingsError(f"{self}: an atom is named twice")

    def of(self, atoms: ase.Atoms) -> float:
        """The coordinate's value, angstrom or degrees (dihedrals 0 to 360)."""
        get = {2: atoms.get_distance, 3: atoms.get_angle, 4: atoms.get_dihedral}
        return float(get[len(self.indices)](*self.indices))

    def moving(self, atoms: ase.Atoms, alone: bool = False) -> np.ndarray:
        """(N,) bool: the atoms that move when the coordinate is set: those beyond its bond.

        In a ring, nothing can be moved as a whole: SettingsError, or with ``alone`` the last atom.
        """
        near, far = self.indices[1:3] if len(self.indices) == 4 else self.indices[-2:]
        i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND))
        keep = ~(np.isin(i, (near, far)) & np.isin(j, (near, far)))
        bonds = coo_matrix((np.ones(keep.sum()), (i[keep], j[keep])), shape=(len(atoms),) * 2)
        part = connected_components(bonds)[1]
        if part[near] != part[far]:
            beyond: np.ndarray = part == part[far]
            return beyond
        if not alone:
            raise SettingsError(
                f"{self}: atoms {near} and {far} are connected otherwise than by a bond between "
                "them (a ring?), so that nothing can be moved as a whole; name other atoms, or "
                "relax all else (--relaxed)"
            )
        last: np.ndarray = np.arange(len(atoms)) == self.indices[-1]
        return last

    def set(self, atoms: ase.Atoms, value: float, mask: np.ndarray) -> None:
        """Move the atoms of ``mask`` so that the coordinate has ``value``."""
        if len(self.indices) == 2:
            i, j = self.indices
            along = atoms.get_distance(i, j, vector=True)
            atoms.positions[mask] += along * (value / np.linalg.norm(along) - 1)
        else:
            move = atoms.set_angle if len(self.indices) == 3 else atoms.set_dihedral
            move(*self.indices, value, mask=mask)

    def constraint(self, value: float) -> FixInternals:
        """Hold the coordinate at ``value``."""
        name = {2: "bonds", 3: "angles_deg", 4: "dihedrals_deg"}[len(self.indices)]
        return FixInternals(**{name: [[value, list(self.indices)]]}, epsilon=1e-7)


@dataclass(frozen=True, eq=False)
class ScanPoint:
    """A point of a scan: the coordinate's ``value``, ``energy`` in eV, and the ``atoms`` with what
    was computed for them. ``converged`` is True too where nothing was to be relaxed."""

    value: float
    energy: float
    atoms: ase.Atoms
    converged: bool


def scan(
    atoms: ase.Atoms,
    calculator: Calculator,
    coordinate: Coordinate,
    values: Sequence[float] | np.ndarray,
    *,
    relaxed: bool = False,
    optimizer: str = "BFGS",
    fmax: float = 0.01,
    steps: int = 1000,
    stop: Stop = never,
) -> Iterator[ScanPoint]:
    """The energy at each of ``values`` of ``coordinate`` (angstrom, degrees), point after point.

    Rigid: what hangs on the coordinate's last atom moves as a whole. ``relaxed``: everything else
    relaxes at every point, from the structure of the point before (``optimizer``, ``fmax`` in
    eV/angstrom, ``steps``: see ``relax``). Atoms that FixAtoms holds stay where they are. A point
    that ``stop`` interrupts is not given.

    Raises SettingsError for a coordinate that is not there or cannot be moved, for distances that
    are not above 0 and where fixed atoms would have to move, and SimulationError for other
    constraints than FixAtoms and at a value that the coordinate cannot be given (a dihedral of
    atoms in a line, a distance that a ring does not allow).
    """
    coordinate.check(atoms)
    wrong = [value for value in values if not value > 0]
    if wrong and coordinate.kind == "distance":
        raise SettingsError(f"{coordinate}: distances must be above 0, not {wrong[0]:g}")
    held = fixed_atoms(atoms, "scans")
    constraints = list(atoms.constraints)
    atoms = atoms.copy()
    mask = coordinate.moving(atoms, alone=relaxed)
    # A relaxed point holds the coordinate by moving any of its atoms.
    moved = mask | (np.isin(np.arange(len(atoms)), coordinate.indices) & relaxed)
    if (moved & held).any():
        raise SettingsError(
            f"{coordinate}: atom {np.flatnonzero(moved & held)[0]} is fixed and would have to "
            "move; name atoms so that it does not, or remove the constraint"
        )
    for value in map(float, values):
        if stop():
            return
        converged = True
        try:
            coordinate.set(atoms, value, mask)
            if relaxed:
                atoms.set_constraint([*constraints, coordinate.constraint(value)])
                found = relax(
                    atoms, calculator, optimizer=optimizer, fmax=fmax, steps=steps, stop=stop
                )
        except AnipotError:
            raise
        except (ValueError, ZeroDivisionError) as e:  # ASE's: undefined, or cannot be held
            raise SimulationError(
                f"{coordinate} cannot be {value:g} {coordinate.unit} here: {e}"
            ) from None
        if relaxed:
            if found.interrupted:
                return
            atoms, converged = found.atoms.copy(), found.converged
            atoms.set_constraint(constraints)
        point = atoms.copy()
        point.calc = calculator
        energy = float(point.get_potential_energy())
        yield ScanPoint(value, energy, snapshot(point), converged)
