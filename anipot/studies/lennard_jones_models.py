"""The Lennard-Jones study: its cluster and crystal, how they are learnt, and what was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE

from anipot.aev import AEVSettings
from anipot.data.conformers import Conformers
from anipot.data.readers.extxyz import conformers_from_atoms
from anipot.potential.base import Potential
from anipot.potential.model import ANIModel
from anipot.studies.common import finished
from anipot.training.trainer import ANITrainer, evaluate
from anipot.units import HARTREE_TO_EV, HARTREE_TO_GPA

ELEMENT = "Ar"

#: Argon: angstrom and eV. The cluster is in reduced units instead: 1 angstrom and 1 eV.
SIGMA, EPSILON = 3.40, 0.01034

#: What networks see: an atom's whole environment, or only the sum over its pairs.
KINDS = ("atomic networks", "pairs only")

#: Linear strains at which the energy of the crystal is looked at.
STRAINS = (-0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03)


# ---- configurations ------------------------------------------------------------------------------


def relaxed_cluster(n_atoms: int = 8, starts: int = 4) -> ase.Atoms:
    """The lowest of several clusters relaxed from random places in a box of 3 sigma, as in the
    lectures; sigma and epsilon are 1.
    """
    found = []
    for seed in range(starts):
        atoms = ase.Atoms(
            f"{ELEMENT}{n_atoms}", 3 * np.random.default_rng(seed).random((n_atoms, 3))
        )
        atoms.calc = LennardJones(sigma=1, epsilon=1, rc=100)  # no cutoff to speak of
        FIRE(atoms, logfile=None, maxstep=0.05).run(fmax=1e-4, steps=3000)
        found.append(atoms)
    return min(found, key=lambda atoms: float(atoms.get_potential_energy()))


def relaxed_crystal() -> ase.Atoms:
    """The cubic cell of argon, four atoms, at zero stress; its energy is smoothly cut off between 2
    and 2.5 sigma.
    """
    atoms = bulk(ELEMENT, "fcc", a=1.55 * SIGMA, cubic=True)
    atoms.calc = LennardJones(
        sigma=SIGMA, epsilon=EPSILON, rc=2.5 * SIGMA, ro=2 * SIGMA, smooth=True
    )
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6, steps=200)
    return atoms


def rattled(
    atoms: ase.Atoms, n: int, seed: int, deviation: float, strain: float = 0.0
) -> Conformers:
    """``n`` copies with atoms moved at random, with energy, forces and (of crystals) stress.

    ``deviation`` (angstrom) is that of each coordinate. ``strain``: the cell is strained first by a
    symmetric matrix of numbers between -strain and strain.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        frame = atoms.copy()
        if strain:
            e = rng.uniform(-strain, strain, (3, 3))
            frame.set_cell(frame.cell.array @ (np.eye(3) + (e + e.T) / 2), scale_atoms=True)
        frame.rattle(deviation, rng=rng)
        frames.append(labelled(frame, atoms.calc))
    return conformers_from_atoms(frames)


def labelled(frame: ase.Atoms, calculator: Calculator) -> ase.Atoms:
    """``frame`` with what the calculator says of it."""
    names = ["energy", "forces", *(["stress"] if frame.pbc.all() else [])]
    found = {name: calculator.get_property(name, frame) for name in names}
    frame.calc = SinglePointCalculator(frame, **found)
    return frame


def distances(data: Conformers) -> np.ndarray:
    """Distances of all pairs in clusters of one size, angstrom."""
    x = data.coordinates.reshape(len(data), -1, 3)
    i, j = np.triu_indices(x.shape[1], k=1)
    return np.linalg.norm(x[:, i] - x[:, j], axis=2).ravel()


# ---- training ------------------------------------------------------------------------------------


def cluster_aev(kind: str) -> AEVSettings:
    """AEVs for the cluster. For ``"pairs only"``: without an angular part, and finer."""
    if kind == "pairs only":
        aev = AEVSettings.cover(ELEMENT, 2.6, 1.9, 24, 1, 1, radial_start=0.8)
        return replace(aev, angular_cutoff=0.1)  # closer than atoms ever come
    return AEVSettings.cover(ELEMENT, 3.0, 1.9, 16, 4, 4, radial_start=0.8)


