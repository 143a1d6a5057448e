"""The native engine: AEVs in C++ on the CPU, with analytic derivatives.

Three functions of the compiled library, each of which stores nothing for another: forward, VJP
(gradient by coordinates and cells) and JVP (derivative along given changes of them). Autograd uses
them so: the backward of the forward is the VJP; the VJP's derivative by the AEVs' gradient is the
JVP, and the JVP's by the tangents the VJP again. Only second derivatives by coordinates or cells
go through the reference engine.

A loss on forces needs none of those, when it is written ``g = grad(energy, aev,
create_graph=True)``, then ``forces = -vjp(settings, batch, coordinates.detach(), cells, g)[0]``.

Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192, eqs. 2 to 4; see ``_native/kernels.inl``.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from anipot.aev import derivatives, geometry
from anipot.aev.derivatives import Kernels
from anipot.aev.native_library import (
    FORWARD,
    GOOD,
    JVP,
    VJP,
    Call,
    c_settings,
    raise_status,
    run,
)
from anipot.aev.native_memory import memory
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import SettingsError


def _call(
    mode: int,
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    clear: bool = False,
    **arrays: Tensor | None,
) -> None:
    """Call the library; all tensors must be contiguous, on the CPU, and of the same precision.

    ``clear``: whether the memory for AEVs holds old numbers.
    """

    def pointer(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    # Names keep what is converted here alive until the call is over.
    offsets, rows, species = (t.contiguous() for t in (batch.offsets, batch.rows, batch.species))
    pbc = None if batch.pbc is None or cells is None else batch.pbc.contiguous()
    call = Call(
        mode,
        coordinates.element_size(),
        torch.get_num_threads(),
        clear,
        len(batch),
        len(coordinates),
        offsets.data_ptr(),
        rows.data_ptr(),
        species.data_ptr(),
        coordinates.data_ptr(),
        pointer(cells),
        pointer(pbc),
        **{name: pointer(tensor) for name, tensor in arrays.items()},
    )
    bad = ctypes.c_int64(-1)
    status = run(c_settings(settings), call, bad)
    if status != GOOD:
        raise_status(status, bad.value, settings, batch, coordinates, cells)


def _on_cpu(name: str, tensor: Tensor) -> None:
    if tensor.device.type != "cpu":
        raise SettingsError(
            f"the engine 'native' works on the CPU, and the {name} are on {tensor.device}; "
            "use engine='reference'"
        )


def check_batch(batch: Batch, dtype: torch.dtype) -> None:
    """SettingsError unless the library can read the batch's arrays, and has the precision."""
    if dtype not in (torch.float32, torch.float64):
        raise SettingsError(f"the engine 'native' takes float32 and float64, not {dtype}")
    n = len(batch.species)
    wanted: list[tuple[str, Tensor, tuple[int, ...], torch.dtype]] = [
        ("offsets", batch.offsets, (len(batch) + 1,), torch.int64),
        ("rows", batch.rows, (n,), torch.int64),
        ("species", batch.species, (n,), torch.int64),
    ]
    if batch.pbc is not None:
        wanted.append(("pbc", batch.pbc, (len(batch), 3), torch.bool))
    for name, tensor, shape, kind in wanted:
        _on_cpu(f"batch's {name}", tensor)
        if tensor.dtype != kind or tensor.shape != shape:
            raise SettingsError(
                f"the batch's {name} are {tensor.dtype} of shape {tuple(tensor.shape)}, and must "
                f"be {kind} of shape {shape}; make the batch with Batch.of or BatchLoader"
            )
    if len(batch.offsets) < 1:
        raise SettingsError("the batch's offsets are empty; make it with Batch.of or BatchLoader")


