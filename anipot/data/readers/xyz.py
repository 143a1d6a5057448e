"""XYZ files, plain and extended: every frame that a file holds, or an error that names the line.

Whether a frame is extended is decided by its own comment, and a frame that cannot be read as what
it is ends the reading: nothing is left out. Rows are split at blanks, so that tabs, trailing
blanks and any ends of lines do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian
from ase.geometry import cellpar_to_cell
from ase.io.formats import filetype

from anipot import units
from anipot.data import mapping
from anipot.data.readers.charges import check_comment
from anipot.data.readers.xyz_comments import (
    comment_energy,
    is_extended,
    numbers_in,
    parse_pairs,
    to_float,
    to_value,
)
from anipot.data.readers.xyz_frames import QM9_PROPERTIES, Frame, frames_of, is_qm9, opened
from anipot.elements import SYMBOLS
from anipot.errors import SettingsError, cut, shortly

#: The arrays of ASE that columns of these names become.
_ARRAYS = {"pos": "positions", "species": "symbols", "Z": "numbers", "charge": "charges"}
_BOOLEANS = {"T": True, "True": True, "TRUE": True, "true": True, "1": True}
_BOOLEANS |= {"F": False, "False": False, "FALSE": False, "false": False, "0": False}
_DUMMIES = frozenset({"x", "xx", "du", "da", "dum", "bq", "gh", "tv", "q", "lp", "ghost"})
_ISOTOPES = frozenset({"D", "T", "d", "t"})
_LABEL = re.compile(r"([A-Z][a-z]?|[a-z])(?:\d\w*|_\w+)")
_IPI_CELL = re.compile(r"CELL\s*[({\[]\s*abcABC\s*[)}\]]\s*:?((?:\s+[-+\d.eE]+){6})")
_IPI_UNIT = re.compile(r"(positions|cell)\{(\w+)\}")


def is_xyz(path: Path) -> bool:
    """Whether a file is XYZ by its name (``.xyz``, ``.extxyz``, also compressed) or first line."""
    name = path.name.lower()
    for packed in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packed)
    if name.endswith((".xyz", ".extxyz")):
        return True
    try:
        return filetype(str(path)) in ("xyz", "extxyz")
    except Exception:  # what a damaged file makes of ASE's readers
        return False


def read_xyz(path: Path) -> list[ase.Atoms]:
    """All frames of an XYZ file. Raises DataError naming frame, line and reason.

    Labels, units and other keys of the comment are in ``info``, columns in ``arrays``; a comment
    that is not that of extended XYZ is ``info["comment"]``, and columns without a name are the
    array ``"columns 5-7"``. A cell is Lattice, cell or box of nine numbers or three lengths.
    """
    with opened(path) as text:
        return [_atoms(frame) for frame in frames_of(text, path)]


def _atoms(frame: Frame) -> ase.Atoms:
    """Parse the atom lines of a frame."""
    comment, extended = frame.comment, is_extended(frame.comment)
    info: dict[str, Any] = {}
    pairs: dict[str, str | None] = {}
    cell, pbc, schema = np.zeros((3, 3)), False, _PLAIN
    if is_qm9(comment):
        info, frame.comment = _qm9(frame), ""
    elif extended or ("=" in comment and (comment_energy(comment) or ("", "", ""))[2] == ""):
        try:
            pairs = parse_pairs(comment)
        except ValueError as e:
            if extended:
                raise frame.error(f"the comment {e}") from None
        cell, pbc, schema = _geometry(frame, pairs)
        info = {
            key: _info(key, text)
            for key, text in pairs.items()
            if extended or (text and re.fullmatch(r"[A-Za-z][\w-]*", key))
        }
    if not extended:
        if frame.comment:
            check_comment(comment, f"{frame.path}, frame {frame.index} ({shortly(comment)})")
        words = not pairs or None in pairs.values()
        if frame.comment and (words or ("energy" not in pairs and comment_energy(comment))):
            info["comment"] = comment
        cell, pbc, length = _cell_of_plain(frame, cell, pbc)
        info |= {} if length is None else {"length_unit": length}
    arrays = _columns(frame, schema)
    if is_qm9(comment) and "column 5" in arrays:
        arrays["charges"] = arrays.pop("column 5")
    symbols = arrays.pop("symbols", None)
    numbers = _numbers(frame, symbols, arrays.pop("numbers", None))
    if symbols is not None and not _ISOTOPES.isdisjoint(symbols):
        info["isotopes"] = "D, T"  # read as hydrogen, whose potential they share
    atoms = ase.Atoms(numbers, arrays.pop("positions"), cell=cell, pbc=pbc, info=info)
    mask = arrays.pop("move_mask", None)
    if mask is not None:
        atoms.set_constraint(
            FixAtoms(mask=~mask)
            if mask.ndim == 1
            else [FixCartesian(a, mask=~row) for a, row in enumerate(mask)]
        )
    atoms.arrays.update(arrays)
    return atoms


def _info(key: str, text: str | None) -> Any:
    value = to_value(key, text)
    tensor = "stress" in key.lower() or "virial" in key.lower()
    if tensor and isinstance(value, np.ndarray) and value.shape == (9,):
        return value.reshape(3, 3, order="F")
    return value


def _geometry(frame: Frame, pairs: dict[str, str | None]) -> tuple[np.ndarray, Any, _Schema]:
    """Cell, periodic directions and columns that the keys tell of; they are taken out of them."""
    by_name = {key.lower(): key for key in reversed(pairs)}
    cell: np.ndarray | None = None
    source = ""
    for name in ("lattice", *mapping.CELL_KEYS):
        key = by_name.get(name)
        text = pairs.get(key) if key is not None else None
        if key is None or text is None:
            continue
        try:
            numbers = numbers_in(text)
        except ValueError:
            if name != "lattice":
                continue
            raise frame.error(f"{key}={shortly(text)} is not made of numbers") from None
        if numbers.size not in (3, 9):
            raise frame.error(
                f"{key} has {numbers.size} numbers: nine are three vectors, three the lengths of "
                "an orthorhombic cell"
            )
        found = np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)
        if cell is not None and not np.allclose(cell, found):
            raise frame.error(f"{source} and {key} are different cells; remove one of them")
        cell, source = found, key
        del pairs[key]
        by_name.pop(name)
    pbc: Any = cell is not None
    for name in mapping.PBC_KEYS:
        key = by_name.get(name)
        if key is None:
            continue
        text = pairs.pop(key)
        flags = [_BOOLEANS.get(word) for word in re.sub(r"[\[\],]", " ", text or "T").split()]
        if len(flags) not in (1, 3) or None in flags:
            raise frame.error(f'{key}={shortly(text)} is not three of T and F, as in pbc="T T F"')
        pbc = flags if len(flags) == 3 else flags * 3
    key = by_name.get("properties")
    text = pairs.pop(key) if key is not None else None
    try:
        schema = _PLAIN if text is None else _parse_properties(text)
    except ValueError as e:
        raise frame.error(f"Properties={shortly(text)}: {cut(str(e))}") from None
    return np.zeros((3, 3)) if cell is None else cell, pbc, schema


def _cell_of_plain(frame: Frame, cell: np.ndarray, pbc: Any) -> tuple[np.ndarray, Any, str | None]:
    """The cell by lines VEC1 ... behind the atoms, or by i-PI's comment, and its length unit."""
    if frame.vectors:
        cell = np.zeros((3, 3))
        for i, line in enumerate(frame.vectors):
            words = line.split()
            try:
                if words[0] != f"VEC{i + 1}" or len(words) != 4:
                    raise ValueError
                cell[i] = [to_float(word) for word in words[1:]]
            except ValueError:
                raise frame.error(
                    f"{line.strip()[:60]!r} is not VEC{i + 1} with three numbers",
                    len(frame.rows) + i,
                ) from None
        return cell, [i < len(frame.vectors) for i in range(3)], None
    match = _IPI_CELL.search(frame.comment)
    if match is None:
        if re.search(r"CELL\s*[({\[]", frame.comment):
            raise frame.error("only cells written as CELL(abcABC) can be read from a comment")
        return cell, pbc, None
    told = {kind: unit.lower() for kind, unit in _IPI_UNIT.findall(frame.comment)}
    try:
        length = {k: _ipi_unit(told.get(k, "atomic_unit")) for k in ("positions", "cell")}
        parameters = [to_float(word) for word in match[1].split()]
        cell = np.asarray(cellpar_to_cell(parameters)) * (
            units.length_to_angstrom(length["cell"]) / units.length_to_angstrom(length["positions"])
        )
    except (SettingsError, ValueError, AssertionError, FloatingPointError) as e:
        raise frame.error(f"the cell in the comment cannot be used ({e})") from None
    return cell, True, length["positions"]


