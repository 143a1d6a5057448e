"""Molecular dynamics: NVE and Langevin, restartable to the bit, and judged while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np
from ase import units as aseunits
from ase.calculators.calculator import Calculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from pydantic import Field, NonNegativeInt, PositiveInt

from anipot import units
from anipot.config import Settings
from anipot.errors import AnipotError, DisagreementError, SettingsError, SimulationError
from anipot.simulation.constraints import (
    NOT_HELD,
    described,
    held_in_dynamics,
    in_words,
    is_pinned,
    left_free,
    n_free,
    restored,
    same,
    whole_motions,
)
from anipot.simulation.recording import START_AGAIN, Recorder, RestartPoint, Row, RunFiles
from anipot.simulation.structures import Stop, never, snapshot
from anipot.system.files import damage_named
from anipot.system.options import checked


class MDSettings(Settings):
    """Settings of a molecular dynamics run."""

    ensemble: Literal["nve", "nvt"] = Field("nve", description="nve: Verlet; nvt: Langevin")
    time: float = Field(1000.0, gt=0, description="length of the run, fs")
    timestep: float = Field(0.5, gt=0, description="fs")
    temperature: float = Field(
        300.0, ge=0, description="of the initial velocities, and of the thermostat in nvt, K"
    )
    velocities: Literal["draw", "keep"] = Field(
        "draw", description="drawn at the temperature, or those that the atoms have"
    )
    friction: float = Field(0.01, gt=0, description="of the Langevin thermostat, 1/fs")
    seed: NonNegativeInt = Field(0, description="of the initial velocities and the thermostat")
    every: PositiveInt = Field(10, description="steps between frames and lines of the log")
    save_every: PositiveInt = Field(1000, description="steps between restart points")
    max_temperature: float | None = Field(
        None,
        gt=0,
        description="abort above this temperature, K; none: 10 times temperature, at least 3000",
    )

    @property
    def steps(self) -> int:
        return round(self.time / self.timestep)

    @property
    def ceiling(self) -> float:
        return self.max_temperature or max(10 * self.temperature, 3000.0)


#: What may be another when a run goes on: everything else decides what comes out.
_FREE = {"time", "save_every", "max_temperature"}


@dataclass(frozen=True, eq=False)
class MDResult:
    """Result of a run. ``rows`` are the lines of its log from the beginning.

    ``drift``: fitted slope of the total energy, eV/atom/ps (None in nvt, where it means nothing,
    and for fewer than three rows). ``stopped``: "" for a run that reached its end, "interrupted",
    or why it could not go on.
    """

    files: RunFiles
    rows: list[Row]
    steps: int
    n_atoms: int
    drift: float | None
    stopped: str

    @property
    def temperature(self) -> float:
        """Mean over the second half of the run, K."""
        return float(np.mean([r.temperature_k for r in self.rows[len(self.rows) // 2 :]]))

    @property
    def max_disagreement(self) -> float:
        """kcal/mol; NaN of a single model."""
        return float(np.max([r.disagreement_kcalmol for r in self.rows]))


def run_md(
    atoms: ase.Atoms,
    calculator: Calculator,
    out: str | Path,
    settings: MDSettings | None = None,
    *,
    resume: bool = False,
    stop: Stop = never,
    on_step: Callable[[int], None] | None = None,
    **options: Any,
) -> MDResult:
    """Molecular dynamics from ``atoms``, which stay as they are.

    ``settings`` or, as keywords, the fields of MDSettings. Velocities are drawn from the
    Maxwell-Boltzmann distribution, without momentum and, of a molecule, without rotation, unless
    they are to be kept (of an equilibrated structure); Langevin dynamics keeps the centre of mass
    where it is. Constraints of ``atoms`` hold: FixAtoms, FixCartesian, FixScaled, FixedLine,
    FixedPlane, FixBondLengths, FixCom; others are refused. Where they hold atoms in space, the
    motion of the whole is left as it is. ``out`` (.extxyz or .traj) is the trajectory; beside it go
    a log (.csv) and a restart file (.restart.npz), from which ``resume`` goes on: on the CPU to the
    same bits as a run without interruption. ``stop`` is asked after every step, ``on_step`` told
    its number.

    A run ends early where ``stop`` says so, where the temperature exceeds ``max_temperature`` or a
    number is not finite, and where an ANICalculator with ``on_disagreement="stop"`` finds its
    members at odds: ``MDResult.stopped`` says why, everything so far is saved, and the restart
    file holds the last good step. Raises SettingsError and SimulationError before anything ran.
    """
    settings = settings or checked(MDSettings, options)
    if not settings.steps:
        raise SettingsError(
            f"a run of {settings.time:g} fs has no step of {settings.timestep:g} fs; "
            "give a longer time or a shorter timestep"
        )
    files = RunFiles.of(out)
    atoms = atoms.copy()
    held = held_in_dynamics(atoms)
    rng = np.random.default_rng(settings.seed)
    start = RestartPoint.read(files.restart) if resume else None
    if start is not None:
        with damage_named(files.restart, SimulationError):
            held = _same_constraints(start, held)
            _check_same(start, settings)
    still = settings.ensemble == "nvt" and not is_pinned(held)
    centre = [FixCom()] if still and not any(isinstance(c, FixCom) for c in held) else []
    atoms.set_constraint([*held, *centre])
    if start is None and settings.velocities == "draw":
        draw_velocities(atoms, settings.temperature, rng)
    elif start is None and not atoms.has("momenta"):
        raise SimulationError("the atoms have no velocities to keep; draw them")
    elif start is not None:
        with damage_named(files.restart, SimulationError, START_AGAIN):
            start.put(atoms)
            rng.bit_generator.state = start.random_state
    elif held:
        kept = left_free(atoms, atoms.get_momenta(), np.zeros((0, 3 * len(atoms))))
        atoms.set_momenta(kept, apply_constraint=False)
    atoms.calc = calculator
    try:
        energy = float(atoms.get_potential_energy())
    except DisagreementError as e:
        raise SimulationError(f"the run cannot begin: {e}") from None
    except AnipotError as e:
        if start is None:
            raise
        raise SimulationError(f"{files.restart}: {e}; {START_AGAIN}") from None
    if start is not None and abs(energy - start.energy) > 1e-5 * len(atoms):
        raise SimulationError(
            f"{files.restart}: the potential gives {energy:.6f} eV for the structure saved there, "
            f"and it was {start.energy:.6f} eV: this is not the potential of that run"
        )
    recorder = Recorder(files, start, settings.every)
    run = _Run(atoms, settings, _dynamics(atoms, settings, rng), rng, recorder)
    run.constraints = described(held)
    try:
        if start is None:
            run.begin()
        return run.run(0 if start is None else start.step, stop, on_step)
    finally:
        run.recorder.close()


class _Run:
    """A run under way."""

    def __init__(
        self,
        atoms: ase.Atoms,
        settings: MDSettings,
        dynamics: MolecularDynamics,
        rng: np.random.Generator,
        recorder: Recorder,
    ) -> None:
        self.atoms, self.settings, self.dynamics = atoms, settings, dynamics
        self.rng, self.recorder = rng, recorder
        at_rest = settings.ensemble == "nve" and settings.velocities == "draw"
        self.degrees = degrees_of_freedom(atoms, rotates=not at_rest)
        self.constraints: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Record the structure from which the run starts, and the first restart point."""
        self.recorder.add(self.row(0), self.atoms)
        self.save(0)

    def run(self, step: int, stop: Stop, on_step: Callable[[int], None] | None) -> MDResult:
        """Go on after ``step``, which is recorded."""
        atoms, settings, recorder = self.atoms, self.settings, self.recorder
        stopped = ""
        while step < settings.steps and not stopped:
            before = atoms.positions.copy(), atoms.arrays["momenta"].copy()
            random_state = self.rng.bit_generator.state
            problem = self.advance()
            if problem:
                stopped = f"step {step + 1} ({(step + 1) * settings.timestep:g} fs): {problem}"
                # That geometry is what one wants to look at; the file goes on from the one before.
                last = snapshot(atoms)
                atoms.arrays["positions"][...], atoms.arrays["momenta"][...] = before
                self.rng.bit_generator.state = random_state
                self.save(step)
                if np.isfinite(last.positions).all():
                    time = (step + 1) * settings.timestep
                    recorder.add_frame(last, step=step + 1, time_fs=time, stopped=problem)
                break
            step += 1
            if step % settings.every == 0:
                recorder.add(self.row(step), atoms)
            if on_step is not None:
                on_step(step)
            if stop() and step < settings.steps:
                stopped = "interrupted"
            if step % settings.save_every == 0 or step == settings.steps or stopped:
                self.save(step)
        rows = recorder.rows
        drift = energy_drift(rows, len(atoms)) if settings.ensemble == "nve" else None
        return MDResult(recorder.files, rows, step, len(atoms), drift, stopped)

    def advance(self) -> str:
        """One step; what is wrong with it, or ""."""
        try:
            self.dynamics.step()
        except AnipotError as e:
            return str(e)
        except RuntimeError as e:
            if str(e) != NOT_HELD:
                raise
            return (
                "bonds could not be held at their lengths; take a timestep shorter than "
                f"{self.settings.timestep:g} fs"
            )
        temperature = self.temperature()
        if temperature < self.settings.ceiling:
            return ""
        return (
            f"the temperature is {temperature:.0f} K, above {self.settings.ceiling:.0f} K: the "
            f"simulation has exploded. Relax the structure first, take a timestep shorter than "
            f"{self.settings.timestep:g} fs, or a potential that knows such geometries"
        )

    def temperature(self) -> float:
        return float(2 * self.atoms.get_kinetic_energy() / (self.degrees * aseunits.kB))

    def row(self, step: int) -> Row:
        # From the results and not through the atoms: a calculator that stopped would stop again.
        results = self.atoms.calc.results
        potential = float(results.get("energy", np.nan))
        kinetic = float(self.atoms.get_kinetic_energy())
        spread = results.get("disagreement", np.nan) / units.HARTREE_TO_EV
        return Row(
            step,
            step * self.settings.timestep,
            potential,
            kinetic,
            potential + kinetic,
            self.temperature(),
            float(spread * units.HARTREE_TO_KCALMOL),
        )

    def save(self, step: int) -> None:
        settings = self.settings.model_dump()
        random_state = self.rng.bit_generator.state
        self.recorder.save(self.atoms, step, random_state, settings, self.constraints)


