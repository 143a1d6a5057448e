"""HDF5 files in the layouts of the ANI data sets: one group a molecule (or a formula), any nesting.

ANI-1 release: ``coordinates energies species smiles``, and ``coordinatesHE energiesHE`` for the
high-energy extras (Smith, Isayev, Roitberg, Sci. Data 4, 170193, 2017). ANI-1x release:
``atomic_numbers coordinates`` and labels named ``method.property``, NaN where there is none
(Smith et al., Sci. Data 7, 134, 2020). COMP6 and ANI-1r: ``coordinates energies forces species
cm5 hirdipole lot``, where ``forces`` holds the gradient. TorchANI's own: species (n, atoms) with
-1 for padding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from anipot import elements as el
from anipot.conformers import Conformers
from anipot.datasets import mapping
from anipot.datasets.mapping import ReadOptions, log
from anipot.errors import AnipotError, DataError

#: Files that hold one of these beside ``forces`` come from the pipeline of COMP6 and ANI-1r (with
#: ``lot``, which alone is too common a name to tell), which stores the gradient under that name.
GRADIENT_MARKS = frozenset({"cm5", "hirdipole"})

#: Makes an array of a shape and type, in memory or on the disk.
Empty = Callable[[tuple[int, ...], np.dtype], np.ndarray]

_PLAIN = frozenset(
    {"coordinates", "energies", "forces", "species", "smiles", "coordinatesHE", "energiesHE",
     "atomic_numbers"}
)  # fmt: skip


@dataclass
class _Block:
    """Conformers of one group that lie in one dataset, found in the first pass."""

    group: str
    coordinates: str
    energy: str | None
    forces: str | None
    numbers: np.ndarray  # (n_atoms,), or (n, n_atoms) with 0 for padding
    n: int
    dtype: np.dtype
    energies: np.ndarray | None = None
    keep: np.ndarray | None = None  # (n,) bool; None: all
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # atoms, kept


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as an HDF5 file does."""
    return bool(h5py.is_hdf5(path))


def read_ani_hdf5(path: Path, options: ReadOptions, empty: Empty = np.empty) -> Conformers:
    """All molecules of an ANI HDF5 file, opened read-only.

    Two passes: the first finds the groups and their shapes, then every array is allocated once
    and each dataset is read straight into its place, so that loading takes the memory of the
    result and no more; ``empty`` makes the arrays. Raises DataError naming file, group and reason
    for all that cannot be used.
    """
    try:
        with h5py.File(path, "r") as file:
            return _Reader(file, path, options).read(empty)
    except AnipotError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as e:  # h5py's ways to say so
        raise DataError(f"{path}: not an HDF5 file, or cut short or damaged ({e})") from e


