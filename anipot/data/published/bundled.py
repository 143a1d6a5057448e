"""The data set that comes with anipot, and lists of molecules."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.errors import DataError

BUNDLED = "hcno_wb97x_631gd.h5"
TEST_MOLECULES = "test_molecules.txt"
VALIDATION_MOLECULES = "validation_molecules.txt"


def bundled_path(name: str = BUNDLED) -> Path:
    """Path of a bundled file, from an installed anipot and from a checkout alike.

    An installed package has ``data/`` as ``anipot._data``; a checkout has it beside ``anipot/``.
    Raises DataError when neither holds the file.
    """
    folders = [Path(__file__).resolve().parents[3] / "data"]
    spec = find_spec("anipot._data")
    if spec is not None and spec.submodule_search_locations:
        folders = [Path(p) for p in spec.submodule_search_locations] + folders
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    tried = " and ".join(str(f) for f in folders)
    raise DataError(f"{name} is not where anipot's data should be ({tried}); install anipot again")


def load_bundled() -> Conformers:
    """The bundled data: 7,419 conformers of 63 HCNO molecules with energies and forces."""
    return load_dataset(bundled_path())


def read_molecule_list(path: str | Path) -> list[str]:
    """Names of molecules, one a line; what follows a ``#`` and a space is a comment.

    (A ``#`` alone is a triple bond in SMILES.) Raises DataError for a file that cannot be read,
    an empty list, and a name given twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read as a list of molecules ({e})") from e
    names = []
    for line in lines:
        name = "" if line.strip() == "#" else f" {line.strip()} ".split(" # ", 1)[0].strip()
        if name:
            names.append(name)
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise DataError(f"{path}: {sorted(twice)[0]!r} is listed twice")
    if not names:
        raise DataError(f"{path}: no molecule in the list")
    return names
