"""Checks of coordinates and cells before AEVs are computed, and completion of cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anipot.data.batches import Batch
from anipot.errors import DataError

#: Volume of a cell over the product of its edges, below which the cell is flat (as rounding leaves
#: it).
FLAT_CELL = 1e-6

#: Atoms per cubic angstrom that no matter has: ten times those of hydrogen at 500 GPa, 45 times
#: those of diamond. It bounds the neighbours of an atom, and so the time that an AEV takes.
DENSEST = 8.0

#: Neighbours that an atom may have in any case, however small the cutoff.
FEW_NEIGHBORS = 1000

#: Images that a periodic conformer may have, the atoms themselves included: some 500 MB.
MOST_IMAGES = 5_000_000


def most_neighbors(cutoff: float) -> int:
    """Neighbours within ``cutoff`` angstrom that an atom may have in any engine."""
    return max(FEW_NEIGHBORS, int(DENSEST * 4 / 3 * math.pi * cutoff**3))


def crowded(which: str, cutoff: float) -> DataError:
    """The error for a conformer with an atom that has more neighbours than that."""
    return DataError(
        f"{which} has an atom with more than {most_neighbors(cutoff):,} neighbours within "
        f"{cutoff:g} angstrom, images included; no matter has {DENSEST:g} atoms per cubic "
        "angstrom. Check the unit of the coordinates and of the cell (angstrom)"
    )


def too_many_images(which: str) -> DataError:
    """The error for a periodic conformer with more than MOST_IMAGES images within the cutoff."""
    return DataError(
        f"{which} has a cell so small or so flat that its atoms have more than {MOST_IMAGES:,} "
        "images within the cutoff; check the unit of the cell (angstrom), or use shorter lattice "
        "vectors of the same lattice"
    )


def check_crowding(batch: Batch, i: Tensor, j: Tensor, cutoff: float) -> None:
    """Raise DataError where an atom has more neighbours than it may have.

    ``i`` and ``j`` (P,) are the rows of pairs within ``cutoff``, each pair given once.
    """
    most = most_neighbors(cutoff)
    if 2 * len(i) <= most:  # an atom and its own image count twice
        return
    n = len(batch.species)
    too_many = torch.bincount(i, minlength=n) + torch.bincount(j, minlength=n) > most
    if too_many.any():
        b = int(batch.conformer[too_many].min())
        raise crowded(f"conformer {int(batch.index[b])}", cutoff)


def check_finite(batch: Batch, coordinates: Tensor, cells: Tensor | None) -> None:
    """Raise DataError, with the conformer's number, for a coordinate or cell that is not finite."""
    finite = torch.isfinite(coordinates).all(1)
    if not finite.all():
        row = int(torch.nonzero(~finite)[0])
        b = int(batch.conformer[row])
        atom = int(batch.atoms[row] - batch.offsets[b])
        raise DataError(
            f"atom {atom} of conformer {int(batch.index[b])} has coordinates "
            f"{coordinates[row].tolist()}; they must be finite numbers of angstrom"
        )
    if cells is None or batch.pbc is None:
        return
    finite = (torch.isfinite(cells).all(2) | ~batch.pbc).all(1)
    if not finite.all():
        b = int(torch.nonzero(~finite)[0])
        raise DataError(
            f"the cell of conformer {int(batch.index[b])} is {cells[b].tolist()}; lattice "
            "vectors must be finite numbers of angstrom"
        )


def periodic_conformers(batch: Batch, cells: Tensor | None) -> Tensor | None:
    """(B,) bool: the conformers that are periodic in any direction; None where there is none."""
    if batch.pbc is None:
        return None
    periodic = batch.pbc.any(1)
    if not periodic.any():
        return None
    if cells is None:
        b = int(torch.nonzero(periodic)[0])
        raise DataError(
            f"conformer {int(batch.index[b])} is periodic but has no cell; give cells, or pbc=False"
        )
    return periodic


def completed_cells(batch: Batch, cells: Tensor, chosen: Tensor) -> Tensor:
    """(K, 3, 3) float64: cells of ``chosen`` (K,), with unit vectors in open directions.

    Whatever stands in a direction that is not periodic is replaced by a unit vector at right angles
    to the periodic ones, so that heights and wrapping concern the periodic directions alone. Raises
    DataError for a cell whose periodic vectors are zero or depend on one another.
    """
    assert batch.pbc is not None
    pbc = batch.pbc[chosen]
    cell = torch.where(pbc[:, :, None], cells[chosen].double(), 0.0)
    edges = cell.norm(dim=2)
    unit = cell / edges.clamp(min=torch.finfo(torch.float64).tiny)[:, :, None]
    for axis in range(3):
        following, last = (axis + 1) % 3, (axis + 2) % 3
        # With one open direction, the cross product; with two, first any vector at right angles to
        # the only one that there is: from the Cartesian axis it is least along.
        only = unit.sum(1)
        least = torch.nn.functional.one_hot(only.abs().argmin(1), 3).to(only.dtype)
        one = pbc.sum(1) == 1
        a = torch.where(one[:, None] & ~pbc[:, axis, None], only, unit[:, following])
        b = torch.where(one[:, None] & ~pbc[:, axis, None], least, unit[:, last])
        normal = torch.linalg.cross(a, b)
        normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-300)
        fill = ~pbc[:, axis]
        unit[:, axis] = torch.where(fill[:, None], normal, unit[:, axis])
        pbc = pbc | (fill[:, None] & (torch.arange(3, device=pbc.device) == axis))
        edges[:, axis] = torch.where(fill, 1.0, edges[:, axis])
    flat = torch.linalg.det(unit).abs() < FLAT_CELL
    if flat.any():
        k = int(torch.nonzero(flat)[0])
        raise DataError(
            f"the cell of conformer {int(batch.index[chosen[k]])} has no volume: its periodic "
            f"lattice vectors in {cells[chosen[k]].tolist()} are zero or lie in a plane; mend the "
            "cell, or set pbc to False in the directions that are not periodic"
        )
    return unit * edges[:, :, None]
