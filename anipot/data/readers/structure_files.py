"""Structure files other than XYZ: which reader a file needs, and what its result is checked for.

Formats whose conventions matter (charges, alternate locations, occupancies, several molecules)
have readers beside this file; all others are read by ASE, and where the file itself
counts its frames the counts are compared.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from anipot.data.mapping import ReadOptions
from anipot.data.readers.ase_database import read_database
from anipot.data.readers.cif import read_cif
from anipot.data.readers.declared_in_text import check_declared, note_results
from anipot.data.readers.mol2 import read_mol2
from anipot.data.readers.molfile import read_molfile
from anipot.data.readers.pdb import read_pdb
from anipot.data.readers.poscar import read_poscar
from anipot.data.readers.text import Structures, decoded, plain_suffix, read_bytes, read_lines
from anipot.errors import DataError

KNOWN = (
    ".h5 .hdf5 (ANI), .npz, .xyz .extxyz, .sdf .mol .mol2, .pdb .ent, .cif, POSCAR CONTCAR .vasp, "
    "ASE's .db .json .traj, DeePMD folders, and other formats of ASE"
)

#: Reader of each kind of file with its name for messages.
_READERS: dict[str, tuple[str, Callable[[Path, ReadOptions], Structures]]] = {
    "mol": ("MOL or SDF", read_molfile),
    "mol2": ("MOL2", lambda path, options: read_mol2(path)),
    "pdb": ("PDB", lambda path, options: read_pdb(path)),
    "cif": ("CIF", lambda path, options: read_cif(path)),
    "poscar": ("POSCAR", lambda path, options: read_poscar(path)),
    "database": ("ASE database", read_database),
    "hdf5": ("HDF5", lambda path, options: _foreign(path, "an HDF5", ".h5")),
    "npz": ("npz", lambda path, options: _foreign(path, "an npz or zip", ".npz")),
    "xyz": ("XYZ", lambda path, options: _foreign(path, "an XYZ", ".xyz")),
}

_SUFFIXES = {
    ".mol": "mol", ".sdf": "mol", ".sd": "mol", ".mdl": "mol", ".mol2": "mol2", ".pdb": "pdb",
    ".ent": "pdb", ".cif": "cif", ".vasp": "poscar", ".poscar": "poscar", ".db": "database",
    ".json": "database",
}  # fmt: skip

#: What the beginning of a file of each kind holds.
_SIGNS = {
    "hdf5": re.compile(r"\A\x89HDF"),
    "npz": re.compile(r"\APK\x03\x04"),
    "mol2": re.compile(r"(?m)^[ \t]*@<TRIPOS>MOLECULE"),
    "mol": re.compile(r"(?m)\A(?:.*\n){3}.* V[23]000\s*$"),
    "cif": re.compile(r"\A(?:[ \t]*(?:#.*)?\n)*data_\S+"),
    "pdb": re.compile(r"(?m)^(?:ATOM  |HETATM)[ \d*a-zA-Z]{5}.{19} +-?\d+\.\d+"),
    "database": re.compile(r"\ASQLite format 3"),
    "xyz": re.compile(r"\A\s*\d+[ \t]*\n.*\n[ \t]*[A-Z][a-z]?[ \t]+-?\d+\.\d+[ \t]"),
}

#: Patterns of the lines that begin a frame, where ASE is known to end early.
_FRAMES = {
    "vasp-xdatcar": re.compile(r"(?m)^Direct configuration="),
    "vasp-out": re.compile(r"(?m)^\s*POSITION\s+TOTAL-FORCE"),
    "vasp-xml": re.compile(r"(?m)^\s*<calculation>"),
    "lammps-dump-text": re.compile(r"(?m)^ITEM: TIMESTEP"),
    "dlp-history": re.compile(r"(?m)^timestep "),
}

#: Formats of ASE that are pictures or programs and no structures.
_NOT_STRUCTURES = {"png", "gif", "mp4", "html", "pov", "eps", "x3d", "py", "vti", "vtu"}


def read_structures(path: Path, options: ReadOptions) -> Structures:
    """All frames of a file that is neither XYZ, HDF5 nor npz. Raises DataError."""
    start = decoded(read_bytes(path, 65536))
    named = _by_name(path)
    seen = next((kind for kind, sign in _SIGNS.items() if sign.search(start)), None)
    if named is not None and seen not in (None, named):
        raise DataError(
            f"{path}: is named like a file of {_READERS[named][0]}, but holds "
            f"{_READERS[seen or named][0]}; rename it"
        )
    kind = named or seen
    if kind is None:
        return _by_ase(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _READERS[kind][1](path, options)


def _by_name(path: Path) -> str | None:
    inner = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path
    if re.match(r"(?i)(POSCAR|CONTCAR)", inner.name) and plain_suffix(path) not in _SUFFIXES:
        return "poscar"
    return _SUFFIXES.get(plain_suffix(path))


def _foreign(path: Path, what: str, suffix: str) -> Structures:
    raise DataError(f"{path}: its content is that of {what} file; name it {path.stem}{suffix}")


def _by_ase(path: Path) -> Structures:
    form, reason = "", ""
    try:
        form = filetype(str(path))
    except (UnknownFileTypeError, OSError) as e:
        reason = str(e)
    if form not in ioformats or not ioformats[form].can_read:
        raise DataError(
            f"{path}: cannot be read (its format is not known: {reason or repr(form)}). Known "
            f"files: {KNOWN}"
        )
    what = ioformats[form].description
    if form in _NOT_STRUCTURES:
        raise DataError(f"{path}: is no structure file ({what}). Known files: {KNOWN}")
    _check_types(path, form)
    check_declared(path, form)
    if form == "gaussian-in":  # ASE's patterns take minutes for a line of brackets
        for k, line in enumerate(read_lines(path), start=1):
            if len(line) > 5000:
                raise DataError(f"{path}, line {k}: has {len(line):,} characters, too many")
    frames: list[ase.Atoms] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames.extend(ase.io.iread(str(path), ":", format=form, do_not_split_by_at_sign=True))
    except Exception as e:  # ASE's readers raise anything at all on a damaged file
        place = f", frame {len(frames)}" if frames else ""
        raise DataError(
            f"{path}{place}: cannot be read as {what} ({type(e).__name__}: {e}). If it is of "
            f"another format, rename it. Known files: {KNOWN}"
        ) from e
    _check_count(path, form, len(frames))
    for frame in frames:
        note_results(frame)
    return Structures(frames)


def _check_count(path: Path, form: str, n: int) -> None:
    pattern = _FRAMES.get(form)
    if pattern is None:
        return
    announced = len(pattern.findall("\n".join(read_lines(path))))
    if announced != n:
        raise DataError(
            f"{path}: {announced} frames begin in it, {n} could be read: the last is cut short, or "
            f"frame {n} is damaged"
        )


def _check_types(path: Path, form: str) -> None:
    """Refuse files of LAMMPS that number their types: ASE takes the numbers for elements."""
    if form == "lammps-dump-text":
        for i, line in enumerate(read_lines(path), 1):
            if line.startswith("ITEM: ATOMS") and "element" not in line.split():
                raise DataError(
                    f"{path}, line {i}: has types of atoms and no elements; write the dump with "
                    "the column 'element' (dump_modify element)"
                )
    if form == "lammps-data" and not any(x.split()[:1] == ["Masses"] for x in read_lines(path)):
        raise DataError(
            f"{path}: has types of atoms and no section Masses, so that their elements are unknown"
        )
