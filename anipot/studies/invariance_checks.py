"""What must hold of any potential, whatever its weights: each check says by how much it does not.

A check takes a potential, the same in float64, molecules and a random generator, and gives a
``Deviation``: the largest over all molecules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from anipot.conformers import Conformers
from anipot.datasets.bundled import load_bundled
from anipot.elements import numbers_of
from anipot.ensemble import Potential, members_of
from anipot.units import HARTREE_TO_KCALMOL

#: Angstrom between the nearest atoms of two molecules that must not feel each other.
APART = 20.0

#: Angstrom by which an atom is moved to either side for a finite difference. With less, rounding of
#: total energies would show; with more, the kink in the slope of CELU.
STEP = 1e-6

#: Angstrom to either side of a cutoff (and half of it).
NEAR = 1e-4


class Deviation(NamedTuple):
    """The largest absolute deviations, kcal/mol and kcal/mol/angstrom; None where none is there."""

    energy: float | None
    force: float | None


Check = Callable[[Potential, Potential, Conformers, np.random.Generator], Deviation]


# ---- what is looked at ---------------------------------------------------------------------------


def molecules_for(potential: Potential, most: int | None = None, seed: int = 0) -> Conformers:
    """A conformer of each bundled molecule with elements that the potential knows, without labels.

    Where it knows others, eight random clusters of all that it knows come after. Atoms are moved by
    some 0.01 angstrom: no symmetry is left, and coordinates have all digits of float64 (with the
    few of a file, sums are exact in float64 that would not be in general).
    """
    known = potential.trained or potential.elements
    rng = np.random.default_rng(seed)
    data = load_bundled()
    own = data.take(data.composition(known).sum(axis=1) == data.n_atoms)
    frames = _frames(_some(own.select(per_molecule=1, seed=seed), most)) if len(own) else []
    if set(known) - set(data.elements):
        frames += [random_cluster(known, rng) for _ in range(8)]
    return conformers_of([(n, x + rng.normal(scale=0.01, size=x.shape)) for n, x in frames])


def random_cluster(
    elements: Sequence[str], rng: np.random.Generator, size: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (size,) and coordinates (size, 3), angstrom: atoms grown onto each other at
    the sum of their covalent radii, none much closer, every element there if ``size`` allows.
    """
    symbols = [*rng.permutation(list(elements)), *rng.choice(list(elements), size)][:size]
    numbers = numbers_of(symbols)
    radii = covalent_radii[numbers]
    x = np.zeros((1, 3))
    while len(x) < size:
        on, new = rng.integers(len(x)), len(x)
        place = x[on] + (radii[on] + radii[new]) * direction(rng)
        free = np.linalg.norm(x - place, axis=1) > 0.9 * (radii[:new] + radii[new])
        if free.all():
            x = np.vstack([x, place])
    return numbers, x


