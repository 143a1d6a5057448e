"""Peak memory of a part of a program."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def _give_back() -> None:
    """Return freed memory to the system, or it would count for what comes next (glibc only)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """From its making on: the most that this process held, and that torch held on a GPU.

    ``resident`` is the high-water mark of resident memory (bytes), with what the process held
    before, such as Python, torch and the data. Only Linux can set the mark back, so elsewhere it is
    None. ``device`` is None without a GPU in use.
    """

    def __init__(self) -> None:
        _give_back()
        try:
            (_PROCESS / "clear_refs").write_text("5")  # proc(5): resets VmHWM
            self._known = True
        except OSError:
            self._known = False
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    @property
    def resident(self) -> int | None:
        if not self._known:
            return None
        found = re.search(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text())
        return None if found is None else int(found[1]) * 1024

    @property
    def device(self) -> int | None:
        return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
