"""Look for what is wrong with a data set before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from anipot import units
from anipot.config import ReadSettings
from anipot.conformers import Conformers
from anipot.datasets.load import read_file
from anipot.datasets.mapping import ReadOptions, keyword, log
from anipot.elements import number_of
from anipot.errors import DataError

#: Atoms nearer than this (angstrom) are a mistake: the shortest bond there is, H2's, is 0.74.
TOO_CLOSE = 0.3

# Energies of free atoms (hartree, from DFT, to 1 %), H to Ar. They tell units, which differ by
# 27 and more.
ATOM_ENERGIES = np.array(
    [0.0, -0.50, -2.91, -7.49, -14.67, -24.66, -37.85, -54.59, -75.07, -99.74, -128.94,
     -162.29, -200.09, -242.39, -289.41, -341.29, -398.16, -460.19, -527.59]
)  # fmt: skip

#: A block of this many numbers (8 MB) at a time.
_BLOCK = 1 << 20

#: More conformers than this take so long that a terminal is shown how far it is.
_LONG = 1 << 20

#: Projections of coordinates that are nearer than this may be of equal coordinates.
_EQUAL = 1e-9


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind, where it was first seen, and how often it occurs.

    ``kind`` is ``"unreadable"``, ``"close atoms"``, ``"lone atoms"``, ``"unit"``, ``"duplicates"``
    or ``"no energies"``.
    """

    kind: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def check_file(path: str | Path, options: ReadOptions | None = None) -> list[Problem]:
    """All kinds of problems of one file, each with its first place; an empty list if there is none.

    What no reader can accept (shapes that disagree, NaN, an unknown element, a damaged file) ends
    the check: it is then the only problem returned.
    """
    return read_and_check(path, options)[1]


def read_and_check(
    path: str | Path, options: ReadOptions | None = None
) -> tuple[Conformers | None, list[Problem]]:
    """As ``check_file``, with the conformers that were read (None if the file cannot be)."""
    try:
        conformers = read_file(Path(path), options or ReadOptions())
    except DataError as e:
        return None, [Problem("unreadable", str(e))]
    return conformers, check_conformers(conformers)


def check_conformers(conformers: Conformers) -> list[Problem]:
    """Problems of a data set: atoms too close, energies of another unit, duplicates."""
    problems = [*close_atoms(conformers), *wrong_unit(conformers), *duplicates(conformers)]
    if not conformers.has("energies").any():
        problems.append(Problem("no energies", "no conformer has an energy", len(conformers)))
    return problems


def _blocks(c: Conformers) -> Iterator[tuple[int, Conformers]]:
    """``c.blocks()``, with a bar on a terminal where there are many."""
    long = len(c) > _LONG
    with tqdm(
        total=len(c), unit=" conformers", unit_scale=True, desc="looking", leave=False,
        disable=None if long else True,
    ) as bar:  # fmt: skip
        for start, part in c.blocks():
            yield start, part
            bar.update(len(part))


