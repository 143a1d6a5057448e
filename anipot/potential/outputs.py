"""Outputs: energies, forces and virials of a batch, differentiable in the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch


class Outputs(NamedTuple):
    """Output of the networks for a batch of B conformers with N atoms, in one unit of energy.

    ``energies`` (B,) float64; ``forces`` (N, 3) by row, per angstrom; ``virials`` (B, 3, 3)
    float64, the gradient by a symmetric strain (None without cells).
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
    """Compute energies, and forces and virials if ``derivatives``, times ``scale``.

    ``networks`` maps AEVs (N, L) to atomic energies (N,). The result is differentiable in the
    weights of the networks if ``graph``. With g = dE/dAEV the forces are -J^T g, whose derivative
    by the weights goes through g alone, so that only first derivatives of AEVs are needed.
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
        virials = strain_gradient(batch, by_coordinates, by_cells) * scale
    return Outputs(energies, by_coordinates * -scale, virials)


def strain_gradient(batch: Batch, by_coordinates: Tensor, by_cells: Tensor | None) -> Tensor:
    """Gradient (B, 3, 3), float64, of energies by a symmetric strain of coordinates and cells.

    A strain moves coordinates x and cell vectors h: it is the symmetric part of the sum of the
    outer products of x with dE/dx (N, 3) and of h with dE/dh (B, 3, 3). Divided by the volume it is
    the stress, with ASE's sign.
    """
    assert batch.cells is not None
    outer = batch.coordinates.double()[:, :, None] * by_coordinates.double()[:, None, :]
    found = torch.zeros_like(batch.cells, dtype=torch.float64)
    found = found.index_add(0, batch.conformer, outer)
    if by_cells is not None:
        found = found + batch.cells.double().transpose(1, 2) @ by_cells.double()
    return (found + found.transpose(1, 2)) / 2
