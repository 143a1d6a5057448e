"""NumPy archives: what ``Conformers.save`` wrote, and layouts such as MD17, rMD17 and sGDML."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from anipot.conformers import Conformers
from anipot.datasets import mapping
from anipot.datasets.mapping import ReadOptions, log
from anipot.errors import DataError, SettingsError

#: Names under which a foreign archive may declare its units (sGDML).
ENERGY_UNIT_KEYS = ("energy_unit", "e_unit")
LENGTH_UNIT_KEYS = ("length_unit", "r_unit")


def read_npz(path: Path, options: ReadOptions) -> Conformers:
    """An ``.npz`` archive; nothing in it is ever unpickled.

    Foreign archives hold coordinates (M, n, 3), species (n,) or (M, n) with padding, energies
    (M,) or (M, 1) and maybe forces (M, n, 3). They must declare the unit of energy (``e_unit``),
    or ``energy_unit=`` must be given: kcal/mol, eV and hartree are all common. With species (n,)
    the archive is one molecule, else conformers are grouped by formula. Raises DataError naming
    file and reason.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "about" not in file.files:
                return _foreign(
                    path, {k: file[k] for k in file.files if _readable(file, k)}, options
                )
    except DataError:
        raise
    except (
        OSError,
        EOFError,
        TypeError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise DataError(f"{path}: not a NumPy archive (.npz), or damaged ({e})") from e
    for name, value in options:
        if value is not None and not isinstance(value, bool):
            raise SettingsError(
                f"{path} was saved by anipot and needs no {mapping.keyword(name)}: its names and "
                "units are known"
            )
    return Conformers.load(path)


def _readable(file: np.lib.npyio.NpzFile, key: str) -> bool:
    """Pickled entries (a ``None`` or a dict among the metadata) are left alone."""
    try:
        file[key]
    except ValueError:
        return False
    return True


def _foreign(path: Path, arrays: dict[str, np.ndarray], options: ReadOptions) -> Conformers:
    where, o = str(path), options
    find = mapping.find_key
    keys = list(arrays)
    coordinates_key = find("coordinates", o.coordinates_key, mapping.COORDINATES_KEYS, keys, where,
                           "coordinates_key")  # fmt: skip
    if coordinates_key is None:
        raise mapping.missing("coordinates", "coord", keys, where, "coordinates_key")
    species_key = find("species", o.species_key, mapping.SPECIES_KEYS, keys, where, "species_key")
    if species_key is None:
        raise mapping.missing("species", "number", keys, where, "species_key")
    energy_key = find("energies", o.energy_key, mapping.ENERGY_KEYS, keys, where, "energy_key")
    if energy_key is None and not o.keep_unlabelled:
        raise mapping.missing(
            "energies", "energ", keys, where, "energy_key",
            f", or read the file without: {mapping.keyword('keep_unlabelled', True)}",
        )  # fmt: skip
    forces_key = find("forces", o.forces_key, mapping.FORCES_KEYS, keys, where, "forces_key")
    declared = _entry(arrays, ENERGY_UNIT_KEYS)
    if (energy_key or forces_key) and not (declared or o.energy_unit):
        unknown = f"{where} does not say in which unit its energies are"
        if not o.keep_unlabelled:
            raise DataError(
                f"{unknown}; give {mapping.keyword('energy_unit', 'kcal/mol')}, 'eV' or 'hartree'"
            )
        log.warning(
            "%s: it is read without them; %s reads them", unknown,
            mapping.keyword("energy_unit", "kcal/mol"),
        )  # fmt: skip
        energy_key = forces_key = None
    scales = mapping.scales(
        o, where, energy_unit=declared, length_unit=_entry(arrays, LENGTH_UNIT_KEYS)
    )
    coordinates = arrays[coordinates_key]
    if coordinates.ndim == 2 and coordinates.shape[1] == 3:
        coordinates = coordinates[None]
    if coordinates.ndim != 3 or coordinates.shape[2] != 3 or coordinates.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: {coordinates_key!r} has shape {arrays[coordinates_key].shape}, not "
            "(conformers, atoms, 3)"
        )
    m, n = coordinates.shape[:2]
    if m == 0:
        raise DataError(f"{where}: no conformer in it")
    numbers = mapping.parse_species(arrays[species_key], where)
    if numbers.shape not in ((n,), (m, n)):
        raise DataError(
            f"{where}: {coordinates_key!r} has shape {coordinates.shape}, but {species_key!r} "
            f"has {numbers.shape}"
        )
    one_molecule = numbers.ndim == 1
    numbers = np.broadcast_to(numbers, (m, n))
    mapping.check_padding(numbers, coordinates, where)
    real = numbers > 0
    energies = forces = None
    if energy_key is not None:
        energies = arrays[energy_key]
        if energies.size != m or energies.dtype.kind not in "fiu":
            raise DataError(
                f"{where}: {coordinates_key!r} holds {m} conformers, but {energy_key!r} has "
                f"shape {energies.shape} and type {energies.dtype}"
            )
        energies = energies.reshape(m).astype(np.float64) * scales.energy
        _check_finite(energies, energy_key, where)
    if forces_key is not None:
        forces = arrays[forces_key]
        if forces.shape != (m, n, 3):
            raise DataError(
                f"{where}: {coordinates_key!r} has shape {coordinates.shape}, but {forces_key!r} "
                f"has {forces.shape}"
            )
        forces = forces[real] * forces.dtype.type(scales.forces * o.sign)
        _check_finite(forces, forces_key, where)
    positions = coordinates[real]
    if scales.length != 1.0:
        positions = positions * positions.dtype.type(scales.length)
    _check_finite(positions, coordinates_key, where)
    return Conformers(
        numbers[real],
        positions,
        np.concatenate([[0], np.cumsum(real.sum(axis=1))]),
        energies=energies,
        forces=forces,
        molecule=np.zeros(m, dtype=np.int32) if one_molecule else None,  # type: ignore[arg-type]
        molecule_names=(_entry(arrays, ("name",)) or path.stem,) if one_molecule else (),
        level_of_theory=_entry(arrays, ("level_of_theory", "theory")) or "",
        sources=(path.name,),
        file_units=scales.units,
    )


def _check_finite(array: np.ndarray, key: str, where: str) -> None:
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(f"{where}: {key!r} holds a number that is not finite (row {row})")


def _entry(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> str | None:
    """The first of some text entries that is there."""
    for name in names:
        value = arrays.get(name)
        if value is not None and value.size == 1 and value.dtype.kind in "US":
            item = value.reshape(-1)[0]
            return item.decode() if isinstance(item, bytes) else str(item)
    return None