def _equal_sizes(c: Conformers, per_conformer: int | None = None) -> Iterator[np.ndarray]:
    """Conformers (B,) of equal numbers of atoms, at most _BLOCK numbers at a time.

    ``per_conformer`` numbers are needed for each; by default those of all vectors between atoms.
    """
    order = np.argsort(c.n_atoms, kind="stable")
    sizes, starts = np.unique(c.n_atoms[order], return_index=True)
    for n, same in zip(sizes, np.split(order, starts[1:]), strict=True):
        step = max(_BLOCK // (per_conformer or max(3 * n * n, 1)), 1)
        for k in range(0, len(same), step):
            yield same[k : k + step]


def _atoms(c: Conformers, index: np.ndarray) -> np.ndarray:
    """The atoms (B, n) of conformers of one size."""
    found: np.ndarray = c.offsets[index][:, None] + np.arange(c.n_atoms[index[0]])
    return found


def _gather(c: Conformers, index: np.ndarray) -> np.ndarray:
    """Coordinates (B, n, 3) float64 of conformers of one size."""
    return c.coordinates[_atoms(c, index)].astype(np.float64)


def _nearest(c: Conformers) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of conformers (B,) with, for each atom, the distance to the nearest other atom (B, n)
    in angstrom, infinite for an atom alone, and which atom that is (B, n).
    """
    for index in _equal_sizes(c):
        x = _gather(c, index)
        n = x.shape[1]
        distance = np.full(x.shape[:2], np.inf)
        which = np.zeros(x.shape[:2], dtype=np.int64)
        cells = inverse = None
        if c.cells is not None and c.pbc is not None and c.pbc[index].any():
            # Rounding to the nearest image is exact for vectors as short as TOO_CLOSE, in any cell
            # whose planes are more than twice that apart. The pseudo-inverse leaves out
            # directions that have no lattice vector.
            cells = (c.cells[index] * c.pbc[index][:, :, None])[:, None]
            inverse = np.linalg.pinv(cells)
        step = max(_BLOCK // max(3 * n * len(index), 1), 1)  # a frame of thousands of atoms
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
    for start, part in _blocks(c):
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


def _another_unit(option: bool) -> str:
    if option:
        return f". Are the lengths in another unit? {keyword('length_unit')} says so"
    return ". Are the lengths in angstrom, as they have to be here?"


def lone_atoms(c: Conformers, cutoff: float, unit_option: bool = True) -> list[Problem]:
    """Conformers of several atoms in which one has no other within ``cutoff`` angstrom.

    A potential sees nothing around such an atom. Periodic conformers are left out: there, images
    are neighbours too. ``unit_option`` is that of ``close_atoms``.
    """
    count, first = 0, ""
    for start, part in _blocks(c):
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


def wrong_unit(c: Conformers) -> list[Problem]:
    """Conformers whose energies are not the size of total energies in hartree.

    The yardstick is the sum of the free atoms' energies: a molecule lies within a few percent of
    it (hydrogen within 20 %). Periodic data and elements beyond argon are often computed with
    pseudopotentials, which have energies of any size; there, only an energy of a multiple that
    betrays a unit counts.
    """
    wrong: list[np.ndarray] = []
    energy = expect = ""
    for start, part in _blocks(c):
        bad, expected, ratio = _ratios(part)
        if not len(bad):
            continue
        if not wrong:
            i = int(bad[0])
            assert part.energies is not None
            energy = f"{part.describe(i, start)} has the energy {part.energies[i]:.6g} hartree"
            expect = f"its free atoms have about {expected[i]:.4g}"
        wrong.append(ratio[bad])
    if not wrong:
        return []
    ratio = np.concatenate(wrong)
    typical = float(np.median(ratio))
    names = [u for u in units.ENERGY_UNITS if u != "hartree"]
    like = [u for u in names if typical > 0 and abs(np.log(typical / units.hartree_to(u))) < 0.25]
    inverse = [
        u for u in names if typical > 0 and abs(np.log(typical * units.hartree_to(u))) < 0.25
    ]
    if like:
        why = (
            f"about {typical:.3g} times as much: they look like {like[0]}, which "
            f"{keyword('energy_unit', like[0])} says"
        )
    elif inverse and np.ptp(ratio) < 0.2 * typical:
        why = (
            f"about {1 / typical:.3g} times more: they look like hartree read as {inverse[0]}; "
            f"{keyword('energy_unit', 'hartree')} says so"
        )
    elif typical < 0.75:
        why = (
            "they look like atomization or formation energies, energies relative to something, "
            "or totals with pseudopotentials; self energies are then not those of atoms"
        )
    else:
        why = f"{typical:.3g} times as much: no unit that is known here explains it"
    text = f"{energy}, but {expect}; {why}; {len(ratio):,} of {len(c):,} conformers"
    return [Problem("unit", text, len(ratio))]


def _ratios(c: Conformers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which conformers have energies of another size than expected; what is expected (M,) hartree,
    and how many times that the energies are (M,).
    """
    if c.energies is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
    known = len(ATOM_ENERGIES)
    symbols = c.elements
    numbers = np.array([number_of(symbol) for symbol in symbols], dtype=np.int64)
    scale = np.where(numbers < known, ATOM_ENERGIES[np.minimum(numbers, known - 1)], np.nan)
    counts = c.composition(symbols)
    expected = counts @ np.nan_to_num(scale)
    heavy = counts @ np.isnan(scale).astype(int) > 0
    usable = c.has("energies") & ~heavy & (expected < 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(usable, c.energies / expected, 1.0)
    periodic = np.zeros(len(c), dtype=bool) if c.pbc is None else c.pbc.any(axis=1)
    bad = np.flatnonzero(((ratio < 0.75) | (ratio > 1.4)) & ~(periodic & (ratio < 1.4)))
    return bad, expected, ratio


def warn_of_unit(c: Conformers, options: ReadSettings) -> None:
    """Log a warning where energies are not the size of total energies in hartree.

    Who named the unit knows it, and is not warned.
    """
    if options.energy_unit is None:
        for problem in wrong_unit(c):
            log.warning("WARNING, energies of another unit? %s", problem.message)


def warn_of_geometry(c: Conformers, cutoff: float, unit_option: bool = True) -> None:
    """Log a warning where atoms are too close, or one has no neighbour within ``cutoff``.

    ``unit_option`` is that of ``close_atoms``.
    """
    found = close_atoms(c, unit_option=unit_option) + lone_atoms(c, cutoff, unit_option)
    for problem in found:
        log.warning("WARNING, %s", problem)


def duplicates(c: Conformers) -> list[Problem]:
    """Conformers that stand in the data twice, atom for atom.

    A split by conformer would put them on both sides.
    """
    if len(c) < 2:
        return []
    keys = np.empty(len(c))
    for start, part in _blocks(c):
        for index in _equal_sizes(part, per_conformer=3 * int(part.n_atoms.max(initial=1))):
            x = _gather(part, index).reshape(len(index), -1)
            x = np.concatenate([x, part.atomic_numbers[_atoms(part, index)]], axis=1)
            # A random projection: equal conformers have equal keys, others practically never.
            weights = np.random.default_rng(x.shape[1]).normal(size=x.shape[1])
            keys[start + index] = (x * weights).sum(axis=1)
    members = _near_another(keys)
    key, n_atoms = keys[members], c.offsets[members + 1] - c.offsets[members]
    order = np.lexsort((members, key, n_atoms))
    near = (np.diff(n_atoms[order]) == 0) & (np.diff(key[order]) < _EQUAL)
    a, b = members[order[:-1]], members[order[1:]]
    count, first = 0, None
    for i, j in zip(a[near], b[near], strict=True):  # candidates only
        si, sj = slice(c.offsets[i], c.offsets[i + 1]), slice(c.offsets[j], c.offsets[j + 1])
        same = np.array_equal(c.atomic_numbers[si], c.atomic_numbers[sj])
        if same and np.array_equal(c.coordinates[si], c.coordinates[sj]):
            count += 1
            pair = (int(min(i, j)), int(max(i, j)))
            first = pair if first is None else min(first, pair)
    if first is None:
        return []
    text = (
        f"{c.describe(first[1])} has the coordinates of conformer {first[0]}; {count:,} such in all"
    )
    return [Problem("duplicates", text, count)]


def _near_another(keys: np.ndarray, rows: int = 1 << 18) -> np.ndarray:
    """Ascending numbers of the ``keys`` (M,) that are within ``_EQUAL`` of another one.

    One sorted copy is all that is needed besides, where these are few.
    """
    ordered = np.sort(keys)
    found = []
    for start in range(0, len(keys) - 1, rows):
        piece = ordered[start : start + rows + 1]
        near = np.diff(piece) < _EQUAL
        found += [piece[:-1][near], piece[1:][near]]
    values = np.unique(np.concatenate(found)) if found else np.zeros(0)
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    members = []
    for start in range(0, len(keys), rows):
        piece = keys[start : start + rows]
        place = np.minimum(np.searchsorted(values, piece), len(values) - 1)
        members.append(np.flatnonzero(values[place] == piece) + start)
    return np.concatenate(members)
