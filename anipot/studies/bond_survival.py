"""Bond survival: how long molecules hold together in dynamics with a potential, many at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import ase
import numpy as np
import torch
from ase import units as aseunits
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.neighborlist import natural_cutoffs, neighbor_list

from anipot import units
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.errors import SimulationError
from anipot.potential.base import Potential
from anipot.potential.inference import Evaluator
from anipot.simulation.dynamics import draw_velocities

#: Atoms closer than this many times the sum of their covalent radii are bonded, as in ``scan``.
BONDED = 1.2


@dataclass(frozen=True)
class Dynamics:
    """Langevin dynamics, and when a molecule counts as broken.

    ``time`` and ``timestep`` in fs, ``temperature`` in K, ``friction`` in 1/fs. Broken is a
    molecule of which a bond exceeds ``stretch`` times its length at the start.
    """

    time: float = 10_000.0
    timestep: float = 0.5
    temperature: float = 300.0
    friction: float = 0.01
    stretch: float = 1.5

    @property
    def steps(self) -> int:
        return round(self.time / self.timestep)


class Apart(Calculator):
    """Forces of molecules in one ``Atoms`` object, each as if it were alone.

    An integrator then moves all of them with one evaluation of the potential a step. ``molecules``
    stand in the order of the atoms.
    """

    implemented_properties: ClassVar = ["forces"]

    def __init__(self, evaluator: Evaluator, molecules: Sequence[ase.Atoms]) -> None:
        super().__init__()
        conformers = Conformers(
            np.concatenate([m.numbers for m in molecules]),
            np.concatenate([m.positions for m in molecules]),
            np.cumsum([0, *map(len, molecules)]),
        )
        evaluator.check_known(conformers)
        self.evaluator = evaluator
        self.batch = Batch.of(
            conformers, evaluator.settings.elements, evaluator.dtype, evaluator.device
        )

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Called by ASE; fills ``results``."""
        super().calculate(atoms, properties, system_changes)
        moved = torch.as_tensor(self.atoms.positions).to(self.batch.coordinates)[self.batch.atoms]
        batch = replace(self.batch, coordinates=moved)
        found = self.evaluator.evaluate(batch, derivatives=True).forces
        assert found is not None
        forces = batch.conformer_order(found).double().cpu().numpy()
        self.results["forces"] = forces * units.HARTREE_TO_EV


def survival_times(
    potential: Potential,
    molecules: Sequence[ase.Atoms],
    dynamics: Dynamics | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """(n,) fs: when each molecule's first bond broke; infinity for one that lasted to the end.

    All molecules move in one Langevin dynamics (ASE's), without a force between them; one that
    breaks is taken out. Velocities are drawn at the temperature. ``on_step`` is told the number of
    every step. Raises SimulationError for molecules without a bond or with a cell.
    """
    how = dynamics or Dynamics()
    rng = np.random.default_rng(seed)
    evaluator = Evaluator(potential.models)
    moving = [m.copy() for m in molecules]
    for k, molecule in enumerate(moving):
        if molecule.pbc.any() or not len(bonds_of(molecule)[0]):
            raise SimulationError(
                f"molecule {k} ({molecule.get_chemical_formula()}) has a cell or no bond that "
                "could break; give isolated molecules of two bonded atoms at least"
            )
        draw_velocities(molecule, how.temperature, rng)
    times = np.full(len(moving), np.inf)
    there = list(range(len(moving)))
    step = 0
    while there and step < how.steps:
        system = ase.Atoms()
        for k in there:
            system += moving[k]
        system.calc = Apart(evaluator, [moving[k] for k in there])
        integrator = _langevin(system, how, rng)
        i, j, owner, limits = _bonds(molecules, there, how.stretch)
        of_atom = np.repeat(there, [len(moving[k]) for k in there])
        broken = np.zeros(0, dtype=np.int64)
        while not len(broken) and step < how.steps:
            integrator.step()
            step += 1
            if on_step is not None:
                on_step(step)
            lengths = np.linalg.norm(system.positions[i] - system.positions[j], axis=1)
            # Atoms on top of each other can have forces that are no numbers.
            lost = ~np.isfinite(system.get_momenta()).all(axis=1)
            broken = np.union1d(owner[lengths > limits], of_atom[lost])
        times[broken] = step * how.timestep
        first = 0
        for k in there:
            moving[k] = system[first : first + len(moving[k])]
            first += len(moving[k])
        there = [k for k in there if k not in broken]
    return times


def bonds_of(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Two (bonds,) index arrays: pairs of atoms within ``BONDED`` times their covalent radii."""
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
    return i[i < j], j[i < j]


def _bonds(
    molecules: Sequence[ase.Atoms], there: list[int], stretch: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms i and j of each bond in the system of the molecules ``there``, the bond's molecule,
    and the longest that it may be.
    """
    parts = []
    first = 0
    for k in there:
        atoms = molecules[k]
        i, j = bonds_of(atoms)
        length = np.linalg.norm(atoms.positions[i] - atoms.positions[j], axis=1)
        parts.append((i + first, j + first, np.full(len(i), k), stretch * length))
        first += len(atoms)
    i, j, owner, limits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, owner, limits


def _langevin(atoms: ase.Atoms, how: Dynamics, rng: np.random.Generator) -> Langevin:
    # The centres of mass drift freely: ASE's way to hold them would couple the molecules, and it
    # will go, keyword and all.
    held = {"fixcm": False} if "fixcm" in inspect.signature(Langevin).parameters else {}
    return Langevin(
        atoms,
        how.timestep * aseunits.fs,
        temperature_K=how.temperature,
        friction=how.friction / aseunits.fs,
        rng=rng,
        **held,
    )
