"""Cells, periodic directions, stresses and virials of arrays, in the shapes that files have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anipot.data import mapping
from anipot.data.mapping import log
from anipot.errors import DataError

#: Places of xx yy zz yz xz xy in a 3 x 3 matrix.
_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])

#: Stresses further apart than this, relative to the largest component, contradict each other.
_TOLERANCE = 0.02


def find_known(what: str, known: Iterable[str], present: Iterable[str], where: str) -> str | None:
    """The key of ``present`` that is ``known`` in any case; None where there is none.

    For keys that no option names. Raises DataError where there are several.
    """
    found = [key for key in present if key.lower() in known]
    if len(found) > 1:
        raise DataError(
            f"{where} has several keys for the {what}: {mapping.listed(found)}; remove all but one"
        )
    return found[0] if found else None


def numbers_of(values: np.ndarray, what: str) -> np.ndarray:
    """``values`` as finite float64. Raises DataError; ``what`` names them for the message."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{what} holds no real numbers, but the type {values.dtype}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{what} holds a number that is not finite")
    return values


def cells_of(values: np.ndarray, n: int, what: str) -> np.ndarray:
    """Lattice vectors (n, 3, 3), in rows, of n conformers.

    ``values``: (3, 3) or (9,) for all conformers or (n, 3, 3) or (n, 9), or the edges of
    rectangular cells, (3,) or (n, 3). Raises DataError for any other shape.
    """
    values = numbers_of(values, what)
    shape = values.shape
    if shape in ((3, 3), (9,)):
        return np.broadcast_to(values.reshape(3, 3), (n, 3, 3))
    if shape in ((n, 3, 3), (n, 9)) or (shape in ((1, 3, 3), (1, 9))):
        return np.broadcast_to(values.reshape(-1, 3, 3), (n, 3, 3))
    if shape in ((3,), (n, 3), (1, 3)):
        return np.broadcast_to(values.reshape(-1, 1, 3) * np.eye(3), (n, 3, 3))
    raise DataError(
        f"{what} has shape {shape}; a cell of {n} conformers is ({n}, 3, 3) or (3, 3), lattice "
        "vectors in rows"
    )


def pbc_of(values: np.ndarray, n: int, what: str) -> np.ndarray:
    """Periodic directions (n, 3) of n conformers: from (3,), (n, 3), (n,) or one truth value.

    Raises DataError for any other shape and for values that are neither true nor false.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "bfiu" or not np.isin(values, (0, 1)).all():
        raise DataError(f"{what} holds other values than true and false (0 and 1)")
    values = values.astype(bool)
    if values.shape in ((), (1,), (3,), (1, 3), (n, 3)):
        return np.broadcast_to(values, (n, 3))
    if values.shape in ((n,), (n, 1)):
        return np.broadcast_to(values.reshape(n, 1), (n, 3))
    raise DataError(
        f"{what} has shape {values.shape}; periodic directions of {n} conformers are ({n}, 3) or "
        "(3,)"
    )


def matrices_of(values: np.ndarray, n: int, what: str) -> np.ndarray:
    """Stresses or virials (n, 3, 3) of n conformers; NaN stays.

    ``values``: n times 3 x 3, 9, or 6 numbers in Voigt's order (xx yy zz yz xz xy). Raises
    DataError for any other shape.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{what} holds no real numbers, but the type {values.dtype}")
    if values.shape in ((n, 3, 3), (n, 9)) or (n == 1 and values.shape in ((3, 3), (9,))):
        return values.reshape(n, 3, 3).astype(np.float64)
    if values.shape == (n, 6) or (n == 1 and values.shape == (6,)):
        voigt: np.ndarray = values.reshape(n, 6).astype(np.float64)[:, _VOIGT]
        return voigt
    raise DataError(
        f"{what} has shape {values.shape}; that of {n} conformers is ({n}, 3, 3), ({n}, 9) or "
        f"({n}, 6)"
    )


@dataclass
class Box:
    """Cells (n, 3, 3) in angstrom and periodic directions (n, 3); both None for molecules."""

    cells: np.ndarray | None
    pbc: np.ndarray | None

    @classmethod
    def of(cls, cells: np.ndarray | None, pbc: np.ndarray | None, where: str) -> Box:
        """From what a file holds of the two. No ``pbc``: along every lattice vector but zeros.

        Raises DataError for a periodic direction without a lattice vector and for lattice vectors
        in one plane.
        """
        if cells is None:
            if pbc is not None and pbc.any():
                first = int(np.argmax(pbc.any(axis=1)))
                raise DataError(
                    f"{where}, conformer {first}: is periodic, but there is no cell; store it "
                    f"under one of the names {mapping.listed(mapping.CELL_KEYS)}"
                )
            return cls(None, None)
        there = (cells != 0).any(axis=2)
        pbc = there if pbc is None else pbc
        if not pbc.any():
            return cls(None, None)
        if (pbc & ~there).any():
            first = int(np.argmax((pbc & ~there).any(axis=1)))
            raise DataError(
                f"{where}, conformer {first}: is periodic in a direction that has no lattice "
                "vector; give that vector, or make the direction not periodic"
            )
        flat = there.all(axis=1) & (np.abs(np.linalg.det(cells)) < 1e-9)
        if flat.any():
            raise DataError(
                f"{where}, conformer {int(np.argmax(flat))}: its lattice vectors lie in one plane"
            )
        return cls(cells, pbc)

    def stress_from_virial(self, virial: np.ndarray, where: str) -> np.ndarray:
        """Stress dE/dstrain / volume from virials -dE/dstrain. Raises DataError without a cell."""
        volume = np.zeros(len(virial)) if self.cells is None else np.abs(np.linalg.det(self.cells))
        lacks = (volume == 0) & np.isfinite(virial).all(axis=(1, 2))
        if lacks.any():
            raise DataError(f"{where}, conformer {int(np.argmax(lacks))}: has a virial but no cell")
        return -virial / np.where(volume == 0, np.nan, volume)[:, None, None]


def warn_of_contradiction(stress: np.ndarray, other: np.ndarray, where: str) -> None:
    """Log where a stress and the one that follows from the virial beside it differ."""
    size = np.abs(stress).max(axis=(1, 2))
    apart = np.abs(stress - other).max(axis=(1, 2)) > _TOLERANCE * np.maximum(
        size, np.abs(other).max(axis=(1, 2))
    )
    if apart.any():
        log.warning(
            "%s: stress and virial of %d conformers contradict each other (conformer %d first); "
            "the stress is read. Check units and sign: %s and %s",
            where, int(apart.sum()), int(np.argmax(apart)), mapping.keyword("stress_unit"),
            mapping.keyword("stress_sign"),
        )  # fmt: skip
