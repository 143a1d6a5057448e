"""Smoothness at a cutoff: by how much energy and forces jump when an atom crosses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase.data import covalent_radii

from anipot.data.conformers import Conformers
from anipot.elements import numbers_of
from anipot.potential.base import Potential
from anipot.studies.invariance_systems import (
    Deviation,
    conformers_of,
    direction,
    frames_of,
    largest,
    predicted,
)

#: Angstrom to either side of a cutoff (and half of it).
NEAR = 1e-4


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
    repulsion = potential.models[0].repulsion
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
    for numbers, x in frames_of(data):
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
    energies, forces = predicted(potential, series)
    e = energies.reshape(-1, 4)
    jump = 2 * (e[:, 2] - e[:, 3]) - (e[:, 0] - e[:, 1])
    own = np.split(forces, series.offsets[1:-1])
    jumps = [2 * (own[k + 2] - own[k + 3]) - (own[k] - own[k + 1]) for k in range(0, len(own), 4)]
    return Deviation(largest(jump), largest(np.concatenate(jumps)))
