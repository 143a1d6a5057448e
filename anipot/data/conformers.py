"""Conformers: the data set type of anipot. Flat arrays, no padding, nothing hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from anipot import elements as el
from anipot.data import arrays, selection, splits
from anipot.data.concatenation import Joined
from anipot.data.labels import (
    ARRAYS,
    check_shapes,
    columns_of,
    content_hash,
    fields_of,
    labels,
    per_atom,
)
from anipot.data.npz_file import ABOUT, damaged, read_npz, write_npz
from anipot.data.pieces import ROWS, atoms_of, in_pieces, runs
from anipot.errors import DataError

#: Labels and whether they are per conformer ("M") or per atom ("A").
LABELS = {"energies": "M", "forces": "A", "stress": "M"}

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
    says where it is there; a label without a mask is complete. ``labels`` holds further labels by
    name, as registered in ``anipot.data.labels``. ``grouped_by`` says what the
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
    labels: dict[str, np.ndarray] = field(default_factory=dict)

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
        pairs = zip(in_pieces(self.offsets[:-1]), in_pieces(self.offsets[1:]), strict=True)
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
        for name in self.labels:
            if name in ARRAYS or name not in labels:
                raise DataError(f"{name!r} is not registered in anipot.data.labels.labels")
        further = {k: arrays.reals(v, k, keep_single=True) for k, v in self.labels.items()}
        fix("labels", further)
        check_shapes({name: self.array(name) for name in (*ARRAYS, *self.labels)}, m, a)
        for label, mask in self.masks.items():
            if label not in labels or np.shape(mask) != (m,) or np.asarray(mask).dtype != bool:
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
        return self.elements_of(slice(None))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in columns_of(self).values())

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

    @property
    def total_atoms(self) -> int:
        """A: the atoms of all conformers."""
        return len(self.atomic_numbers)

    @property
    def streams(self) -> bool:
        """Whether this is so much of a store that it is read when needed, never as a whole."""
        return False

    @property
    def mapped(self) -> bool:
        """Whether the arrays are files mapped into memory (a store)."""
        return False

    def array(self, name: str) -> np.ndarray | None:
        """Return an array or a further label by its name; None without it."""
        return getattr(self, name) if name in ARRAYS else self.labels.get(name)

    def has(self, label: str) -> np.ndarray:
        """(M,) bool: which conformers have a label, such as ``"energies"`` or ``"forces"``.

        Read-only where all or none have it: one value that takes no memory for millions.
        """
        mask = self.masks.get(label)
        if mask is None or self.array(label) is None:
            return np.broadcast_to(self.array(label) is not None, len(self))
        return mask

    def has_at(self, label: str, index: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the conformers ``index`` (n,) have a label."""
        if self.array(label) is None:
            return np.zeros(len(index), dtype=bool)
        mask = self.masks.get(label)
        return np.ones(len(index), dtype=bool) if mask is None else mask[index]

    # ---- parts -------------------------------------------------------------------------------

    def replaced(self, **changes: Any) -> Conformers:
        """Return a copy with other values of some fields; a part of a store becomes arrays."""
        return Conformers(**{f.name: getattr(self, f.name) for f in fields(Conformers)} | changes)

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Conformers:
        """Return the conformers at ``indices`` (or where a (M,) bool array is true), in that order.

        Copies; a large part of a store stays on the disk.
        """
        return self.gather(self.numbers_at(indices))

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
        for start, end in runs(self.offsets, atoms):
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

        def rows(name: str, array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[atoms if per_atom(name) else index]

        # Parts of what has been checked are not checked again: this is done for every batch.
        part = object.__new__(Conformers)
        part.__dict__.update({f.name: getattr(self, f.name) for f in fields(Conformers)})
        part.__dict__.update({n: rows(n, getattr(self, n)) for n in ARRAYS if n != "offsets"})
        part.__dict__.update(
            offsets=offsets,
            labels={name: rows(name, array) for name, array in self.labels.items()},
            masks={label: mask[index] for label, mask in self.masks.items()},
        )
        return part

    # ---- compositions, selections, splits ------------------------------------------------------

    elements_of = selection.elements_of
    molecules_of = selection.molecules_of
    describe = selection.describe
    composition = selection.composition
    heavy_atoms = property(selection.heavy_atoms)
    formulas = selection.formulas
    by_formula = selection.by_formula
    select = selection.select
    relative_energies = selection.relative_energies
    molecule_indices = selection.molecule_indices
    without_conformers = selection.without_conformers
    of_molecules = selection.of_molecules
    groups = selection.groups
    split = selection.split
    split_indices = selection.split_indices
    split_molecules = selection.split_molecules
    folds = selection.folds
    check_elements = selection.check_elements

    # ---- together, out, identity ---------------------------------------------------------------

    @staticmethod
    def concatenate(parts: Sequence[Conformers]) -> Conformers:
        """Return the conformers of several data sets, in order. Molecules of equal name become one.

        A label that only some parts have gets a mask. Raises DataError for no part, for different
        levels of theory, or if only some parts are grouped by molecule. If some levels of theory
        are unknown, so is that of the whole, and a warning names the files.
        """
        if len(parts) == 1:
            return parts[0]
        joined = Joined(parts)
        columns = {c: np.concatenate(list(joined.pieces(c))) for c in joined.columns}
        return Conformers(**fields_of(columns), **joined.about)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file that ``load_dataset`` reads back without loss.

        Atomic: all or nothing. Raises SettingsError for another suffix.
        """
        write_npz(Path(path), columns_of(self), {name: getattr(self, name) for name in ABOUT})

    @staticmethod
    def load(path: str | Path) -> Conformers:
        """Read what ``save`` wrote. Raises DataError for anything else."""
        path = Path(path)
        found = read_npz(path)
        try:
            return Conformers(**found)
        except DataError as e:
            raise DataError(f"{path}: {e}") from e
        except TypeError as e:  # an array is missing
            raise damaged(path, e) from e

    def content_hash(self) -> str:
        """sha256 of everything a training and its split depend on (not of names and sources)."""
        return content_hash(self._labels(), self._pieces)

    def _labels(self) -> Sequence[str]:
        """Names of the further labels; does not read them."""
        return list(self.labels)

    def _atoms(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All atoms in pieces: (number of the first conformer, atomic numbers, offsets)."""
        self.check_files()
        for start, end in runs(self.offsets):
            offsets = self.offsets[start : end + 1]
            yield start, self.atomic_numbers[offsets[0] : offsets[-1]], offsets - offsets[0]

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array in one piece or more; nothing where there is none."""
        self.check_files()
        array = self.array(name)
        if array is not None:
            yield array

    def _rows(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """An array with a row for each conformer, a piece at a time: (its rows, the piece)."""
        start = 0
        for whole in self._pieces(name):
            for piece in in_pieces(whole, ROWS):
                yield slice(start, start + len(piece)), piece
                start += len(piece)

    def _molecules_at(self, index: np.ndarray) -> np.ndarray:
        """(n,) the molecules of the conformers ``index`` (n,)."""
        return self.molecule[index]

    def identity(self) -> str:
        """``content_hash``, or for a part of a store, quicker, a hash of that and of the part."""
        return self.content_hash()

    def check_files(self) -> None:
        """Raise DataError if mapped files have changed since they were opened."""


def check_conformers(given: object, who: str) -> None:
    """Raise DataError, with the way out, unless ``given`` to ``who`` are Conformers."""
    if not isinstance(given, Conformers):
        raise DataError(
            f"{who} takes Conformers, not {type(given).__name__}: make them of arrays with "
            "anipot.Conformers(atomic_numbers, coordinates, [0, number of atoms]), or read a file "
            "with anipot.load_dataset"
        )
