"""Conformers: the data set type of anipot. Flat arrays, no padding, nothing hidden."""

from __future__ import annotations

import difflib
import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from anipot import elements as el
from anipot.data import arrays, splits
from anipot.data.concatenation import ARRAYS, Joined
from anipot.errors import DataError, SettingsError
from anipot.system.archive import BROKEN, open_archive
from anipot.system.files import atomic_write
from anipot.units import HARTREE_TO_KCALMOL

#: What an ``.npz`` file of a data set calls its format.
FORMAT = "anipot conformers 1"
#: Kinds of type that its arrays may have there, if not that of floats.
_KINDS = {"pbc": "b", "atomic_numbers": "iu", "offsets": "iu", "molecule": "iu"}
_GROUPED_BY = ("molecule", "formula")

#: Labels and whether they are per conformer ("M") or per atom ("A").
LABELS = {"energies": "M", "forces": "A", "stress": "M"}

#: More conformers of a store than this are not copied when they are taken.
VIEW_FROM = 1 << 16

#: Conformers of which numbers are worked out at once: bounds the memory.
ROWS = 1 << 18

#: Conformers of a store that are read at once.
READ_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Conformers:
    """M conformers with A atoms in all.

    ===================  ==========  ==================  =========================================
    array                shape       unit, type          meaning
    ===================  ==========  ==================  =========================================
    ``atomic_numbers``   (A,)        uint8               conformer after conformer
    ``coordinates``      (A, 3)      angstrom, float     as precise as the file was
    ``offsets``          (M+1,)      int64               atoms of m: offsets[m]:offsets[m+1]
    ``energies``         (M,)        hartree, float64    total energies; None if unknown
    ``forces``           (A, 3)      hartree/angstrom    None if unknown
    ``cells``            (M, 3, 3)   angstrom            lattice vectors in rows; None: molecules
    ``pbc``              (M, 3)      bool                periodic directions; None: molecules
    ``stress``           (M, 3, 3)   hartree/angstrom^3  ASE's sign: dE/dstrain / volume
    ``molecule``         (M,)        int32               group of the file, index in molecule_names
    ===================  ==========  ==================  =========================================

    A label that only some conformers have is NaN where it lacks, and ``masks[label]`` (M,) bool
    says where it is there; a label without a mask is complete. ``grouped_by`` says what the
    groups of the file are: molecules, or only formulas (as in ANI-1x). ``level_of_theory`` and
    ``sources`` (file names) are what is known of the origin; ``dropped`` counts conformers of the
    files that were left out at reading because they lack the label. ``not_read`` names what the
    files hold beside (keys of datasets, of comments, ...) that was not read, and ``file_units``
    the units of ``"energy"`` and ``"length"`` that the files were taken to be in. Objects are
    never changed in place.

    Arrays may be lists or have other types (``anipot.data.arrays``), and elements may be symbols.
    Raises DataError for what cannot be read so, and for shapes that do not fit.
    """

    atomic_numbers: np.ndarray
    coordinates: np.ndarray
    offsets: np.ndarray
    energies: np.ndarray | None = None
    forces: np.ndarray | None = None
    cells: np.ndarray | None = None
    pbc: np.ndarray | None = None
    stress: np.ndarray | None = None
    molecule: np.ndarray = None  # type: ignore[assignment]
    molecule_names: tuple[str, ...] = ()
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    grouped_by: str = "molecule"
    level_of_theory: str = ""
    sources: tuple[str, ...] = ()
    dropped: int = 0
    not_read: tuple[str, ...] = ()
    file_units: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def fix(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        numbers = arrays.atomic_numbers(self.atomic_numbers)
        # Checked before the cast, which would silently turn 257 into hydrogen.
        if numbers.size and (numbers.min() < 1 or numbers.max() >= len(el.SYMBOLS)):
            wrong = numbers[(numbers < 1) | (numbers >= len(el.SYMBOLS))][0]
            raise DataError(f"{wrong} among atomic_numbers is not the atomic number of an element")
        fix("atomic_numbers", numbers.astype(np.uint8, copy=False))
        offsets = arrays.integers(self.offsets, "offsets").astype(np.int64, copy=False)
        if offsets.ndim != 1:
            raise DataError(f"offsets have shape {offsets.shape}, and must be one row of numbers")
        fix("offsets", offsets)
        for name in ("coordinates", "forces", "cells", "stress"):
            if getattr(self, name) is not None:
                fix(name, arrays.reals(getattr(self, name), name, keep_single=True))
        if self.coordinates is None:
            raise DataError("coordinates are missing")
        if self.pbc is not None:
            fix("pbc", arrays.truths(self.pbc, "pbc"))
        m, a = len(self.offsets) - 1, len(self.atomic_numbers)
        rising = m >= 0 and self.offsets[0] == 0
        pairs = zip(_in_pieces(self.offsets[:-1]), _in_pieces(self.offsets[1:]), strict=True)
        if not (rising and all((a <= b).all() for a, b in pairs)) or self.offsets[-1] != a:
            raise DataError("offsets must rise from 0 to the number of atoms")
        if self.molecule is None:
            groups, names = self.formulas()
            fix("molecule", groups)
            fix("molecule_names", names)
            fix("grouped_by", "formula")
        fix("molecule", arrays.integers(self.molecule, "molecule").astype(np.int32, copy=False))
        highest = int(self.molecule.max(initial=-1))
        if not self.molecule_names:
            fix("molecule_names", tuple(str(i) for i in range(highest + 1)))
        if highest >= len(self.molecule_names) or self.molecule.min(initial=0) < 0:
            raise DataError(
                f"molecule holds indices of molecule_names, 0 to {len(self.molecule_names) - 1}; "
                f"found {self.molecule.min(initial=0)} to {highest}"
            )
        if len(set(self.molecule_names)) < len(self.molecule_names):
            twice = next(n for n in self.molecule_names if self.molecule_names.count(n) > 1)
            raise DataError(f"two molecules are named {twice!r}: a split could not tell them apart")
        if self.energies is not None:
            fix("energies", arrays.reals(self.energies, "energies"))
        if self.cells is not None and self.pbc is None:
            fix("pbc", np.ones((m, 3), dtype=bool))
        if self.cells is None and self.pbc is not None and np.any(self.pbc):
            raise DataError("pbc is true for some conformers, but there are no cells")
        shapes = {
            "coordinates": (a, 3),
            "energies": (m,),
            "forces": (a, 3),
            "cells": (m, 3, 3),
            "pbc": (m, 3),
            "stress": (m, 3, 3),
            "molecule": (m,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise DataError(
                    f"{name} has shape {array.shape}, but {m} conformers with {a} atoms need "
                    f"{shape}"
                )
        for label, mask in self.masks.items():
            if label not in LABELS or np.shape(mask) != (m,) or np.asarray(mask).dtype != bool:
                raise DataError(f"masks[{label!r}] must be a label's mask, ({m},) bool")

    # ---- sizes -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> np.ndarray:
        """(M,) int64: atoms in each conformer."""
        return np.diff(self.offsets)

    @property
    def elements(self) -> tuple[str, ...]:
        """The elements that occur, by atomic number."""
        found: tuple[str, ...] | None = self.__dict__.get("_known_elements")
        if found is None:
            found = self.elements_of(slice(None))
            if self.mapped:  # millions of atoms that cannot change
                self.__dict__["_known_elements"] = found
        return found

    def elements_of(self, indices: np.ndarray | slice) -> tuple[str, ...]:
        """The elements that occur in the conformers at ``indices``, by atomic number."""
        seen = np.zeros(len(el.SYMBOLS), dtype=bool)
        if isinstance(indices, slice) and indices == slice(None):
            for numbers in _in_pieces(self.atomic_numbers):
                seen[numbers] = True
        else:
            every = len(self.elements)
            for index in _in_pieces(self.numbers_at(indices), 1 << 16):
                seen[self.atomic_numbers[atoms_of(self.offsets, index)[0]]] = True
                if np.count_nonzero(seen) == every:
                    break
        return el.sorted_elements(np.flatnonzero(seen))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [v for v in vars(self).values() if isinstance(v, np.ndarray)]
        return sum(a.nbytes for a in [*arrays, *self.masks.values()])

    @property
    def periodic(self) -> bool:
        """Whether any conformer is periodic in any direction."""
        return self.pbc is not None and bool(self.pbc.any())

    def __repr__(self) -> str:
        return (
            f"Conformers({len(self):,} conformers of {self.n_molecules:,} "
            f"{self.grouped_by}s, {self.total_atoms:,} atoms, {''.join(self.elements)})"
        )

    @property
    def n_molecules(self) -> int:
        """Molecules (or formulas, as ``grouped_by`` says) that have a conformer here."""
        return len(self.molecules_of(slice(None)))

    def molecules_of(self, indices: np.ndarray | slice) -> np.ndarray:
        """Ascending indices in ``molecule_names`` of the molecules of some conformers."""
        seen = np.zeros(len(self.molecule_names), dtype=bool)
        if isinstance(indices, slice) and indices == slice(None):
            for groups in _in_pieces(self.molecule):
                seen[groups] = True
        else:
            for index in _in_pieces(self.numbers_at(indices)):
                seen[self.molecule[index]] = True
        return np.flatnonzero(seen)

    @property
    def total_atoms(self) -> int:
        """A: the atoms of all conformers."""
        return len(self.atomic_numbers)

    @property
    def streams(self) -> bool:
        """Whether this is so much of a store that it is read as it is needed, never as a whole."""
        return len(self) > VIEW_FROM and self.mapped

    @property
    def mapped(self) -> bool:
        """Whether the coordinates are a file mapped into memory (a store), and not read."""
        array: object = self.coordinates
        while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
            array = array.base
        return isinstance(array, np.memmap | mmap.mmap)

    def has(self, label: str) -> np.ndarray:
        """(M,) bool: which conformers have a label (``"energies"``, ``"forces"``, ``"stress"``).

        Read-only where all or none have it: one value that takes no memory for millions.
        """
        mask = self.masks.get(label)
        if mask is None or getattr(self, label) is None:
            return np.broadcast_to(getattr(self, label) is not None, len(self))
        return mask

    def has_at(self, label: str, index: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the conformers ``index`` (n,) have a label."""
        if getattr(self, label) is None:
            return np.zeros(len(index), dtype=bool)
        mask = self.masks.get(label)
        return np.ones(len(index), dtype=bool) if mask is None else mask[index]

    def describe(self, index: int, first: int = 0) -> str:
        """A conformer in words, for messages: its number, its formula, and the name of its molecule
        where that is another.

        ``first`` is the number of the first conformer where these are a piece of a data set.
        """
        index = int(index)
        name = self.molecule_names[self.molecule[index]]
        numbers = self.atomic_numbers[self.offsets[index] : self.offsets[index + 1]]
        formula = el.formula(numbers)
        known = formula if name == formula else f"{formula}, {self.grouped_by} {name!r}"
        return f"conformer {first + index} ({known})"

    # ---- composition -------------------------------------------------------------------------

    def composition(self, elements: Sequence[str] | None = None) -> np.ndarray:
        """(M, E) int64: how often each element occurs in each conformer.

        ``elements`` defaults to the elements that occur. Atoms of other elements are not counted.
        """
        elements = self.elements if elements is None else elements
        counts = np.zeros((len(self), len(elements)), dtype=np.int64)
        table = el.index_table(elements)
        for start, numbers, offsets in self._atoms():
            own = _counts(table[numbers], offsets, len(elements))
            counts[start : start + len(own)] = own
        return counts

    def _atoms(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All atoms in pieces: (number of the first conformer, atomic numbers, offsets)."""
        self.check_files()
        for start, end in _chunks(self.offsets):
            offsets = self.offsets[start : end + 1]
            yield start, self.atomic_numbers[offsets[0] : offsets[-1]], offsets - offsets[0]

    @property
    def heavy_atoms(self) -> np.ndarray:
        """(M,) int64: atoms other than hydrogen."""
        return self.n_atoms - self.composition(["H"])[:, 0]

    def formulas(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Formula of each conformer: (M,) int32 index, and the formulas."""
        elements = self.elements
        if not elements:  # conformers without atoms: numpy has no unique rows of no columns
            return np.zeros(len(self), dtype=np.int32), ("",) if len(self) else ()
        table = el.index_table(elements)
        found: dict[bytes, int] = {}
        index = np.zeros(len(self), dtype=np.int32)
        for start, numbers, offsets in self._atoms():
            counts = _counts(table[numbers], offsets, len(elements))
            rows, own = np.unique(counts, axis=0, return_inverse=True)
            places = [found.setdefault(row.tobytes(), len(found)) for row in rows]
            here = slice(start, start + len(counts))
            index[here] = np.array(places, dtype=np.int32)[own.reshape(-1)]
        every = np.array([np.frombuffer(row, dtype=np.int64) for row in found])
        unique, place = np.unique(every.reshape(-1, len(elements)), axis=0, return_inverse=True)
        place = place.reshape(-1).astype(np.int32)
        for piece in _in_pieces(index):
            piece[:] = place[piece]
        atomic = el.numbers_of(elements)
        return index, tuple(el.formula(np.repeat(atomic, row)) for row in unique)

    def by_formula(self) -> Conformers:
        """The same conformers, grouped by formula instead of by the groups of their files."""
        index, names = self.formulas()
        same = replace(self, molecule=index, molecule_names=names, grouped_by="formula")
        same.know_watch(self.check_files)
        return same

    # ---- parts -------------------------------------------------------------------------------

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Conformers:
        """The conformers at ``indices`` (or where a (M,) bool array is true), in that order.

        More than ``VIEW_FROM`` conformers of a store stay on the disk (``ConformersView``).
        """
        index = self.numbers_at(indices)
        if len(index) > VIEW_FROM and self.mapped:
            # Here and not above: a view is a data set too.
            from anipot.data.views import ConformersView

            return ConformersView(self, index)
        return self.gather(index)

    def numbers_at(self, indices: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        """(n,) integers from 0: the conformers that ``indices`` or a (M,) bool array mean."""
        m = len(self)
        if isinstance(indices, slice):
            return np.arange(*indices.indices(m), dtype=np.int32 if m < 2**31 else np.int64)
        index = np.asarray(indices)
        if index.dtype == bool and index.shape == (m,):
            return splits.nonzero(index)
        if index.dtype.kind == "i" and (not len(index) or (index.min() >= 0 and index.max() < m)):
            return index
        numbers: np.ndarray = np.arange(m)[indices]
        return numbers

    def atoms_at(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers of the conformers ``index`` (n,), and their offsets (n+1,)."""
        atoms, offsets = atoms_of(self.offsets, index)
        return self.atomic_numbers[atoms], offsets

    def blocks(self, atoms: int = 1 << 20) -> Iterator[tuple[int, Conformers]]:
        """All conformers in pieces of about so many atoms: (number of the first, the piece)."""
        for start, end in _chunks(self.offsets, atoms):
            yield start, self.gather(slice(start, end))

    def in_memory(self) -> Iterator[tuple[int, int, Conformers]]:
        """All conformers as arrays in memory: (number of the first, of its first atom, the part).

        They are one part, unless this ``streams``: then they are read part by part.
        """
        if not self.streams:
            yield 0, 0, self
            return
        atom = 0
        for start in range(0, len(self), READ_AT_ONCE):
            # By numbers and not as a slice, which would be a map of the file and no copy.
            part = self.gather(np.arange(start, min(start + READ_AT_ONCE, len(self))))
            yield start, atom, part
            atom += part.total_atoms

    def gather(self, index: np.ndarray | slice) -> Conformers:
        """As ``take``, always as arrays in memory (of a slice: views of these arrays)."""
        self.check_files()
        atoms: np.ndarray | slice
        if isinstance(index, slice):
            first, last, _ = index.indices(len(self))
            offsets = self.offsets[first : last + 1] - self.offsets[first]
            atoms = slice(int(self.offsets[first]), int(self.offsets[last]))
        else:
            atoms, offsets = atoms_of(self.offsets, index)

        def per_conformer(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index]

        def per_atom(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[atoms]

        # Parts of what has been checked are not checked again: this is done for every batch.
        part = object.__new__(Conformers)
        part.__dict__.update({f.name: getattr(self, f.name) for f in fields(Conformers)})
        part.__dict__.update(
            atomic_numbers=self.atomic_numbers[atoms],
            coordinates=self.coordinates[atoms],
            offsets=offsets,
            energies=per_conformer(self.energies),
            forces=per_atom(self.forces),
            cells=per_conformer(self.cells),
            pbc=per_conformer(self.pbc),
            stress=per_conformer(self.stress),
            molecule=self.molecule[index],
            masks={label: mask[index] for label, mask in self.masks.items()},
        )
        return part

    def select(
        self,
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
        keep = np.ones(len(self), dtype=bool)
        known = None if elements is None else el.parse_elements(elements)
        least, most = heavy_atoms if isinstance(heavy_atoms, tuple) else (0, heavy_atoms)
        for start, part in self.blocks() if (known, heavy_atoms) != (None, None) else ():
            mine = keep[start : start + len(part)]
            if known is not None:
                mine &= part.composition(known).sum(axis=1) == part.n_atoms
            if most is not None:
                heavy = part.heavy_atoms
                mine &= (heavy >= least) & (heavy <= most)
        if molecules is not None:
            wanted = np.zeros(len(self.molecule_names), dtype=bool)
            wanted[self.molecule_indices(molecules)] = True
            keep &= self.of_molecules(wanted)
        if max_energy is not None:
            if self.energies is None:
                raise DataError("max_energy needs energies, and this data set has none")
            keep &= self.relative_energies() <= max_energy
        if per_molecule is not None:
            order = np.random.default_rng(seed).permutation(splits.nonzero(keep))
            keep[:] = False
            taken = np.zeros(len(self.molecule_names), dtype=np.int64)
            for piece in _in_pieces(order, ROWS):
                groups = self._molecules_at(piece)
                keep[piece[taken[groups] + _ranks(groups) < per_molecule]] = True
                taken += np.bincount(groups, minlength=len(taken))
        if not keep.any():
            raise DataError(f"no conformer of {len(self):,} meets the selection")
        return self.take(keep)

    def relative_energies(self) -> np.ndarray:
        """(M,) kcal/mol above the lowest conformer of the same molecule and formula.

        NaN without label. Raises DataError when there are no energies at all.
        """
        if self.energies is None:
            raise DataError("this data set has no energies")
        group, names = self.formulas()  # of formulas, and below of these and molecules together
        found: dict[int, int] = {}
        for here, molecule in self._rows("molecule"):
            group[here] = number_groups(molecule.astype(np.int64) * len(names) + group[here], found)
        lowest = np.full(len(found), np.inf)
        above = np.empty(len(self))
        for here, energies in self._rows("energies"):
            above[here] = energies
            there = np.isfinite(energies)
            np.minimum.at(lowest, group[here][there], energies[there])
        for here, _ in self._rows("molecule"):
            above[here] -= lowest[group[here]]
            above[here] *= HARTREE_TO_KCALMOL
        return above

    def molecule_indices(self, names: Iterable[str]) -> np.ndarray:
        """Indices in ``molecule_names`` of molecules given by name.

        A name may be the whole group path of the file or its last part, where that is unique.
        Raises DataError for a molecule that is not there, naming the nearest.
        """
        whole = {name: i for i, name in enumerate(self.molecule_names)}
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
                    f"molecule {name!r} {what}"
                    + (f"; did you mean {', '.join(near)}?" if near else "")
                )
            found.append(matches[0])
        return np.array(found, dtype=np.int64)

    def without_conformers(self, indices: np.ndarray) -> list[str]:
        """Names of those of the molecules that have no conformer here (any more)."""
        there = self.molecules_of(slice(None))
        return [self.molecule_names[i] for i in indices[~np.isin(indices, there)]]

    # ---- splits ------------------------------------------------------------------------------

    def groups(self, by: str) -> np.ndarray | None:
        """(M,) group of each conformer for a split by ``"molecule"`` or ``"formula"``.

        None by ``"conformer"``, where every conformer is its own.
        """
        if by == "conformer":
            return None
        if by == "molecule":
            return self.molecule
        if by == "formula":
            return self.formulas()[0]
        raise SettingsError(f"split by {by!r}; known: conformer, molecule, formula")

    def split(self, *parts: splits.Part, seed: int = 0, by: str = "conformer") -> list[Conformers]:
        """Disjoint parts, for example ``train, val, test = data.split(0.8, 0.1, 0.1, seed=0)``.

        ``parts`` are fractions, numbers of conformers, or None for the rest. ``by="molecule"``
        keeps all conformers of a molecule (a group of the file) in one part, ``by="formula"``
        those of a formula. Raises DataError when the first part lacks an element that another one
        has.
        """
        indices = self.split_indices(*parts, seed=seed, by=by)
        return [self.take(i) for i in indices]

    def split_indices(
        self, *parts: splits.Part, seed: int = 0, by: str = "conformer"
    ) -> list[np.ndarray]:
        """As ``split``, but the index arrays (n_k,) of the parts, to be saved with a run."""
        group = self.groups(by)
        if group is None:
            indices = splits.by_conformer(len(self), parts, seed)
        else:
            indices = splits.by_group(group, parts, seed)
        self.check_elements(indices[0], *indices[1:])
        return indices

    def split_molecules(self, *held_out: Iterable[str]) -> list[np.ndarray]:
        """Index arrays (n_k,): the conformers of no list, then those of each list of molecules.

        ``train, val, test = data.split_molecules(validation_names, test_names)``. Raises
        DataError for a molecule that is not there (or whose conformers a selection left out) or
        stands in two lists, for a training part without conformers, and when it lacks an element.
        """
        lists = [self.molecule_indices(names) for names in held_out]
        for indices in lists:
            empty = self.without_conformers(indices)
            if empty:
                raise DataError(
                    f"no conformer of {', '.join(map(repr, empty))} is left in this data, so it "
                    "cannot be held out; take it off the list, or select more conformers"
                )
        part = np.zeros(len(self.molecule_names), dtype=np.int64)
        for k, indices in enumerate(lists, start=1):
            twice = indices[(part[indices] != 0) & (part[indices] != k)]
            if len(twice):
                name = self.molecule_names[twice[0]]
                raise DataError(f"molecule {name!r} stands in two lists of the split")
            part[indices] = k
        home = np.empty(len(self), dtype=np.int16 if len(lists) < 1 << 15 else np.int64)
        for here, molecule in self._rows("molecule"):
            home[here] = part[molecule]
        split = [splits.nonzero(home == k) for k in range(len(lists) + 1)]
        if not len(split[0]):
            raise DataError("the lists hold every molecule: nothing is left to train on")
        self.check_elements(split[0], *split[1:])
        return split

    def folds(
        self, k: int, seed: int = 0, by: str = "conformer"
    ) -> Iterator[tuple[Conformers, Conformers]]:
        """k pairs (training part, held-out part); every conformer is held out once."""
        for train, held_out in splits.folds(len(self), k, seed, self.groups(by)):
            self.check_elements(train, held_out)
            yield self.take(train), self.take(held_out)

    def check_elements(self, train: np.ndarray, *others: np.ndarray) -> None:
        """Raise DataError when the conformers ``train`` lack an element that ``others`` contain."""
        known = self.elements_of(train)
        if known == self.elements:
            return
        for other in others:
            lacking = [e for e in self.elements_of(other) if e not in known]
            if lacking:
                raise DataError(
                    f"no training conformer contains {', '.join(lacking)}, but a validation or "
                    "test conformer does: its network would never be trained. Use another seed "
                    "or split, or select(elements=...) first"
                )

    # ---- together, out, identity ---------------------------------------------------------------

    @staticmethod
    def concatenate(parts: Sequence[Conformers]) -> Conformers:
        """All conformers of several data sets, in order. Molecules of equal name become one.

        A label that only some parts have gets a mask. Raises DataError when there is no part, when
        levels of theory are known and differ, or when some parts are grouped by molecule and
        others by formula. Where the level of theory of some parts is unknown, so is that of the
        whole, and a warning names the files.
        """
        if len(parts) == 1:
            return parts[0]
        joined = Joined(parts)
        arrays: dict[str, Any] = {c: np.concatenate(list(joined.pieces(c))) for c in joined.columns}
        masks = {label: arrays.pop(f"mask_{label}") for label in joined.masks}
        return Conformers(**arrays, **joined.about, masks=masks)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file that ``load_dataset`` reads back without loss.

        Atomic: all or nothing. Raises SettingsError for another suffix.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise SettingsError(f"a data set is saved as .npz, not {path.name!r}")
        arrays = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        arrays |= {f"mask_{label}": mask for label, mask in self.masks.items()}
        about = {
            "format": FORMAT,
            "molecule_names": self.molecule_names,
            "grouped_by": self.grouped_by,
            "level_of_theory": self.level_of_theory,
            "sources": self.sources,
            "dropped": self.dropped,
            "not_read": self.not_read,
            "file_units": self.file_units,
        }
        text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, about=text, **arrays)

    @staticmethod
    def load(path: str | Path) -> Conformers:
        """Read what ``save`` wrote. Raises DataError for anything else."""
        try:
            with open_archive(Path(path)) as archive:
                arrays: dict[str, Any] = {name: archive[name] for name in archive.headers}
            about = json.loads(arrays.pop("about").tobytes())
            if about.pop("format") != FORMAT:
                raise KeyError("format")
            masks = {n[5:]: arrays.pop(n) for n in list(arrays) if n.startswith("mask_")}
            for name, array in arrays.items():
                if array.dtype.kind not in _KINDS.get(name, "f"):
                    raise TypeError(f"{name!r} is of type {array.dtype}")
            if not isinstance(about["dropped"], int) or about["grouped_by"] not in _GROUPED_BY:
                raise ValueError(f"dropped {about['dropped']!r}, grouped {about['grouped_by']!r}")
            about["level_of_theory"] = str(about["level_of_theory"])
            for name in ("molecule_names", "sources", "not_read"):
                about[name] = tuple(str(text) for text in about.get(name, ()))
            given = dict(about.get("file_units", {}))
            about["file_units"] = {str(kind): str(unit) for kind, unit in given.items()}
            return Conformers(**arrays, **about, masks=masks)
        except DataError as e:
            raise e if str(path) in str(e) else DataError(f"{path}: {e}") from e
        except (*BROKEN, AttributeError) as e:
            raise DataError(f"{path}: not a data set saved by anipot, or damaged ({e})") from e

    def content_hash(self) -> str:
        """sha256 of everything a training and its split depend on (not of names and sources)."""
        known: str | None = self.__dict__.get("_known_hash")
        if known is not None:
            return known
        digest = hashlib.sha256()
        for name in ARRAYS:
            digest.update(name.encode())
            for k, piece in enumerate(self._pieces(name)):
                if k == 0:
                    digest.update(str(piece.dtype).encode())
                digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array in one piece or more; nothing where there is none."""
        self.check_files()
        array = getattr(self, name)
        if array is not None:
            yield array

    def _rows(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """An array with a row for each conformer, a piece at a time: (its rows, the piece)."""
        start = 0
        for whole in self._pieces(name):
            for piece in _in_pieces(whole, ROWS):
                yield slice(start, start + len(piece)), piece
                start += len(piece)

    def of_molecules(self, wanted: np.ndarray) -> np.ndarray:
        """(M,) bool: which conformers are of molecules that ``wanted`` has true."""
        mine = np.empty(len(self), dtype=bool)
        for here, molecule in self._rows("molecule"):
            mine[here] = wanted[molecule]
        return mine

    def _molecules_at(self, index: np.ndarray) -> np.ndarray:
        """(n,) the molecules of the conformers ``index`` (n,)."""
        return self.molecule[index]

    def identity(self) -> str:
        """``content_hash``, or for a part of a store, quicker, a hash of that and of the part."""
        return self.content_hash()

    def check_files(self) -> None:
        """Raise DataError where the files that are mapped here have changed since they were opened.

        Called whenever conformers are read from them.
        """
        watch: Callable[[], None] | None = self.__dict__.get("_watch")
        if watch is not None:
            watch()

    def know_watch(self, watch: Callable[[], None]) -> None:
        """Tell how to see whether the files that are mapped here have changed."""
        self.__dict__["_watch"] = watch

    def know_hash(self, content_hash: str) -> None:
        """Tell the content hash of data that cannot change any more: files mapped read-only."""
        self.__dict__["_known_hash"] = content_hash


def check_conformers(given: object, who: str) -> None:
    """Raise DataError, with the way out, unless ``given`` to ``who`` are Conformers."""
    if not isinstance(given, Conformers):
        raise DataError(
            f"{who} takes Conformers, not {type(given).__name__}: make them of arrays with "
            "anipot.Conformers(atomic_numbers, coordinates, [0, number of atoms]), or read a file "
            "with anipot.load_dataset"
        )


def isolated_atoms(conformers: Conformers) -> np.ndarray:
    """(M,) bool: which conformers are a single atom with an energy, without a periodic cell."""
    single = (conformers.n_atoms == 1) & conformers.has("energies")
    if single.any() and conformers.pbc is not None:
        index = np.flatnonzero(single)
        single[index] = ~np.asarray(conformers.pbc[index]).any(axis=1)
    return np.asarray(single)


def number_groups(group: np.ndarray, found: dict[int, int]) -> np.ndarray:
    """``group`` (n,) numbered as they are found; ``found`` has the numbers, and gets new ones.

    Pieces of long data numbered one after the other need no memory for the whole.
    """
    values, own = np.unique(group, return_inverse=True)
    numbers = [found.setdefault(value, len(found)) for value in values.tolist()]
    return np.array(numbers, dtype=np.int64)[own.reshape(-1)]


def _ranks(groups: np.ndarray) -> np.ndarray:
    """(n,) how many of the same group stand before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.flatnonzero(np.append(len(order) > 0, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(first, len(order)))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(first, counts)
    return ranks


def _chunks(offsets: np.ndarray, atoms: int = 1 << 18) -> Iterator[tuple[int, int]]:
    """Runs of conformers (start, end) of about ``atoms`` atoms each: bounds the memory."""
    start, m = 0, len(offsets) - 1
    while start < m:
        end = int(np.searchsorted(offsets, offsets[start] + atoms, side="right")) - 1
        end = min(max(end, start + 1), m)
        yield start, end
        start = end


def _counts(index: np.ndarray, offsets: np.ndarray, elements: int) -> np.ndarray:
    """(m, E) int64: how many atoms of each conformer have which ``index`` below ``elements``."""
    width = elements + 1  # the last column collects what has none (-1)
    conformer = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    cell = conformer * width + np.where(index < 0, elements, index)
    found = np.bincount(cell, minlength=(len(offsets) - 1) * width).reshape(-1, width)
    return found[:, :-1]


def _in_pieces(array: np.ndarray, rows: int = 1 << 20) -> Iterator[np.ndarray]:
    """An array in pieces, without copies: bounds the memory."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def atoms_of(offsets: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The atoms of the conformers ``index`` (n,), and their offsets (n+1,) among these."""
    first = offsets[index]
    counts = offsets[index + 1] - first
    own = np.zeros(len(index) + 1, dtype=np.int64)
    np.cumsum(counts, out=own[1:])
    return np.repeat(first - own[:-1], counts) + np.arange(own[-1]), own
