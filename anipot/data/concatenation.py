"""Several data sets as one, read in pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anipot.data.labels import ARRAYS, labels, per_atom
from anipot.errors import DataError

if TYPE_CHECKING:
    from anipot.data.conformers import Conformers

log = logging.getLogger("anipot")

#: Values for arrays that a part lacks, if not NaN.
_FILL = {"pbc": False, "cells": 0.0}

#: Rows of a piece: bounds the memory.
PIECE = 1 << 20


class Joined:
    """Data sets one after the other, without a copy of them.

    ``about`` are the words of the whole (fields of Conformers that are no arrays), ``columns`` the
    names of its arrays and of the masks (``mask_NAME``) of labels that only some conformers have.
    Molecules of equal name become one. Raises DataError when there is no part, when levels of
    theory are known and differ, or when some parts are grouped by molecule and others by formula.
    Where the level of theory of some parts is unknown, so is that of the whole, and a warning names
    the files.
    """

    def __init__(self, parts: Sequence[Conformers]) -> None:
        if not parts:
            raise DataError("nothing to concatenate")
        self.parts = list(parts)
        if len({p.grouped_by for p in parts}) > 1:
            raise DataError(
                "some data sets are grouped by molecule and others by formula; concatenate "
                "[part.by_formula() for part in parts] instead"
            )
        names = dict.fromkeys(n for p in parts for n in p.molecule_names)
        self._place = {name: i for i, name in enumerate(names)}
        self.about: dict[str, Any] = {
            "molecule_names": tuple(names),
            "grouped_by": parts[0].grouped_by,
            "level_of_theory": _level_of_theory(self.parts),
            "sources": tuple(s for p in parts for s in p.sources),
            "dropped": sum(p.dropped for p in parts),
            "not_read": tuple(dict.fromkeys(key for p in parts for key in p.not_read)),
            "file_units": {
                kind: unit
                for kind, unit in parts[0].file_units.items()
                if all(p.file_units.get(kind) == unit for p in parts)
            },
        }
        more = sorted({name for p in parts for name in p.labels})
        self.columns = [a for a in (*ARRAYS, *more) if any(p.array(a) is not None for p in parts)]
        self.columns += [
            f"mask_{name}"
            for name in self.columns
            if name in labels and not all(p.has(name).all() for p in parts)
        ]

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    @property
    def n_atoms(self) -> int:
        return sum(len(p.atomic_numbers) for p in self.parts)

    def form(self, column: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of an array of the whole."""
        if column.startswith("mask_"):
            return np.dtype(bool), (len(self),)
        arrays = [a for p in self.parts if (a := p.array(column)) is not None]
        rows = self.n_atoms if per_atom(column) else len(self) + (column == "offsets")
        return np.result_type(*(a.dtype for a in arrays)), (rows, *arrays[0].shape[1:])

    def pieces(self, column: str) -> Iterator[np.ndarray]:
        """An array of the whole, at most ``PIECE`` rows at a time, in its type."""
        dtype, (_, *inner) = self.form(column)
        atoms = 0
        if column == "offsets":
            yield np.zeros(1, dtype=np.int64)
        for part in self.parts:
            array: np.ndarray | None = None
            if column.startswith("mask_"):
                array = part.has(column.removeprefix("mask_"))
            elif column == "offsets":
                array = part.offsets[1:]
            else:
                array = part.array(column)
            rows = len(part.atomic_numbers) if per_atom(column) else len(part)
            if array is None:
                fill = np.array(_FILL.get(column, np.nan), dtype)
                array = np.broadcast_to(fill, (rows, *inner))
            own = None
            if column == "molecule":
                own = np.array([self._place[n] for n in part.molecule_names], dtype=np.int32)
            for start in range(0, rows, PIECE):
                piece = array[start : start + PIECE]
                if own is not None:
                    piece = own[piece]
                elif column == "offsets":
                    piece = piece + atoms
                yield np.asarray(piece, dtype=dtype)
            atoms += len(part.atomic_numbers)


def _level_of_theory(parts: Sequence[Conformers]) -> str:
    theories = {p.level_of_theory for p in parts if p.level_of_theory}
    if len(theories) > 1:
        raise DataError(
            f"the data sets are of different levels of theory: {'; '.join(sorted(theories))}. "
            "Their energies do not belong together; if they do, give all parts one level of theory "
            "with part.replaced(level_of_theory=...)"
        )
    unknown = [p for p in parts if not p.level_of_theory]
    if theories and unknown:
        log.warning(
            "the level of theory of %s is unknown, that of %s is %s: whether their energies belong "
            "together cannot be told, and that of all is taken as unknown",
            _sources(unknown), _sources([p for p in parts if p.level_of_theory]), *theories,
        )  # fmt: skip
        return ""
    return next(iter(theories), "")


def _sources(parts: Sequence[Conformers]) -> str:
    """The files of data sets, for a message."""
    names = dict.fromkeys(name for part in parts for name in part.sources or ("data without file",))
    return ", ".join(names)
