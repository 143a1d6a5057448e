"""The reference engine: AEVs from torch operations, on any device, differentiable twice.

Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192, eqs. 2 to 4, with NeuroChem's prefactors
0.25 and 2 and theta = acos(0.95 cos). Since cos(theta - s) = cos(theta) cos(s) + sin(theta) sin(s),
no acos is taken, and an angular block is the outer product of a radial and an angular factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from anipot.aev.geometry import check_crowding
from anipot.aev.neighbors import chunk_size, chunks, neighbor_pairs, runs
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch

#: Square of the shortest distance, in angstrom^2: atoms closer than 1e-5 angstrom count as 1e-5
#: apart, and get no derivative along their distance. So coincident atoms give finite numbers.
SHORTEST_SQUARED = 1e-10

#: Triples and pairs handled in one go where no gradient is wanted: what a CPU's cache holds.
TRIPLES_PER_CHUNK = 1 << 15
PAIRS_PER_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class _Constants:
    """Settings as tensors, in shapes that broadcast into the layout of a block."""

    radial_eta: Tensor  # (EtaR, 1)
    radial_shifts: Tensor  # (1, ShfR)
    angular_eta: Tensor  # (EtaA, 1)
    angular_shifts: Tensor  # (1, ShfA)
    zeta: Tensor  # (Zeta, 1)
    cos_shifts: Tensor  # (ShfZ,)
    sin_shifts: Tensor  # (ShfZ,)
    pair_index: Tensor  # (E * E,) block of two neighbour elements


@lru_cache(maxsize=32)
def _constants(settings: AEVSettings, dtype: torch.dtype, device: torch.device) -> _Constants:
    def tensor(values: tuple[float, ...] | list[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    n = settings.n_elements
    # What is kept must be ordinary tensors even when the first call is made in inference mode.
    with torch.inference_mode(False):
        return _Constants(
            radial_eta=tensor(settings.radial_eta)[:, None],
            radial_shifts=tensor(settings.radial_shifts)[None, :],
            angular_eta=tensor(settings.angular_eta)[:, None],
            angular_shifts=tensor(settings.angular_shifts)[None, :],
            zeta=tensor(settings.zeta)[:, None],
            cos_shifts=tensor([math.cos(s) for s in settings.angle_shifts]),
            sin_shifts=tensor([math.sin(s) for s in settings.angle_shifts]),
            pair_index=torch.tensor(
                [settings.pair_index(a, b) for a in range(n) for b in range(n)], device=device
            ),
        )


def aev(settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None) -> Tensor:
    """(N, L) AEVs by row, L = ``settings.length``; no unit.

    ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3), in angstrom, stand in for the batch's
    own, and the AEVs are differentiable in both, twice. float32 or float64, as ``coordinates``.
    Raises DataError, with the conformer's number, for numbers that are not finite, for a flat or
    missing cell, and for more neighbours or images than there may be.
    """
    constants = _constants(settings, coordinates.dtype, coordinates.device)
    cells = None if cells is None else cells.to(coordinates.dtype)
    pairs = neighbor_pairs(batch, coordinates, cells, settings.radial_cutoff)
    vectors = pairs.vectors(batch, coordinates, cells)
    distances = vectors.square().sum(1).clamp(min=SHORTEST_SQUARED).sqrt()

    near = torch.nonzero(distances.detach() <= settings.angular_cutoff)[:, 0]
    i, j = pairs.i.index_select(0, near), pairs.j.index_select(0, near)
    check_crowding(batch, i, j, settings.angular_cutoff)
    radial = _radial(settings, constants, batch, pairs.i, pairs.j, distances)
    angular = _angular(
        settings,
        constants,
        batch,
        i,
        j,
        vectors.index_select(0, near),
        distances.index_select(0, near),
    )
    return torch.cat([radial, angular], dim=1)


def _cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """fc (P,), eq. 2, of distances that do not exceed the cutoff."""
    return torch.cos(distances * (math.pi / cutoff)) * 0.5 + 0.5


def _radial(
    settings: AEVSettings, c: _Constants, batch: Batch, i: Tensor, j: Tensor, distances: Tensor
) -> Tensor:
    """(N, radial_length), eq. 3, from the half list i, j, distances (P,)."""
    n, e, terms = len(batch.species), settings.n_elements, settings.radial_terms
    sums = distances.new_zeros(n * e, terms)
    to_i = i * e + batch.species.index_select(0, j)
    to_j = j * e + batch.species.index_select(0, i)
    step = chunk_size(PAIRS_PER_CHUNK, distances.device)
    step = max(len(i), 1) if distances.requires_grad else step
    # One round even without pairs: a lone atom's AEV has a derivative too, which is 0.
    for start in range(0, max(len(i), 1), step):
        part = slice(start, start + step)
        r = distances[part]
        gaussians = torch.exp(-c.radial_eta * (r[:, None, None] - c.radial_shifts).square())
        values = gaussians * (0.25 * _cutoff(r, settings.radial_cutoff))[:, None, None]
        values = values.view(len(r), terms)
        sums = sums.index_add_(0, to_i[part], values).index_add_(0, to_j[part], values)
    return sums.view(n, e * terms)


def _angular(
    settings: AEVSettings,
    c: _Constants,
    batch: Batch,
    i: Tensor,
    j: Tensor,
    vectors: Tensor,
    distances: Tensor,
) -> Tensor:
    """(N, angular_length), eq. 4, from the half list i, j (P,), vectors (P, 3), distances (P,)."""
    n, e, terms = len(batch.species), settings.n_elements, settings.angular_terms
    blocks = e * (e + 1) // 2
    # Every pair seen from both its atoms, ordered by the atom it is seen from: the neighbours of an
    # atom are a run, and the triples of a neighbour are those with the later ones of its run.
    centre, order = torch.sort(torch.cat([i, j]), stable=True)
    species = batch.species.index_select(0, torch.cat([j, i]).index_select(0, order))
    units = vectors / distances[:, None]
    fc = _cutoff(distances, settings.angular_cutoff)
    seen = torch.cat([units, distances[:, None], fc[:, None]], dim=1)
    back = torch.cat([-units, seen[:, 3:]], dim=1)
    seen = torch.cat([seen, back]).index_select(0, order)  # (2 P, 5): unit vector, distance, fc

    end = torch.cumsum(torch.bincount(centre, minlength=n), 0).index_select(0, centre)
    later = end - torch.arange(1, len(centre) + 1, device=centre.device)
    sums = distances.new_zeros(n * blocks, terms)
    limit = chunk_size(TRIPLES_PER_CHUNK, seen.device)
    limit = int(later.sum()) if seen.requires_grad else limit
    for start, stop, total in chunks(later, limit):
        first, place = runs(later[start:stop], total)
        first += start
        second = first + 1 + place
        pair = species.index_select(0, first) * e + species.index_select(0, second)
        block = centre.index_select(0, first) * blocks + c.pair_index.index_select(0, pair)
        values = _angular_terms(c, seen.index_select(0, first), seen.index_select(0, second))
        sums = sums.index_add_(0, block, values.reshape(total, terms))
    return sums.view(n, blocks * terms)


def _angular_terms(c: _Constants, one: Tensor, two: Tensor) -> Tensor:
    """(T, EtaA, Zeta, ShfA, ShfZ) of triples, from their two neighbours as seen, (T, 5) each."""
    cos = 0.95 * (one[:, :3] * two[:, :3]).sum(1)
    sin = (1 - cos.square()).sqrt()
    # Rounding may leave the base a hair below 0, and a power of 0 has no second derivative that
    # autograd can find.
    base = 0.5 + 0.5 * (cos[:, None] * c.cos_shifts + sin[:, None] * c.sin_shifts)
    base = base.clamp(min=torch.finfo(base.dtype).eps ** 2)
    # exp and log cost a tenth of pow; the error is below the rounding of 1.
    angular = torch.exp(c.zeta * torch.log(base)[:, None, :])  # (T, Zeta, ShfZ)
    mean = 0.5 * (one[:, 3] + two[:, 3])
    radial = torch.exp(-c.angular_eta * (mean[:, None, None] - c.angular_shifts).square())
    radial = radial * (2 * one[:, 4] * two[:, 4])[:, None, None]  # (T, EtaA, ShfA)
    return radial[:, :, None, :, None] * angular[:, None, :, None, :]
