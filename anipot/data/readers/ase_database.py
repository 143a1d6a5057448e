"""ASE's databases: SQLite (.db) and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import ase.db
import numpy as np

from anipot import units
from anipot.data.mapping import ReadOptions, keyword
from anipot.data.readers.text import Structures
from anipot.errors import DataError, SettingsError


def read_database(path: Path, options: ReadOptions) -> Structures:
    """The rows of a database. Raises DataError.

    ``key_value_pairs`` and ``data`` of a row become the frame's info, or arrays where they have a
    row for each atom, so that labels among them are found by their keys. Units that SchNetPack
    declares for the data are used.
    """
    found = Structures([])
    try:
        # serial: no lock file is written beside a file that is only read.
        database = ase.db.connect(
            path, type="json" if path.suffix == ".json" else "db", serial=True, use_lock_file=False
        )
        with database:
            rows = database.count()
            metadata = database.metadata
            for row in database.select():
                found.frames.append(_frame(row, f"{path}, frame {len(found.frames)}"))
    except DataError:
        raise
    except Exception as e:  # a damaged database raises anything at all
        kind = "JSON file" if path.suffix == ".json" else "SQLite file"
        raise DataError(
            f"{path}: cannot be read as a database of ASE, a {kind} ({type(e).__name__}: {e})"
        ) from e
    if len(found.frames) != rows:
        raise DataError(f"{path}: has {rows} rows, {len(found.frames)} could be read")
    found.options = _declared(metadata, options, path)
    return found


def _frame(row: Any, where: str) -> ase.Atoms:
    # Not as the row's attributes: its property "charge" hides a key of that name.
    pairs = {key: vars(row)[key] for key in row.key_value_pairs if key in vars(row)}
    try:
        atoms: ase.Atoms = row.toatoms()
    except Exception as e:  # whatever is wrong with the row
        raise DataError(
            f"{where} (row {row.get('id')}): cannot be read ({type(e).__name__}: {e})"
        ) from e
    for key, value in {**row.data, **pairs}.items():
        array = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else None
        if array is not None and array.ndim == 2 and len(array) == len(atoms):
            if key not in atoms.arrays:
                atoms.arrays[key] = array
        elif array is not None and array.size == 1:
            atoms.info[key] = array.reshape(-1)[0].item()
        else:
            atoms.info[key] = value
    for key in ("charge", "magmom"):
        value = row.get(key)
        if isinstance(value, int | float) and abs(value) > 0.01:
            atoms.info.setdefault(key, value)
    return atoms


def _declared(metadata: dict[str, Any], options: ReadOptions, path: Path) -> ReadOptions:
    """The options with units that SchNetPack's metadata declare, where the caller gave none."""
    given = (options.energy_unit, options.length_unit, options.force_unit)
    properties = metadata.get("_property_unit_dict")
    if not isinstance(properties, dict) or any(given):
        return options
    new = {}
    declared = {
        "energy_unit": properties.get(options.energy_key or "energy"),
        "length_unit": metadata.get("_distance_unit"),
        "force_unit": properties.get(options.forces_key or "forces"),
    }
    known = {
        "energy_unit": units.energy_to_hartree,
        "length_unit": units.length_to_angstrom,
        "force_unit": units.force_to_hartree_per_angstrom,
    }
    for option, unit in declared.items():
        if not unit:
            continue
        try:
            known[option](str(unit))
        except SettingsError as e:
            raise DataError(
                f"{path}: its metadata declare a unit that is not known: {e}; give the units with "
                f"{keyword('energy_unit')}, {keyword('length_unit')} and {keyword('force_unit')}"
            ) from e
        new[option] = str(unit)
    # Without a unit of their own, energies are in ASE's.
    return options.model_copy(update=new)
