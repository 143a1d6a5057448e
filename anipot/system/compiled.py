"""Finding and loading the package's compiled libraries, which an installation may lack."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from anipot.errors import SettingsError


def load_library(
    folder: Path, stem: str, missing: str, declare: Callable[[ctypes.CDLL], bool]
) -> ctypes.CDLL:
    """The library ``stem`` in ``folder``.

    ``declare`` sets the types of its functions and says whether its interface is the expected one.
    Raises SettingsError, with the way out, where there is none (``missing`` is the message) or it
    was compiled from other sources.
    """
    found = sorted(p for p in folder.glob(f"{stem}*") if p.suffix in (".so", ".pyd"))
    if not found:
        raise SettingsError(missing)
    library = ctypes.CDLL(str(found[0]))
    stale = f"{found[0].name} was compiled from other sources than this anipot; install it again"
    try:
        expected = declare(library)
    except AttributeError as e:  # it lacks a function
        raise SettingsError(stale) from e
    if not expected:
        raise SettingsError(stale)
    return library
