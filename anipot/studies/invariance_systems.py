"""Systems of the study `invariance`, and predictions for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from anipot.data.conformers import Conformers
from anipot.data.published.bundled import load_bundled
from anipot.elements import numbers_of
from anipot.potential.base import Potential
from anipot.units import HARTREE_TO_KCALMOL

#: Angstrom between the nearest atoms of two molecules that must not feel each other.
APART = 20.0


class Deviation(NamedTuple):
    """The largest absolute deviations, kcal/mol and kcal/mol/angstrom; None where none is there."""

    energy: float | None
    force: float | None


#: Of a potential, the same in float64, molecules and a random generator: the largest of all.
Check = Callable[[Potential, Potential, Conformers, np.random.Generator], Deviation]


# ---- systems -------------------------------------------------------------------------------------


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
    frames = frames_of(at_most(own.select(per_molecule=1, seed=seed), most)) if len(own) else []
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


def frames_of(data: Conformers) -> list[tuple[np.ndarray, np.ndarray]]:
    """Atomic numbers (n,) and coordinates (n, 3) float64 of each conformer."""
    x = data.coordinates.astype(np.float64)
    ends = data.offsets[1:-1]
    return list(zip(np.split(data.atomic_numbers, ends), np.split(x, ends), strict=True))


def at_most(data: Conformers, most: int | None) -> Conformers:
    """At most so many, from the first to the last at equal steps: they stand by size."""
    if most is None or most >= len(data):
        return data
    return data.take(np.linspace(0, len(data) - 1, most).astype(int))


def crystals_of(data: Conformers, rng: np.random.Generator, most: int = 12) -> Conformers:
    """Molecular crystals: up to ``most`` molecules, each in a triclinic cell that leaves about 2.5
    angstrom to its images. Most edges are shorter than a cutoff.
    """
    chosen = at_most(data, most)
    frames = frames_of(chosen)
    cells = [
        np.diag(np.ptp(x, axis=0) + 2.5) + np.tril(rng.uniform(0.3, 0.6, (3, 3)), -1)
        for _, x in frames
    ]
    return conformers_of(frames, np.stack(cells))


# ---- what is said of them ------------------------------------------------------------------------


def predicted(potential: Potential, data: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """Energies (M,) kcal/mol and forces (A, 3) kcal/mol/angstrom."""
    found = potential.predict(data, forces=True)
    assert found.forces is not None
    return found.energies * HARTREE_TO_KCALMOL, found.forces * np.float64(HARTREE_TO_KCALMOL)


def largest(values: np.ndarray) -> float:
    """The largest absolute value; infinity if one is not finite."""
    # A NaN is no small deviation, and NaN would win no comparison.
    return float(np.abs(values).max()) if np.isfinite(values).all() else math.inf


def between(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Deviation:
    """Largest difference between two results of ``predicted``."""
    return Deviation(largest(one[0] - other[0]), largest(one[1] - other[1]))
