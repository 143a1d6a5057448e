"""MDL molecule files: .mol and .sdf, V2000 and V3000."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import ase
from ase.data import covalent_radii

from anipot.data.mapping import ReadOptions, log
from anipot.data.readers.charges import tells_charge_or_spin
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

#: Formal charge of each code in the charge column of V2000; 4 is a doublet radical.
CHARGE_CODES = {0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: -1, 6: -2, 7: -3}
#: Unpaired electrons of each code of a radical: none, singlet, doublet, triplet.
RADICAL_CODES = {0: 0, 1: 0, 2: 1, 3: 2}

#: What a file with marks of radicals that were left out is said to hold.
_MARKS = "marks of radicals"
_DATA = re.compile(r">.*?<([^<>]+)>")


@dataclass
class _Lines:
    """Lines of one record, with the place of each for messages."""

    path: Path
    frame: int
    first: int
    lines: list[str]
    at: int = 0

    def where(self, line: int | None = None) -> str:
        line = self.at if line is None else line
        return f"{self.path}, frame {self.frame}, line {self.first + line}"

    def next(self, what: str) -> str:
        if self.at >= len(self.lines):
            raise DataError(f"{self.where()}: the file ends where {what} is expected")
        self.at += 1
        return self.lines[self.at - 1]

    def refuse(self, reason: str) -> DataError:
        """An error about the line that was read last."""
        return DataError(f"{self.where(self.at - 1)}: {reason}")


def read_molfile(path: Path, options: ReadOptions) -> Structures:
    """All molecules of a .mol or .sdf file. Raises DataError."""
    found = Structures([])
    lines = read_lines(path)
    ends = [i for i, line in enumerate(lines) if line.startswith("$$$$")]
    start = 0
    for end in [*ends, len(lines)]:
        if end < len(lines) or any(line.strip() for line in lines[start:end]):
            record = _Lines(path, len(found.frames), start + 1, lines[start:end])
            found.frames.append(_molecule(record, options, found.not_read))
        start = end + 1
    if _MARKS in found.not_read:
        log.warning(
            "%s: some atoms are marked as radicals (M  RAD) where all electrons can be paired, as "
            "programs do that guess bonds from a geometry; the marks are left out, and the "
            "molecules are read as closed-shell",
            path,
        )
    return found


def _molecule(record: _Lines, options: ReadOptions, not_read: set[str]) -> ase.Atoms:
    title = record.next("the name of a molecule").strip()
    program = record.next("the line of the program")
    record.next("a comment")
    counts = record.next("the counts line")
    if "V3000" in counts:
        atoms = _v3000(record, not_read)
    elif "V2000" in counts or re.fullmatch(r"[ \d]{6}.*", counts):
        atoms = _v2000(record, counts, not_read)
    else:
        raise record.refuse(
            f"{shortly(counts.strip())} is no counts line of a V2000 or V3000 molecule"
        )
    if not len(atoms):
        raise record.refuse("the molecule has no atoms")
    if program[20:22].upper() == "2D" and not atoms.positions[:, 2].any() and len(atoms) > 1:
        raise DataError(
            f"{record.where(1)}: is a drawing (2D) and no geometry; make a geometry of it first"
        )
    if atoms.has("masses"):
        not_read.add("isotopes")
    if title:
        atoms.info["name"] = title
    _data(record, atoms, options, not_read)
    return atoms


def _v2000(record: _Lines, counts: str, not_read: set[str]) -> ase.Atoms:
    where = record.where(record.at - 1)
    n_atoms = count(counts[0:3], where, "number of atoms")
    n_bonds = count(counts[3:6], where, "number of bonds")
    symbols, positions, charge = [], [], 0
    marks: dict[int, int] = {}
    bonds: set[frozenset[int]] = set()
    isotopes = False
    for i in range(n_atoms):
        line = record.next(f"atom {i + 1} of {n_atoms}")
        where = record.where(record.at - 1)
        fields = line.split()
        if len(line) < 32 or len(fields) < 4 or line.startswith("M  "):
            raise record.refuse(f"{shortly(line.strip())} is not atom {i + 1} of {n_atoms}")
        symbols.append(element(line[31:34], where))
        positions.append([number(line[k : k + 10], where) for k in (0, 10, 20)])
        isotopes |= line[34:36].strip() not in ("", "0")
        code = count(line[36:39].strip() or "0", where, "charge code")
        if code not in CHARGE_CODES:
            raise record.refuse(f"{code} is not the code of a charge")
        charge += CHARGE_CODES[code]
        marks |= {i: 2} if code == 4 else {}
    for i in range(n_bonds):
        line = record.next(f"bond {i + 1} of {n_bonds}")
        ends = [line[0:3].strip(), line[3:6].strip()]
        if not all(end.isdigit() and 1 <= int(end) <= n_atoms for end in ends):
            raise record.refuse(
                f"{shortly(line.strip())} is not bond {i + 1} of {n_bonds} between {n_atoms} "
                "atoms: do the counts agree with the file?"
            )
        bonds.add(frozenset(int(end) - 1 for end in ends))
    # Lines of properties replace all that the atoms' own lines say.
    charges, radicals, replaced = 0, dict[int, int](), False
    ended = False
    while record.at < len(record.lines) and not ended:
        line = record.next("M  END")
        kind = line[:6]
        ended = kind == "M  END"
        if kind in ("M  CHG", "M  RAD", "M  ISO"):
            values = _pairs(record, line, n_atoms)
            isotopes |= kind == "M  ISO"
            if kind != "M  ISO":
                replaced = True
                charges += sum(values.values()) if kind == "M  CHG" else 0
                radicals |= _radicals(record, values) if kind == "M  RAD" else {}
        elif not ended and (line.startswith(">") or _looks_like_atom(line)):
            raise record.refuse(f"{shortly(line.strip())} is found where 'M  END' is expected")
    if not ended and any(line.strip() for line in record.lines[record.at :]):
        raise record.refuse("'M  END' is missing")
    atoms = atoms_of(symbols, positions)
    if isotopes:
        _isotopes(record, atoms, n_atoms)
    charge, marks = (charges, radicals) if replaced else (charge, marks)
    declare(atoms, charge, _unpaired(atoms, charge, marks, bonds, not_read))
    return atoms


def _looks_like_atom(line: str) -> bool:
    return bool(re.match(r"\s*-?\d+\.\d+\s*-?\d+\.\d+\s*-?\d+\.\d+\s+[A-Za-z]", line))


def _pairs(record: _Lines, line: str, n_atoms: int) -> dict[int, int]:
    """The values by atom (from 0) of a property line such as ``M  CHG  2   1   1   4  -1``."""
    try:
        n, *rest = map(int, line[6:].split())
        places, values = rest[0::2], rest[1::2]
        good = len(places) == len(values) == n and all(1 <= p <= n_atoms for p in places)
    except ValueError:
        good = False
    if not good:
        raise record.refuse(f"{shortly(line.strip())} is not a list of atoms and values")
    return {place - 1: value for place, value in zip(places, values, strict=True)}


def _radicals(record: _Lines, codes: dict[int, int]) -> dict[int, int]:
    wrong = [code for code in codes.values() if code not in RADICAL_CODES]
    if wrong:
        raise record.refuse(f"{wrong[0]} is not the code of a radical")
    return codes


def _unpaired(
    atoms: ase.Atoms,
    charge: int,
    marks: dict[int, int],
    bonds: set[frozenset[int]],
    not_read: set[str],
) -> int:
    """Unpaired electrons by the radical codes of atoms (from 0), less those that cannot be meant.

    Programs that guess bonds from a geometry mark atoms as radicals when they miss a bond or a
    double bond: two doublets side by side without a bond between them, or an odd number of
    unpaired electrons in a molecule of an even number of electrons.
    """
    left = {a: code for a, code in marks.items() if RADICAL_CODES[code]}
    for a, b in combinations(sorted(left), 2):
        bond = 1.3 * sum(covalent_radii[atoms.numbers[[a, b]]])
        near = atoms.get_distance(a, b) < bond and frozenset((a, b)) not in bonds
        if near and left.get(a) == left.get(b) == 2:
            del left[a], left[b]
    unpaired = sum(RADICAL_CODES[code] for code in left.values())
    if unpaired % 2 and (int(atoms.numbers.sum()) - charge) % 2 == 0:
        left, unpaired = {}, 0
    if len(left) < sum(RADICAL_CODES[code] > 0 for code in marks.values()):
        not_read.add(_MARKS)
    return unpaired


def _isotopes(record: _Lines, atoms: ase.Atoms, n_atoms: int) -> None:
    """Set the masses of isotopes from ``M  ISO`` lines, or from the column of mass differences."""
    masses = atoms.get_masses()
    lines = [line for line in record.lines[: record.at] if line.startswith("M  ISO")]
    for line in lines:
        rest = list(map(int, line[6:].split()))[1:]
        for place, mass in zip(rest[0::2], rest[1::2], strict=True):
            masses[place - 1] = float(mass)
    if not lines:
        for i, line in enumerate(record.lines[4 : 4 + n_atoms]):
            difference = line[34:36].strip()
            if difference not in ("", "0"):
                masses[i] = round(masses[i]) + number(difference, record.where(4 + i), "mass")
    atoms.set_masses(masses)


def _v3000(record: _Lines, not_read: set[str]) -> ase.Atoms:
    n_atoms = n_bonds = -1
    found = charge = 0
    marks: dict[int, int] = {}
    bonds: list[frozenset[int]] = []
    symbols, positions, masses = [], [], {}
    block, ended = "", False
    while not ended:
        line = record.next("M  END").rstrip()
        where = record.where(record.at - 1)
        if line.startswith("M  END"):
            ended = True
            continue
        if not line.startswith("M  V30"):
            continue
        while line.endswith("-"):
            line = line[:-1] + record.next("a continued line")[6:].rstrip()
        words = line[6:].split()
        if words[:1] == ["BEGIN"] or words[:1] == ["END"]:
            block = " ".join(words[1:2]) if words[0] == "BEGIN" else ""
        elif words[:1] == ["COUNTS"] and len(words) >= 3:
            n_atoms = count(words[1], where, "number of atoms")
            n_bonds = count(words[2], where, "number of bonds")
        elif block == "ATOM":
            if len(words) < 6:
                raise record.refuse(f"{shortly(line.strip())} is not an atom of a V3000 molecule")
            symbols.append(element(words[1], where))
            positions.append([number(x, where) for x in words[2:5]])
            for word in words[6:]:
                key, _, value = word.partition("=")
                if key == "CHG":
                    charge += int(number(value, where, "charge"))
                elif key == "RAD":
                    marks |= _radicals(record, {found: int(number(value, where, "radical"))})
                elif key == "MASS":
                    masses[found] = number(value, where, "mass")
            found += 1
        elif block == "BOND":
            bonds.append(frozenset(int(end) - 1 for end in words[2:4] if end.isdigit()))
    if (found, len(bonds)) != (n_atoms, n_bonds):
        raise record.refuse(
            f"the molecule has {found} atoms and {len(bonds)} bonds, its COUNTS line says "
            f"{n_atoms} and {n_bonds}"
        )
    atoms = atoms_of(symbols, positions)
    if masses:
        all_masses = atoms.get_masses()
        all_masses[list(masses)] = list(masses.values())
        atoms.set_masses(all_masses)
    declare(atoms, charge, _unpaired(atoms, charge, marks, set(bonds), not_read))
    return atoms


def _data(record: _Lines, atoms: ase.Atoms, options: ReadOptions, not_read: set[str]) -> None:
    """Data fields behind the molecule: those asked for and those of charge and spin are read."""
    while record.at < len(record.lines):
        line = record.next("a data field")
        if line.startswith("M  END") or "V2000" in line or "V3000" in line:
            raise record.refuse("a second molecule, with no line '$$$$' before it")
        match = _DATA.match(line)
        if match is None:
            continue
        key, values = match[1], []
        while record.at < len(record.lines) and record.lines[record.at].strip():
            values.append(record.next("a value").strip())
        value = " ".join(values)
        asked = key in (options.energy_key, options.group_key)
        if asked or tells_charge_or_spin(key):
            atoms.info[key] = value
        else:
            not_read.add(key)
