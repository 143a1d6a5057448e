"""Checks of geometries: atoms too close or too far apart, cells, lengths in another unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import covalent_radii
from ase.geometry import minkowski_reduce

from anipot import units
from anipot.data.conformers import Conformers
from anipot.data.mapping import keyword
from anipot.data.problems.problem import (
    BLOCK,
    Problem,
    atoms_of,
    blocks_of,
    equal_sizes,
    fitting_unit,
    gather,
)

#: Atoms nearer than this (angstrom) are a mistake: the shortest bond there is, H2's, is 0.74.
TOO_CLOSE = 0.3

#: No crystal repeats in steps shorter than this (angstrom), even under pressure. PDB files of
#: molecules have a cell of 1 x 1 x 1 angstrom by convention.
SHORTEST_VECTOR = 1.5

#: Distances to the nearest atom, over the sum of covalent radii, have a median within this range in
#: molecules and solids alike (noble gases, left out, have more). What has no bonds, such as the
#: oxygens of water without their hydrogens, must not look like bonds in bohr.
BONDS = (0.9, 1.1)
#: Medians beyond these are reported, as far as another unit of length explains them.
_ODD_BONDS = (0.65, 1.5)
#: At most so many conformers are looked at where a typical value is enough.
_SAMPLE = 1000
_NOBLE = (2, 10, 18, 36, 54, 86)


def _nearest(c: Conformers) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of conformers (B,) with, for each atom, the distance to the nearest other atom (B, n)
    in angstrom, infinite for an atom alone, and which atom that is (B, n).
    """
    for index in equal_sizes(c):
        x = gather(c, index)
        n = x.shape[1]
        distance = np.full(x.shape[:2], np.inf)
        which = np.zeros(x.shape[:2], dtype=np.int64)
        cells = inverse = None
        if c.cells is not None and c.pbc is not None and c.pbc[index].any():
            # Rounding to the nearest image is exact for vectors as short as TOO_CLOSE, in any cell
            # whose planes are more than twice that apart; other cells are reduced first. The
            # pseudo-inverse leaves out directions that have no lattice vector.
            own = np.nan_to_num(c.cells[index] * c.pbc[index][:, :, None], posinf=0.0, neginf=0.0)
            for k in np.flatnonzero(_heights(own).min(axis=1) < 2 * TOO_CLOSE):
                own[k] = _reduced(own[k], c.pbc[index[k]])
            cells = own[:, None]
            inverse = np.linalg.pinv(cells)
        step = max(BLOCK // max(3 * n * len(index), 1), 1)  # a frame of thousands of atoms
        for start in range(0, n if n > 1 else 0, step):
            rows = np.arange(start, min(start + step, n))
            d = x[:, None] - x[:, rows, None]
            if cells is not None and inverse is not None:
                d -= np.rint(d @ inverse) @ cells
            square = np.einsum("brnx,brnx->brn", d, d)
            square[:, np.arange(len(rows)), rows] = np.inf
            which[:, rows] = square.argmin(axis=2)
            distance[:, rows] = np.sqrt(square.min(axis=2))
        yield index, distance, which


def close_atoms(c: Conformers, limit: float = TOO_CLOSE, unit_option: bool = True) -> list[Problem]:
    """Conformers with two atoms nearer than ``limit`` angstrom, across cell borders too.

    ``unit_option``: whether the unit of lengths can be given where the data was read.
    """
    count, first = 0, ""
    for start, part in blocks_of(c):
        nearest = np.full(len(part), np.inf)
        pair = np.zeros((len(part), 2), dtype=np.int64)
        for index, distance, which in _nearest(part):
            if not distance.shape[1]:
                continue
            atom = distance.argmin(axis=1)
            row = np.arange(len(index))
            nearest[index] = distance[row, atom]
            pair[index] = np.sort(np.stack([atom, which[row, atom]], axis=1), axis=1)
        bad = np.flatnonzero(nearest < limit)
        if len(bad) and not count:
            i = int(bad[0])
            first = (
                f"atoms {pair[i, 0]} and {pair[i, 1]} of {part.describe(i, start)} are "
                f"{nearest[i]:.3f} angstrom apart (less than {limit})"
            )
        count += len(bad)
    if not count:
        return []
    text = f"{first}; {count:,} of {len(c):,} conformers"
    if count > len(c) / 2:
        text += _another_unit(unit_option)
    return [Problem("close atoms", text, count)]


def _heights(cells: np.ndarray) -> np.ndarray:
    """Distances between the lattice planes of cells (M, 3, 3), (M, 3) angstrom.

    Infinite for a vector of length 0, which is no lattice vector.
    """
    cells = np.nan_to_num(cells, nan=0.0, posinf=0.0, neginf=0.0)  # refused where they are used
    with np.errstate(divide="ignore"):
        heights: np.ndarray = 1.0 / np.linalg.norm(np.linalg.pinv(cells), axis=1)
    return heights


def _reduced(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The same lattice by its shortest vectors (Minkowski's); ``cell`` where it has no volume."""
    try:
        reduced, _ = minkowski_reduce(cell, pbc)
    except (ValueError, RuntimeError):
        return cell
    return np.asarray(reduced) * pbc[:, None]


def short_cells(c: Conformers, limit: float = SHORTEST_VECTOR) -> list[Problem]:
    """Periodic conformers whose cell repeats in a step shorter than ``limit`` angstrom."""
    if not c.periodic:
        return []
    count, first = 0, ""
    for start, part in blocks_of(c):
        assert part.cells is not None
        assert part.pbc is not None
        cells = part.cells * part.pbc[:, :, None]
        for i in np.flatnonzero(_heights(cells).min(axis=1) < limit).tolist():
            vectors = np.linalg.norm(_reduced(cells[i], part.pbc[i]), axis=1)
            shortest = vectors[part.pbc[i]].min()
            if shortest < limit:
                count += 1
                first = first or (
                    f"every atom of {part.describe(i, start)} is {shortest:.3f} angstrom from its "
                    f"own image (less than {limit})"
                )
    if not count:
        return []
    text = (
        f"{first}; {count:,} of {len(c):,} conformers. A cell of 1 angstrom often means that "
        "there is none"
    )
    return [Problem("cell", text, count)]


def odd_bonds(c: Conformers) -> list[Problem]:
    """Distances between nearest atoms that are those of molecules in another unit of length.

    The yardstick is the median, over all atoms of at most ``_SAMPLE`` conformers, of the distance
    to the nearest other atom over the sum of both covalent radii.
    """
    step = max(len(c) // _SAMPLE, 1)
    sample = c.take(np.arange(0, len(c), step)[:_SAMPLE])
    radii = covalent_radii.copy()
    radii[list(_NOBLE)] = np.nan
    ratios = []
    for index, distance, which in _nearest(sample):
        if distance.shape[1] > 1:
            numbers = sample.atomic_numbers[atoms_of(sample, index)]
            radius = radii[numbers]
            bond = radius + np.take_along_axis(radius, which, axis=1)
            ratios.append((distance / bond).reshape(-1))
    all_ratios = np.concatenate(ratios) if ratios else np.zeros(0)
    all_ratios = all_ratios[np.isfinite(all_ratios)]
    if not len(all_ratios):
        return []
    typical = float(np.median(all_ratios))
    if _ODD_BONDS[0] < typical < _ODD_BONDS[1]:
        return []
    unit = fitting_unit(typical, units.LENGTH_UNITS, c.file_units.get("length", ""), BONDS)
    if unit is None:
        return []
    text = (
        f"the nearest atoms are typically {typical:.2f} times as far apart as bonds are; the "
        f"lengths look like {unit}; if so, give {keyword('length_unit', unit)}"
    )
    return [Problem("unit of length", text, len(c))]


def _another_unit(option: bool) -> str:
    if option:
        return f". Are the lengths in another unit? If so, give {keyword('length_unit')}"
    return ". Are the lengths in angstrom, as they must be here?"


def lone_atoms(c: Conformers, cutoff: float, unit_option: bool = True) -> list[Problem]:
    """Conformers of several atoms in which one has no other within ``cutoff`` angstrom.

    A potential sees nothing around such an atom. Periodic conformers are left out: there, images
    are neighbours too. ``unit_option`` is that of ``close_atoms``.
    """
    count, first = 0, ""
    for start, part in blocks_of(c):
        farthest = np.zeros(len(part))
        lone = np.zeros(len(part), dtype=np.int64)
        for index, distance, _ in _nearest(part):
            if distance.shape[1] > 1:
                lone[index] = distance.argmax(axis=1)
                farthest[index] = distance.max(axis=1)
        if part.pbc is not None:
            farthest[part.pbc.any(axis=1)] = 0.0
        bad = np.flatnonzero(farthest > cutoff)
        if len(bad) and not count:
            i = int(bad[0])
            first = (
                f"atom {lone[i]} of {part.describe(i, start)} has no other atom within "
                f"{cutoff:g} angstrom (the nearest is {farthest[i]:.2f} away), so the potential "
                "sees it alone"
            )
        count += len(bad)
    if not count:
        return []
    text = f"{first}; {count:,} of {len(c):,} conformers{_another_unit(unit_option)}"
    return [Problem("lone atoms", text, count)]
