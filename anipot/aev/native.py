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
import os
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anipot.aev import derivatives, geometry
from anipot.aev.derivatives import Kernels
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import AnipotError, DataError, SettingsError
from anipot.system.compiled import load_library

#: Instruction sets that the library may have been compiled for, least first.
VARIANTS = ("base", "avx2", "avx512")

_INTERFACE = 3
_FORWARD, _VJP, _JVP = 0, 1, 2
_GOOD, _NOT_FINITE, _BAD_CELL, _TOO_FAR, _TOO_MANY_IMAGES, _BAD_BATCH, _NO_MEMORY = range(7)
_CROWDED_RADIAL, _CROWDED_ANGULAR = 7, 8

_Doubles = ctypes.POINTER(ctypes.c_double)
_MOST_INT = 2**31 - 2


class _Settings(ctypes.Structure):
    _fields_ = (
        *[
            (name, ctypes.c_int32)
            for name in (
                "elements",
                "n_radial_eta",
                "n_radial_shift",
                "n_angular_eta",
                "n_zeta",
                "n_angular_shift",
                "n_angle",
            )
        ],
        ("radial_cutoff", ctypes.c_double),
        ("angular_cutoff", ctypes.c_double),
        ("most_radial", ctypes.c_int32),
        ("most_angular", ctypes.c_int32),
        ("most_images", ctypes.c_int64),
        *[
            (name, _Doubles)
            for name in (
                "radial_eta",
                "radial_shift",
                "angular_eta",
                "zeta",
                "angular_shift",
                "angle",
            )
        ],
    )


class _Call(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("mode", "bytes", "threads", "clear")],
        *[(name, ctypes.c_int64) for name in ("conformers", "atoms")],
        *[
            (name, ctypes.c_void_p)
            for name in (
                "offsets",
                "rows",
                "species",
                "coordinates",
                "cells",
                "pbc",
                "aev_gradient",
                "coordinate_tangent",
                "cell_tangent",
                "aev",
                "coordinate_gradient",
                "cell_gradient",
            )
        ],
    )


# ---- the library ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The compiled library. Raises SettingsError, with the way out, when it is not there."""
    missing = (
        "the native AEV engine was not compiled; install a C++ compiler (GCC or Clang) and "
        "install anipot again, or use engine='reference'"
    )
    return load_library(Path(__file__).parent, "_engine", missing, _declare)


def _declare(library: ctypes.CDLL) -> bool:
    if library.anipot_interface() != _INTERFACE:
        return False
    library.anipot_variant.restype = ctypes.c_char_p
    library.anipot_use_variant.argtypes = [ctypes.c_char_p]
    library.anipot_aev.argtypes = [
        ctypes.POINTER(_Settings),
        ctypes.POINTER(_Call),
        ctypes.POINTER(ctypes.c_int64),
        ctypes.c_void_p,
    ]
    return True


class _Python(ctypes.Structure):
    _fields_ = (
        ("release", ctypes.c_void_p),
        ("acquire", ctypes.c_void_p),
        ("check_signals", ctypes.c_void_p),
    )


@lru_cache(maxsize=1)
def _interruptible() -> tuple[Any, _Python] | None:
    """``anipot_aev`` for a caller that keeps Python's lock, and what it needs of Python.

    The library opens the lock itself, and lets signals be handled now and then: so Ctrl-C ends a
    call that takes long. None where Python has no C interface.
    """
    python = getattr(ctypes, "pythonapi", None)
    if python is None:
        return None
    names = ("PyEval_SaveThread", "PyEval_RestoreThread", "PyErr_CheckSignals")
    library = ctypes.PyDLL(_library()._name, handle=_library()._handle)
    library.anipot_aev.argtypes = _library().anipot_aev.argtypes
    pointers = [ctypes.cast(getattr(python, name), ctypes.c_void_p) for name in names]
    return library.anipot_aev, _Python(*pointers)


def run(settings: _Settings, call: _Call, bad: ctypes.c_int64) -> int:
    """The status of a call of the library; ``bad`` is the conformer that it is about.

    In the main thread signals are handled meanwhile, and what a handler raises is raised here. In
    other threads, which Python gives no signals, the main thread goes on with its own work.
    """
    if threading.get_ident() == threading.main_thread().ident:
        found = _interruptible()
        if found is not None:
            return int(found[0](settings, call, bad, ctypes.byref(found[1])))
    return int(_library().anipot_aev(settings, call, bad, None))


def load() -> None:
    """Load the compiled library. Raises SettingsError or OSError, with the reason, if it cannot."""
    _library()


def variant() -> str:
    """The instruction set in use: ``"base"``, ``"avx2"`` or ``"avx512"``."""
    return str(_library().anipot_variant().decode())


def use_variant(name: str) -> bool:
    """Use another instruction set from now on; False, and no change, if this machine has it not."""
    return bool(_library().anipot_use_variant(name.encode()))


