"""Temporary files beside those that they become; what killed processes left of them is removed."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no Unix: nobody can tell a file that is being written from one left behind
    fcntl = None  # type: ignore[assignment]


def temporary_file(path: Path) -> tuple[int | None, str]:
    """A new file in the folder of ``path``: a descriptor whose closing unlocks it, and its name.

    While it is locked its writer lives. Those for the same ``path`` that are not locked were left
    by processes that were killed, and are removed. Without locks there is no descriptor.
    """
    if fcntl is not None:
        _remove_abandoned(path)
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        if fcntl is None:
            os.close(handle)
            return None, name
        # Before it was locked another process may have removed it.
        if not _lock(handle) or os.path.exists(name):
            return handle, name
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    name = re.compile(
        re.escape(f".{path.name}.") + r"[a-z0-9_]{8}" + re.escape(path.suffix)  # mkstemp's
    )
    with suppress(OSError), os.scandir(path.parent) as entries:
        for found in [entry.path for entry in entries if name.fullmatch(entry.name)]:
            with suppress(OSError):
                handle = os.open(found, os.O_RDWR)
                try:
                    if _lock(handle):
                        os.unlink(found)
                finally:
                    os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file; whether that could be done."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
