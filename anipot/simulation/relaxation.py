"""Relaxation: structures moved to the nearest minimum of the energy by ASE's optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import ase
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from anipot.errors import AnipotError, DisagreementError, SettingsError
from anipot.simulation.constraints import NOT_HELD
from anipot.simulation.structures import Stop, largest_force, never, snapshot

#: Optimizers by name. BFGS takes the fewest steps; its matrix costs (3N)^3 a step, which is felt
#: above some hundred atoms, where LBFGS takes over.
OPTIMIZERS = {"BFGS": BFGS, "LBFGS": LBFGS, "FIRE": FIRE}

KINDS = {name.lower(): kind for name, kind in OPTIMIZERS.items()}


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Result of a relaxation; energies in eV, ``max_force`` in eV/angstrom.

    ``atoms`` are a copy with energy, forces and, of a cell, stress. ``converged``: every force
    (with a cell, the stress too) fell below the threshold. ``problem`` is why the relaxation ended
    before it was converged or out of steps, "" otherwise; ``interrupted``: it was stopped from
    outside.
    """

    atoms: ase.Atoms
    converged: bool
    steps: int
    energy_before: float
    energy_after: float
    max_force: float
    problem: str = ""
    interrupted: bool = False

    def frame(self) -> ase.Atoms:
        """The structure for a file, with the report in ``info``."""
        info: dict[str, Any] = {
            "converged": self.converged,
            "steps": self.steps,
            "energy_before": self.energy_before,
            "energy_after": self.energy_after,
            "max_force": self.max_force,
        }
        if self.problem:
            info["problem"] = self.problem
        return snapshot(self.atoms, **info)


def relax(
    atoms: ase.Atoms,
    calculator: Calculator,
    *,
    optimizer: str = "BFGS",
    fmax: float = 0.01,
    steps: int = 1000,
    cell: bool = False,
    stop: Stop = never,
) -> Relaxed:
    """Move a copy of ``atoms`` until no force exceeds ``fmax``, eV/angstrom, in at most ``steps``.

    ``optimizer``: "BFGS", "LBFGS" or "FIRE". ``cell``: relax the cell too (of a structure periodic
    in all directions; FrechetCellFilter), with which fixed atoms move as they do. Constraints of
    ``atoms`` hold, whatever they are. ``stop`` is asked after
    every step. Where the potential cannot go on (its members disagree too much, atoms flew away),
    the last structure is returned with the ``problem``.

    Raises SettingsError for options that make no sense, DataError for atoms that the potential
    cannot describe.
    """
    check_options([atoms], optimizer, fmax, steps, cell)
    constraints = deepcopy(atoms.constraints)  # a copy of the atoms forgets lengths of bonds
    atoms = atoms.copy()
    atoms.set_constraint(constraints)
    atoms.calc = calculator
    last = atoms.copy()
    converged, done = False, 0
    before, _, problem = _judged(atoms)
    if not problem:
        kind = KINDS[optimizer.lower()]
        with kind(FrechetCellFilter(atoms) if cell else atoms, logfile=None) as run:
            try:
                for state in run.irun(fmax, steps):
                    converged, done = bool(state), run.nsteps
                    last = atoms.copy()
                    if converged or stop():
                        break
            except AnipotError as e:
                problem = str(e)
            except RuntimeError as e:
                if str(e) != NOT_HELD:
                    raise
                problem = "bonds could not be held at their lengths"
    interrupted = not converged and not problem and done < steps
    if problem:
        atoms.set_cell(last.cell)
        atoms.set_positions(last.positions, apply_constraint=False)
    after, force, _ = _judged(atoms)
    # With results of its own: the calculator will go on to other structures.
    return Relaxed(snapshot(atoms), converged, done, before, after, force, problem, interrupted)


def check_options(
    structures: Iterable[ase.Atoms], optimizer: str, fmax: float, steps: int, cell: bool
) -> None:
    """Raise the SettingsError of ``relax``, for who has to know before any work is begun."""
    if optimizer.lower() not in KINDS:
        raise SettingsError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if not fmax > 0:
        raise SettingsError(f"fmax must be above 0 eV/angstrom, not {fmax}")
    if steps < 0:
        raise SettingsError(f"steps must be at least 0, not {steps}")
    for number, atoms in enumerate(structures):
        if cell and not atoms.pbc.all():
            raise SettingsError(
                "a cell can be relaxed only where all directions are periodic; of structure "
                f"{number} pbc is {atoms.pbc.tolist()}"
            )


def energy_of(atoms: ase.Atoms, calculator: Calculator) -> float:
    """The energy of a structure, eV, whatever the calculator has against its geometry."""
    copy = atoms.copy()
    copy.calc = calculator
    return _judged(copy)[0]


def _judged(atoms: ase.Atoms) -> tuple[float, float, str]:
    """Energy, largest force, and what the calculator has against the geometry."""
    problem = ""
    try:
        atoms.get_forces()
    except DisagreementError as e:  # its results are there nonetheless
        problem = str(e)
    return float(atoms.get_potential_energy()), largest_force(atoms)[0], problem
