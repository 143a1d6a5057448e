"""The compiled library of the native engine: its interface, and calls that Ctrl-C can end."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anipot.aev import geometry
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import AnipotError, DataError
from anipot.system.compiled import load_library

#: Instruction sets that the library may have been compiled for, least first.
VARIANTS = ("base", "avx2", "avx512")

_INTERFACE = 3
FORWARD, VJP, JVP = 0, 1, 2
GOOD, _NOT_FINITE, _BAD_CELL, _TOO_FAR, _TOO_MANY_IMAGES, _BAD_BATCH, _NO_MEMORY = range(7)
_CROWDED_RADIAL, _CROWDED_ANGULAR = 7, 8

_Doubles = ctypes.POINTER(ctypes.c_double)
_MOST_INT = 2**31 - 2


class Settings(ctypes.Structure):
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


class Call(ctypes.Structure):
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


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled library. Raises SettingsError, with the way out, when it is not there."""
    missing = (
        "the native AEV engine was not compiled; install a C++ compiler (GCC or Clang) and "
        "install anipot again, or use engine='reference'"
    )
    return load_library(Path(__file__).parent, "_engine", missing, _declare)


def _declare(loaded: ctypes.CDLL) -> bool:
    if loaded.anipot_interface() != _INTERFACE:
        return False
    loaded.anipot_variant.restype = ctypes.c_char_p
    loaded.anipot_use_variant.argtypes = [ctypes.c_char_p]
    loaded.anipot_aev.argtypes = [
        ctypes.POINTER(Settings),
        ctypes.POINTER(Call),
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
    found = library()
    held = ctypes.PyDLL(found._name, handle=found._handle)
    held.anipot_aev.argtypes = found.anipot_aev.argtypes
    pointers = [ctypes.cast(getattr(python, name), ctypes.c_void_p) for name in names]
    return held.anipot_aev, _Python(*pointers)


def run(settings: Settings, call: Call, bad: ctypes.c_int64) -> int:
    """The status of a call of the library; ``bad`` is the conformer that it is about.

    In the main thread signals are handled meanwhile, and what a handler raises is raised here. In
    other threads, which Python gives no signals, the main thread goes on with its own work.
    """
    if threading.get_ident() == threading.main_thread().ident:
        found = _interruptible()
        if found is not None:
            return int(found[0](settings, call, bad, ctypes.byref(found[1])))
    return int(library().anipot_aev(settings, call, bad, None))


def load() -> None:
    """Load the compiled library. Raises SettingsError or OSError, with the reason, if it cannot."""
    library()


def variant() -> str:
    """The instruction set in use: ``"base"``, ``"avx2"`` or ``"avx512"``."""
    return str(library().anipot_variant().decode())


def use_variant(name: str) -> bool:
    """Use another instruction set from now on; False, and no change, if this machine has it not."""
    return bool(library().anipot_use_variant(name.encode()))


@lru_cache(maxsize=32)
def c_settings(settings: AEVSettings) -> Settings:
    def doubles(values: tuple[float, ...]) -> Any:
        return ctypes.cast((ctypes.c_double * len(values))(*values), _Doubles)

    s = settings
    return Settings(
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


def raise_status(
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
