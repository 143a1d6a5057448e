"""Look for what is wrong with a data set before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anipot.config import ReadSettings
from anipot.data.conformers import Conformers
from anipot.data.load import read_file
from anipot.data.mapping import ReadOptions, log
from anipot.data.problems.geometry import close_atoms, lone_atoms, odd_bonds, short_cells
from anipot.data.problems.labels import forces_against_energies, large_stress, wrong_unit
from anipot.data.problems.problem import Problem, atoms_of, blocks_of, equal_sizes, gather
from anipot.errors import DataError

#: Projections of coordinates that are nearer than this may be of equal coordinates.
_EQUAL = 1e-9


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
    """Problems of a data set: geometries, units, signs and sizes of labels, duplicates."""
    c = conformers
    problems = [*close_atoms(c), *short_cells(c), *odd_bonds(c), *wrong_unit(c)]
    # Where energies or lengths are in another unit, forces cannot be of the size they ask for.
    units_agree = not any(p.kind.startswith("unit") for p in problems)
    problems += forces_against_energies(c, size=units_agree)
    problems += [*large_stress(c), *duplicates(c)]
    if not c.has("energies").any():
        problems.append(Problem("no energies", "no conformer has an energy", len(c)))
    return problems


def warn_of_labels(c: Conformers, options: ReadSettings, lengths: bool = True) -> None:
    """Log a warning where labels or lengths look as if they had another unit or another sign.

    There is no warning of a unit that ``options`` name. ``lengths=False`` leaves lengths out, where
    ``warn_of_geometry`` looks at them.
    """
    if lengths and options.length_unit is None:
        for problem in odd_bonds(c):
            log.warning("WARNING, %s", problem)
    if options.energy_unit is None:
        for problem in wrong_unit(c):
            log.warning("WARNING, energies of another unit? %s", problem.message)
    for problem in forces_against_energies(c, size=False) + large_stress(c):
        log.warning("WARNING, %s", problem)


def warn_of_geometry(c: Conformers, cutoff: float, unit_option: bool = True) -> None:
    """Log a warning where atoms are too close, or one has no neighbour within ``cutoff``.

    Also where a cell is too short. ``unit_option`` is that of ``close_atoms``.
    """
    found = close_atoms(c, unit_option=unit_option) + lone_atoms(c, cutoff, unit_option)
    found += short_cells(c)
    for problem in found:
        log.warning("WARNING, %s", problem)


def duplicates(c: Conformers) -> list[Problem]:
    """Conformers that stand in the data twice, atom for atom.

    A split by conformer would put them on both sides.
    """
    if len(c) < 2:
        return []
    keys = np.empty(len(c))
    for start, part in blocks_of(c):
        for index in equal_sizes(part, per_conformer=3 * int(part.n_atoms.max(initial=1))):
            x = gather(part, index).reshape(len(index), -1)
            x = np.concatenate([x, part.atomic_numbers[atoms_of(part, index)]], axis=1)
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
