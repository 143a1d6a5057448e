"""Outputs: energies, forces and virials of a batch, with a graph to the weights of the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch


class Outputs(NamedTuple):
    """What networks say of a batch of B conformers with N atoms, in one unit of energy.

    ``energies`` (B,) float64; ``forces`` (N, 3) by row, per angstrom; ``virials`` (B, 3, 3)
    float64: stress times volume, the derivative of the energy by a symmetric strain (None without
    cells).
    """

    energies: Tensor
    forces: Tensor | None = None
    virials: Tensor | None = None


def outputs_of(
    networks: Callable[[Tensor], Tensor],
    aev: AEVComputer,
    batch: Batch,
    aevs: Tensor,
    scale: float,
    *,
    derivatives: bool,
    graph: bool = True,
) -> Outputs:
    """Energies, and forces and virials where ``derivatives``, times ``scale``.

    ``networks`` maps AEVs (N, L) to atomic energies (N,). The result is differentiable in the
    weights of the networks if ``graph``. With g = dE/dAEV the forces are -J^T g, whose derivative
    by the weights goes through g alone: no derivative of AEVs beyond the first is ever taken.
    """
    if not derivatives:
        return Outputs(batch.sum_atoms(networks(aevs)) * scale)
    aevs = aevs.detach().requires_grad_()
    with torch.enable_grad():
        atomic = networks(aevs)
        (g,) = torch.autograd.grad(atomic.sum(), aevs, create_graph=graph)
        by_coordinates, by_cells = aev.vjp(batch, g)
    energies = batch.sum_atoms(atomic if graph else atomic.detach()) * scale
    virials = None
    if batch.cells is not None and by_cells is not None:
        outer = batch.coordinates.double()[:, :, None] * by_coordinates.double()[:, None, :]
        virials = torch.zeros_like(batch.cells, dtype=torch.float64)
        virials = virials.index_add(0, batch.conformer, outer)
        virials = virials + batch.cells.double().transpose(1, 2) @ by_cells.double()
        virials = (virials + virials.transpose(1, 2)) * (scale / 2)
    return Outputs(energies, by_coordinates * -scale, virials)
