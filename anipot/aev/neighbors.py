"""Neighbour pairs of a batch: which atoms, in which periodic images, are closer than a cutoff.

Everything is ragged: candidates are enumerated with ``repeat_interleave`` and ``cumsum``, chunk by
chunk, and each chunk is screened before the next is made, so that memory is bounded by a chunk
and the result. Nothing here carries gradients; engines recompute the vectors of the pairs found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anipot.aev.geometry import (
    MOST_IMAGES,
    check_crowding,
    check_finite,
    completed_cells,
    crowded,
    most_neighbors,
    periodic_conformers,
    too_many_images,
)
from anipot.data.batches import Batch
from anipot.errors import DataError

#: Candidates (pairs, with image) looked at in one go: up to 50 MB of temporaries on a CPU.
CANDIDATES_PER_CHUNK = 1 << 17

#: On a GPU each chunk costs some launches, and wants to be larger by this factor.
GPU_CHUNK = 32

#: Beyond so many cells from the origin a coordinate has no digits left within its cell.
FARTHEST_CELL = 1e9


@dataclass(frozen=True, eq=False)
class Neighbors:
    """P pairs of neighbours, each pair once (half list).

    ===========  =======  ======  ============================================================
    array        shape    type    meaning
    ===========  =======  ======  ============================================================
    ``i``, ``j``  (P,)     int64   rows of the batch
    ``shifts``   (P, 3)   int64   lattice vectors added to atom j; None: no periodic conformer
    ===========  =======  ======  ============================================================

    The vector of a pair is ``x[j] - x[i] + shifts @ cell``. An atom and its own image (``i == j``)
    are a pair too, once for the two images at opposite shifts.
    """

    i: Tensor
    j: Tensor
    shifts: Tensor | None

    def __len__(self) -> int:
        return len(self.i)

    def vectors(self, batch: Batch, coordinates: Tensor, cells: Tensor | None) -> Tensor:
        """(P, 3) angstrom from i to j, differentiable in coordinates (N, 3), cells (B, 3, 3)."""
        # index_select, not indexing: the latter's backward adds up in no fixed order on the CPU.
        vectors = coordinates.index_select(0, self.j) - coordinates.index_select(0, self.i)
        if self.shifts is None or cells is None:
            return vectors
        assert batch.pbc is not None
        # What stands in a direction that is not periodic is no lattice vector, and may be anything.
        lattice = torch.where(batch.pbc[:, :, None], cells, cells.new_zeros(()))
        lattice = lattice.index_select(0, batch.conformer.index_select(0, self.i))
        # No matmul: where TF32 is switched on, it would keep three digits of the coordinates.
        return vectors + (self.shifts.to(cells.dtype)[:, :, None] * lattice).sum(1)


def neighbor_pairs(
    batch: Batch, coordinates: Tensor, cells: Tensor | None, cutoff: float
) -> Neighbors:
    """All pairs of atoms of the same conformer at most ``cutoff`` angstrom apart.

    ``coordinates`` (N, 3) and ``cells`` (B, 3, 3), in angstrom, by row and by conformer, stand in
    for the batch's own. Cells may have any shape, be smaller than the cutoff, and be periodic in
    some directions only; atoms may lie outside their cell. The order of the pairs is a function of
    the input alone. Raises DataError, with the conformer's number, for coordinates or cells that
    are not finite, for a periodic conformer whose cell is missing or flat, and for more neighbours
    or images than there may be (``most_neighbors``, MOST_IMAGES).
    """
    coordinates = coordinates.detach()
    cells = None if cells is None else cells.detach()
    check_finite(batch, coordinates, cells)
    periodic = periodic_conformers(batch, cells)
    if periodic is None:
        i, j = _molecule_pairs(batch, coordinates, cutoff, batch.n_atoms)
        check_crowding(batch, i, j, cutoff)
        return Neighbors(i, j, None)
    assert cells is not None
    alone = torch.where(periodic, 0, batch.n_atoms)
    i, j = _molecule_pairs(batch, coordinates, cutoff, alone)
    i_cell, j_cell, shifts = _periodic_pairs(batch, coordinates, cells, cutoff, periodic)
    pairs = Neighbors(
        torch.cat([i, i_cell]),
        torch.cat([j, j_cell]),
        torch.cat([shifts.new_zeros(len(i), 3), shifts]),
    )
    check_crowding(batch, pairs.i, pairs.j, cutoff)
    return pairs


def _check_part(batch: Batch, rows: Tensor, cutoff: float) -> None:
    """Raise DataError where one of ``rows`` (P,) occurs more often than an atom has neighbours.

    Of a part of the pairs: so that memory runs out for no input.
    """
    most = most_neighbors(cutoff)
    if len(rows) > most:
        row, count = torch.unique(rows, return_counts=True)
        if (count > most).any():
            b = int(batch.conformer[row[count > most]].min())
            raise crowded(f"conformer {int(batch.index[b])}", cutoff)


def runs(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Run (T,) and place in it (T,) of each item of runs of ``lengths`` (K,), ``total`` items."""
    run = torch.repeat_interleave(lengths, output_size=total)
    begin = torch.cumsum(lengths, 0) - lengths
    place = torch.arange(total, device=lengths.device) - begin.index_select(0, run)
    return run, place


