"""ConformersView: some conformers of a data set on the disk, without a copy of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from anipot.data.concatenation import PER_ATOM
from anipot.data.conformers import Conformers, atoms_of

#: Conformers that are gathered at once.
PIECE = 1 << 14


class ConformersView(Conformers):
    """The conformers at ``index`` (n,) of ``base``, in that order.

    A data set like any other, whose arrays are there for all who ask for them; but then they are
    gathered into memory, and stay there. ``blocks``, ``gather``, ``take``, ``has`` and what works
    with these (batches, self energies, hashes, splits) hold no more than a piece of it.
    """

    base: Conformers
    index: np.ndarray

    def __new__(cls, *given: Any, **arrays: Any) -> Any:
        if arrays:  # dataclasses.replace: what gets an array of its own is no view
            return Conformers(**arrays)
        return object.__new__(cls)

    def __init__(self, base: Conformers, index: np.ndarray) -> None:
        about = (
            "molecule_names", "grouped_by", "level_of_theory", "sources", "dropped", "not_read",
            "file_units",
        )  # fmt: skip
        self.__dict__.update({name: getattr(base, name) for name in about})
        self.__dict__.update(base=base, index=index)

    # ---- piece by piece ------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.index)

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array of the view, a piece at a time; nothing where the base has none."""
        self.check_files()
        array, offsets = getattr(self.base, name), self.base.offsets
        before = 0
        for start in range(0, len(self), PIECE) if array is not None else ():
            index = self.index[start : start + PIECE]
            if name in PER_ATOM:
                yield array[atoms_of(offsets, index)[0]]
            elif name == "offsets":
                own = np.cumsum(offsets[index + 1] - offsets[index]) + before
                before = int(own[-1])
                yield own if start else np.concatenate([[0], own])
            else:
                yield array[index]

    def check_files(self) -> None:
        self.base.check_files()

    def gather(self, index: np.ndarray | slice) -> Conformers:
        return self.base.gather(self.index[index])

    def atoms_at(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.base.atoms_at(self.index[index])

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Conformers:
        return self.base.take(self.index[self.numbers_at(indices)])

    def blocks(self, atoms: int = 1 << 18) -> Iterator[tuple[int, Conformers]]:
        average = max(self.base.total_atoms // max(len(self.base), 1), 1)
        step = max(atoms // average, 1)
        for start in range(0, len(self), step):
            yield start, self.gather(slice(start, start + step))

    def has(self, label: str) -> np.ndarray:
        mask = self.base.masks.get(label)
        if mask is None or getattr(self.base, label) is None:
            return np.broadcast_to(getattr(self.base, label) is not None, len(self))
        return mask[self.index]

    def has_at(self, label: str, index: np.ndarray) -> np.ndarray:
        return self.base.has_at(label, self.index[index])

    def content_hash(self) -> str:
        found = super().content_hash()
        self.know_hash(found)  # the files are read-only
        return found

    def identity(self) -> str:
        digest = hashlib.sha256(self.base.identity().encode())
        for start in range(0, len(self), 1 << 20):
            digest.update(self.index[start : start + (1 << 20)].astype("<i8").data)
        return digest.hexdigest()

    def _atoms(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for start in range(0, len(self), PIECE):
            yield start, *self.base.atoms_at(self.index[start : start + PIECE])

    @cached_property
    def elements(self) -> tuple[str, ...]:
        return self.base.elements_of(self.index)

    def elements_of(self, indices: np.ndarray | slice) -> tuple[str, ...]:
        return self.base.elements_of(self.index[indices])

    def molecules_of(self, indices: np.ndarray | slice) -> np.ndarray:
        return self.base.molecules_of(self.index[indices])

    def _molecules_at(self, index: np.ndarray) -> np.ndarray:
        return self.base.molecule[self.index[index]]

    def describe(self, index: int, first: int = 0) -> str:
        number = int(index)
        return self.gather(slice(number, number + 1)).describe(0, first + number)

    def by_formula(self) -> Conformers:
        # With the formulas of these conformers alone; those of the others are never looked at.
        index, names = self.formulas()
        molecule = np.zeros(len(self.base), dtype=np.int32)
        molecule[self.index] = index
        base = replace(self.base, molecule=molecule, molecule_names=names, grouped_by="formula")
        base.know_watch(self.check_files)
        return ConformersView(base, self.index)

    @property
    def mapped(self) -> bool:
        return True

    @cached_property
    def periodic(self) -> bool:
        return any(bool(piece.any()) for piece in self._pieces("pbc"))

    @property
    def nbytes(self) -> int:
        """About the bytes that the arrays would have in memory."""
        return self.base.nbytes * len(self) // max(len(self.base), 1)

    @cached_property
    def total_atoms(self) -> int:
        last = 0
        for piece in self._pieces("offsets"):
            last = int(piece[-1])
        return last

    @property
    def n_atoms(self) -> np.ndarray:
        return np.diff(self.offsets)

    # ---- whole arrays --------------------------------------------------------------------------

    def _whole(self, name: str) -> Any:
        pieces = list(self._pieces(name))
        return np.concatenate(pieces) if pieces else None

    atomic_numbers = cached_property(lambda self: self._whole("atomic_numbers"))
    coordinates = cached_property(lambda self: self._whole("coordinates"))
    offsets = cached_property(lambda self: self._whole("offsets"))
    energies = cached_property(lambda self: self._whole("energies"))
    forces = cached_property(lambda self: self._whole("forces"))
    cells = cached_property(lambda self: self._whole("cells"))
    pbc = cached_property(lambda self: self._whole("pbc"))
    stress = cached_property(lambda self: self._whole("stress"))
    molecule = cached_property(lambda self: self._whole("molecule"))

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return {label: mask[self.index] for label, mask in self.base.masks.items()}
