"""Tripos MOL2 files."""

from __future__ import annotations

from pathlib import Path

import ase

from anipot.data.readers.text import (
    Structures,
    atoms_of,
    count,
    declare,
    element,
    number,
    read_lines,
)
from anipot.errors import DataError, shortly

#: Types of atoms that carry a charge: ammonium, and the centre of a guanidinium.
CHARGED_TYPES = {"N.4": 1, "C.cat": 1}

#: Partial charges may add up to so much by rounding.
ROUNDING = 0.1

_SECTION = "@<TRIPOS>"


def read_mol2(path: Path) -> Structures:
    """All molecules of a MOL2 file. Raises DataError."""
    lines = [line.rstrip() for line in read_lines(path)]
    starts = [i for i, line in enumerate(lines) if line.strip() == _SECTION + "MOLECULE"]
    if not starts:
        raise DataError(f"{path}: no line {_SECTION}MOLECULE in it")
    found = Structures([])
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        where = f"{path}, frame {len(found.frames)}"
        found.frames.append(_molecule(lines[start:end], where, start + 1, found.not_read))
    return found


def _molecule(lines: list[str], where: str, first: int, not_read: set[str]) -> ase.Atoms:
    sections: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for i, line in enumerate(lines):
        if line.startswith(_SECTION):
            name = line[len(_SECTION) :].strip()
            sections[name] = []
        elif (line.strip() and not line.startswith("#")) or name == "MOLECULE":
            sections[name].append((line, f"{where}, line {first + i}"))
    head = sections["MOLECULE"]
    if len(head) < 2:
        raise DataError(f"{where}, line {first}: the molecule has no line of counts")
    counts, place = head[1]
    words = counts.split() or [""]
    n_atoms = count(words[0], place, "number of atoms")
    rows = sections.get("ATOM", [])
    if len(rows) != n_atoms or not n_atoms:
        raise DataError(f"{place}: {n_atoms} atoms are announced, {len(rows)} are in the file")
    bonds = sections.get("BOND", [])
    if len(words) > 1 and count(words[1], place, "number of bonds") != len(bonds):
        raise DataError(f"{place}: {words[1]} bonds are announced, {len(bonds)} are in the file")
    symbols, positions, types, partial = [], [], [], 0.0
    for line, place in rows:
        fields = line.split()
        if len(fields) < 6:
            raise DataError(f"{place}: {shortly(line.strip())} is not an atom of a MOL2 file")
        symbols.append(element(fields[5].partition(".")[0], place))
        positions.append([number(x, place) for x in fields[2:5]])
        types.append(fields[5])
        if len(fields) > 8:
            partial += number(fields[8], place, "partial charge")
    atoms = atoms_of(symbols, positions)
    title = head[0][0].strip()
    if title and title != "*****":
        atoms.info["name"] = title
    charged = len(head) > 3 and head[3][0].strip() not in ("", "NO_CHARGES")
    formal = [
        line.split()[-1] for line, _ in sections.get("UNITY_ATOM_ATTR", []) if "charge" in line
    ]
    if formal:
        declare(atoms, sum(number(value, where, "charge") for value in formal))
    elif charged:
        not_read.add("partial charges")
        declare(atoms, 0 if abs(partial) <= ROUNDING else round(partial, 3))
    else:
        declare(atoms, _charge_of(types, bonds))
    _cell(atoms, sections)
    return atoms


def _charge_of(types: list[str], bonds: list[tuple[str, str]]) -> int:
    """The charge that the types of atoms imply: each group of oxygens O.co2 is an anion."""
    acids = set()
    for line, place in bonds:
        fields = line.split()
        if len(fields) < 4:
            raise DataError(f"{place}: {shortly(line.strip())} is not a bond of a MOL2 file")
        ends = [count(x, place, "number of an atom") - 1 for x in fields[1:3]]
        if not all(0 <= i < len(types) for i in ends):
            raise DataError(f"{place}: there is no such atom to be bonded")
        for i, j in (ends, ends[::-1]):
            if types[i] == "O.co2":
                acids.add(j)
    return sum(CHARGED_TYPES.get(t, 0) for t in types) - len(acids)


def _cell(atoms: ase.Atoms, sections: dict[str, list[tuple[str, str]]]) -> None:
    rows = sections.get("CRYSIN", [])
    if not rows:
        return
    line, place = rows[0]
    fields = line.split()
    if len(fields) < 6:
        raise DataError(
            f"{place}: {shortly(line.strip())} is not a cell (three lengths, three angles)"
        )
    if len(fields) > 6 and fields[6] != "1":
        raise DataError(
            f"{place}: space group {fields[6]}: copies by symmetry are not in the file; write all "
            "atoms of the cell in space group 1, or remove the cell for the molecule alone"
        )
    atoms.set_cell([number(x, place, "cell") for x in fields[:6]])
    atoms.pbc = True
