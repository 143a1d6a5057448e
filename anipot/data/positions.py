"""Positions of atoms as float32 holds them: near the origin, whatever the place of a conformer.

A float32 number has 24 bits. Far from the origin they are used up by the place of the conformer,
and none are left for its shape. So conformers are moved in float64 before their coordinates are
rounded: as a whole, and atoms of a crystal by lattice vectors where they lie many cells apart.
"""

from __future__ import annotations

import logging

import numpy as np

from anipot.data.conformers import Conformers
from anipot.errors import DataError

log = logging.getLogger("anipot")

#: Angstrom along an axis up to which a conformer's middle may be off the origin: coordinates are
#: rounded by at most 4e-6 angstrom there, which networks in float32 do not resolve. What lies
#: nearer stays as it is, bit for bit, and that is almost all data.
NEAR = 64.0

#: Angstrom from the conformer's middle, along an axis, up to which an atom may lie in float32.
#: Coordinates are rounded by at most 2^-13 = 1.2e-4 angstrom there. A bond's force constant is some
#: 1000 kcal/mol/angstrom^2: forces are off by up to 0.1 kcal/mol/angstrom, and the energy of a
#: small molecule by about 0.001 kcal/mol. Twice as far, all of it doubles.
FARTHEST = 4096.0

#: Angstrom by which stored coordinates may be rounded without a warning: as at FARTHEST.
RESOLUTION = FARTHEST * 2.0**-25

#: Beyond it no place is known to 0.1 angstrom in float64 either, and no engine computes.
BEYOND = 1e15

#: Lattice vectors that an atom is moved by at most: as in the engines, no digits are left beyond.
FARTHEST_CELL = 1e9


def resolved(conformers: Conformers, first: int = 0, *, warn: bool = True) -> np.ndarray:
    """(A, 3) angstrom: the coordinates, moved where float32 would not resolve them.

    Distances stay what they are, between periodic images too. Where nothing is to be moved it is
    the conformers' own array. ``first`` is the number of the first conformer, for messages. Raises
    DataError for a conformer that is too large for float32. Where the file itself has too few
    digits, which nothing here can mend, a warning says so unless ``warn`` is off.
    """
    x = conformers.coordinates
    # No copy of the data for what is nearly always so. NaN is found by the engines.
    if not len(x) or max(-float(x.min()), float(x.max())) <= NEAR:
        return x
    there = np.flatnonzero(np.diff(conformers.offsets))
    starts = conformers.offsets[there]
    low = np.minimum.reduceat(x, starts).astype(np.float64)
    high = np.maximum.reduceat(x, starts).astype(np.float64)
    far = np.maximum(-low, high).max(1) > NEAR
    there, low, high = there[far], low[far], high[far]
    if warn:
        _warn_of_rounding(conformers, there, np.maximum(-low, high).max(1), first)
    out = x.copy()
    for k, m in enumerate(there.tolist()):
        own = slice(conformers.offsets[m], conformers.offsets[m + 1])
        cell = pbc = None
        if conformers.cells is not None and conformers.pbc is not None:
            cell, pbc = conformers.cells[m], conformers.pbc[m]
        if (pbc is None or not pbc.any()) and _fits(low[k], high[k]):
            middle = low[k] / 2 + high[k] / 2
            if np.abs(middle).max() > NEAR:
                out[own] = x[own] - middle
            continue
        found = near_origin(x[own].astype(np.float64), cell, pbc)
        check_resolved(found, conformers.describe(m, first))
        out[own] = found
    return out


def near_origin(
    x: np.ndarray, cell: np.ndarray | None = None, pbc: np.ndarray | None = None
) -> np.ndarray:
    """``x`` (N, 3) float64 of one conformer, with its middle within NEAR of the origin.

    Atoms of a crystal, with ``cell`` (3, 3) and ``pbc`` (3,), are moved to the images nearest to
    the first atom where that makes a large extent much smaller. Numbers that are not finite, and
    those BEYOND, are left for others to refuse.
    """
    low, high = x.min(0), x.max(0)
    if not np.maximum(-low, high).max() <= BEYOND:
        return x
    if pbc is not None and cell is not None and pbc.any() and (high - low).max() > NEAR:
        images = _nearest_images(x, np.where(pbc[:, None], cell, 0.0).astype(np.float64))
        if np.ptp(images, axis=0).max() < 0.75 * (high - low).max():
            x, low, high = images, images.min(0), images.max(0)
    middle = low / 2 + high / 2
    return x - middle if np.abs(middle).max() > NEAR else x


def check_resolved(x: np.ndarray, which: str) -> None:
    """Raise DataError unless float32 resolves ``x`` (N, 3), as ``near_origin`` leaves it.

    Passes what is not finite, for which the engines have messages of their own.
    """
    largest = float(np.abs(x).max(initial=0.0))
    if largest <= FARTHEST or not np.isfinite(largest):
        return
    if largest > BEYOND:
        raise DataError(
            f"{which} has a coordinate of {largest:g} angstrom, where no place is known to 0.1 "
            "angstrom; check the unit of the coordinates (angstrom), or move the atoms to the "
            "origin"
        )
    raise DataError(
        f"{which} extends over {np.ptp(x, axis=0).max():g} angstrom, and float32 resolves "
        f"{2 * FARTHEST:g}: places would be off by up to {largest * 2.0**-24:.0e} angstrom. Make "
        "two conformers of what lies so far apart, or compute in float64 (anipot.load(..., "
        "dtype='float64'), or train with dtype=float64)"
    )


def _fits(low: np.ndarray, high: np.ndarray) -> bool:
    """Whether a conformer within ``low`` and ``high`` (3,) is small enough, and not BEYOND."""
    return bool((high - low).max() <= 2 * FARTHEST and np.maximum(-low, high).max() <= BEYOND)


def _nearest_images(x: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """``x`` moved by whole vectors of ``lattice`` (3, 3; zeros in open directions)."""
    if not np.isfinite(lattice).all():
        return x  # an engine says so
    shifts = np.rint((x - x[0]) @ np.linalg.pinv(lattice))
    return x - shifts @ lattice if np.abs(shifts).max() <= FARTHEST_CELL else x


def _warn_of_rounding(
    conformers: Conformers, numbers: np.ndarray, largest: np.ndarray, first: int
) -> None:
    dtype = conformers.coordinates.dtype.type
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite
        # Half of the distance of neighbouring numbers, in the file's precision.
        rounding = np.spacing(largest.astype(dtype)) / 2
    coarse = np.flatnonzero(rounding > RESOLUTION)
    if not len(coarse):
        return
    k = coarse[0]
    log.warning(
        "%s has coordinates of up to %g angstrom in %s, which rounds them by up to %.0e angstrom "
        "(so it is in %d conformers): these digits are lost; store coordinates near the origin, or "
        "in float64",
        conformers.describe(int(numbers[k]), first),
        largest[k],
        np.dtype(dtype).name,
        rounding[k],
        len(coarse),
    )
