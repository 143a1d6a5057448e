"""Conformers on the disk: a whole store, and a large part of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.data.labels import per_atom
from anipot.data.npz_file import ABOUT
from anipot.data.pieces import atoms_of
from anipot.errors import DataError

#: Parts of a store with more conformers than this stay on the disk.
VIEW_FROM = 1 << 16

#: Conformers that are gathered at once.
PIECE = 1 << 14


class StoredConformers(Conformers):
    """All conformers of a store, whose arrays are files mapped into memory."""

    @classmethod
    def of(
        cls, arrays: dict[str, Any], content_hash: str | None, watch: Callable[[], None]
    ) -> StoredConformers:
        """Make one of the fields of Conformers.

        ``watch`` raises DataError if the files have changed since they were opened; the hash is
        known as long as they have not.
        """
        found = cls(**arrays)
        found.__dict__.update(_hash=content_hash, _watch=watch)
        return found

    @property
    def mapped(self) -> bool:
        return True

    @property
    def streams(self) -> bool:
        return len(self) > VIEW_FROM

    def check_files(self) -> None:
        if "_watch" in self.__dict__:
            self.__dict__["_watch"]()

    @cached_property
    def elements(self) -> tuple[str, ...]:
        return self.elements_of(slice(None))

    def content_hash(self) -> str:
        return self.__dict__.get("_hash") or super().content_hash()

    def take(self, indices: np.ndarray | Sequence[int] | slice) -> Conformers:
        index = self.numbers_at(indices)
        return ConformersView(self, index) if len(index) > VIEW_FROM else self.gather(index)

    def by_formula(self) -> Conformers:
        index, names = self.formulas()
        return self._grouped(index, names)

    def _grouped(self, molecule: np.ndarray, names: tuple[str, ...]) -> StoredConformers:
        return self.replaced(molecule=molecule, molecule_names=names, grouped_by="formula")

    def replaced(self, **changes: Any) -> StoredConformers:
        """As ``Conformers.replaced``; other fields stay on the disk."""
        known = {f.name: getattr(self, f.name) for f in fields(Conformers)}
        return StoredConformers.of(known | changes, None, self.check_files)


class ConformersView(Conformers):
    """The conformers at ``index`` (n,) of a store, in that order.

    ``blocks``, ``gather``, ``take``, ``has`` and what builds on these (batches, self energies,
    hashes, splits) hold only a piece in memory. Arrays that are asked for are gathered as a whole
    and kept.
    """

    base: StoredConformers
    index: np.ndarray

    def __init__(
        self, base: StoredConformers | None = None, index: Any = None, **arrays: Any
    ) -> None:
        if base is None or arrays:  # by dataclasses.replace
            raise DataError(
                "a part of a store cannot be changed in place: use data.replaced(energies=...), "
                "which gathers it into memory"
            )
        self.__dict__.update({name: getattr(base, name) for name in ABOUT})
        self.__dict__.update(base=base, index=index)

    # ---- piece by piece ------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.index)

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array of the view, a piece at a time; nothing where the base has none."""
        self.check_files()
        array, offsets = self.base.array(name), self.base.offsets
        before = 0
        if array is None:
            return
        for start in range(0, len(self), PIECE):
            index = self.index[start : start + PIECE]
            if per_atom(name):
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
        if mask is None or self.base.array(label) is None:
            return np.broadcast_to(self.base.array(label) is not None, len(self))
        return mask[self.index]

    def has_at(self, label: str, index: np.ndarray) -> np.ndarray:
        return self.base.has_at(label, self.index[index])

    def content_hash(self) -> str:
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return super().content_hash()

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
        # With the formulas of these conformers alone; the others are not read.
        index, names = self.formulas()
        molecule = np.zeros(len(self.base), dtype=np.int32)
        molecule[self.index] = index
        return ConformersView(self.base._grouped(molecule, names), self.index)

    @property
    def mapped(self) -> bool:
        return True

    @property
    def streams(self) -> bool:
        return len(self) > VIEW_FROM

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

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        return {name: self._whole(name) for name in self.base.labels}

    def _labels(self) -> Sequence[str]:
        return list(self.base.labels)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return {label: mask[self.index] for label, mask in self.base.masks.items()}
