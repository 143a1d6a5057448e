"""Memory for AEVs that is used again, since the system is slow to hand out large pages."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import torch
from torch import Tensor

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


def memory(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, bool]:
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