@lru_cache(maxsize=32)
def _settings(settings: AEVSettings) -> _Settings:
    def doubles(values: tuple[float, ...]) -> Any:
        return ctypes.cast((ctypes.c_double * len(values))(*values), _Doubles)

    s = settings
    return _Settings(
        s.n_elements,
        len(s.radial_eta),
        len(s.radial_shifts),
        len(s.angular_eta),
        len(s.zeta),
        len(s.angular_shifts),
        len(s.angle_shifts),
        s.radial_cutoff,
        s.angular_cutoff,
        *(min(geometry.most_neighbors(c), _MOST_INT) for c in (s.radial_cutoff, s.angular_cutoff)),
        geometry.MOST_IMAGES,
        doubles(s.radial_eta),
        doubles(s.radial_shifts),
        doubles(s.angular_eta),
        doubles(s.zeta),
        doubles(s.angular_shifts),
        doubles(s.angle_shifts),
    )


#: Bytes from which memory for AEVs is kept for the next call: the system takes longer to hand out
#: large pages than the engine takes to fill them.
_LARGE = 1 << 20
#: Bytes that are kept at most.
_KEPT = 1 << 28
_kept: list[np.ndarray] = []
_lock = threading.Lock()


def _after_fork() -> None:
    """The child of a fork has no thread that could open a lock or finish a list."""
    global _kept, _lock
    _kept, _lock = [], threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _tensor(raw: np.ndarray, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """(rows, columns) on the first cache line of ``raw``; no view, so that it may be changed."""
    number = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
    skip = -raw.ctypes.data % 64
    part = raw[skip : skip + rows * columns * number.itemsize]
    return torch.from_numpy(part.view(number).reshape(rows, columns))


def _references(arrays: list[np.ndarray], k: int) -> int:
    return sys.getrefcount(arrays[k])


def _idle_references() -> int | None:
    """References to an array of a list that no tensor uses; None where they do not tell."""
    if not hasattr(sys, "getrefcount"):
        return None
    arrays = [np.zeros(128, dtype=np.uint8)]
    idle = _references(arrays, 0)
    tensor = _tensor(arrays[0], 4, 2, torch.float32)
    part = tensor[1:]
    del tensor
    used = _references(arrays, 0)
    del part
    return idle if used > idle and _references(arrays, 0) == idle else None


#: Interpreters differ in the references that a call itself holds: measured, not known.
_IDLE = _idle_references()


def _memory(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Memory for AEVs (rows, columns) that starts on a cache line; whether it holds old numbers.

    New memory is zeros, handed out by the system untouched, so that columns of absent elements, two
    thirds of a hydrocarbon's AEV, are never written. Large memory that no tensor uses any more is
    used again.
    """
    size = rows * columns * (4 if dtype == torch.float32 else 8)
    if size < _LARGE or _IDLE is None:
        return _tensor(np.zeros(size + 64, dtype=np.uint8), rows, columns, dtype), False
    with _lock:
        for k in range(len(_kept)):
            if size <= _kept[k].nbytes - 64 <= 2 * size and _references(_kept, k) == _IDLE:
                return _tensor(_kept[k], rows, columns, dtype), True
        # Somewhat more, which stays untouched: else every batch that is a little larger than all
        # before it would have memory of its own.
        step = 1 << (size.bit_length() - 3)
        raw = np.zeros(-(-size // step) * step + 64, dtype=np.uint8)
        _kept.append(raw)
        while sum(a.nbytes for a in _kept) > _KEPT:
            _kept.pop(0)
        return _tensor(raw, rows, columns, dtype), False


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
    call = _Call(
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
    status = run(_settings(settings), call, bad)
    if status != _GOOD:
        _raise(status, bad.value, settings, batch, coordinates, cells)


def _raise(
    status: int,
    bad: int,
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
) -> None:
    """Raise the error of a status, in the words of the reference engine where it has some."""
    if status in (_NOT_FINITE, _BAD_CELL):
        geometry.check_finite(batch, coordinates, cells)
        if cells is not None and batch.pbc is not None:
            geometry.completed_cells(batch, cells, torch.tensor([max(bad, 0)], device="cpu"))
    which = f"conformer {int(batch.index[bad])}" if 0 <= bad < len(batch) else "the batch"
    messages = {
        _NOT_FINITE: "has coordinates that are not finite numbers of angstrom, or beyond 1e15",
        _BAD_CELL: "has a cell whose lattice vectors are zero or depend on one another",
        _TOO_FAR: "has an atom too far outside its cell for its place in the cell to be known; "
        "wrap the coordinates",
        _BAD_BATCH: "is not consistent: offsets, rows or species are out of range, or rows "
        "no permutation; make it with Batch.of or BatchLoader",
        _NO_MEMORY: "needs more memory than there is; use smaller batches",
    }
    if status == _NO_MEMORY:
        raise MemoryError(f"{which} {messages[status]}")
    if status == _TOO_MANY_IMAGES:
        raise geometry.too_many_images(which)
    if status in (_CROWDED_RADIAL, _CROWDED_ANGULAR):
        radial = status == _CROWDED_RADIAL
        raise geometry.crowded(which, settings.radial_cutoff if radial else settings.angular_cutoff)
    raise (DataError if status in messages else AnipotError)(
        f"{which} {messages.get(status, f'gives the unknown status {status}')}"
    )


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
    out, old = _memory(len(x), settings.length, x.dtype)
    _call(_FORWARD, settings, batch, x, lattice, old, aev=out)
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
        _VJP,
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

    out, old = _memory(len(x), settings.length, x.dtype)
    _call(
        _JVP,
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
