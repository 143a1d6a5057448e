"""Compositions, selections and splits: functions that are methods of Conformers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from anipot import elements as el
from anipot.data import splits
from anipot.data.pieces import (
    ROWS,
    atoms_of,
    count_elements,
    in_pieces,
    number_groups,
    ranks_within,
)
from anipot.errors import DataError, SettingsError
from anipot.units import HARTREE_TO_KCALMOL

if TYPE_CHECKING:
    from anipot.data.conformers import Conformers


def elements_of(data: Conformers, indices: np.ndarray | slice) -> tuple[str, ...]:
    """The elements that occur in the conformers at ``indices``, by atomic number."""
    seen = np.zeros(len(el.SYMBOLS), dtype=bool)
    if isinstance(indices, slice) and indices == slice(None):
        for numbers in in_pieces(data.atomic_numbers):
            seen[numbers] = True
    else:
        every = len(data.elements)
        for index in in_pieces(data.numbers_at(indices), 1 << 16):
            seen[data.atomic_numbers[atoms_of(data.offsets, index)[0]]] = True
            if np.count_nonzero(seen) == every:
                break
    return el.sorted_elements(np.flatnonzero(seen))


def molecules_of(data: Conformers, indices: np.ndarray | slice) -> np.ndarray:
    """Ascending indices in ``molecule_names`` of the molecules of some conformers."""
    seen = np.zeros(len(data.molecule_names), dtype=bool)
    if isinstance(indices, slice) and indices == slice(None):
        for groups in in_pieces(data.molecule):
            seen[groups] = True
    else:
        for index in in_pieces(data.numbers_at(indices)):
            seen[data.molecule[index]] = True
    return np.flatnonzero(seen)


def describe(data: Conformers, index: int, first: int = 0) -> str:
    """A conformer in words, for messages: its number, its formula, and the name of its molecule
    where that is another.

    ``first`` is the number of the first conformer where these are a piece of a data set.
    """
    index = int(index)
    name = data.molecule_names[data.molecule[index]]
    numbers = data.atomic_numbers[data.offsets[index] : data.offsets[index + 1]]
    formula = el.formula(numbers)
    known = formula if name == formula else f"{formula}, {data.grouped_by} {name!r}"
    return f"conformer {first + index} ({known})"


def composition(data: Conformers, elements: Sequence[str] | None = None) -> np.ndarray:
    """(M, E) int64: how often each element occurs in each conformer.

    ``elements`` defaults to the elements that occur. Atoms of other elements are not counted.
    """
    elements = data.elements if elements is None else elements
    counts = np.zeros((len(data), len(elements)), dtype=np.int64)
    table = el.index_table(elements)
    for start, numbers, offsets in data._atoms():
        own = count_elements(table[numbers], offsets, len(elements))
        counts[start : start + len(own)] = own
    return counts


def heavy_atoms(data: Conformers) -> np.ndarray:
    """(M,) int64: atoms other than hydrogen."""
    return data.n_atoms - data.composition(["H"])[:, 0]


def formulas(data: Conformers) -> tuple[np.ndarray, tuple[str, ...]]:
    """Formula of each conformer: (M,) int32 index, and the formulas."""
    elements = data.elements
    if not elements:  # conformers without atoms: numpy has no unique rows of no columns
        return np.zeros(len(data), dtype=np.int32), ("",) if len(data) else ()
    table = el.index_table(elements)
    found: dict[bytes, int] = {}
    index = np.zeros(len(data), dtype=np.int32)
    for start, numbers, offsets in data._atoms():
        counts = count_elements(table[numbers], offsets, len(elements))
        rows, own = np.unique(counts, axis=0, return_inverse=True)
        places = [found.setdefault(row.tobytes(), len(found)) for row in rows]
        here = slice(start, start + len(counts))
        index[here] = np.array(places, dtype=np.int32)[own.reshape(-1)]
    every = np.array([np.frombuffer(row, dtype=np.int64) for row in found])
    unique, place = np.unique(every.reshape(-1, len(elements)), axis=0, return_inverse=True)
    place = place.reshape(-1).astype(np.int32)
    for piece in in_pieces(index):
        piece[:] = place[piece]
    atomic = el.numbers_of(elements)
    return index, tuple(el.formula(np.repeat(atomic, row)) for row in unique)


def by_formula(data: Conformers) -> Conformers:
    """The same conformers, grouped by formula instead of by the groups of their files."""
    index, names = data.formulas()
    return data.replaced(molecule=index, molecule_names=names, grouped_by="formula")


def select(
    data: Conformers,
    elements: str | Iterable[str | int] | None = None,
    heavy_atoms: int | tuple[int, int] | None = None,
    max_energy: float | None = None,
    per_molecule: int | None = None,
    molecules: Iterable[str] | None = None,
    seed: int = 0,
) -> Conformers:
    """The conformers that meet every condition given.

    - ``elements``: only these elements occur;
    - ``heavy_atoms``: at most so many atoms other than hydrogen, or a pair (least, most);
    - ``max_energy``: at most so many kcal/mol above the lowest conformer of the same molecule
      (of the same formula where a group holds several);
    - ``molecules``: of these molecules, by name;
    - ``per_molecule``: at most so many of each molecule, drawn with ``seed`` after all else.

    Raises DataError when nothing is left, or a molecule is not there.
    """
    keep = np.ones(len(data), dtype=bool)
    known = None if elements is None else el.parse_elements(elements)
    least, most = heavy_atoms if isinstance(heavy_atoms, tuple) else (0, heavy_atoms)
    for start, part in data.blocks() if (known, heavy_atoms) != (None, None) else ():
        mine = keep[start : start + len(part)]
        if known is not None:
            mine &= part.composition(known).sum(axis=1) == part.n_atoms
        if most is not None:
            heavy = part.heavy_atoms
            mine &= (heavy >= least) & (heavy <= most)
    if molecules is not None:
        wanted = np.zeros(len(data.molecule_names), dtype=bool)
        wanted[data.molecule_indices(molecules)] = True
        keep &= data.of_molecules(wanted)
    if max_energy is not None:
        if data.energies is None:
            raise DataError("max_energy needs energies, and this data set has none")
        keep &= data.relative_energies() <= max_energy
    if per_molecule is not None:
        order = np.random.default_rng(seed).permutation(splits.nonzero(keep))
        keep[:] = False
        taken = np.zeros(len(data.molecule_names), dtype=np.int64)
        for piece in in_pieces(order, ROWS):
            groups = data._molecules_at(piece)
            keep[piece[taken[groups] + ranks_within(groups) < per_molecule]] = True
            taken += np.bincount(groups, minlength=len(taken))
    if not keep.any():
        raise DataError(f"no conformer of {len(data):,} meets the selection")
    return data.take(keep)


def relative_energies(data: Conformers) -> np.ndarray:
    """(M,) kcal/mol above the lowest conformer of the same molecule and formula.

    NaN without label. Raises DataError when there are no energies at all.
    """
    if data.energies is None:
        raise DataError("this data set has no energies")
    group, names = data.formulas()  # of formulas, and below of these and molecules together
    found: dict[int, int] = {}
    for here, molecule in data._rows("molecule"):
        group[here] = number_groups(molecule.astype(np.int64) * len(names) + group[here], found)
    lowest = np.full(len(found), np.inf)
    above = np.empty(len(data))
    for here, energies in data._rows("energies"):
        above[here] = energies
        there = np.isfinite(energies)
        np.minimum.at(lowest, group[here][there], energies[there])
    for here, _ in data._rows("molecule"):
        above[here] -= lowest[group[here]]
        above[here] *= HARTREE_TO_KCALMOL
    return above


def molecule_indices(data: Conformers, names: Iterable[str]) -> np.ndarray:
    """Indices in ``molecule_names`` of molecules given by name.

    A name may be the whole group path of the file or its last part, where that is unique.
    Raises DataError for a molecule that is not there, naming the nearest.
    """
    whole = {name: i for i, name in enumerate(data.molecule_names)}
    last: dict[str, list[int]] = {}
    for name, i in whole.items():
        last.setdefault(name.rsplit("/", 1)[-1], []).append(i)
    found: list[int] = []
    for name in names:
        matches = [whole[name]] if name in whole else last.get(name, [])
        if len(matches) != 1:
            near = difflib.get_close_matches(name, [*whole, *last], n=3)
            what = "is not unique" if matches else "is not in the data"
            raise DataError(
                f"molecule {name!r} {what}" + (f"; did you mean {', '.join(near)}?" if near else "")
            )
        found.append(matches[0])
    return np.array(found, dtype=np.int64)


def without_conformers(data: Conformers, indices: np.ndarray) -> list[str]:
    """Names of those of the molecules that have no conformer here (any more)."""
    there = data.molecules_of(slice(None))
    return [data.molecule_names[i] for i in indices[~np.isin(indices, there)]]


def groups(data: Conformers, by: str) -> np.ndarray | None:
    """(M,) group of each conformer for a split by ``"molecule"`` or ``"formula"``.

    None by ``"conformer"``, where every conformer is its own.
    """
    if by == "conformer":
        return None
    if by == "molecule":
        return data.molecule
    if by == "formula":
        return data.formulas()[0]
    raise SettingsError(f"split by {by!r}; known: conformer, molecule, formula")


def split(
    data: Conformers, *parts: splits.Part, seed: int = 0, by: str = "conformer"
) -> list[Conformers]:
    """Disjoint parts, for example ``train, val, test = data.split(0.8, 0.1, 0.1, seed=0)``.

    ``parts`` are fractions, numbers of conformers, or None for the rest. ``by="molecule"``
    keeps all conformers of a molecule (a group of the file) in one part, ``by="formula"``
    those of a formula. Raises DataError when the first part lacks an element that another one
    has.
    """
    indices = data.split_indices(*parts, seed=seed, by=by)
    return [data.take(i) for i in indices]


def split_indices(
    data: Conformers, *parts: splits.Part, seed: int = 0, by: str = "conformer"
) -> list[np.ndarray]:
    """As ``split``, but the index arrays (n_k,) of the parts, to be saved with a run."""
    group = data.groups(by)
    if group is None:
        indices = splits.by_conformer(len(data), parts, seed)
    else:
        indices = splits.by_group(group, parts, seed)
    data.check_elements(indices[0], *indices[1:])
    return indices


def split_molecules(data: Conformers, *held_out: Iterable[str]) -> list[np.ndarray]:
    """Index arrays (n_k,): the conformers of no list, then those of each list of molecules.

    ``train, val, test = data.split_molecules(validation_names, test_names)``. Raises
    DataError for a molecule that is not there (or whose conformers a selection left out) or
    stands in two lists, for a training part without conformers, and when it lacks an element.
    """
    lists = [data.molecule_indices(names) for names in held_out]
    for indices in lists:
        empty = data.without_conformers(indices)
        if empty:
            raise DataError(
                f"no conformer of {', '.join(map(repr, empty))} is left in this data, so it "
                "cannot be held out; take it off the list, or select more conformers"
            )
    part = np.zeros(len(data.molecule_names), dtype=np.int64)
    for k, indices in enumerate(lists, start=1):
        twice = indices[(part[indices] != 0) & (part[indices] != k)]
        if len(twice):
            name = data.molecule_names[twice[0]]
            raise DataError(f"molecule {name!r} stands in two lists of the split")
        part[indices] = k
    home = np.empty(len(data), dtype=np.int16 if len(lists) < 1 << 15 else np.int64)
    for here, molecule in data._rows("molecule"):
        home[here] = part[molecule]
    split = [splits.nonzero(home == k) for k in range(len(lists) + 1)]
    if not len(split[0]):
        raise DataError("the lists hold every molecule: nothing is left to train on")
    data.check_elements(split[0], *split[1:])
    return split


def folds(
    data: Conformers, k: int, seed: int = 0, by: str = "conformer"
) -> Iterator[tuple[Conformers, Conformers]]:
    """k pairs (training part, held-out part); every conformer is held out once."""
    for train, held_out in splits.folds(len(data), k, seed, data.groups(by)):
        data.check_elements(train, held_out)
        yield data.take(train), data.take(held_out)


def check_elements(data: Conformers, train: np.ndarray, *others: np.ndarray) -> None:
    """Raise DataError when the conformers ``train`` lack an element that ``others`` contain."""
    known = data.elements_of(train)
    if known == data.elements:
        return
    for other in others:
        lacking = [e for e in data.elements_of(other) if e not in known]
        if lacking:
            raise DataError(
                f"no training conformer contains {', '.join(lacking)}, but a validation or "
                "test conformer does: its network would never be trained. Use another seed "
                "or split, or select(elements=...) first"
            )


def of_molecules(data: Conformers, wanted: np.ndarray) -> np.ndarray:
    """(M,) bool: which conformers are of molecules that ``wanted`` has true."""
    mine = np.empty(len(data), dtype=bool)
    for here, molecule in data._rows("molecule"):
        mine[here] = wanted[molecule]
    return mine


def isolated_atoms(conformers: Conformers) -> np.ndarray:
    """(M,) bool: which conformers are a single atom with an energy, without a periodic cell."""
    single = (conformers.n_atoms == 1) & conformers.has("energies")
    if single.any() and conformers.pbc is not None:
        index = np.flatnonzero(single)
        single[index] = ~np.asarray(conformers.pbc[index]).any(axis=1)
    return np.asarray(single)
