"""What must hold of coordinates and cells before AEVs are computed, and cells made whole."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.batches import Batch
from anipot.errors import DataError

#: Volume of a cell over the product of its edges, below which the cell is flat (as rounding leaves
#: it).
FLAT_CELL = 1e-6


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