def chunks(weights: Tensor, limit: int) -> Iterator[tuple[int, int, int]]:
    """Consecutive ranges (start, stop, sum of weights) of at most ``limit``, or of one item."""
    cumulative = torch.cumsum(weights, 0).cpu()
    start, done = 0, 0
    while start < len(cumulative):
        stop = int(torch.searchsorted(cumulative, done + limit, right=True))
        stop = max(stop, start + 1)
        upto = int(cumulative[stop - 1])
        if upto > done:
            yield start, stop, upto - done
        start, done = stop, upto


def chunk_size(items: int, device: torch.device) -> int:
    """Items to handle in one go on ``device``, where a CPU handles ``items``."""
    return items if device.type == "cpu" else GPU_CHUNK * items


def _molecule_pairs(
    batch: Batch, coordinates: Tensor, cutoff: float, n_atoms: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows (P,), (P,) of pairs without images, in conformers of which ``n_atoms`` (B,) is not 0."""
    conformer = batch.conformer.index_select(0, batch.rows)  # in conformer order from here on
    end = batch.offsets[:-1] + n_atoms
    atom = torch.arange(len(conformer), device=coordinates.device)
    later = (end.index_select(0, conformer) - atom - 1).clamp(min=0)
    x = coordinates.index_select(0, batch.rows)
    found_i, found_j = [atom[:0]], [atom[:0]]
    limit = chunk_size(CANDIDATES_PER_CHUNK, coordinates.device)
    for start, stop, total in chunks(later, limit):
        first, place = runs(later[start:stop], total)
        first += start
        second = first + 1 + place
        vectors = x.index_select(0, second).sub_(x.index_select(0, first))
        near = torch.nonzero(vectors.square_().sum(1) <= cutoff * cutoff)[:, 0]
        found_i.append(first.index_select(0, near))
        found_j.append(second.index_select(0, near))
        _check_part(batch, batch.rows.index_select(0, found_i[-1]), cutoff)
    i, j = torch.cat(found_i), torch.cat(found_j)
    return batch.rows.index_select(0, i), batch.rows.index_select(0, j)


def _periodic_pairs(
    batch: Batch, coordinates: Tensor, cells: Tensor, cutoff: float, periodic: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (P,), (P,) and shifts (P, 3) of the pairs in periodic conformers.

    Along each lattice vector only the images are enumerated that lie between two planes ``cutoff``
    before and behind atom i: a large cell costs little more than a molecule, and for a small one
    no image is missed. Works in float64, because wrapping costs digits.
    """
    assert batch.pbc is not None
    chosen = torch.nonzero(periodic)[:, 0]
    place_of = torch.cumsum(periodic, 0) - 1
    cell = completed_cells(batch, cells, chosen)
    inverse = torch.linalg.inv(cell)
    reach = cutoff * inverse.norm(dim=1)  # cutoff over the distance of the planes

    in_order = batch.conformer.index_select(0, batch.rows)
    atoms = torch.nonzero(periodic.index_select(0, in_order))[:, 0]
    rows = batch.rows.index_select(0, atoms)
    b = place_of.index_select(0, batch.conformer.index_select(0, rows))
    x = coordinates.index_select(0, rows).double()
    fraction = (x[:, :, None] * inverse.index_select(0, b)).sum(1)
    open_ = ~batch.pbc[chosen].index_select(0, b)
    wrap = torch.where(open_, 0.0, fraction.floor())
    far = (wrap.abs() > FARTHEST_CELL).any(1)
    if far.any():
        k = int(torch.nonzero(far)[0])
        raise DataError(
            f"conformer {int(batch.index[chosen[b[k]]])} has an atom at {x[k].tolist()}, too far "
            "outside its cell for its place in the cell to be known; wrap the coordinates"
        )
    fraction -= wrap
    shift_of = wrap.long()
    reach = torch.where(batch.pbc[chosen], reach, 0.0)

    end = torch.cumsum(batch.n_atoms[chosen], 0)
    atom = torch.arange(len(atoms), device=x.device)
    later = end.index_select(0, b) - atom  # an atom and itself are a candidate here
    every = (2 * reach + 1).prod(1) * batch.n_atoms[chosen]
    if (every > MOST_IMAGES).any():
        k = int(torch.nonzero(every > MOST_IMAGES)[0])
        raise too_many_images(f"conformer {int(batch.index[chosen[k]])}")
    # Of a pair, images are enumerated in the product of three ranges; this bounds its size.
    images = (2 * reach).floor().add(1).prod(1).long()
    found = [(rows[:0], rows[:0], shift_of[:0])]
    limit = chunk_size(CANDIDATES_PER_CHUNK, x.device)
    for start, stop, _ in chunks(later * images.index_select(0, b), limit):
        first, place = runs(later[start:stop], int(later[start:stop].sum()))
        first += start
        second = first + place
        of = b.index_select(0, first)
        apart = fraction.index_select(0, second) - fraction.index_select(0, first)
        pair, shifts = _images_within(
            apart, reach.index_select(0, of), open_.index_select(0, first)
        )
        first, second = first.index_select(0, pair), second.index_select(0, pair)
        vectors = apart.index_select(0, pair) + shifts
        cell_of_pair = cell.index_select(0, of.index_select(0, pair))
        vectors = (vectors[:, :, None] * cell_of_pair).sum(1)
        near = vectors.square().sum(1) <= cutoff * cutoff
        # Half of an atom's own images: those whose first shift other than 0 is positive.
        sign = shifts.sign()
        near &= (first != second) | (4 * sign[:, 0] + 2 * sign[:, 1] + sign[:, 2] > 0)
        near = torch.nonzero(near)[:, 0]
        first, second = first.index_select(0, near), second.index_select(0, near)
        shifts = shifts.index_select(0, near)
        shifts += shift_of.index_select(0, first) - shift_of.index_select(0, second)
        found.append((rows.index_select(0, first), rows.index_select(0, second), shifts))
        _check_part(batch, found[-1][0], cutoff)
    i, j, all_shifts = (torch.cat(parts) for parts in zip(*found, strict=True))
    return i, j, all_shifts


def _images_within(apart: Tensor, reach: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
    """The shifts that bring atom j of a pair within ``reach`` planes of atom i, along each vector.

    ``apart`` (K, 3) is the difference of fractional coordinates, ``reach`` (K, 3) the cutoff in
    units of the distance of the planes, ``open_`` (K, 3) true where there are no images. Returns
    the pair (T,) and the shifts (T, 3) int64.
    """
    # The margin covers rounding; what it lets in too much, the distance turns away.
    lowest = torch.where(open_, 0.0, (-reach - apart - 1e-9).ceil()).long()
    highest = torch.where(open_, 0.0, (reach - apart + 1e-9).floor()).long()
    counts = (highest - lowest + 1).clamp(min=0)
    per_pair = counts.prod(1)
    pair, image = runs(per_pair, int(per_pair.sum()))
    counts = counts.index_select(0, pair)
    yz = counts[:, 1] * counts[:, 2]
    steps = [image // yz, image % yz // counts[:, 2], image % counts[:, 2]]
    return pair, lowest.index_select(0, pair) + torch.stack(steps, dim=1)