def _dynamics(
    atoms: ase.Atoms, settings: MDSettings, rng: np.random.Generator
) -> MolecularDynamics:
    timestep = settings.timestep * aseunits.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    # ASE's own way to hold the centre of mass samples another distribution, and will go: FixCom
    # does it here.
    held = {"fixcm": False} if "fixcm" in inspect.signature(Langevin).parameters else {}
    return Langevin(
        atoms,
        timestep,
        temperature_K=settings.temperature,
        friction=settings.friction / aseunits.fs,
        rng=rng,
        **held,
    )


def _same_constraints(start: RestartPoint, held: list[Any]) -> list[Any]:
    """The constraints that a run goes on with, as they were when it began."""
    if not same(start.constraints, described(held)):
        before = in_words(restored(start.constraints)) or "nothing"
        raise SimulationError(
            f"the run to go on with held {before}, the structure given holds "
            f"{in_words(held) or 'nothing'} or other atoms"
        )
    return restored(start.constraints)


def _check_same(start: RestartPoint, settings: MDSettings) -> None:
    for name, value in settings.model_dump().items():
        if name not in _FREE and start.settings.get(name) != value:
            raise SimulationError(
                f"the run to go on with has {name} {start.settings.get(name)}, not {value}; only "
                f"{', '.join(sorted(_FREE))} may change"
            )
    if start.step > settings.steps:  # as many: it was killed before all of its files were there
        raise SimulationError(
            f"the run to go on with has done {start.step} steps "
            f"({start.step * settings.timestep:g} fs) already; give a longer time"
        )


