"""Checks that hold for any weights; each returns the deviation.

A check takes a potential, the same in float64, molecules and a random generator, and gives a
``Deviation``: the largest over all molecules. Those of molecules are here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anipot.data.conformers import Conformers
from anipot.potential.base import Potential
from anipot.studies.invariance_crystals import lattice_translation, supercell, vacuum
from anipot.studies.invariance_cutoffs import angular_cutoff, radial_cutoff, repulsion_cutoff
from anipot.studies.invariance_systems import (
    APART,
    Check,
    Deviation,
    between,
    conformers_of,
    direction,
    frames_of,
    largest,
    predicted,
)
from anipot.units import HARTREE_TO_KCALMOL

#: Angstrom by which an atom is moved to either side for a finite difference. With less, rounding of
#: total energies would show; with more, the kink in the slope of CELU.
STEP = 1e-6


def extensivity(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Each molecule and the next, APART angstrom from each other, against their sum."""
    frames = frames_of(data)
    pairs, sums, forces = [], [], []
    alone, alone_forces = predicted(potential, data)
    own = np.split(alone_forces, data.offsets[1:-1])
    for m, (numbers, x) in enumerate(frames):
        n = (m + 1) % len(frames)
        far = direction(rng)
        shift = (x @ far).max() - (frames[n][1] @ far).min() + APART
        pairs.append((np.append(numbers, frames[n][0]), np.vstack([x, frames[n][1] + shift * far])))
        sums.append(alone[m] + alone[n])
        forces += [own[m], own[n]]
    return between(
        predicted(potential, conformers_of(pairs)), (np.array(sums), np.concatenate(forces))
    )


def permutation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The atoms of each molecule in another order."""
    starts = zip(data.offsets[:-1], data.offsets[1:], strict=True)
    order = np.concatenate([a + rng.permutation(b - a) for a, b in starts])
    shuffled = replace(
        data, atomic_numbers=data.atomic_numbers[order], coordinates=data.coordinates[order]
    )
    energies, forces = predicted(potential, data)
    return between(predicted(potential, shuffled), (energies, forces[order]))


def translation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Each molecule moved by up to 10 angstrom along each axis."""
    shifts = np.repeat(rng.uniform(-10, 10, (len(data), 3)), data.n_atoms, axis=0)
    return between(
        predicted(potential, replace(data, coordinates=data.coordinates + shifts)),
        predicted(potential, data),
    )


def rotation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Each molecule turned at random; its forces turn with it."""
    return _turned(potential, data, [random_rotation(rng) for _ in range(len(data))])


def reflection(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The mirror image of each molecule, in a random plane; forces are mirrored."""
    normals = [direction(rng) for _ in range(len(data))]
    return _turned(potential, data, [np.eye(3) - 2 * np.outer(n, n) for n in normals])


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) a proper rotation."""
    turn, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = turn * np.sign(np.diag(triangle))  # else QR's own preferences show
    return turn if np.linalg.det(turn) > 0 else -turn


def _turned(potential: Potential, data: Conformers, turns: list[np.ndarray]) -> Deviation:
    of_atom = np.repeat(np.stack(turns), data.n_atoms, axis=0)

    def turned(vectors: np.ndarray) -> np.ndarray:
        return np.einsum("ai,aij->aj", vectors, of_atom)

    energies, forces = predicted(potential, data)
    after = predicted(potential, replace(data, coordinates=turned(data.coordinates)))
    return between(after, (energies, turned(forces)))


def batch(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """All molecules at once against one by one."""
    singles = [predicted(potential, data.take([m])) for m in range(len(data))]
    apart = np.concatenate([e for e, _ in singles]), np.concatenate([f for _, f in singles])
    return between(predicted(potential, data), apart)


def net_force(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The sum of the forces on each molecule, which must be zero."""
    forces = predicted(potential, data)[1]
    return Deviation(None, largest(np.add.reduceat(forces, data.offsets[:-1])))


def net_torque(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The torque about each molecule's centre, kcal/mol, which must be zero: in the energy column,
    as its unit has it.
    """
    forces = predicted(potential, data)[1]
    centres = np.add.reduceat(data.coordinates, data.offsets[:-1]) / data.n_atoms[:, None]
    arms = data.coordinates - np.repeat(centres, data.n_atoms, axis=0)
    torques = np.add.reduceat(np.cross(arms, forces), data.offsets[:-1])
    return Deviation(largest(torques), None)


def finite_differences(
    potential: Potential, exact: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Forces against central differences of the energies of the potential in float64."""
    forces = predicted(potential, data)[1]
    moved = []
    for numbers, x in frames_of(data):
        for k in range(x.size):
            for sign in (1, -1):
                there = x.copy().reshape(-1)
                there[k] += sign * STEP
                moved.append((numbers, there.reshape(-1, 3)))
    energies = exact.predict(conformers_of(moved)).energies * HARTREE_TO_KCALMOL
    numerical = -(energies[::2] - energies[1::2]) / (2 * STEP)
    return Deviation(None, largest(forces - numerical.reshape(-1, 3)))


#: By the name in the table: molecules, then crystals.
CHECKS: dict[str, Check] = {
    "size extensivity": extensivity,
    "permutation": permutation,
    "translation": translation,
    "rotation": rotation,
    "reflection": reflection,
    "batch = singles": batch,
    "net force": net_force,
    "net torque": net_torque,
    "forces = -dE/dx": finite_differences,
    "radial cutoff": radial_cutoff,
    "angular cutoff": angular_cutoff,
    "repulsion's end": repulsion_cutoff,
    "lattice translation": lattice_translation,
    "supercell": supercell,
    "large cell": vacuum,
}

#: Those that need a potential which knows cells.
PERIODIC = ("lattice translation", "supercell", "large cell")
