"""The .npz file of a data set, which holds everything that Conformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from anipot.data.labels import fields_of
from anipot.errors import DataError, SettingsError
from anipot.system.archive import BROKEN, open_archive
from anipot.system.files import atomic_write

#: The name of the format in the file.
FORMAT = "anipot conformers 1"

#: Kinds of type of the arrays, if not floats.
_KINDS = {"pbc": "b", "atomic_numbers": "iu", "offsets": "iu", "molecule": "iu"}
_GROUPED_BY = ("molecule", "formula")

#: Fields of Conformers that are not arrays.
ABOUT = (
    "molecule_names", "grouped_by", "level_of_theory", "sources", "dropped", "not_read",
    "file_units",
)  # fmt: skip


def write_npz(path: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write arrays, and the other fields of Conformers, to a file (atomic)."""
    if path.suffix != ".npz":
        raise SettingsError(f"a data set is saved as .npz, not {path.name!r}")
    text = np.frombuffer(json.dumps({"format": FORMAT, **about}).encode(), dtype=np.uint8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=text, **arrays)  # type: ignore[arg-type]


def read_npz(path: Path) -> dict[str, Any]:
    """Read the fields of Conformers. Raises DataError for any other file."""
    try:
        with open_archive(path) as archive:
            columns = {name: archive[name] for name in archive.headers}
        about = json.loads(columns.pop("about").tobytes())
        if about.pop("format") != FORMAT:
            raise KeyError("format")
        for name, array in columns.items():
            kinds = "b" if name.startswith("mask_") else _KINDS.get(name, "f")
            if array.dtype.kind not in kinds:
                raise TypeError(f"{name!r} is of type {array.dtype}")
        if not isinstance(about["dropped"], int) or about["grouped_by"] not in _GROUPED_BY:
            raise ValueError(f"dropped {about['dropped']!r}, grouped {about['grouped_by']!r}")
        about["level_of_theory"] = str(about["level_of_theory"])
        for name in ("molecule_names", "sources", "not_read"):
            about[name] = tuple(str(text) for text in about.get(name, ()))
        given = dict(about.get("file_units", {}))
        about["file_units"] = {str(kind): str(unit) for kind, unit in given.items()}
        return {**fields_of(columns), **about}
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e}") from e
    except (*BROKEN, AttributeError) as e:
        raise damaged(path, e) from e


def damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a data set saved by anipot, or damaged ({error})")
