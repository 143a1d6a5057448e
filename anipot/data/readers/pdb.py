"""Protein Data Bank files, by their columns."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import ase
import numpy as np
from ase.geometry import cellpar_to_cell

from anipot.data.mapping import log
from anipot.data.readers.text import (
    ISOTOPES,
    Structures,
    atoms_of,
    declare,
    element,
    number,
    read_lines,
)
from anipot.elements import number_of
from anipot.errors import DataError, SettingsError

_RESIDUES = """
ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL
ACE NME NMA NH2 HID HIE HIP HSD HSE HSP CYX CYM ASH GLH LYN MSE SEP TPO PTR
HOH WAT SOL TIP TIP3 SPC DA DC DG DT DU A C G U T
"""
#: Residues in which an atom's name such as CA or HG begins with an element of one letter.
RESIDUES = frozenset(_RESIDUES.split())

#: Volume of an atom below which a cell is not believed, angstrom^3 (diamond has 5.7).
SMALLEST_VOLUME = 2.5

_COORDINATE = re.compile(r"\s*[-+]?\d*\.\d+\s*")
_CHARGE = re.compile(r"(\d)([-+])|([-+])(\d)|([-+])")


@dataclass
class _Atom:
    line: int
    element: tuple[int, float | None]
    position: list[float]
    charge: int
    residue: str
    alternate: str
    occupancy: float


@dataclass
class _Frame:
    """Atoms that are collected until a frame ends; ``model`` is the line that began a MODEL."""

    atoms: list[_Atom] = field(default_factory=list)
    model: int = 0


def read_pdb(path: Path) -> Structures:
    """All models of a PDB file. Raises DataError.

    An END behind the last model begins no frame. Of alternate locations, the ones of the highest
    occupancy are kept in each residue. The cell of 1 x 1 x 1 that stands for no cell is none.
    """
    reader = _Reader(path)
    for i, line in enumerate(read_lines(path), 1):
        reader.line(i, line)
    return reader.finish()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = Structures([])
        self.frame = _Frame()
        self.cell: np.ndarray | None = None
        self.announced = 0
        self.named: set[str] = set()
        self.left_out = 0

    def where(self, line: int) -> str:
        return f"{self.path}, frame {len(self.found.frames)}, line {line}"

    def line(self, i: int, line: str) -> None:
        record = line[:6].rstrip()
        if record in ("ATOM", "HETATM"):
            self.frame.atoms.append(self._atom(i, line))
        elif record == "MODEL":
            if self.frame.model:
                raise DataError(
                    f"{self.where(i)}: a model begins before the one of line {self.frame.model} "
                    "has ended (ENDMDL)"
                )
            self._end()
            self.frame.model = i
        elif record == "ENDMDL":
            if not self.frame.atoms:
                raise DataError(f"{self.where(i)}: the model that ends here has no atoms")
            self._end()
        elif record == "END":
            if self.frame.model:
                raise DataError(f"{self.where(i)}: a model ends without ENDMDL")
            self._end()
        elif record == "CRYST1":
            self._end()
            self._cryst1(i, line)
        elif record == "NUMMDL":
            self.announced = int(number(line[10:14], self.where(i), "number of models"))

    def finish(self) -> Structures:
        if self.frame.model:
            raise DataError(
                f"{self.where(self.frame.model)}: the model that begins here has no ENDMDL: "
                "the file was cut short"
            )
        self._end()
        frames = self.found.frames
        if self.announced and self.announced != len(frames):
            raise DataError(
                f"{self.path}: NUMMDL announces {self.announced} models, {len(frames)} are there"
            )
        if self.named:
            log.warning(
                "%s: no elements in columns 77-78; they were taken from the names of atoms (%s)",
                self.path, ", ".join(sorted(self.named)[:12]),
            )  # fmt: skip
        if self.left_out:
            self.found.not_read.add("alternate locations")
            log.warning(
                "%s: %d atoms at alternate locations left out; the location of the highest "
                "occupancy is kept in each residue", self.path, self.left_out,
            )  # fmt: skip
        return self.found

    def _atom(self, i: int, line: str) -> _Atom:
        where = self.where(i)
        columns = [line[k : k + 8] for k in (30, 38, 46)]
        if line[29:30].strip() or _cut(line) or not all(map(_COORDINATE.fullmatch, columns)):
            raise DataError(
                f"{where}: no coordinates in columns 31-54 ({line[30:54]!r}); PDB has fixed columns"
            )
        occupancy = line[54:60].strip()
        return _Atom(
            i,
            self._element(line, where),
            [number(c, where) for c in columns],
            _charge(line[78:80].strip(), where),
            line[21:27] + line[72:76].strip(),
            line[16:17].strip(),
            number(occupancy, where, "occupancy") if occupancy else 1.0,
        )

    def _element(self, line: str, where: str) -> tuple[int, float | None]:
        given = line[76:78].strip()
        if given:
            return element(given, f"{where}, columns 77-78")
        name, residue = line[12:16], line[17:21].strip().upper()
        symbol = element_of_name(name, residue)
        if symbol is None:
            raise DataError(
                f"{where}: no element in columns 77-78, and the atom's name {name.strip()!r} in "
                f"residue {residue!r} does not tell it; write the element there"
            )
        self.named.add(f"{name.strip()} is {symbol}")
        return element(symbol, where)

    def _cryst1(self, i: int, line: str) -> None:
        where = self.where(i)
        edges = [number(line[k : k + 9] or "0", where, "cell") for k in (6, 15, 24)]
        if max(edges) <= 1.001:
            self.cell = None
            self.found.not_read.add("CRYST1 (placeholder)")
            log.warning(
                "%s: a cell of %g x %g x %g stands for none; read as molecules without a cell",
                where, *edges,
            )  # fmt: skip
            return
        angles = [number(line[k : k + 7], where, "cell") for k in (33, 40, 47)]
        if min(edges) <= 0 or not all(0 < angle < 180 for angle in angles):
            raise DataError(
                f"{where}: {edges} and {angles} are not the lengths and angles of a cell; remove "
                "the line where there is no cell"
            )
        group = line[55:66].strip()
        if group.replace(" ", "") not in ("", "P1", "1"):
            raise DataError(
                f"{where}: space group {group!r}: copies by symmetry are not in the file. Write "
                "all atoms of the cell in P 1, or remove CRYST1 for the molecule alone"
            )
        self.cell = cellpar_to_cell([*edges, *angles])

    def _end(self) -> None:
        frame, self.frame = self.frame, _Frame()
        if not frame.atoms:
            return
        kept = _chosen(frame.atoms)
        self.left_out += len(frame.atoms) - len(kept)
        atoms = atoms_of([a.element for a in kept], [a.position for a in kept])
        declare(atoms, sum(a.charge for a in kept))
        if atoms.has("masses"):
            self.found.not_read.add("isotopes")
        if self.cell is not None:
            self._check_volume(atoms, frame.atoms[0].line)
            atoms.set_cell(self.cell)
            atoms.pbc = True
        self.found.frames.append(atoms)

    def _check_volume(self, atoms: ase.Atoms, line: int) -> None:
        assert self.cell is not None
        volume = abs(float(np.linalg.det(self.cell)))
        if volume < SMALLEST_VOLUME * len(atoms):
            raise DataError(
                f"{self.where(line)}: the cell of CRYST1 has {volume:.3g} angstrom^3 for "
                f"{len(atoms)} atoms, which cannot be; remove the line where there is no cell"
            )


def _cut(line: str) -> bool:
    """Whether a coordinate runs on into the columns of the next one."""
    return any(
        line[k - 1 : k].isdigit()
        and (line[k : k + 1].isdigit() or line[k : k + 1] == ".")
        and line[k - 4 : k - 3] != "."
        for k in (38, 46)
    )


def _chosen(atoms: list[_Atom]) -> list[_Atom]:
    """Atoms without the less occupied of alternate locations, residue by residue."""
    total: dict[str, dict[str, float]] = defaultdict(dict)
    for atom in atoms:
        if atom.alternate:
            own = total[atom.residue]
            own[atom.alternate] = own.get(atom.alternate, 0.0) + atom.occupancy
    best = {residue: max(sorted(own), key=own.__getitem__) for residue, own in total.items()}
    return [a for a in atoms if not a.alternate or a.alternate == best[a.residue]]


def _charge(text: str, where: str) -> int:
    if text in ("", "0", "0+", "0-", "+0", "-0"):
        return 0
    match = _CHARGE.fullmatch(text)
    if match is None:
        raise DataError(f"{where}, columns 79-80: {text!r} is not a charge such as 1+")
    sign = match[2] or match[3] or match[5]
    return int(match[1] or match[4] or 1) * (-1 if sign == "-" else 1)


def element_of_name(name: str, residue: str) -> str | None:
    """The element that the name of an atom means, None where it can be read in two ways.

    ``name`` with the blank in front that moves an element of one letter to the second column.
    """
    letters = re.sub(r"^\d+", "", name.strip())
    if not letters or not letters[0].isalpha():
        return None
    first = letters[0].upper()
    two = letters[:2]
    is_two = len(two) == 2 and two.isalpha() and _is_element(two)
    is_one = _is_element(first)
    if two[1:].islower() and is_two:
        return two.capitalize()
    if residue == letters.upper() or residue.rstrip("+-0123456789") == letters.upper():
        return two.capitalize() if is_two else first if is_one else None  # an ion: CA in CA
    if is_one and (not is_two or residue in RESIDUES or name[:1] == " "):
        return first
    return two.capitalize() if is_two and not is_one else None


def _is_element(symbol: str) -> bool:
    try:
        number_of(symbol.capitalize())
    except SettingsError:
        return symbol.upper() in ISOTOPES
    return True
