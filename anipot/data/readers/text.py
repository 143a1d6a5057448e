"""Helpers of text file readers: decoded lines, numbers, elements, and their line numbers."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
from ase.data import atomic_masses

from anipot.data.mapping import ReadOptions
from anipot.elements import number_of
from anipot.errors import DataError, SettingsError, shortly

#: Atomic number and mass (u) of the isotopes of hydrogen that have symbols of their own.
ISOTOPES = {"D": (1, 2.01410178), "T": (1, 3.01604928)}

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass
class Structures:
    """Frames of a file; ``not_read`` names what else it holds. ``options``, where not None, are
    those of the caller completed by units that the file declares."""

    frames: list[ase.Atoms]
    not_read: set[str] = field(default_factory=set)
    options: ReadOptions | None = None


def plain_suffix(path: Path) -> str:
    """The suffix in lower case, without that of a compression."""
    inner = path.with_suffix("") if path.suffix.lower() in _OPENERS else path
    return inner.suffix.lower()


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The first ``size`` bytes of a file, or all, decompressed. Raises DataError."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            data: bytes = file.read(size)
            return data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e


def decoded(data: bytes) -> str:
    """Text in UTF-8 or UTF-16 (with or without a byte-order mark), or else in Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without line ends. Raises DataError for a binary file."""
    text = decoded(read_bytes(path))
    if "\0" in text[:4096]:
        raise DataError(f"{path}: is a binary file, not text")
    lines = text.split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def number(text: str, where: str, what: str = "coordinate") -> float:
    """A finite number. Raises DataError naming the place."""
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {shortly(text.strip())} is not a number ({what})") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: {shortly(text.strip())} is not finite ({what})")
    return value


def count(text: str, where: str, what: str) -> int:
    """A whole number that is not negative. Raises DataError naming the place."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise DataError(f"{where}: {shortly(text.strip())} is not a {what}")
    return value


def element(symbol: str, where: str) -> tuple[int, float | None]:
    """Atomic number of a symbol, and the mass where it is that of an isotope (D, T).

    Raises DataError for what is no element: dummy atoms (X, Du), query atoms, labels.
    """
    name = symbol.strip().capitalize()
    if name in ISOTOPES:
        return ISOTOPES[name]
    try:
        return number_of(name), None
    except SettingsError:
        raise DataError(
            f"{where}: {shortly(symbol.strip())} is not the symbol of an element"
        ) from None


def atoms_of(
    symbols: list[tuple[int, float | None]], positions: list[list[float]], **more: object
) -> ase.Atoms:
    """Atoms from elements (see ``element``) and positions; masses are set where isotopes are."""
    atoms = ase.Atoms([z for z, _ in symbols], positions=positions or None, **more)
    if any(mass is not None for _, mass in symbols):
        atoms.set_masses([atomic_masses[z] if m is None else m for z, m in symbols])
    return atoms


def declare(atoms: ase.Atoms, charge: float = 0, unpaired: int = 0) -> None:
    """Note a total charge and unpaired electrons where the frames are checked for them."""
    if charge:
        atoms.info["charge"] = charge
    if unpaired:
        atoms.info["unpaired_electrons"] = unpaired