def crystal_aev() -> AEVSettings:
    """AEVs for the crystal, as far as its atoms see each other."""
    return AEVSettings.cover(ELEMENT, 2.5 * SIGMA, 1.8 * SIGMA, 16, 4, 4, radial_start=0.8 * SIGMA)


def train(
    data: Conformers,
    aev: AEVSettings,
    seed: int,
    updates: int,
    *,
    hidden: Sequence[int] = (32, 32),
    unit: str = "eV",
    **options: Any,
) -> ANIModel:
    """A model trained on ``data``, of which a quarter says which weights are the best.

    ``options`` are those of ``ANITrainer``. Without hidden layers the model is linear in the AEV:
    then, and without an angular part, its energy is a sum over pairs.
    """
    # GELU and not CELU: forces are the slope of the network, and that of CELU has a kink.
    model = ANIModel.create(
        ELEMENT, aev=aev, hidden=list(hidden), activation="gelu", output_unit=unit, seed=seed
    )
    kept = len(data) - max(len(data) // 4, 1)
    epochs = max(updates // -(-kept // 4), 1)
    given = {
        "batch_size": 4, "epochs": epochs, "patience": epochs, "target_unit": unit, "seed": seed,
        "learning_rate": 1e-2 if hidden else 1.0, "normalize_aevs": True, **options,
    }  # fmt: skip
    trainer = ANITrainer(model, **given)
    finished(trainer.train(data.take(slice(kept)), data.take(slice(kept, None)), quiet=True))
    return model


def errors(potential: Potential, test: Conformers) -> dict[str, float]:
    """MAE: energy (eV), energy per atom (meV), force components (eV/angstrom), stress (GPa).

    Not RMSE: a few clusters with atoms on the steep wall would decide it alone.
    """
    found = evaluate(potential, test).in_unit("eV")
    assert found.forces is not None
    result = {
        "energy": found.energy.mae,
        "energy_mev_atom": found.per_atom.mae,
        "force": found.forces.components(found.scale).mae,
    }
    if found.stress is not None:
        result["stress_gpa"] = found.stress.components(HARTREE_TO_GPA).mae
    return result


# ---- what was learnt of a pair, and of a crystal -------------------------------------------------


def pair_curve(potential: Potential, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV) of two atoms less that of two lone ones, and force (eV/angstrom) along the pair.

    ``r`` (angstrom) are their distances; a force above 0 pushes them apart.
    """
    ends = np.zeros((len(r), 2, 3))
    ends[:, 1, 0] = r
    number = ase.Atoms(ELEMENT).numbers[0]
    pairs = Conformers(np.full(2 * len(r), number), ends.reshape(-1, 3), np.arange(len(r) + 1) * 2)
    lone = Conformers(np.array([number]), np.zeros((1, 3)), np.array([0, 1]))
    found = potential.predict(pairs, forces=True)
    assert found.forces is not None
    energies = found.energies - 2 * potential.predict(lone).energies[0]
    return energies * HARTREE_TO_EV, found.forces.reshape(-1, 2, 3)[:, 1, 0] * HARTREE_TO_EV


def true_pair(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force of a pair with sigma and epsilon 1."""
    return 4 * (r**-12.0 - r**-6.0), 24 * (2 * r**-13.0 - r**-7.0)


def volume_curve(crystal: ase.Atoms, calculator: Calculator) -> dict[str, Any]:
    """Energies (meV/atom, above the unstrained) at STRAINS, and the bulk modulus V d2E/dV2 (GPa) of
    a polynomial through them.
    """
    volumes, energies = [], []
    for strain in STRAINS:
        frame = crystal.copy()
        frame.set_cell(frame.cell.array * (1 + strain), scale_atoms=True)
        volumes.append(frame.get_volume())
        energies.append(float(calculator.get_property("energy", frame)))
    # No equation of state: what was learnt badly need not have a minimum.
    rest = crystal.get_volume()
    modulus = rest * float(np.polyder(np.poly1d(np.polyfit(volumes, energies, 4)), 2)(rest))
    above = 1000 * (np.array(energies) - energies[STRAINS.index(0.0)]) / len(crystal)
    return {
        "mev_atom": above.tolist(),
        "bulk_modulus_gpa": modulus * HARTREE_TO_GPA / HARTREE_TO_EV,
    }
