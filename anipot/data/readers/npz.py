"""NumPy archives: what ``Conformers.save`` wrote, and layouts such as MD17, rMD17 and sGDML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from anipot.data import mapping
from anipot.data.conformers import Conformers
from anipot.data.mapping import ReadOptions, log
from anipot.data.npz_file import FORMAT
from anipot.data.readers import periodic
from anipot.data.readers.charges import check_charge_entries
from anipot.data.readers.declared import DeclaredUnits, kind_of_unit, text_of
from anipot.errors import DataError, SettingsError
from anipot.system.archive import Archive, open_archive

#: Entries that are words about the data.
_NAME_KEYS = ("name",)
_THEORY_KEYS = ("level_of_theory", "theory")


def read_npz(path: Path, options: ReadOptions) -> Conformers:
    """An ``.npz`` archive; nothing in it is ever unpickled.

    Foreign archives hold coordinates (M, n, 3), species (n,) or (M, n) with padding, energies
    (M,) or (M, 1), and maybe forces (M, n, 3), cell, pbc, stress or virial. They must declare the
    unit of energy (``e_unit``), or ``energy_unit=`` must be given: kcal/mol, eV and hartree are
    all common. With species (n,) the archive is one molecule, else conformers are grouped by
    formula. Raises DataError naming file and reason.
    """
    with open_archive(path) as archive:
        if not _is_own(archive):
            return _Foreign(path, archive, options).read()
    for name, value in options:
        if value is not None and not isinstance(value, bool):
            raise SettingsError(
                f"{path} was saved by anipot and needs no {mapping.keyword(name)}: its names and "
                "units are known"
            )
    return Conformers.load(path)


def _is_own(archive: Archive) -> bool:
    """Whether ``Conformers.save`` wrote it."""
    header = archive.headers.get("about")
    if header is None or header.dtype != np.uint8 or len(header.shape) != 1:
        return False
    try:
        about = json.loads(archive["about"].tobytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(about, dict) and str(about.get("format", "")).startswith(FORMAT)


class _Foreign:
    """A foreign archive. Arrays are read one after the other, those only that are needed."""

    def __init__(self, path: Path, archive: Archive, options: ReadOptions) -> None:
        self.path, self.archive, self.options = path, archive, options
        self.where = str(path)
        self.keys = list(archive.headers)
        self.used: set[str] = set()
        self.units = DeclaredUnits(self.where, options)

    def array(self, key: str, kinds: str = "fiu") -> np.ndarray:
        """The array under a key. Raises DataError where its type is none of ``kinds``."""
        self.used.add(key)
        header = self.archive.headers[key]
        if header.pickled:
            pickled = mapping.listed(self.archive.pickled)
            raise DataError(
                f"{self.where}: {key!r} is a pickled object, and nothing is unpickled (pickled: "
                f"{pickled}). NumPy pickles rows of different length: save molecules of different "
                "size as coordinates (conformers, atoms of the largest, 3) and species "
                "(conformers, atoms of the largest), padded with zeros, or leave the entry out"
            )
        if header.dtype.kind not in kinds:
            raise DataError(
                f"{self.where}: {key!r} has the type {header.dtype}, where "
                + ("numbers" if "S" not in kinds else "numbers or text")
                + " are needed"
            )
        return self.archive[key]

    def find(self, what: str, known: tuple[str, ...], option: str) -> str | None:
        given = getattr(self.options, option)
        return mapping.find_key(what, given, known, self.keys, self.where, option)

    def text(self, names: tuple[str, ...]) -> str | None:
        """The first of some text entries that is there."""
        for name in names:
            header = self.archive.headers.get(name)
            if header is not None and header.dtype.kind in "US":
                self.used.add(name)
                return text_of(self.archive[name])
        return None

    def declared(self) -> None:
        """Units that the archive tells in entries of text."""
        for key in self.keys:
            if kind_of_unit(key) is not None and self.archive.headers[key].dtype.kind in "US":
                self.units.add_entries({key: self.archive[key]}, self.where)
                self.used.add(key)

    def read(self) -> Conformers:
        o, where = self.options, self.where
        coordinates_key = self.find("coordinates", mapping.COORDINATES_KEYS, "coordinates_key")
        if coordinates_key is None:
            raise mapping.missing("coordinates", "coord", self.keys, where, "coordinates_key")
        species_key = self.find("species", mapping.SPECIES_KEYS, "species_key")
        if species_key is None:
            raise mapping.missing("species", "number", self.keys, where, "species_key")
        energy_key = self.find("energies", mapping.ENERGY_KEYS, "energy_key")
        if energy_key is None and not o.keep_unlabelled:
            raise mapping.missing(
                "energies", "energ", self.keys, where, "energy_key",
                f", or read the file without: {mapping.keyword('keep_unlabelled', True)}",
            )  # fmt: skip
        forces_key = self.find("forces", mapping.FORCES_KEYS, "forces_key")
        mapping.check_sign(o, where)
        stress_key = self.find("stress", mapping.STRESS_KEYS, "stress_key")
        virial_key = self.find("virial", mapping.VIRIAL_KEYS, "virial_key")
        self.declared()
        labels = (energy_key, forces_key, stress_key, virial_key)
        if any(labels) and not ("energy" in self.units or o.energy_unit):
            unknown = f"{where} does not say in which unit its energies are"
            if not o.keep_unlabelled:
                raise DataError(
                    f"{unknown}; give {mapping.keyword('energy_unit', 'kcal/mol')}, 'eV' or "
                    "'hartree'"
                )
            log.warning(
                "%s: it is read without them; %s reads them", unknown,
                mapping.keyword("energy_unit", "kcal/mol"),
            )  # fmt: skip
            energy_key = forces_key = stress_key = virial_key = None
        scales = self.units.scales()
        coordinates, given_shape = self.coordinates(coordinates_key)
        m, n = coordinates.shape[:2]
        numbers = self.species(species_key, coordinates, coordinates_key)
        one_molecule = numbers.ndim == 1
        numbers = np.broadcast_to(numbers, (m, n))
        mapping.check_padding(numbers, coordinates, where)
        real = numbers > 0
        self.check_counts(real)
        rest = [key for key in self.keys if key not in self.used]
        self.used |= check_charge_entries(rest, lambda key: self.array(key, "bfiuSU"), m, n, where)
        energies = forces = None
        if energy_key is not None:
            energies = self.array(energy_key)
            if energies.size != m:
                raise DataError(
                    f"{where}: {coordinates_key!r} holds {m} conformers, but {energy_key!r} has "
                    f"shape {energies.shape} and type {energies.dtype}"
                )
            energies = energies.reshape(m).astype(np.float64) * scales.energy
            _check_finite(energies, energy_key, where)
        if forces_key is not None:
            forces = self.array(forces_key)
            if forces.shape not in ((m, n, 3), given_shape):
                raise DataError(
                    f"{where}: {coordinates_key!r} has shape {given_shape}, but {forces_key!r} "
                    f"has {forces.shape}"
                )
            forces = _as_float(forces.reshape(m, n, 3))[real]
            forces = forces * forces.dtype.type(scales.forces * o.sign)
            _check_finite(forces, forces_key, where)
        box = self.box(m, scales.cell)
        factors = {stress_key: scales.stress, virial_key: scales.virial}
        stress = None
        for key in (k for k in (stress_key, virial_key) if k is not None):
            found = periodic.matrices_of(self.array(key), m, f"{where}: {key!r}")
            _check_finite(found, key, where)
            found = found * (factors[key] * o.stress_factor)
            if key == virial_key:
                found = box.stress_from_virial(found, where)
                if stress is not None:
                    periodic.warn_of_contradiction(stress, found, where)
                    continue
            stress = found
        positions = _as_float(coordinates)[real]
        if scales.length != 1.0:
            positions = positions * positions.dtype.type(scales.length)
        _check_finite(positions, coordinates_key, where)
        name = self.text(_NAME_KEYS) or self.path.stem
        theory = self.text(_THEORY_KEYS) or ""
        not_read = sorted({*self.keys, *self.archive.other} - self.used)
        read = {"energies": energies, "forces": forces, "stress": stress, "virial": stress}
        if "energy" in self.units or o.energy_unit:  # else the log has said why
            mapping.hint_unread_labels(
                where, {label: array is not None for label, array in read.items()}, not_read, o
            )
        return Conformers(
            numbers[real],
            positions,
            np.concatenate([[0], np.cumsum(real.sum(axis=1))]),
            energies=energies,
            forces=forces,
            cells=box.cells,
            pbc=box.pbc,
            stress=stress,
            molecule=np.zeros(m, dtype=np.int32) if one_molecule else None,  # type: ignore[arg-type]
            molecule_names=(name,) if one_molecule else (),
            level_of_theory=theory,
            sources=(self.path.name,),
            not_read=tuple(not_read),
            file_units=scales.units,
        )

    def coordinates(self, key: str) -> tuple[np.ndarray, tuple[int, ...]]:
        """Coordinates (m, n, 3), and the shape they have in the file."""
        coordinates = self.array(key)
        shape = coordinates.shape
        if coordinates.ndim == 2 and shape[1] == 3:
            coordinates = coordinates[None]
        if coordinates.ndim != 3 or coordinates.shape[2] != 3:
            raise DataError(f"{self.where}: {key!r} has shape {shape}, not (conformers, atoms, 3)")
        if not len(coordinates):
            raise DataError(f"{self.where}: no conformer in it")
        return coordinates, shape

    def species(self, key: str, coordinates: np.ndarray, coordinates_key: str) -> np.ndarray:
        """Atomic numbers (n,) or (m, n), 0 for padding."""
        m, n = coordinates.shape[:2]
        numbers = mapping.parse_species(self.array(key, "fiuSU"), self.where)
        if numbers.shape == (n, 1):
            numbers = numbers.reshape(n)
        if numbers.shape not in ((n,), (m, n)):
            raise DataError(
                f"{self.where}: {coordinates_key!r} has shape {coordinates.shape}, but {key!r} "
                f"has {numbers.shape}"
            )
        return numbers

    def check_counts(self, real: np.ndarray) -> None:
        """``N``, where it is there, must agree with the padding: the number of atoms (PhysNet)."""
        header = self.archive.headers.get("N")
        if header is None or "N" in self.used or header.shape != (len(real),):
            return
        counts = self.array("N")
        wrong = counts != real.sum(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self.where}: conformer {row} has {int(real[row].sum())} atoms, but 'N' says "
                f"{counts[row]}"
            )

    def box(self, m: int, factor: float) -> periodic.Box:
        """Cells and periodic directions."""
        cells = pbc = None
        key = periodic.find_known("cell", mapping.CELL_KEYS, self.keys, self.where)
        if key is not None:
            cells = periodic.cells_of(self.array(key), m, f"{self.where}: {key!r}") * factor
        key = periodic.find_known("pbc", mapping.PBC_KEYS, self.keys, self.where)
        if key is not None:
            pbc = periodic.pbc_of(self.array(key, "bfiu"), m, f"{self.where}: {key!r}")
        return periodic.Box.of(cells, pbc, self.where)


def _as_float(array: np.ndarray) -> np.ndarray:
    """Single and double precision as they are, but in native order; all else as float64."""
    kept = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
    return array.astype(array.dtype.newbyteorder("=") if kept else np.float64, copy=False)


def _check_finite(array: np.ndarray, key: str, where: str) -> None:
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(f"{where}: {key!r} holds a number that is not finite (row {row})")
