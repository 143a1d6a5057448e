"""Read files of ``torch.save`` without running any code in them.

Tensors, numbers, texts, lists and dictionaries are read (torch's ``weights_only``). Every other
object becomes an ``Unread``: a mark that it is there, of which nothing was imported or called.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anipot.errors import PotentialError
from anipot.system.files import zip_damage

#: What a user can do where the file was made.
WAY_OUT = (
    "save its weights where it was made: torch.save(model.state_dict(), path); or, if it is a "
    "dictionary d with a state dict in d['nn'], say: torch.save(d['nn'], path)"
)

#: Objects of numpy that are plain values, such as the texts of ``list(np.unique(symbols))``.
_SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")

#: More than any real file names.
_MOST_CLASSES = 1000


class Unread:
    """Stands for a pickled object that was not read; ``arguments`` and ``state`` are its data."""

    name = ""

    def __new__(cls, *arguments: Any) -> Unread:
        self = object.__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class TorchFile(NamedTuple):
    """``classes``: full names of the classes and functions of which there are unread objects."""

    contents: Any
    classes: tuple[str, ...]


def read_torch_file(path: Path) -> TorchFile:
    """Return the contents of a file of ``torch.save``, on the CPU; no code in it is run.

    The checksums of its zip archive are checked, where torch has written any. Raises PotentialError
    with the reason (and not the file) for what is damaged or cannot be read.
    """
    if not path.is_file():
        raise PotentialError("there is no such file")
    try:
        classes = _check_archive(path) if zipfile.is_zipfile(path) else ()
        marks: list[Any] = [(_scalar if c in _SCALARS else _mark(c), c) for c in classes]
        with warnings.catch_warnings(), torch.serialization.safe_globals(marks):
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except PotentialError:
        raise
    except pickle.UnpicklingError as e:
        found = re.search(r"GLOBAL ([\w.]+)", str(e))
        what = f"Python objects ({found[1]})" if found else "more than tensors, or is damaged"
        raise PotentialError(
            f"it holds {what}, and what could run code is not loaded; if it is a model saved as a "
            f"whole, {WAY_OUT}"
        ) from None
    except Exception as e:
        reason = (str(e) or type(e).__name__).splitlines()[0][:200]
        raise PotentialError(f"not a file of torch.save, or damaged ({reason})") from None
    return TorchFile(contents, tuple(c for c in classes if c not in _SCALARS))


def _check_archive(path: Path) -> tuple[str, ...]:
    """Check a zip archive; return the full names of classes other than torch's tensors."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any("/code/" in x.filename for x in entries):
        raise PotentialError(
            "a TorchScript archive, which is a program; save the weights where it was "
            "made: torch.save(model.state_dict(), path)"
        )
    if any(x.compress_type != zipfile.ZIP_STORED for x in entries):
        raise PotentialError("compressed, which torch.save never does; not read")
    if damaged := zip_damage(path):
        raise PotentialError(
            f"damaged: {damaged} in it does not match its checksum; copy or download the file again"
        )
    classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if len(classes) > _MOST_CLASSES:
        raise PotentialError(f"it holds objects of {len(classes):,} classes, which is no potential")
    return tuple(sorted(classes))


def _mark(name: str) -> type[Unread]:
    return type("Unread", (Unread,), {"name": name})


def _scalar(dtype: Any, raw: Any = None) -> Any:
    """Return a text or number written by numpy; Unread for other values."""
    kind = dtype.arguments[0] if isinstance(dtype, Unread) and dtype.arguments else None
    if isinstance(kind, str) and isinstance(raw, bytes):
        if re.fullmatch(r"U\d{1,4}", kind):
            return raw.decode("utf-32-le").rstrip("\0")
        if kind in ("f8", "f4", "i8", "i4", "u1", "b1") and len(raw) == np.dtype(kind).itemsize:
            return np.frombuffer(raw, f"<{kind}")[0].item()
    return Unread(kind)