def _ipi_unit(name: str) -> str:
    return "bohr" if name in ("atomic_unit", "automatic") else name


class _Schema:
    """Columns: (name of the array, type, number of columns) of each property, and their sum."""

    def __init__(self, properties: Sequence[tuple[str, str, int]]) -> None:
        self.properties = tuple(properties)
        self.width = sum(n for _, _, n in properties)


_PLAIN = _Schema([("symbols", "S", 1), ("positions", "R", 3)])


@lru_cache(maxsize=256)
def _parse_properties(text: str) -> _Schema:
    fields = text.split(":")
    if len(fields) % 3:
        raise ValueError("it is made of NAME:TYPE:COLUMNS, as in species:S:1:pos:R:3")
    found = []
    for name, kind, columns in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if kind.upper() not in ("S", "R", "I", "L"):
            raise ValueError(f"the type of {name!r} is {shortly(kind)}; known are S, R, I and L")
        if not re.fullmatch(r"[1-9]\d{0,5}", columns):
            raise ValueError(f"{shortly(name)} has {shortly(columns)} columns")
        plain = name.lower() if name.lower() in ("species", "pos") else name
        found.append((_ARRAYS.get(plain, plain), kind.upper(), int(columns)))
    names = [name for name, _, _ in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has {shortly(twice)} twice")
    if ("positions", "R", 3) not in found:
        raise ValueError("it has no positions (pos:R:3)")
    if not {("symbols", "S", 1), ("numbers", "I", 1)} & set(found):
        raise ValueError("it has no elements (species:S:1 or Z:I:1)")
    return _Schema(found)


def _columns(frame: Frame, schema: _Schema) -> dict[str, np.ndarray]:
    """Arrays (n,) or (n, k) by name; columns beyond those of the schema as "columns 5-7"."""
    rows = [row.split() for row in frame.rows]
    widths = set(map(len, rows))
    narrow = min(widths, default=schema.width)
    if narrow < schema.width:
        row = next(i for i, words in enumerate(rows) if len(words) == narrow)
        text = frame.rows[row].strip()
        raise frame.error(
            f"{shortly(text)} is no line of an atom: it has {narrow} columns, and {schema.width} "
            f"are needed (atom {row + 1} of {len(rows)}, as line {frame.line} says)"
            if text
            else f"the line is blank where atom {row + 1} of {len(rows)} should be (line "
            f"{frame.line} says {len(rows)} atoms)",
            row,
        )
    columns = list(zip(*rows, strict=False))
    arrays: dict[str, np.ndarray] = {}
    start = 0
    if not rows:
        return {"symbols": np.zeros(0, dtype=object), "positions": np.zeros((0, 3))}
    for name, kind, n in schema.properties:
        texts = columns[start] if n == 1 else [w for row in rows for w in row[start : start + n]]
        values = _converted(frame, texts, kind, name, n)
        arrays[name] = values if n == 1 else values.reshape(-1, n)
        start += n
    if max(widths) > schema.width:
        arrays |= _unnamed(frame, rows, widths, schema.width)
    return arrays


def _converted(frame: Frame, texts: Sequence[str], kind: str, name: str, n: int) -> np.ndarray:
    if kind == "S":
        return np.array(texts, dtype=object)
    try:
        if kind != "L" and "_" in "".join(texts):
            raise ValueError  # which Python would read over
        if kind == "R":
            return np.array([float(text) for text in texts])
        if kind == "I":
            return np.array([int(text) for text in texts])
        return np.array([_BOOLEANS[text] for text in texts])
    except (ValueError, KeyError, OverflowError):
        pass  # once more, slowly
    values: list[Any] = []
    for i, text in enumerate(texts):
        try:
            if kind == "L":
                values.append(_BOOLEANS[text])
            else:
                values.append(to_float(text) if kind == "R" else int(text.replace("_", "no")))
        except (ValueError, KeyError):
            what = {"R": "a number", "I": "a whole number", "L": "T or F"}[kind]
            raise frame.error(f"{shortly(text)} in {shortly(name)} is not {what}", i // n) from None
    try:
        return np.array(values)
    except OverflowError:
        raise frame.error(f"{shortly(name)} holds a number that is too large") from None


def _unnamed(
    frame: Frame, rows: list[list[str]], widths: set[int], width: int
) -> dict[str, np.ndarray]:
    """The columns that nothing names: numbers, or text as it is."""
    last = max(widths)
    name = f"columns {width + 1}-{last}" if last > width + 1 else f"column {last}"
    try:
        numbers = [[to_float(word) for word in row[width:]] for row in rows]
    except ValueError:
        texts = np.array([" ".join(row[width:]) for row in rows], dtype=object)
        return {f"{name} (text)": texts}
    if len(widths) > 1:
        # One number too few may as well be a coordinate.
        row = next(i for i, words in enumerate(rows) if len(words) != len(rows[0]))
        raise frame.error(
            f"{shortly(frame.rows[row].strip())} has {len(rows[row])} columns, and the atoms "
            f"before it have {len(rows[0])}",
            row,
        )
    return {name: np.array(numbers)}


def _numbers(frame: Frame, symbols: Any, numbers: Any) -> np.ndarray:
    """Atomic numbers (n,) by symbols, or by a column of numbers, which must agree."""
    if symbols is None:
        wrong = np.flatnonzero((numbers < 1) | (numbers >= len(SYMBOLS)))
        if len(wrong):
            raise frame.error(
                f"{numbers[wrong[0]]} is not the atomic number of an element", wrong[0]
            )
        return np.asarray(numbers)
    found = np.array([_element(symbol) for symbol in symbols], dtype=int)
    if (found == 0).any():
        row = int(np.argmin(found != 0))
        raise frame.error(_no_element(symbols[row]), row)
    if numbers is not None and (found != numbers).any():
        row = int(np.argmax(found != numbers))
        raise frame.error(
            f"the symbol is {shortly(symbols[row])}, but the atomic number {numbers[row]}", row
        )
    if frame.comment.startswith("Atoms. Timestep") and any(s.isdigit() for s in symbols):
        raise frame.error(
            "LAMMPS writes types of atoms, which are not atomic numbers; write elements there "
            "with 'dump_modify ... element H C O'"
        )
    return found


@lru_cache(maxsize=4096)
def _element(symbol: str) -> int:
    """Atomic number of a symbol in any case (Cl, CL, cl), of a number, or of a labelled symbol
    (C1, O_w); deuterium and tritium are hydrogen. 0 for anything else.
    """
    if re.fullmatch(r"[0-9]{1,3}", symbol):
        number = int(symbol)
        return number if number < len(SYMBOLS) else 0
    plain = symbol.capitalize()
    if plain in ("D", "T"):
        return 1
    if plain in _BY_SYMBOL:
        return _BY_SYMBOL[plain]
    label = _LABEL.fullmatch(symbol)
    return _BY_SYMBOL.get(label[1].capitalize(), 0) if label is not None else 0


_BY_SYMBOL = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}


def _no_element(symbol: str) -> str:
    if symbol.lower() == "tv":
        return (
            "'Tv' is a vector of the cell, not an atom; write the cell as Lattice= in the comment"
        )
    if symbol.lower().rstrip(":0123456789") in _DUMMIES or symbol.startswith("@") or ":" in symbol:
        return f"{shortly(symbol)} is a dummy or ghost atom, which is of no element; remove it"
    return f"{shortly(symbol)} is not the symbol of an element"


def _qm9(frame: Frame) -> dict[str, Any]:
    """The properties in the comment of QM9 by name, in hartree where they are energies."""
    try:
        values = [to_float(word) for word in frame.comment.split()[2:]]
    except ValueError as e:
        raise frame.error(f"a property of QM9 is not a number ({e})") from None
    info: dict[str, Any] = dict(zip(QM9_PROPERTIES, values, strict=True))
    info["energy_unit"] = "hartree"
    names = ("frequencies", "SMILES", "InChI")
    return info | {n: line.strip() for n, line in zip(names, frame.tail, strict=False)}
