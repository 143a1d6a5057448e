"""Crystallographic information files, read by ASE and checked for what it takes no notice of."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
from ase.io.cif import CIFBlock, parse_cif

from anipot.data.mapping import log
from anipot.data.readers.text import Structures, element, read_lines
from anipot.errors import DataError, shortly

#: What stands for a value that is not given.
_NOTHING = ("", ".", "?", None)

_FORMULA = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")


def read_cif(path: Path) -> Structures:
    """The structure of each data block, with its symmetry applied. Raises DataError.

    Refused are sites that are not wholly occupied, disorder of several groups, dummy atoms, ions
    whose charges do not cancel, and a cell that has other atoms than its formula.
    """
    text = "\n".join(read_lines(path))
    if re.search(r"(?m)^\s*_atom_site\.Cartn_x", text):
        raise DataError(f"{path}: is an mmCIF (PDBx) file, which is not read; convert it to PDB")
    found = Structures([])
    for block in _blocks(path, text):
        where = f"{path}, data block {shortly(block.name)}"
        if not any(tag.startswith("_atom_site_") for tag in block):
            continue
        _check_sites(block, where)
        atoms = _structure(block, where)
        _check_formula(block, atoms, where)
        if atoms.has("masses"):
            found.not_read.add("isotopes")
        found.frames.append(atoms)
    if not found.frames:
        raise DataError(f"{path}: no data block has sites of atoms (_atom_site_...)")
    return found


def _blocks(path: Path, text: str) -> Iterator[CIFBlock]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from list(parse_cif(io.StringIO(text)))
        except Exception as e:  # ASE's parser raises anything at all on a damaged file
            raise DataError(f"{path}: cannot be read as CIF ({type(e).__name__}: {e})") from e


def _column(block: CIFBlock, tag: str) -> list[Any]:
    value = block.get(tag)
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _labels(block: CIFBlock) -> list[str]:
    labels = _column(block, "_atom_site_label") or _column(block, "_atom_site_type_symbol")
    return [str(label) for label in labels]


def _check_sites(block: CIFBlock, where: str) -> None:
    labels = _labels(block)
    groups: dict[str, set[str]] = {}
    assemblies = _column(block, "_atom_site_disorder_assembly") or [None] * len(labels)
    for name in ("_atom_site_occupancy", "_atom_site_disorder_group", "_atom_site_calc_flag"):
        for i, value in enumerate(_column(block, name)):
            site = labels[i] if i < len(labels) else str(i)
            text = str(value)
            if text in _NOTHING or value is None:
                continue
            if name.endswith("occupancy"):
                _check_occupancy(value, f"{where}: site {site}")
            elif name.endswith("calc_flag") and text == "dum":
                raise DataError(f"{where}: site {site} is a dummy and no atom; remove it")
            elif name.endswith("group"):
                assembly = str(assemblies[i]) if i < len(assemblies) else "."
                known = groups.setdefault(assembly, set())
                known.add(text)
                if len(known) > 1:
                    raise DataError(
                        f"{where}: site {site} belongs to one of several disorder groups, which "
                        "exclude each other; write a file with one of them"
                    )
    for i, symbol in enumerate(_column(block, "_atom_site_type_symbol") or labels):
        letters = re.match(r"[A-Za-z]{1,2}", str(symbol))
        if letters is None:
            raise DataError(f"{where}: site {labels[i]}: {shortly(symbol)} is not an element")
        name = letters[0] if letters[0][1:].islower() else letters[0][:1]
        element(name, f"{where}: site {labels[i]}")


def _check_occupancy(value: Any, where: str) -> None:
    try:
        occupancy = float(re.sub(r"\(.*", "", str(value)))
    except ValueError:
        raise DataError(f"{where}: {shortly(value)} is not an occupancy") from None
    if not abs(occupancy - 1) < 1e-3:
        raise DataError(
            f"{where} has an occupancy of {occupancy:g}: a structure has whole atoms only. Write a "
            "file with one of the alternatives (or a supercell that is occupied in that ratio)"
        )


def _structure(block: CIFBlock, where: str) -> ase.Atoms:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if block.get_cell().rank not in (0, 3):
                raise DataError(f"{where}: the cell is not whole (three lengths, three angles)")
            atoms = block.get_atoms(fractional_occupancies=False)
        except DataError:
            raise
        except Exception as e:  # ASE's parser raises anything at all on a damaged file
            raise DataError(f"{where}: cannot be read ({type(e).__name__}: {e})") from e
    atoms.info.clear()
    if not atoms.pbc.any():
        log.warning("%s: has no cell; read as a molecule", where)
    charge = _charge(block)
    if charge:
        raise DataError(
            f"{where}: the charges in the symbols of its sites add up to {charge:+d}; only neutral "
            "closed-shell structures can be described"
        )
    return atoms


def _charge(block: CIFBlock) -> int:
    """Charges such as the 1+ of Na1+, where the sites are all there is (no symmetry)."""
    operations = _column(block, "_space_group_symop_operation_xyz") + _column(
        block, "_symmetry_equiv_pos_as_xyz"
    )
    if len(operations) > 1:
        return 0
    total = 0
    for symbol in _column(block, "_atom_site_type_symbol"):
        match = re.fullmatch(r"[A-Za-z]+(\d*)([-+])", str(symbol))
        if match is not None:
            total += int(match[1] or 1) * (1 if match[2] == "+" else -1)
    return total


def _check_formula(block: CIFBlock, atoms: ase.Atoms, where: str) -> None:
    """Compare the atoms with the formula of the file, which counts them independently."""
    formula = str(block.get("_chemical_formula_sum") or "")
    parts = [_FORMULA.fullmatch(part) for part in formula.split()]
    known = [part for part in parts if part is not None]
    if not known:
        return
    expected: Counter[str] = Counter()
    for part in known:
        expected["H" if part[1] in "DT" else part[1]] += float(part[2] or 1)  # type: ignore[assignment]
    counted = Counter(atoms.get_chemical_symbols())
    units = block.get("_cell_formula_units_z")
    try:
        times = float(str(units)) if units not in _NOTHING and atoms.pbc.any() else 0.0
    except ValueError:
        times = 0.0
    if not times:  # proportions are all that is known
        times = len(atoms) / max(sum(expected.values()), 1e-9)
    if any(abs(expected[e] * times - counted[e]) > 0.01 for e in expected | counted):
        raise DataError(
            f"{where}: has {atoms.get_chemical_formula()} in its cell, but its formula "
            f"{shortly(formula)}, {times:.3g} times, is another: sites are missing (hydrogen?) or "
            "counted more than once. Complete the file, or remove _chemical_formula_sum where it "
            "is wrong"
        )
