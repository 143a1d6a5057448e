"""Vibrations of a relaxed structure: frequencies, zero-point energy, thermochemistry."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ase
import ase.units
import numpy as np
from ase.calculators.calculator import Calculator
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations as FiniteDifferences
from ase.vibrations import VibrationsData

from anipot.errors import SettingsError, SimulationError
from anipot.simulation.constraints import fixed_atoms
from anipot.simulation.structures import largest_force

Method = Literal["analytic", "finite-difference"]

#: Smallest over largest moment of inertia below which a molecule is linear.
LINEAR = 1e-4


@dataclass(frozen=True)
class Thermochemistry:
    """An ideal gas of rigid rotors and harmonic oscillators, closed-shell.

    ``temperature`` K, ``pressure`` Pa; ``enthalpy`` and ``gibbs_energy`` eV, the potential energy
    included; ``entropy`` eV/K. Source: ASE's IdealGasThermo.
    """

    temperature: float
    pressure: float
    symmetry_number: int
    geometry: str
    enthalpy: float
    entropy: float
    gibbs_energy: float


@dataclass(frozen=True, eq=False)
class Vibrations:
    """Normal modes of N atoms; imaginary frequencies are negative numbers.

    ``frequencies`` (3N - 6 of a molecule, 3N - 5 of a linear one, 3N - 3 in a cell) cm^-1, rising;
    with fixed atoms, those of the others alone.
    ``others``: those of translations and rotations, 0 in a perfect stationary point. ``zero_point``
    eV, of the real frequencies. ``energy`` eV, of the structure; ``max_force`` eV/angstrom.
    ``data``: ASE's VibrationsData, for modes and more. ``thermochemistry`` is None in a cell,
    with fixed atoms and where a frequency is imaginary.
    """

    atoms: ase.Atoms
    method: str
    frequencies: np.ndarray
    others: np.ndarray
    zero_point: float
    energy: float
    max_force: float
    data: VibrationsData
    thermochemistry: Thermochemistry | None

    @property
    def n_imaginary(self) -> int:
        return int((self.frequencies < 0).sum())


def vibrations(
    atoms: ase.Atoms,
    calculator: Calculator,
    *,
    method: Method = "analytic",
    fmax: float = 0.01,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry_number: int = 1,
) -> Vibrations:
    """Harmonic vibrations of ``atoms``, which must be a stationary point.

    ``method``: "analytic" takes the calculator's ``hessian``; "finite-difference" ASE's central
    differences of forces over 0.01 angstrom. ``temperature`` (K), ``pressure`` (Pa) and
    ``symmetry_number`` (of rotations: 2 for water, 12 for benzene and methane) are for the
    thermochemistry. In a cell, vibrations are those of the Gamma point. Atoms that FixAtoms holds
    do not vibrate: the Hessian is that of the other atoms.

    Raises SimulationError where a force exceeds ``fmax`` (eV/angstrom), naming the largest, and for
    other constraints than FixAtoms;
    SettingsError for options that make no sense.
    """
    if not (temperature > 0 and pressure > 0 and symmetry_number >= 1):
        raise SettingsError(
            "temperature and pressure must be above 0 and the symmetry number at least 1, not "
            f"{temperature} K, {pressure} Pa, {symmetry_number}"
        )
    if not fmax > 0:
        raise SettingsError(f"fmax must be above 0 eV/angstrom, not {fmax}")
    if method not in ("analytic", "finite-difference"):
        raise SettingsError(f"unknown method {method!r}; known: analytic, finite-difference")
    held = fixed_atoms(atoms, "vibrations")
    if held.all():
        raise SimulationError("all atoms are fixed; nothing is left to vibrate")
    atoms = atoms.copy()
    atoms.calc = calculator
    force, atom = largest_force(atoms)
    if force > fmax:
        raise SimulationError(
            f"not a stationary point: the largest force is {force:.3g} eV/A, on atom {atom} "
            f"({atoms.symbols[atom]}), and {fmax:g} is allowed. Relax it first (--relax, or "
            "anipot relax): elsewhere frequencies mean nothing"
        )
    energy = float(atoms.get_potential_energy())
    if method == "analytic":
        free = np.flatnonzero(~held)
        parts = np.repeat(3 * free, 3) + np.tile(np.arange(3), len(free))
        hessian = calculator.get_property("hessian", atoms)[np.ix_(parts, parts)]
        data = VibrationsData.from_2d(atoms, hessian, indices=free)
    else:
        data = _by_differences(atoms)
    frequencies = _signed(data.get_frequencies())
    largest = np.argsort(-np.abs(frequencies), kind="stable")[: _n_vibrations(atoms, held)]
    true = np.sort(frequencies[largest])
    others = np.sort(np.delete(frequencies, largest))
    energies = true * ase.units.invcm
    thermochemistry = None
    if not atoms.pbc.any() and not held.any() and (true > 0).all():
        options = {"atoms": atoms, "symmetrynumber": symmetry_number, "spin": 0}
        shape = geometry(atoms)
        gas = IdealGasThermo(energies, shape, energy, vib_selection="exact", **options)
        quiet: dict[str, Any] = {"verbose": False}
        thermochemistry = Thermochemistry(
            temperature,
            pressure,
            symmetry_number,
            shape,
            float(gas.get_enthalpy(temperature, **quiet)),
            float(gas.get_entropy(temperature, pressure, **quiet)),
            float(gas.get_gibbs_energy(temperature, pressure, **quiet)),
        )
    zero_point = float(energies[energies > 0].sum() / 2)
    return Vibrations(atoms, method, true, others, zero_point, energy, force, data, thermochemistry)


def geometry(atoms: ase.Atoms) -> Literal["monatomic", "linear", "nonlinear"]:
    """The shape of a molecule, which tells how it rotates."""
    if len(atoms) == 1:
        return "monatomic"
    moments = atoms.get_moments_of_inertia()
    return "linear" if moments.min() < LINEAR * moments.max() else "nonlinear"


def _n_vibrations(atoms: ase.Atoms, held: np.ndarray) -> int:
    if held.any():
        if atoms.pbc.any():
            return int(3 * (~held).sum())
        # Motions of the whole that leave the fixed atoms where they are.
        x = atoms.positions - atoms.positions[held].mean(axis=0)
        turns = np.stack([np.cross(axis, x) for axis in np.eye(3)], axis=1)
        scale = max(float(np.abs(x).max()), 1e-300)
        ranks = [np.linalg.matrix_rank(t.transpose(0, 2, 1).reshape(-1, 3), tol=LINEAR * scale)
                 for t in (turns, turns[held])]  # fmt: skip
        return int(3 * (~held).sum() - (ranks[0] - ranks[1]))
    if atoms.pbc.any():
        return 3 * len(atoms) - 3
    return {"monatomic": 0, "linear": 3 * len(atoms) - 5, "nonlinear": 3 * len(atoms) - 6}[
        geometry(atoms)
    ]


def _signed(frequencies: np.ndarray) -> np.ndarray:
    """Real numbers of complex frequencies: imaginary ones become negative."""
    signed: np.ndarray = frequencies.real - np.abs(frequencies.imag)
    return signed


def _by_differences(atoms: ase.Atoms) -> VibrationsData:
    with tempfile.TemporaryDirectory() as folder:
        differences = FiniteDifferences(atoms, name=str(Path(folder) / "vibrations"))
        differences.run()
        return differences.get_vibrations()
