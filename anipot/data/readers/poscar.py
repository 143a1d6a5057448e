"""VASP's POSCAR and CONTCAR."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.constraints import FixAtoms, FixScaled
from ase.io.vasp import atomtypes_outpot

from anipot.data.readers.text import Structures, count, element, number, read_lines
from anipot.errors import DataError, shortly


def read_poscar(path: Path) -> Structures:
    """The structure of a POSCAR; selective dynamics become constraints. Raises DataError."""
    lines = _Lines(path, read_lines(path))
    cell, scale = _cell(lines)
    symbols, at = _symbols(lines)
    mode = lines.get(at, "Direct or Cartesian").strip()
    selective = mode[:1].lower() == "s"
    if selective:
        at += 1
        mode = lines.get(at, "Direct or Cartesian").strip()
    if mode[:1].lower() not in ("d", "c", "k"):
        raise DataError(f"{lines.where(at)}: {shortly(mode)} is neither Direct nor Cartesian")
    positions, fixed = [], []
    for i in range(at + 1, at + 1 + len(symbols)):
        fields = lines.get(i, f"atom {i - at} of {len(symbols)}").split()
        if len(fields) < (6 if selective else 3):
            raise DataError(
                f"{lines.where(i)}: {shortly(lines.lines[i].strip())} is not atom {i - at} of "
                f"{len(symbols)}" + (" with its three flags T or F" if selective else "")
            )
        positions.append([number(x, lines.where(i)) for x in fields[:3]])
        if selective:
            flags = [flag.strip(".")[:1].upper() for flag in fields[3:6]]
            if not set(flags) <= {"T", "F"}:
                raise DataError(
                    f"{lines.where(i)}: {shortly(' '.join(fields[3:6]))} are not flags T or F"
                )
            fixed.append([flag == "F" for flag in flags])
    found = Structures([])
    atoms = ase.Atoms(numbers=[z for z, _ in symbols], cell=cell, pbc=True)
    if mode[:1].lower() == "d":
        atoms.set_scaled_positions(positions)
    else:
        atoms.positions[:] = np.array(positions) * scale
    atoms.set_constraint(_constraints(np.array(fixed, dtype=bool)))
    behind = at + 1 + len(symbols)
    _check_rest(lines.lines[behind:], lines.where(behind), found.not_read)
    found.frames.append(atoms)
    return found


@dataclass(frozen=True)
class _Lines:
    path: Path
    lines: list[str]

    def get(self, i: int, what: str) -> str:
        if i >= len(self.lines):
            raise DataError(f"{self.path}: ends after {i} lines, where {what} is expected")
        return self.lines[i]

    def where(self, i: int) -> str:
        return f"{self.path}, line {i + 1}"


def _cell(lines: _Lines) -> tuple[np.ndarray, np.ndarray]:
    """The cell, and the factor of Cartesian positions: one number, or one for each direction."""
    factors = [number(x, lines.where(1), "scale") for x in lines.get(1, "the scale").split()[:3]]
    factors = factors if len(factors) == 3 else factors[:1]
    rows = []
    for i in (2, 3, 4):
        fields = lines.get(i, "a lattice vector").split()[:3]
        if len(fields) < 3:
            raise DataError(f"{lines.where(i)}: a lattice vector has three numbers")
        rows.append([number(x, lines.where(i), "lattice vector") for x in fields])
    cell = np.array(rows)
    volume = abs(float(np.linalg.det(cell)))
    if not volume > 0 or not factors or 0 in factors:
        raise DataError(f"{lines.path}: lines 2 to 5 are not a scale and three lattice vectors")
    if min(factors) < 0:
        if len(factors) > 1:
            raise DataError(f"{lines.where(1)}: three scales must be above 0")
        factors = [float(np.cbrt(-factors[0] / volume))]
    scale = np.array(factors)
    return cell * scale, scale


def _symbols(lines: _Lines) -> tuple[list[tuple[int, float | None]], int]:
    """Elements of all atoms, and the line behind the counts."""
    at = 5
    words = lines.get(at, "element symbols").split("!")[0].split()
    kinds = [] if all(word.isdigit() for word in words) else words
    if kinds:
        at += 1
    # A comment may follow the counts.
    counts = []
    for word in lines.get(at, "the numbers of atoms").split():
        if not word.isdigit():
            break
        counts.append(count(word, lines.where(at), "number of atoms"))
    if not kinds:  # VASP 4
        kinds = _older(lines, len(counts), lines.where(at))
    if len(kinds) != len(counts):
        raise DataError(
            f"{lines.where(at)}: {len(counts)} numbers of atoms for {len(kinds)} elements"
        )
    symbols = []
    for kind, n in zip(kinds, counts, strict=True):
        # POTCAR's names: Na_pv, H.5 and, with a hash, C/6a2f546d.
        symbols += [element(re.split(r"[_/.]", kind)[0], lines.where(at - 1))] * n
    if not symbols:
        raise DataError(f"{lines.where(at)}: no atoms")
    return symbols, at + 1


def _older(lines: _Lines, n: int, where: str) -> list[str]:
    """Elements of a file without a line for them: from the title, or from POTCAR or OUTCAR."""
    words = lines.get(0, "a title").split()
    try:
        for word in words[:n]:
            element(word, where)
        if n and len(words) >= n:
            return words[:n]
    except DataError:
        pass
    try:
        found: list[str] = atomtypes_outpot(str(lines.path), n)
        return found
    except Exception:
        raise DataError(
            f"{where}: no line of element symbols before the numbers of atoms (VASP 4); add one, "
            "such as 'O H'"
        ) from None


def _constraints(fixed: np.ndarray) -> list[FixAtoms | FixScaled]:
    """Constraints of the flags (n, 3): whole atoms, or directions of the cell."""
    if not fixed.any():
        return []
    whole = np.flatnonzero(fixed.all(axis=1))
    found: list[FixAtoms | FixScaled] = [FixAtoms(whole)] if len(whole) else []
    partly = fixed.any(axis=1) & ~fixed.all(axis=1)
    for mask in np.unique(fixed[partly], axis=0):
        found.append(FixScaled(np.flatnonzero(partly & (fixed == mask).all(axis=1)), mask))
    return found


def _check_rest(rest: list[str], where: str, not_read: set[str]) -> None:
    """Check the lines after the atoms: velocities after an empty line, or too many atoms."""
    words = rest[0].split() if rest else []
    if words and words[0][:1].lower() not in ("l", "c", "d"):
        raise DataError(
            f"{where}: {shortly(rest[0].strip())} follows the last atom: do the numbers of "
            "atoms agree with the file?"
        )
    if any(line.strip() for line in rest):
        not_read.add("velocities")
