"""Systems of DeePMD-kit: folders with ``type.raw`` and arrays in ``set.*`` (or text beside it).

By the format's definition lengths are in angstrom and energies and virials in eV; a virial is
-dE/dstrain, and a system is periodic unless it has a file ``nopbc``.
https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anipot.data import mapping
from anipot.data.conformers import Conformers
from anipot.data.mapping import ReadOptions
from anipot.data.readers import periodic
from anipot.data.readers.charges import check_charge_entries
from anipot.errors import DataError
from anipot.system.archive import read_npy

#: Files of a system that hold no array of the frames.
TYPES, _NAMES, _OPEN = "type.raw", "type_map.raw", "nopbc"

#: Folders below the one that was given in which systems are looked for.
_DEPTH = 6


def systems_below(folder: Path) -> list[Path]:
    """Every folder at or below this one that holds a system, sorted; links are not followed."""
    found, pending = [], [(folder, 0)]
    while pending:
        here, depth = pending.pop()
        try:
            if (here / TYPES).is_file():
                found.append(here)
            elif depth < _DEPTH:
                inner = [p for p in here.iterdir() if p.is_dir() and not p.is_symlink()]
                pending.extend((p, depth + 1) for p in inner)
        except OSError as e:
            raise DataError(f"{here}: cannot be read ({e.strerror})") from e
    return sorted(found)


def system_of(path: Path) -> Path | None:
    """The system to which a file belongs; None for any other file."""
    if path.suffix not in (".npy", ".raw"):
        return None
    folders = (path.parent, path.parent.parent)
    return next((folder for folder in folders if (folder / TYPES).is_file()), None)


def read_deepmd(folder: Path, systems: list[Path], options: ReadOptions) -> Conformers:
    """The systems at or below a folder, in order, as one data set. Raises DataError.

    A system is a molecule named after its folder; where every folder is named by its formula, or
    a system holds several (``real_atom_types``), conformers are grouped by formula.
    """
    parts = [_System(path, options).read(folder) for path in systems]
    if any(part.grouped_by == "formula" for part in parts):
        parts = [part.by_formula() for part in parts]
    return Conformers.concatenate(parts)


class _System:
    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self.options, self.where = path, options, str(path)
        if options.species_key is not None:
            raise DataError(
                f"{path}: species are in {TYPES}; leave {mapping.keyword('species_key')} out"
            )
        self.sets = sorted(p for p in path.glob("set.*") if p.is_dir())
        folders, suffix = (self.sets, ".npy") if self.sets else ([path], ".raw")
        self.suffix, self.folders = suffix, folders
        self.names = sorted(
            {p.stem for f in folders for p in f.glob(f"*{suffix}")} - {"type", "type_map"}
        )

    def read(self, root: Path) -> Conformers:
        o, where = self.options, self.where
        scales = mapping.scales(o, where, energy_unit="eV", length_unit="angstrom")
        key = mapping.find_key(
            "coordinates", o.coordinates_key, ("coord",), self.names, where, "coordinates_key"
        )
        if key is None:
            raise DataError(
                f"{where}: has no coordinates (set.*/coord.npy or coord.raw); it has "
                f"{mapping.listed(self.names)}"
            )
        energy = mapping.find_key(
            "energies", o.energy_key, ("energy",), self.names, where, "energy_key"
        )
        if energy is None and not o.keep_unlabelled:
            raise mapping.missing(
                "energies", "ener", self.names, where, "energy_key",
                f", or read without: {mapping.keyword('keep_unlabelled', True)}",
            )  # fmt: skip
        force = mapping.find_key(
            "forces", o.forces_key, ("force",), self.names, where, "forces_key"
        )
        mapping.check_sign(o, where)
        stress_key = mapping.find_key("stress", o.stress_key, (), self.names, where, "stress_key")
        virial_key = mapping.find_key(
            "virial", o.virial_key, ("virial",), self.names, where, "virial_key"
        )
        used = {key, "real_atom_types", *(k for k in (energy, force, stress_key, virial_key) if k)}

        types, elements = self.types()
        n = len(types)
        x = self.array(key, (n, 3))
        m = len(x)
        if m == 0:
            raise DataError(f"{where}: no conformer in it")
        mixed = "real_atom_types" in self.names
        numbers = np.broadcast_to(elements(types), (m, n))
        if mixed:
            numbers = elements(self.array("real_atom_types", (n,), m))
        mapping.check_padding(numbers, x, where)
        real = numbers > 0
        rest = [name for name in self.names if name not in used]
        used |= check_charge_entries(rest, lambda name: self.array(name, (-1,), m), m, n, where)

        energies = forces = None
        if energy is not None:
            energies = self.array(energy, (), m).astype(np.float64) * scales.energy
        if force is not None:
            forces = self.array(force, (n, 3), m)[real]
            forces = forces * forces.dtype.type(scales.forces * o.sign)
        box = self.box(m, scales.length)
        used.add("box")
        stress = None
        for name, factor in ((stress_key, scales.stress), (virial_key, scales.energy)):
            if name is None:
                continue
            found = periodic.matrices_of(self.array(name, (-1,), m), m, f"{where}: {name!r}")
            found = found * (factor * o.stress_factor)
            if name == virial_key:
                found = box.stress_from_virial(found, where)
                if stress is not None:
                    periodic.warn_of_contradiction(stress, found, where)
                    continue
            stress = found
        not_read = [name for name in self.names if name not in used]
        read = {"energies": energies, "forces": forces, "stress": stress, "virial": stress}
        labels = {label: array is not None for label, array in read.items()}
        mapping.hint_unread_labels(where, labels, not_read, o)
        name = self.path.name if self.path == root else self.path.relative_to(root).as_posix()
        positions = x[real]
        data = Conformers(
            numbers[real],
            positions * positions.dtype.type(scales.length),
            np.concatenate([[0], np.cumsum(real.sum(axis=1))]),
            energies=energies,
            forces=forces,
            cells=box.cells,
            pbc=box.pbc,
            stress=stress,
            molecule=np.zeros(m, dtype=np.int32),
            molecule_names=(name or where,),
            sources=(name or where,),
            not_read=tuple(not_read),
            file_units=scales.units,
        )
        by_formula = mixed or mapping.is_formula(self.path.name, numbers[0][real[0]])
        return data.by_formula() if by_formula else data

    def types(self) -> tuple[np.ndarray, _Elements]:
        """The type of each atom, and what turns types into atomic numbers."""
        types = self.text(self.path / TYPES).reshape(-1)
        path = self.path / _NAMES
        if not path.is_file():
            raise DataError(
                f"{self.where}: has no {_NAMES}, so that the elements of its types cannot be told; "
                "write one with the symbols of types 0, 1, ..., one in a line"
            )
        try:
            symbols = np.array(path.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"{path}: cannot be read ({e})") from e
        if not len(symbols):
            raise DataError(f"{path}: is empty")
        return types, _Elements(mapping.parse_species(symbols, str(path)), self.where)

    def box(self, m: int, factor: float) -> periodic.Box:
        """Cells of a system that is periodic."""
        if (self.path / _OPEN).exists():
            return periodic.Box(None, None)
        if "box" not in self.names:
            raise DataError(
                f"{self.where}: has no box{self.suffix}, which a periodic system needs; make an "
                f"empty file {_OPEN} in it if its conformers are molecules"
            )
        cells = periodic.cells_of(self.array("box", (9,), m), m, f"{self.where}: 'box'") * factor
        return periodic.Box.of(cells, np.ones((m, 3), dtype=bool), self.where)

    def array(self, name: str, row: tuple[int, ...], m: int | None = None) -> np.ndarray:
        """The array of that name of all sets: a row of that shape for each of ``m`` frames."""
        parts = []
        for folder in self.folders:
            path = folder / (name + self.suffix)
            if not path.is_file():
                raise DataError(f"{folder}: has no {path.name}, which other sets of it have")
            values = read_npy(path) if self.sets else self.text(path)
            if values.dtype.kind not in "fiu":
                raise DataError(f"{path} holds no numbers, but the type {values.dtype}")
            if not np.isfinite(values).all():
                raise DataError(f"{path} holds a number that is not finite")
            frames = len(values) if values.ndim else 1
            size = int(np.prod(row, dtype=np.int64))
            if frames and size >= 0 and values.size != frames * size:
                raise DataError(
                    f"{path} has shape {values.shape}, where {frames} frames of {size} numbers are "
                    "needed"
                )
            single = values.dtype.kind == "f" and values.dtype.itemsize == 4
            values = values.astype(np.float32 if single else np.float64, copy=False)
            # Without a frame a row of unknown length cannot be made.
            parts.append(values.reshape(frames, *(row if frames else map(abs, row))))
        joined = np.concatenate(parts)
        if m is not None and len(joined) != m:
            raise DataError(
                f"{self.where}: {name!r} has {len(joined)} frames, but the coordinates {m}"
            )
        return joined

    def text(self, path: Path) -> np.ndarray:
        """Numbers in rows of text."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [line.split("#")[0].split() for line in lines]
            return np.array([[float(v) for v in row] for row in rows if row], dtype=np.float64)
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: is not a table of numbers ({e})") from e


class _Elements:
    """Turns types into atomic numbers; type -1 is a virtual atom, padding."""

    def __init__(self, of_type: np.ndarray, where: str) -> None:
        self.of_type, self.where = of_type, where

    def __call__(self, types: np.ndarray) -> np.ndarray:
        wrong = (types != np.floor(types)) | (types < -1) | (types >= len(self.of_type))
        if wrong.any():
            raise DataError(
                f"{self.where}: type {types[wrong].flat[0]:g} is none of the {len(self.of_type)} "
                f"types of {_NAMES}"
            )
        padded = np.append(self.of_type, 0)
        return np.asarray(padded[types.astype(np.int64)], dtype=np.uint8)
