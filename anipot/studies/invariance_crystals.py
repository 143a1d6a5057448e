"""Checks of crystals: choice of the cell and number of cells must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anipot.data.conformers import Conformers
from anipot.potential.base import Potential
from anipot.studies.invariance_systems import (
    APART,
    Deviation,
    at_most,
    between,
    conformers_of,
    crystals_of,
    frames_of,
    predicted,
)


def lattice_translation(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """In a crystal, each atom moved by lattice vectors of its own."""
    crystals = crystals_of(data, rng)
    assert crystals.cells is not None
    steps = rng.integers(-2, 3, (len(crystals.atomic_numbers), 3))
    shifts = np.einsum("ai,aij->aj", steps, np.repeat(crystals.cells, crystals.n_atoms, axis=0))
    moved = replace(crystals, coordinates=crystals.coordinates + shifts)
    return between(predicted(potential, moved), predicted(potential, crystals))


def supercell(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """Two by two cells of a crystal, a cell's share of it, against one."""
    crystals = crystals_of(data, rng)
    assert crystals.cells is not None
    places = [(i, j) for i in range(2) for j in range(2)]
    frames = [
        (np.tile(numbers, 4), np.vstack([x + i * cell[0] + j * cell[1] for i, j in places]))
        for (numbers, x), cell in zip(frames_of(crystals), crystals.cells, strict=True)
    ]
    doubled = crystals.cells * np.array([2.0, 2.0, 1.0])[:, None]
    energies, forces = predicted(potential, conformers_of(frames, doubled))
    one, own = predicted(potential, crystals)
    tiled = [np.tile(f, (4, 1)) for f in np.split(own, crystals.offsets[1:-1])]
    return between((energies / 4, forces), (one, np.concatenate(tiled)))


def vacuum(
    potential: Potential, _: Potential, data: Conformers, rng: np.random.Generator
) -> Deviation:
    """A molecule in a cell so large that it cannot feel its images, against the molecule alone."""
    chosen = at_most(data, 12)
    cells = [np.diag(np.ptp(x, axis=0) + APART) for _, x in frames_of(chosen)]
    boxed = replace(chosen, cells=np.stack(cells), pbc=np.ones((len(chosen), 3), dtype=bool))
    return between(predicted(potential, boxed), predicted(potential, chosen))
