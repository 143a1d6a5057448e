"""The native engine as operators of ``torch.library``, for ``torch.compile`` and ``torch.export``.

``AEVComputer`` uses them where PyTorch traces; elsewhere it calls the engine directly, which is
faster for small systems. Second derivatives by coordinates or cells are not available here.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from anipot.aev import native
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch


@lru_cache(maxsize=32)
def _settings(key: str) -> AEVSettings:
    values: dict[str, Any] = json.loads(key)
    lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return AEVSettings(**values | lists)


def _batch(x: Tensor, offsets: Tensor, rows: Tensor, species: Tensor, pbc: Tensor | None) -> Batch:
    """What the engine reads of a batch."""
    n, none = len(offsets) - 1, rows.new_zeros(0)
    return Batch(
        coordinates=x, species=species, counts=(), conformer=none, rows=rows, atoms=none,
        offsets=offsets, cells=None, pbc=pbc, index=torch.arange(n), data_atoms=none,
    )  # fmt: skip


@torch.library.custom_op("anipot::aev", mutates_args=())
def aev(
    coordinates: Tensor, cells: Tensor | None, offsets: Tensor, rows: Tensor, species: Tensor,
    pbc: Tensor | None, settings: str,
) -> Tensor:  # fmt: skip
    """(N, L) AEVs by row."""
    batch = _batch(coordinates, offsets, rows, species, pbc)
    with torch.no_grad():
        return native.aev(_settings(settings), batch, coordinates, cells)


@torch.library.custom_op("anipot::aev_vjp", mutates_args=())
def aev_vjp(
    gradient: Tensor, coordinates: Tensor, cells: Tensor | None, offsets: Tensor, rows: Tensor,
    species: Tensor, pbc: Tensor | None, settings: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of ``gradient . AEV`` by coordinates (N, 3) and cells, (0, 3, 3) without cells."""
    batch = _batch(coordinates, offsets, rows, species, pbc)
    with torch.no_grad():
        x, h = native.vjp(_settings(settings), batch, coordinates, cells, gradient)
    return x, coordinates.new_zeros(0, 3, 3) if h is None else h


@torch.library.custom_op("anipot::aev_jvp", mutates_args=())
def aev_jvp(
    v_coordinates: Tensor | None, v_cells: Tensor | None, coordinates: Tensor, cells: Tensor | None,
    offsets: Tensor, rows: Tensor, species: Tensor, pbc: Tensor | None, settings: str,
) -> Tensor:  # fmt: skip
    """(N, L) derivative of the AEVs along tangents."""
    batch = _batch(coordinates, offsets, rows, species, pbc)
    with torch.no_grad():
        return native.jvp(_settings(settings), batch, coordinates, cells, v_coordinates, v_cells)


@aev.register_fake
def _(coordinates, cells, offsets, rows, species, pbc, settings):  # type: ignore[no-untyped-def]
    return coordinates.new_empty(coordinates.shape[0], _settings(settings).length)


@aev_vjp.register_fake
def _(gradient, coordinates, cells, *rest):  # type: ignore[no-untyped-def]
    by_cells = coordinates.new_empty(0, 3, 3) if cells is None else torch.empty_like(cells)
    return torch.empty_like(coordinates), by_cells


@aev_jvp.register_fake
def _(v_x, v_cells, coordinates, cells, offsets, rows, species, pbc, settings):  # type: ignore[no-untyped-def]
    return coordinates.new_empty(coordinates.shape[0], _settings(settings).length)


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.settings = inputs
    ctx.save_for_backward(*tensors)


def _aev_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    coordinates, cells, *rest = ctx.saved_tensors
    by_x, by_cells = aev_vjp(gradient, coordinates, cells, *rest, ctx.settings)
    return by_x, None if cells is None else by_cells, None, None, None, None, None


def _vjp_backward(ctx, v_coordinates, v_cells):  # type: ignore[no-untyped-def]
    _, coordinates, cells, *rest = ctx.saved_tensors
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        raise NotImplementedError(
            "second derivatives of AEVs by coordinates or cells are not available in compiled "
            "code; use engine='reference'"
        )
    v_cells = None if cells is None else v_cells
    by_gradient = aev_jvp(v_coordinates, v_cells, coordinates, cells, *rest, ctx.settings)
    return by_gradient, None, None, None, None, None, None, None


aev.register_autograd(_aev_backward, setup_context=_keep)
aev_vjp.register_autograd(_vjp_backward, setup_context=_keep)
