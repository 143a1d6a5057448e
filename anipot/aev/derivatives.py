"""AEVs, their VJP and their JVP as functions of autograd, each the derivative of the others.

Kernels that know the three are all that an engine needs: what autograd asks for beyond them, the
second derivatives by coordinates and cells, comes from the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anipot.aev import reference
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch


class Kernels(NamedTuple):
    """The three functions of an engine; N atoms by row, L = ``settings.length``. No autograd.

    ``forward(settings, batch, coordinates, cells)``: (N, L) AEVs.
    ``backward(settings, batch, coordinates, cells, gradient, want_cells)``: gradients of
    ``gradient . AEV``, by coordinates (N, 3) and by cells (B, 3, 3), or None.
    ``tangent(settings, batch, coordinates, cells, v_coordinates, v_cells)``: (N, L) derivative of
    the AEVs along tangents, of which either may be None.
    """

    forward: Callable[[AEVSettings, Batch, Tensor, Tensor | None], Tensor]
    backward: Callable[
        [AEVSettings, Batch, Tensor, Tensor | None, Tensor, bool], tuple[Tensor, Tensor | None]
    ]
    tangent: Callable[
        [AEVSettings, Batch, Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor
    ]


def aev(
    kernels: Kernels, settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None
) -> Tensor:
    """(N, L) AEVs, differentiable in coordinates and cells."""
    given = (settings, batch, coordinates, cells)
    if _wants_grad(coordinates, cells):
        found: Tensor = _AEV.apply(kernels, *given)
        return found
    return kernels.forward(*given)


def vjp(
    kernels: Kernels,
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    gradient: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``gradient . AEV``, differentiable in all three."""
    given = (settings, batch, coordinates, cells, gradient, True)
    if _wants_grad(coordinates, cells, gradient):
        found: tuple[Tensor, Tensor | None] = _VectorJacobian.apply(kernels, *given)
        return found
    return kernels.backward(*given)


def jvp(
    kernels: Kernels,
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    v_coordinates: Tensor | None,
    v_cells: Tensor | None,
) -> Tensor:
    """(N, L) derivative of the AEVs along tangents, differentiable in all four."""
    given = (settings, batch, coordinates, cells, v_coordinates, v_cells)
    if _wants_grad(coordinates, cells, v_coordinates, v_cells):
        found: Tensor = _JacobianVector.apply(kernels, *given)
        return found
    return kernels.tangent(*given)


def _wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _AEV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        settings: AEVSettings,
        batch: Batch,
        coordinates: Tensor,
        cells: Tensor | None,
    ) -> Tensor:
        ctx.about = kernels, settings, batch
        ctx.save_for_backward(coordinates, cells)
        return kernels.forward(settings, batch, coordinates, cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coordinates, cells = ctx.saved_tensors
        by_coordinates, by_cells = _VectorJacobian.apply(
            *ctx.about, coordinates, cells, gradient, ctx.needs_input_grad[4]
        )
        return None, None, None, by_coordinates, by_cells


class _VectorJacobian(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        settings: AEVSettings,
        batch: Batch,
        coordinates: Tensor,
        cells: Tensor | None,
        gradient: Tensor,
        want_cells: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.about = kernels, settings, batch
        ctx.save_for_backward(coordinates, cells, gradient)
        ctx.set_materialize_grads(False)
        return kernels.backward(settings, batch, coordinates, cells, gradient, want_cells)

    @staticmethod
    def backward(
        ctx: Any, v_coordinates: Tensor | None, v_cells: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        coordinates, cells, gradient = ctx.saved_tensors
        by_coordinates = by_cells = by_gradient = None
        if v_coordinates is None and v_cells is None:
            return (None,) * 7
        if ctx.needs_input_grad[5]:
            by_gradient = _JacobianVector.apply(
                *ctx.about, coordinates, cells, v_coordinates, v_cells
            ).to(gradient.dtype)
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            by_coordinates, by_cells = _second_derivatives(
                ctx, coordinates, cells, gradient, v_coordinates, v_cells
            )
        return None, None, None, by_coordinates, by_cells, by_gradient, None


class _JacobianVector(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        settings: AEVSettings,
        batch: Batch,
        coordinates: Tensor,
        cells: Tensor | None,
        v_coordinates: Tensor | None,
        v_cells: Tensor | None,
    ) -> Tensor:
        ctx.about = kernels, settings, batch
        ctx.save_for_backward(coordinates, cells, v_coordinates, v_cells)
        return kernels.tangent(settings, batch, coordinates, cells, v_coordinates, v_cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coordinates, cells, v_coordinates, v_cells = ctx.saved_tensors
        by_coordinates = by_cells = by_v_coordinates = by_v_cells = None
        if ctx.needs_input_grad[5] or ctx.needs_input_grad[6]:
            by_v_coordinates, by_v_cells = _VectorJacobian.apply(
                *ctx.about, coordinates, cells, gradient, ctx.needs_input_grad[6]
            )
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            by_coordinates, by_cells = _second_derivatives(
                ctx, coordinates, cells, gradient, v_coordinates, v_cells
            )
        if not ctx.needs_input_grad[5]:
            by_v_coordinates = None
        return None, None, None, by_coordinates, by_cells, by_v_coordinates, by_v_cells


def _second_derivatives(
    ctx: Any,
    coordinates: Tensor,
    cells: Tensor | None,
    gradient: Tensor,
    v_coordinates: Tensor | None,
    v_cells: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives by coordinates and cells of gradient . J . v, through the reference engine."""
    _, settings, batch = ctx.about
    needs = ctx.needs_input_grad[3:5]
    again = torch.is_grad_enabled()  # third derivatives are wanted: keep the graph
    with torch.enable_grad():
        # Views: what ``gradient`` and the tangents owe to the coordinates themselves is no part of
        # these derivatives, and goes to autograd through those.
        x = coordinates.view_as(coordinates) if again else coordinates.detach()
        lattice = cells
        if cells is not None:
            lattice = cells.view_as(cells) if again else cells.detach()
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        if lattice is not None and not lattice.requires_grad:
            lattice = lattice.detach().requires_grad_()
        variables = [t for t in (x, lattice) if t is not None]
        aevs = reference.aev(settings, batch, x, lattice)
        first = torch.autograd.grad(
            aevs, variables, gradient, create_graph=True, allow_unused=True, materialize_grads=True
        )
        total = x.new_zeros(())
        for part, v in zip(first, (v_coordinates, v_cells), strict=False):
            if v is not None:
                total = total + (part * v).sum()
        wanted = [t for t, need in zip((x, lattice), needs, strict=True) if need and t is not None]
        found = iter(
            torch.autograd.grad(
                total, wanted, create_graph=again, allow_unused=True, materialize_grads=True
            )
            if total.requires_grad
            else [torch.zeros_like(t) for t in wanted]
        )
    by_coordinates = next(found) if needs[0] else None
    return by_coordinates, next(found) if needs[1] and cells is not None else None