def direction(rng: np.random.Generator) -> np.ndarray:
    """(3,) a random unit vector."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def conformers_of(
    frames: Sequence[tuple[np.ndarray, np.ndarray]], cells: np.ndarray | None = None
) -> Conformers:
    """Frames of atomic numbers (n,) and coordinates (n, 3), with cells (M, 3, 3) if any."""
    return Conformers(
        np.concatenate([numbers for numbers, _ in frames]),
        np.concatenate([x for _, x in frames]),
        np.cumsum([0, *(len(numbers) for numbers, _ in frames)]),
        cells=cells,
    )


def _frame(data: Conformers, m: int) -> tuple[np.ndarray, np.ndarray]:
    own = slice(data.offsets[m], data.offsets[m + 1])
    return data.atomic_numbers[own], data.coordinates[own].astype(np.float64)


def _frames(data: Conformers) -> list[tuple[np.ndarray, np.ndarray]]:
    return [_frame(data, m) for m in range(len(data))]


def _said(potential: Potential, data: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """Energies (M,) kcal/mol and forces (A, 3) kcal/mol/angstrom."""
    found = potential.predict(data, forces=True)
    assert found.forces is not None
    return found.energies * HARTREE_TO_KCALMOL, found.forces * np.float64(HARTREE_TO_KCALMOL)


def _some(data: Conformers, most: int | None) -> Conformers:
    """At most so many, from the first to the last at equal steps: they stand by size."""
    if most is None or most >= len(data):
        return data
    return data.take(np.linspace(0, len(data) - 1, most).astype(int))


def _largest(values: np.ndarray) -> float:
    # A NaN is no small deviation, and NaN would win no comparison.
    return float(np.abs(values).max()) if np.isfinite(values).all() else math.inf


def _between(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Deviation:
    return Deviation(_largest(one[0] - other[0]), _largest(one[1] - other[1]))


# ---- molecules -----------------------------------------------------------------------------------


def extensivity(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Each molecule and the next, APART angstrom from each other, against their sum."""
    frames = _frames(data)
    pairs, sums, forces = [], [], []
    alone, alone_forces = _said(potential, data)
    own = np.split(alone_forces, data.offsets[1:-1])
    for m, (numbers, x) in enumerate(frames):
        n = (m + 1) % len(frames)
        far = direction(rng)
        shift = (x @ far).max() - (frames[n][1] @ far).min() + APART
        pairs.append((np.append(numbers, frames[n][0]), np.vstack([x, frames[n][1] + shift * far])))
        sums.append(alone[m] + alone[n])
        forces += [own[m], own[n]]
    return _between(
        _said(potential, conformers_of(pairs)), (np.array(sums), np.concatenate(forces))
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
    energies, forces = _said(potential, data)
    return _between(_said(potential, shuffled), (energies, forces[order]))


def translation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Each molecule moved by up to 10 angstrom along each axis."""
    shifts = np.repeat(rng.uniform(-10, 10, (len(data), 3)), data.n_atoms, axis=0)
    return _between(
        _said(potential, replace(data, coordinates=data.coordinates + shifts)),
        _said(potential, data),
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

    energies, forces = _said(potential, data)
    after = _said(potential, replace(data, coordinates=turned(data.coordinates)))
    return _between(after, (energies, turned(forces)))


def batch(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """All molecules at once against one by one."""
    singles = [_said(potential, data.take([m])) for m in range(len(data))]
    apart = np.concatenate([e for e, _ in singles]), np.concatenate([f for _, f in singles])
    return _between(_said(potential, data), apart)


def net_force(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The sum of the forces on each molecule, which must be zero."""
    forces = _said(potential, data)[1]
    return Deviation(None, _largest(np.add.reduceat(forces, data.offsets[:-1])))


def net_torque(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The torque about each molecule's centre, kcal/mol, which must be zero: in the energy column,
    as its unit has it.
    """
    forces = _said(potential, data)[1]
    centres = np.add.reduceat(data.coordinates, data.offsets[:-1]) / data.n_atoms[:, None]
    arms = data.coordinates - np.repeat(centres, data.n_atoms, axis=0)
    torques = np.add.reduceat(np.cross(arms, forces), data.offsets[:-1])
    return Deviation(_largest(torques), None)


def finite_differences(
    potential: Potential, exact: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Forces against central differences of the energies of the potential in float64."""
    forces = _said(potential, data)[1]
    moved = []
    for numbers, x in _frames(data):
        for k in range(x.size):
            for sign in (1, -1):
                there = x.copy().reshape(-1)
                there[k] += sign * STEP
                moved.append((numbers, there.reshape(-1, 3)))
    energies = exact.predict(conformers_of(moved)).energies * HARTREE_TO_KCALMOL
    numerical = -(energies[::2] - energies[1::2]) / (2 * STEP)
    return Deviation(None, _largest(forces - numerical.reshape(-1, 3)))


# ---- cutoffs -------------------------------------------------------------------------------------


def radial_cutoff(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """An atom that crosses the radial cutoff of one of a molecule's."""
    cutoff = potential.aev.settings.radial_cutoff
    return step_at(potential, data, lambda a, b: cutoff, rng)


def angular_cutoff(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The same, for the angular cutoff."""
    cutoff = potential.aev.settings.angular_cutoff
    return step_at(potential, data, lambda a, b: cutoff, rng)


def repulsion_cutoff(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """The same, where the repulsion of two nuclei begins."""
    repulsion = members_of(potential)[0].repulsion
    if repulsion is None:
        return Deviation(None, None)
    outer = repulsion.outer
    return step_at(
        potential, data, lambda a, b: float(outer * (covalent_radii[a] + covalent_radii[b])), rng
    )


def step_at(
    potential: Potential,
    data: Conformers,
    cutoff: Callable[[int, int], float],
    rng: np.random.Generator,
) -> Deviation:
    """By how much energy and forces jump when one more atom crosses ``cutoff(a, b)``, angstrom,
    the distance of atoms with atomic numbers a and b.

    J(d) is what changes from d within the cutoff to d beyond it. Where there is no jump it is in
    proportion to d, so that 2 J(d/2) - J(d) is zero up to d squared; a jump is what is left.
    """
    known = numbers_of(potential.trained or potential.elements)
    frames = []
    for numbers, x in _frames(data):
        atom, probe = rng.integers(len(x)), rng.choice(known)
        distance = cutoff(int(numbers[atom]), int(probe))
        # The direction in which it comes least close to the other atoms.
        ways = [direction(rng) for _ in range(50)]
        others = np.delete(x, atom, axis=0)
        way = max(
            ways,
            key=lambda u, at=x[atom], others=others, distance=distance: np.linalg.norm(  # type: ignore[misc]
                others - at - distance * u, axis=1
            ).min(initial=np.inf),
        )
        for shift in (NEAR, -NEAR, NEAR / 2, -NEAR / 2):
            there = x[atom] + (distance + shift) * way
            frames.append((np.append(numbers, probe), np.vstack([x, there])))
    series = conformers_of(frames)
    energies, forces = _said(potential, series)
    e = energies.reshape(-1, 4)
    jump = 2 * (e[:, 2] - e[:, 3]) - (e[:, 0] - e[:, 1])
    own = np.split(forces, series.offsets[1:-1])
    jumps = [2 * (own[k + 2] - own[k + 3]) - (own[k] - own[k + 1]) for k in range(0, len(own), 4)]
    return Deviation(_largest(jump), _largest(np.concatenate(jumps)))


# ---- crystals ------------------------------------------------------------------------------------


def crystals_of(data: Conformers, rng: np.random.Generator, most: int = 12) -> Conformers:
    """Molecular crystals: up to ``most`` molecules, each in a triclinic cell that leaves about 2.5
    angstrom to its images. Most edges are shorter than a cutoff.
    """
    chosen = _some(data, most)
    frames = _frames(chosen)
    cells = [
        np.diag(np.ptp(x, axis=0) + 2.5) + np.tril(rng.uniform(0.3, 0.6, (3, 3)), -1)
        for _, x in frames
    ]
    return conformers_of(frames, np.stack(cells))


def lattice_translation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """In a crystal, each atom moved by lattice vectors of its own."""
    crystals = crystals_of(data, rng)
    assert crystals.cells is not None
    steps = rng.integers(-2, 3, (len(crystals.atomic_numbers), 3))
    shifts = np.einsum("ai,aij->aj", steps, np.repeat(crystals.cells, crystals.n_atoms, axis=0))
    moved = replace(crystals, coordinates=crystals.coordinates + shifts)
    return _between(_said(potential, moved), _said(potential, crystals))


def supercell(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Two by two cells of a crystal, a cell's share of it, against one."""
    crystals = crystals_of(data, rng)
    assert crystals.cells is not None
    places = [(i, j) for i in range(2) for j in range(2)]
    frames = [
        (np.tile(numbers, 4), np.vstack([x + i * cell[0] + j * cell[1] for i, j in places]))
        for (numbers, x), cell in zip(_frames(crystals), crystals.cells, strict=True)
    ]
    doubled = crystals.cells * np.array([2.0, 2.0, 1.0])[:, None]
    energies, forces = _said(potential, conformers_of(frames, doubled))
    one, own = _said(potential, crystals)
    tiled = [np.tile(f, (4, 1)) for f in np.split(own, crystals.offsets[1:-1])]
    return _between((energies / 4, forces), (one, np.concatenate(tiled)))


def vacuum(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """A molecule in a cell so large that it cannot feel its images, against the molecule alone."""
    chosen = _some(data, 12)
    cells = [np.diag(np.ptp(x, axis=0) + APART) for _, x in _frames(chosen)]
    boxed = replace(chosen, cells=np.stack(cells), pbc=np.ones((len(chosen), 3), dtype=bool))
    return _between(_said(potential, boxed), _said(potential, chosen))


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