def _checked(
    settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Coordinates and cells, detached, as the library reads them."""
    _on_cpu("coordinates", coordinates)
    check_batch(batch, coordinates.dtype)
    if coordinates.shape != (len(batch.species), 3):
        raise SettingsError(
            f"coordinates have shape {tuple(coordinates.shape)}, the batch needs "
            f"{(len(batch.species), 3)}, by row"
        )
    if cells is not None and cells.shape != (len(batch), 3, 3):
        raise SettingsError(
            f"cells have shape {tuple(cells.shape)}, the batch needs {(len(batch), 3, 3)}"
        )
    if cells is not None:
        _on_cpu("cells", cells)
    if batch.pbc is None:
        cells = None
    elif cells is None:
        geometry.periodic_conformers(batch, cells)  # raises where one is periodic
    else:
        cells = cells.detach().to(coordinates.dtype).contiguous()
    return coordinates.detach().contiguous(), cells


# ---- the three functions, without autograd -------------------------------------------------------


def _forward(
    settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None
) -> Tensor:
    x, lattice = _checked(settings, batch, coordinates, cells)
    out, old = memory(len(x), settings.length, x.dtype)
    _call(FORWARD, settings, batch, x, lattice, old, aev=out)
    return out


def _backward(
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    gradient: Tensor,
    want_cells: bool,
) -> tuple[Tensor, Tensor | None]:
    x, lattice = _checked(settings, batch, coordinates, cells)
    if gradient.shape != (len(x), settings.length):
        raise SettingsError(
            f"the gradient by the AEVs has shape {tuple(gradient.shape)}, and must have "
            f"{(len(x), settings.length)}"
        )
    _on_cpu("gradients by the AEVs", gradient)
    gradient = gradient.detach().to(x.dtype).contiguous()
    by_coordinates = torch.empty_like(x)
    by_cells = None
    if want_cells and cells is not None:
        by_cells = x.new_zeros(cells.shape)
    _call(
        VJP,
        settings,
        batch,
        x,
        lattice,
        aev_gradient=gradient,
        coordinate_gradient=by_coordinates,
        cell_gradient=None if lattice is None else by_cells,
    )
    return by_coordinates, None if by_cells is None or cells is None else by_cells.to(cells.dtype)


def _tangent(
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    coordinate_tangent: Tensor | None,
    cell_tangent: Tensor | None,
) -> Tensor:
    x, lattice = _checked(settings, batch, coordinates, cells)

    def ready(tangent: Tensor | None, like: Tensor | None) -> Tensor | None:
        if tangent is None or like is None:
            return None
        if tangent.shape != like.shape:
            raise SettingsError(
                f"a tangent has shape {tuple(tangent.shape)}, and must have {tuple(like.shape)}"
            )
        _on_cpu("tangents", tangent)
        return tangent.detach().to(x.dtype).contiguous()

    out, old = memory(len(x), settings.length, x.dtype)
    _call(
        JVP,
        settings,
        batch,
        x,
        lattice,
        old,
        coordinate_tangent=ready(coordinate_tangent, x),
        cell_tangent=ready(cell_tangent, lattice),
        aev=out,
    )
    return out


_KERNELS = Kernels(_forward, _backward, _tangent)


# ---- the public functions ------------------------------------------------------------------------


def aev(settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None) -> Tensor:
    """(N, L) AEVs by row, L = ``settings.length``; no unit.

    ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3), in angstrom, stand in for the batch's
    own, and the AEVs are differentiable in both. float32 or float64, as ``coordinates``; on the
    CPU, with ``torch.get_num_threads()`` threads; the same bits whatever their number. Raises
    DataError, with the conformer's number, for numbers that are not finite and for a flat or
    missing cell; SettingsError where the library is missing or the device is not the CPU.
    """
    return derivatives.aev(_KERNELS, settings, batch, coordinates, cells)


def vjp(
    settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None, grad_aev: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``grad_aev . AEV`` by coordinates (N, 3) and cells (B, 3, 3), or None.

    ``grad_aev`` (N, L) is the gradient by the AEVs. The result, in 1/angstrom times the unit of
    ``grad_aev``, is differentiable in it (by the JVP), and in coordinates and cells where those
    require it (through the reference engine, slowly: detach them where only forces are wanted).
    Raises as ``aev``.
    """
    return derivatives.vjp(_KERNELS, settings, batch, coordinates, cells, grad_aev)


def jvp(
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    coordinate_tangent: Tensor | None,
    cell_tangent: Tensor | None = None,
) -> Tensor:
    """(N, L) derivative of the AEVs along tangents of coordinates (N, 3) and cells (B, 3, 3).

    Either tangent may be None. Differentiable in the tangents (by the VJP), and in coordinates and
    cells as ``vjp`` is. Raises as ``aev``.
    """
    tangents = (coordinate_tangent, cell_tangent)
    return derivatives.jvp(_KERNELS, settings, batch, coordinates, cells, *tangents)