class _Reader:
    def __init__(self, file: h5py.File, path: Path, options: ReadOptions) -> None:
        self.file, self.path, self.options = file, path, options
        self.gradient = False
        self.dropped = self.extras = self.single_energies = 0
        self.atomic_numbers_layout = True
        self.lot = ""
        self.units: dict[str, str] = {}

    # ---- first pass ----------------------------------------------------------------------------

    def where(self, group: str) -> str:
        return f"{self.path}, group {group!r}"

    def molecules(self) -> Iterator[tuple[h5py.Group, list[str]]]:
        """Every group that holds a molecule, in the file's order, with its keys."""
        first_keys: list[str] = []
        found = 0
        pending = ["/"]
        seen = set()  # a damaged file, or hard links, may lead round in a circle
        while pending:
            group = self.file[pending.pop()]
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                continue
            seen.add(address)
            names, inner = [], []
            for key in group:
                # The usual names are datasets: asking for the class of each would double the time.
                if key not in _PLAIN and group.get(key, getclass=True) is h5py.Group:
                    inner.append(f"{group.name.rstrip('/')}/{key}")
                else:
                    names.append(key)
            pending.extend(reversed(inner))
            if self.has(names, "coordinates") and self.has(names, "species"):
                found += 1
                yield group, names
            elif self.has(names, "coordinates") or (
                self.has(names, "species") and any("energ" in k for k in names)
            ):
                what = "species" if self.has(names, "coordinates") else "coordinates"
                like = "spec" if what == "species" else "coord"
                raise mapping.missing(what, like, names, self.where(group.name), f"{what}_key")
            first_keys = first_keys or names
        if not found:
            raise DataError(
                f"{self.path}: no group holds coordinates and species"
                + (f"; the first datasets are {mapping.listed(first_keys)}" if first_keys else "")
                + f". Name the datasets with {mapping.keyword('coordinates_key')} and "
                f"{mapping.keyword('species_key')}"
            )

    def has(self, names: list[str], what: str) -> bool:
        given = getattr(self.options, f"{what}_key")
        known = mapping.COORDINATES_KEYS if what == "coordinates" else mapping.SPECIES_KEYS
        return given in names if given is not None else any(k in names for k in known)

    def plan(self) -> list[_Block]:
        blocks = []
        marks: set[str] = set()
        for group, names in self.molecules():
            marks |= GRADIENT_MARKS.intersection(names)
            if "lot" in names and not self.lot:
                self.lot = _text(group["lot"])
            blocks.append(self.block(group, names, ""))
            if "coordinatesHE" in names:
                extra = self.block(group, names, "HE") if group["coordinatesHE"].shape[0] else None
                self.extras += 0 if extra is None else extra.n
                if self.options.high_energy and extra is not None:
                    blocks.append(extra)
        self.gradient = bool(marks)
        if self.options.high_energy and not self.extras:
            log.warning(
                "%s: %s, but the file holds no high-energy extras",
                self.path, mapping.keyword("high_energy", True),
            )  # fmt: skip
        elif self.extras and not self.options.high_energy:
            log.info(
                "%s: %d high-energy conformers left out; %s reads them",
                self.path, self.extras, mapping.keyword("high_energy", True),
            )  # fmt: skip
        return blocks

    def block(self, group: h5py.Group, names: list[str], suffix: str) -> _Block:
        o, where = self.options, self.where(group.name)
        find = mapping.find_key
        key = find("coordinates", o.coordinates_key, mapping.COORDINATES_KEYS, names, where,
                   "coordinates_key")  # fmt: skip
        species = find("species", o.species_key, mapping.SPECIES_KEYS, names, where, "species_key")
        energy = find("energies", o.energy_key, mapping.ENERGY_KEYS, names, where, "energy_key")
        assert key is not None
        assert species is not None
        if energy is None and not o.keep_unlabelled:
            raise mapping.missing(
                "energies",
                "energ",
                names,
                where,
                "energy_key",
                f", or read without: {mapping.keyword('keep_unlabelled', True)}",
            )
        forces = o.forces_key
        if forces is None:
            # Forces of another level of theory than the energies' must never slip in.
            if energy is not None and "." in energy:
                forces = energy.rpartition(".")[0] + ".forces"
                forces = forces if forces in names else None
            else:
                forces = find("forces", None, mapping.FORCES_KEYS, names, where, "forces_key")
        else:
            find("forces", forces, (), names, where, "forces_key")
        if species != "atomic_numbers":
            self.atomic_numbers_layout = False
        if suffix:
            key += suffix
            energy = energy + suffix if energy and energy + suffix in names else None
            if energy is None:
                raise mapping.missing("energiesHE", "he", names, where, "energy_key")
            forces = forces + suffix if forces and forces + suffix in names else None
        for name in (key, species, energy, forces):
            if name is not None and not isinstance(group[name], h5py.Dataset):
                raise DataError(f"{where}: {name!r} is a group, not a dataset")
        shape = group[key].shape
        if len(shape) == 2 and shape[1] == 3:
            shape = (1, *shape)
        if len(shape) != 3 or shape[2] != 3:
            raise DataError(
                f"{where}: {key!r} has shape {group[key].shape}, not (conformers, atoms, 3)"
            )
        data = group[species]
        numbers = mapping.parse_species(
            data.asstr()[()] if data.dtype.kind == "O" else data[()], where
        )
        if numbers.shape not in ((shape[1],), (shape[0], shape[1])):
            raise DataError(
                f"{where}: {key!r} has shape {group[key].shape}, but {species!r} has "
                f"{numbers.shape}"
            )
        block = _Block(group.name, key, energy, forces, numbers, shape[0], group[key].dtype)
        if numbers.ndim == 2:
            self.atomic_numbers_layout = False
            mapping.check_padding(numbers, group[key][()].reshape(shape), where)
        elif not numbers.all():
            raise DataError(f"{where}: 0 is not the atomic number of an element")
        if forces is not None and group[forces].shape != group[key].shape:
            raise DataError(
                f"{where}: {key!r} has shape {group[key].shape}, but {forces!r} has "
                f"{group[forces].shape}"
            )
        self.label(block, group)
        return block

    def label(self, block: _Block, group: h5py.Group) -> None:
        """Read the energies (small) and decide which conformers have one."""
        if block.energy is not None:
            data = group[block.energy]
            if data.size != block.n or data.dtype.kind not in "fiu":
                raise DataError(
                    f"{self.where(block.group)}: {block.coordinates!r} holds {block.n} "
                    f"conformers, but {block.energy!r} has shape {data.shape} and type "
                    f"{data.dtype}"
                )
            self.single_energies += data.dtype.itemsize < 8 and data.dtype.kind == "f"
            block.energies = np.asarray(data[()], dtype=np.float64).reshape(-1)
            there = np.isfinite(block.energies)
            if not there.all():
                first = int(np.argmin(there))
                # Only the ANI-1x layout (method.property) means "no label" when it says NaN.
                if "." not in block.energy or np.isinf(block.energies).any():
                    raise DataError(
                        f"{self.where(block.group)}: {block.energy!r} of conformer {first} is "
                        f"{block.energies[first]}"
                    )
                if not self.options.keep_unlabelled:
                    block.keep = there
                    block.energies = block.energies[there]
                    self.dropped += int((~there).sum())
        n = block.n if block.keep is None else int(block.keep.sum())
        if block.numbers.ndim == 1:
            block.counts = np.full(n, len(block.numbers))
        else:
            block.counts = (block.numbers > 0).sum(axis=1)[
                slice(None) if block.keep is None else block.keep
            ]

    # ---- second pass ---------------------------------------------------------------------------

    def read(self, empty: Empty) -> Conformers:
        scales = mapping.scales(
            self.options,
            str(self.path),
            energy_unit=self.attribute("energy_unit"),
            length_unit=self.attribute("length_unit"),
            force_unit=self.attribute("force_unit"),
        )
        self.units = scales.units
        blocks = self.plan()
        counts = np.concatenate([b.counts for b in blocks])
        m, a = len(counts), int(counts.sum())
        if m == 0:
            reason = (
                f"none of {self.dropped:,} has a label {blocks[0].energy!r}"
                if self.dropped
                else "it is empty"
            )
            raise DataError(f"{self.path}: no conformer to read: {reason}")
        offsets = np.zeros(m + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        del counts
        double = any(b.dtype.itemsize > 4 or b.dtype.kind != "f" for b in blocks)
        numbers = empty((a,), np.dtype(np.uint8))
        coordinates = empty((a, 3), np.dtype(np.float64 if double else np.float32))
        labelled = any(b.energy for b in blocks)
        energies = np.full(m, np.nan) if labelled else None
        forces = None
        kinds = [self.file[b.group][b.forces].dtype for b in blocks if b.forces]
        if kinds:
            wide = any(k.itemsize > 4 or k.kind != "f" for k in kinds)
            forces = empty((a, 3), np.dtype(np.float64 if wide else np.float32))
        molecule = np.empty(m, dtype=np.int32)
        places: dict[str, int] = {}
        has_forces = np.ones(m, dtype=bool)
        sign = self.sign(bool(kinds))
        start = 0
        for b in blocks:
            end = start + len(b.counts)
            conformers, atoms = slice(start, end), slice(int(offsets[start]), int(offsets[end]))
            start = end
            molecule[conformers] = places.setdefault(b.group, len(places))
            if b.numbers.ndim == 1:
                numbers[atoms].reshape(-1, len(b.numbers) or 1)[:] = b.numbers
            else:
                rows = b.numbers if b.keep is None else b.numbers[b.keep]
                numbers[atoms] = rows[rows > 0]
            self.fill(b, b.coordinates, coordinates[atoms], scales.length)
            if energies is not None and b.energies is not None:
                energies[conformers] = b.energies * scales.energy
                b.energies = None
            if forces is not None and b.forces is not None:
                has_forces[conformers] = self.fill(b, b.forces, forces[atoms], sign * scales.forces)
            elif forces is not None:
                forces[atoms] = np.nan
                has_forces[conformers] = False
        return self.conformers(
            numbers,
            coordinates,
            offsets,
            energies,
            forces,
            molecule,
            tuple(places),
            has_forces,
            blocks,
        )

    def fill(self, b: _Block, key: str, out: np.ndarray, scale: float) -> np.ndarray:
        """Read a dataset of a block into ``out`` (atoms, 3). (n,) bool: conformers that have it."""
        there = np.ones(len(b.counts), dtype=bool)
        if not len(out):
            return there
        data = self.file[b.group][key]
        if b.keep is None and b.numbers.ndim == 1:
            data.read_direct(out.reshape(data.shape))
        else:
            values = data[()].reshape(b.n, -1, 3)
            kept = slice(None) if b.keep is None else b.keep
            if b.numbers.ndim == 2:
                out[:] = values[kept][b.numbers[kept] > 0]
            else:
                out.reshape(-1, len(b.numbers), 3)[:] = values[kept]
        finite = np.isfinite(out)
        if not finite.all():
            starts = np.cumsum(b.counts) - b.counts
            # reduceat needs every segment to hold an atom; a conformer without one has nothing to
            # lack.
            full = b.counts > 0
            there[full] = np.logical_and.reduceat(finite.all(axis=1), starts[full])
            if key == b.coordinates or "." not in key or np.isinf(out).any():
                first = int(np.argmin(there))
                raise DataError(
                    f"{self.where(b.group)}: {key!r} of conformer {first} holds a number that is "
                    "not finite"
                )
            out[np.repeat(~there, b.counts)] = np.nan
        if scale != 1.0:
            out *= scale
        return there

    # ---- what the file says of itself ----------------------------------------------------------

    def attribute(self, name: str) -> str | None:
        value = self.file.attrs.get(name)
        if value is None:
            return None
        return value.decode() if isinstance(value, bytes) else str(value)

    def sign(self, forces: bool) -> float:
        if self.options.forces_sign is None and self.gradient and forces:
            log.warning(
                "%s: holds cm5 or hirdipole, as COMP6 and ANI-1r files do: their 'forces' are "
                "gradients and were negated; %s reads them as they are",
                self.path,
                mapping.keyword("forces_sign", "forces"),
            )
            return -1.0
        return self.options.sign

    def conformers(
        self,
        numbers: np.ndarray,
        coordinates: np.ndarray,
        offsets: np.ndarray,
        energies: np.ndarray | None,
        forces: np.ndarray | None,
        molecule: np.ndarray | None,
        groups: tuple[str, ...],
        has_forces: np.ndarray,
        blocks: list[_Block],
    ) -> Conformers:
        masks = {}
        if energies is not None and not np.isfinite(energies).all():
            masks["energies"] = np.isfinite(energies)
        if forces is not None and not has_forces.all():
            masks["forces"] = has_forces
        if self.dropped:
            log.warning(
                "%s: %d conformers without a label %r left out; %s keeps them",
                self.path, self.dropped, blocks[0].energy,
                mapping.keyword("keep_unlabelled", True),
            )  # fmt: skip
        if self.single_energies:
            log.warning(
                "%s: energies are stored in single precision: a total energy of -200 hartree is "
                "known to "
                "0.01 kcal/mol only", self.path,
            )  # fmt: skip
        names = tuple(name.strip("/") or self.path.stem for name in groups)
        by = "molecule"
        if any(b.numbers.ndim == 2 for b in blocks):
            molecule, names = (
                None,
                (),
            )  # such groups hold many molecules: Conformers groups by formula
        elif self.atomic_numbers_layout and all(
            _is_formula(b.group.rsplit("/", 1)[-1], b.numbers) for b in blocks
        ):
            by = "formula"
        level = self.attribute("level_of_theory") or self.lot
        if not level and blocks[0].energy and "." in blocks[0].energy:
            level = blocks[0].energy.rpartition(".")[0]
        return Conformers(
            numbers,
            coordinates,
            offsets,
            energies=energies,
            forces=forces,
            molecule=molecule,  # type: ignore[arg-type]
            molecule_names=names,
            masks=masks,
            grouped_by=by,
            level_of_theory=level,
            sources=(self.path.name,),
            dropped=self.dropped,
            file_units=self.units,
        )


def _is_formula(name: str, numbers: np.ndarray) -> bool:
    """Whether a group's name is the formula of its atoms, as in ``C10H10N2O1``."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", name)
    if "".join(s + n for s, n in parts) != name or len({s for s, _ in parts}) != len(parts):
        return False
    counts = {s: int(n or 1) for s, n in parts}
    values, occur = np.unique(numbers, return_counts=True)
    return counts == dict(zip(el.symbols_of(values), occur.tolist(), strict=True))


def _text(data: h5py.Dataset) -> str:
    """The string that a dataset holds: a scalar, one in an array, or an array of letters."""
    values = np.atleast_1d(data[()]).reshape(-1)
    parts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]
    if len(set(parts)) == 1:
        return parts[0]
    return "".join(parts) if all(len(p) <= 1 for p in parts) else parts[0]