def draw_velocities(atoms: ase.Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities at ``temperature`` (K), without the motion of the whole.

    Taking out momentum and, of a molecule, angular momentum leaves the distribution of all other
    motions as it is. So does taking out what constraints forbid; atoms that are held in space have
    no motion of the whole.
    """
    mass = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(mass * aseunits.kB * temperature)
    if _holds(atoms):
        whole = _whole(atoms, rotates=False)
        atoms.set_momenta(left_free(atoms, momenta, whole), apply_constraint=False)
        return
    atoms.set_momenta(momenta - mass * momenta.sum(0) / mass.sum(), apply_constraint=False)
    if not atoms.pbc.any():
        # Not ASE's ZeroRotation, which divides by the moment of a linear molecule that is zero.
        x = atoms.positions - atoms.get_center_of_mass()
        inertia = _inertia(atoms)
        omega = np.linalg.pinv(inertia, rcond=1e-6, hermitian=True) @ atoms.get_angular_momentum()
        atoms.set_velocities(atoms.get_velocities() - np.cross(omega, x))


def _inertia(atoms: ase.Atoms) -> np.ndarray:
    """(3, 3) u angstrom^2: the tensor of inertia around the centre of mass."""
    x, mass = atoms.positions - atoms.get_center_of_mass(), atoms.get_masses()
    square = (mass * (x * x).sum(1)).sum() * np.eye(3)
    tensor: np.ndarray = square - np.einsum("a,ai,aj->ij", mass, x, x)
    return tensor


def _holds(atoms: ase.Atoms) -> bool:
    """Whether there are constraints beside that of the centre of mass."""
    return not all(isinstance(c, FixCom) for c in atoms.constraints)


def _whole(atoms: ase.Atoms, rotates: bool) -> np.ndarray:
    """Motions of the whole that are taken out: none where atoms are held in space."""
    if is_pinned(atoms.constraints):
        return np.zeros((0, 3 * len(atoms)))
    return whole_motions(atoms, rotations=not atoms.pbc.any() and not rotates)


def degrees_of_freedom(atoms: ase.Atoms, rotates: bool = False) -> int:
    """Motions that share the kinetic energy. The centre of mass rests, unless constraints hold
    atoms in space."""
    if _holds(atoms):
        return max(n_free(atoms, _whole(atoms, rotates)), 1)
    lost = 3
    if not atoms.pbc.any() and not rotates:
        moments = np.linalg.eigvalsh(_inertia(atoms))
        lost += int((moments > 1e-6 * max(moments.max(), 1e-300)).sum())
    return max(3 * len(atoms) - lost, 1)


def energy_drift(rows: list[Row], n_atoms: int) -> float | None:
    """eV/atom/ps: slope of the straight line fitted to the total energy over time."""
    if len(rows) < 3:
        return None
    time = np.array([r.time_fs for r in rows]) / 1000
    total = np.array([r.total_ev for r in rows])
    return float(np.polyfit(time - time.mean(), total - total.mean(), 1)[0]) / n_atoms
