"""ANICalculator: a potential as a calculator of the Atomic Simulation Environment (ASE)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import ase
import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from anipot import units
from anipot.data.conformers import Conformers
from anipot.data.readers.charges import check_neutral_singlet
from anipot.errors import DisagreementError, SettingsError
from anipot.potential.hessian import hessian
from anipot.potential.prediction import disagreement
from anipot.potential.stepper import Stepper

if TYPE_CHECKING:
    from anipot.potential.base import Potential

log = logging.getLogger("anipot")

_ALWAYS = ("energy", "free_energy", "forces", "stress", "energies", "hessian")
_COMMITTEE = ("energy_std", "forces_std", "disagreement")


class ANICalculator(Calculator):
    """Energies, forces and more of ASE atoms, molecules and periodic cells alike.

    Made by ``ANIModel.calculator`` and ``ANIEnsemble.calculator``. It holds a snapshot of the
    weights: make a new one after training. Only what is asked for is computed. Several threads may
    share one, each with atoms of its own: it serves one after the other.

    ==============  ==========  ==========  =======================================================
    property        shape       unit        meaning
    ==============  ==========  ==========  =======================================================
    energy          ()          eV          of an ensemble, the mean; free_energy is the same
    forces          (N, 3)      eV/A        minus the gradient of the energy
    stress          (6,)        eV/A^3      dE/dstrain / volume: xx yy zz yz xz xy
    energies        (N,)        eV          of atoms; their sum is the energy
    hessian         (3N, 3N)    eV/A^2      second derivatives, analytic, in float64
    energy_std      ()          eV          sample standard deviation over members (ensembles only)
    forces_std      (N, 3)      eV/A        that of the forces (ensembles only)
    disagreement    ()          eV          energy_std / sqrt(N) (ensembles only)
    ==============  ==========  ==========  =======================================================

    ``max_disagreement``, kcal/mol: where an ensemble's disagreement exceeds it, the geometry is
    unlike what the ensemble was trained on. ``on_disagreement`` is "warn" (a line at the first such
    geometry, the 10th, the 100th ...) or "stop" (DisagreementError, on which the simulations of
    ``anipot.simulation`` end and save what they have; ``results`` are there).

    Raises DataError for an unknown element, a charge or a spin (initial charges or magnetic
    moments, or an entry of ``atoms.info``), and SettingsError for options that make no sense.
    """

    name = "anipot"

    def __init__(
        self,
        potential: Potential,
        *,
        max_disagreement: float | None = None,
        on_disagreement: Literal["warn", "stop"] = "warn",
    ) -> None:
        super().__init__()
        self.potential = potential
        self.committee = len(potential.models) > 1
        self.implemented_properties = [*_ALWAYS, *(_COMMITTEE if self.committee else ())]
        if on_disagreement not in ("warn", "stop"):
            raise SettingsError(f"on_disagreement is 'warn' or 'stop', not {on_disagreement!r}")
        if max_disagreement is not None:
            if not max_disagreement > 0:
                raise SettingsError(f"max_disagreement must be above 0, not {max_disagreement}")
            if not self.committee:
                raise SettingsError(
                    "max_disagreement needs an ensemble, and this potential is a single model"
                )
        self.max_disagreement, self.on_disagreement = max_disagreement, on_disagreement
        #: Geometries evaluated, and those of them that exceeded ``max_disagreement``.
        self.evaluated = self.exceeded = 0
        self._stepper: Stepper | None = None
        self._stress = False
        # ASE keeps atoms and results in the calculator between calls. One thread may hold it twice:
        # what ASE calls calls ``calculate``.
        self._lock = threading.RLock()

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Called by ASE; fills ``results``."""
        with self._lock:
            self._calculate(atoms, properties, system_changes)

    def get_property(
        self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """A property of ``atoms``, computed unless it is known; ASE's get_ functions call this."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def calculate_properties(self, atoms: ase.Atoms, properties: Sequence[str]) -> Any:
        """Several properties of ``atoms`` at once, as ASE's ``Properties``."""
        with self._lock:
            return super().calculate_properties(atoms, properties)

    def calculation_required(self, atoms: ase.Atoms, properties: Sequence[str]) -> bool:
        """Whether any of ``properties`` is not known of ``atoms``."""
        with self._lock:
            return bool(super().calculation_required(atoms, properties))

    def _calculate(
        self, atoms: ase.Atoms | None, properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        if system_changes:  # ASE has emptied them then, but whoever calls this directly has not
            self.results: dict[str, Any] = {}
        check_neutral_singlet(atoms, "the atoms")
        wanted = set(properties) - set(self.results)
        if wanted & {"energy", "free_energy", "forces", "stress", "energy_std", "disagreement"}:
            self._step(atoms, "stress" in wanted)
        if "energies" in wanted or "forces_std" in wanted:
            options = {"forces_std": True} if "forces_std" in wanted else {}
            found = self.potential.predict(_conformer(atoms), atomic=True, **options)
            if found.atomic_energies is not None:
                self.results["energies"] = found.atomic_energies * units.HARTREE_TO_EV
            if found.forces_std is not None:
                self.results["forces_std"] = found.forces_std.astype(float) * units.HARTREE_TO_EV
        if "hessian" in wanted:
            second = hessian(self.potential, _conformer(atoms))
            self.results["hessian"] = second * units.HARTREE_TO_EV

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes, which make a stepper and a lock of their own."""
        return {k: v for k, v in self.__dict__.items() if k != "_lock"} | {"_stepper": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """List what has changed since the last calculation, to the bit.

        ASE's comparison within ``tol`` takes half as long as the energy of a small molecule.
        """
        kept = self.atoms
        if kept is None:
            return list(all_changes)
        same = {
            "positions": np.array_equal(kept.positions, atoms.positions),
            "numbers": np.array_equal(kept.numbers, atoms.numbers),
            "cell": np.array_equal(kept.cell.array, atoms.cell.array),
            "pbc": np.array_equal(kept.pbc, atoms.pbc),
            "initial_charges": np.array_equal(
                kept.get_initial_charges(), atoms.get_initial_charges()
            ),
            "initial_magmoms": np.array_equal(
                kept.get_initial_magnetic_moments(), atoms.get_initial_magnetic_moments()
            ),
        }
        return [name for name, unchanged in same.items() if not unchanged]

    def get_hessian(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """(3N, 3N) eV/angstrom^2: second derivatives of the energy; the cell stays as it is."""
        found: np.ndarray = self.get_property("hessian", atoms)
        return found

    def _step(self, atoms: ase.Atoms, stress: bool) -> None:
        stepper = self._stepper_of(atoms)
        if stress and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                "stress needs a cell that is periodic in all three directions; pbc is "
                f"{atoms.pbc.tolist()}"
            )
        # Who asked for the stress once (a cell relaxation) will ask again after every step.
        self._stress |= stress
        cell = np.array(atoms.cell) if stepper.periodic else None
        point = stepper(atoms.positions, cell, stress=self._stress)
        energy = point.energy * units.HARTREE_TO_EV
        self.results.update(
            energy=energy,
            free_energy=energy,
            forces=point.forces.astype(float) * units.HARTREE_TO_EV,
        )
        if point.stress is not None:
            voigt = full_3x3_to_voigt_6_stress(point.stress)
            self.results["stress"] = voigt * units.HARTREE_TO_EV
        if self.committee:
            self.results["energy_std"] = point.energy_std * units.HARTREE_TO_EV
            spread = float(disagreement(point.energy_std, len(atoms)))
            self.results["disagreement"] = spread * units.HARTREE_TO_EV
            self._judge(spread * units.HARTREE_TO_KCALMOL)

    def _stepper_of(self, atoms: ase.Atoms) -> Stepper:
        """One stepper as long as the atoms and the periodic directions stay the same."""
        kept = self._stepper
        if (
            kept is None
            or not np.array_equal(kept.atomic_numbers, atoms.numbers)
            or not np.array_equal(kept.pbc, atoms.pbc)
        ):
            self._stress = False
            kept = self._stepper = self.potential.stepper(atoms.numbers, atoms.pbc)
        return kept

    def _judge(self, spread: float) -> None:
        """Warn or stop where the members disagree by too many kcal/mol."""
        self.evaluated += 1
        if self.max_disagreement is None or spread <= self.max_disagreement:
            return
        self.exceeded += 1
        what = (
            f"the members disagree by {spread:.3g} kcal/mol (std / sqrt(N)), more than the "
            f"{self.max_disagreement:g} allowed: the potential does not know such geometries"
        )
        if self.on_disagreement == "stop":
            raise DisagreementError(what)
        if _power_of_ten(self.exceeded):
            log.warning("%s (%d of %d evaluated so far)", what, self.exceeded, self.evaluated)


def _power_of_ten(n: int) -> bool:
    return str(n).strip("0") == "1"


def _conformer(atoms: ase.Atoms) -> Conformers:
    """Atoms as one conformer, near the origin: far from it single precision has few digits."""
    periodic = bool(atoms.pbc.any())
    return Conformers(
        atoms.numbers,
        atoms.positions - atoms.positions.mean(axis=0),
        np.array([0, len(atoms)]),
        cells=np.array(atoms.cell)[None] if periodic else None,
        pbc=atoms.pbc[None] if periodic else None,
    )
