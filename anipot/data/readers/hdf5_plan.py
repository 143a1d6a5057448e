"""The first pass over an ANI HDF5 file: its molecules, and what every group says of them.

Keys and attributes that change what the numbers mean (cell, periodic directions, charge, spin,
units, sign) are used or refused here; the names of all others are kept in ``not_read``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import h5py
import numpy as np

from anipot.data import mapping
from anipot.data.mapping import ReadOptions, log
from anipot.data.readers import periodic
from anipot.data.readers.charges import check_charge_entries
from anipot.data.readers.declared import OWN_UNIT, DeclaredUnits, kind_of_unit, text_of
from anipot.data.readers.hdf5_groups import Group, Hdf5, attributes, values_of
from anipot.errors import DataError

#: Files that hold one of these beside ``forces`` come from the pipeline of COMP6 and ANI-1r (with
#: ``lot``, which alone is too common a name to tell), which stores the gradient under that name.
GRADIENT_MARKS = frozenset({"cm5", "hirdipole"})

_PLAIN = frozenset(
    {"coordinates", "energies", "forces", "species", "smiles", "coordinatesHE", "energiesHE",
     "atomic_numbers"}
)  # fmt: skip

#: Attributes that say nothing of the data.
_BOOKKEEPING = frozenset(
    {"CLASS", "VERSION", "TITLE", "PYTABLES_FORMAT_VERSION", "grouping", "level_of_theory"}
)


@dataclass
class Block:
    """Conformers of one group that lie in one dataset, found in the first pass."""

    group: str
    coordinates: str
    energy: str | None
    forces: str | None
    numbers: np.ndarray  # (n_atoms,), or (n, n_atoms) with 0 for padding
    n: int
    dtype: np.dtype
    forces_dtype: np.dtype | None = None
    energies: np.ndarray | None = None
    keep: np.ndarray | None = None  # (n,) bool; None: all
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # atoms, kept
    # The names of cell, pbc, stress and virial, or their values where they are attributes.
    more: dict[str, str | np.ndarray] = field(default_factory=dict)


class Plan:
    def __init__(self, h5: Hdf5, options: ReadOptions) -> None:
        self.h5, self.file, self.path, self.options = h5, h5.file, h5.path, options
        self.units = DeclaredUnits(str(self.path), options)
        self.gradient = False
        self.dropped = self.extras = self.single_energies = 0
        self.atomic_numbers_layout = True
        self.lot = ""
        self.at = ""
        self.not_read: set[str] = set()
        self.blocks = self._plan()

    def molecules(self) -> Iterator[Group]:
        """Every group that holds a molecule, in the file's order."""
        first_keys: list[str] = []
        found = 0
        for group in self.h5.groups(_PLAIN):
            names, where = group.names, self.h5.where(group.path)
            self.at = where
            if self.has(names, "coordinates") and self.has(names, "species"):
                found += 1
                yield group
            elif self.has(names, "coordinates") or (
                self.has(names, "species") and any("energ" in k for k in names)
            ):
                what = "species" if self.has(names, "coordinates") else "coordinates"
                like = "spec" if what == "species" else "coord"
                raise mapping.missing(what, like, names, where, f"{what}_key")
            else:
                self.beside(group, where)
            first_keys = first_keys or names
        if not found:
            if "type.raw" in first_keys or "type.raw" in self.not_read:
                raise DataError(
                    f"{self.path} is laid out as DeePMD's HDF5; convert it with dpdata to a folder "
                    "(deepmd/npy), which is read"
                )
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

    def beside(self, group: Group, where: str) -> None:
        """Datasets of a group without a molecule: they must not tell of the molecules."""
        for what, known in (("cell", mapping.CELL_KEYS), ("pbc", mapping.PBC_KEYS)):
            key = periodic.find_known(what, known, group.names, where)
            if key is not None:
                raise DataError(
                    f"{where}: {key!r} is in a group without coordinates, so that it cannot be "
                    "told which conformers it belongs to; store it beside their coordinates"
                )
        check_charge_entries(group.names, lambda key: self.values(group, key), 0, 0, where)
        self.not_read.update(group.names)

    def values(self, group: Group, key: str) -> np.ndarray:
        data = self.h5.dataset(group, key)
        return values_of(data, f"{self.h5.where(group.path)}: {key!r}")

    def _plan(self) -> list[Block]:
        blocks = []
        marks: set[str] = set()
        self.units.add_entries(self.h5.about, "the file's attributes")
        for group in self.molecules():
            names = group.names
            marks |= GRADIENT_MARKS.intersection(names)
            used: set[str] = set()
            if "lot" in names and not self.lot:
                self.lot = _text(self.values(group, "lot"))
            first = self.block(group, "", used)
            blocks.append(first)
            if "coordinatesHE" in names:
                rows = self.h5.dataset(group, "coordinatesHE").shape
                extra = self.block(group, "HE", used) if rows and rows[0] else None
                self.extras += 0 if extra is None else extra.n
                if self.options.high_energy and extra is not None:
                    blocks.append(extra)
                elif not self.options.high_energy:
                    used -= {name for name in used if name.endswith("HE")}
            self.meaning(group, first, used)
            self.not_read.update(name for name in names if name not in used and name != "lot")
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

    def meaning(self, group: Group, block: Block, used: set[str]) -> None:
        """Charges, spins and units that a group declares in datasets and attributes."""
        where, atoms = self.h5.where(group.path), block.numbers.shape[-1]
        rest = [name for name in group.names if name not in used]
        used.update(
            check_charge_entries(rest, lambda key: self.values(group, key), block.n, atoms, where)
        )
        for name in rest:
            if kind_of_unit(name) is not None:
                entry = {name: self.values(group, name)}
                self.units.add_entries(entry, f"group {group.path!r}")
                used.add(name)
        if group.about:
            place = f"{where}, attribute"
            known = check_charge_entries(
                group.about, lambda key: np.asarray(group.about[key]), block.n, atoms, place
            )
            self.units.add_entries(group.about, f"the attributes of group {group.path!r}")
            self.not_read.update(
                f"attribute {name}"
                for name in group.about
                if kind_of_unit(name) is None and name not in known and name not in _BOOKKEEPING
                and name.lower() not in (*mapping.CELL_KEYS, *mapping.PBC_KEYS)
            )  # fmt: skip

    def block(self, group: Group, suffix: str, used: set[str]) -> Block:
        o, where, names = self.options, self.h5.where(group.path), group.names
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
            mapping.check_sign(o, str(self.path))
        if species != "atomic_numbers":
            self.atomic_numbers_layout = False
        more = self.periodic_names(group, where)
        if suffix:
            key += suffix
            energy = energy + suffix if energy and energy + suffix in names else None
            if energy is None:
                raise mapping.missing("energiesHE", "he", names, where, "energy_key")
            forces = forces + suffix if forces and forces + suffix in names else None
            more = {k: v for k, v in more.items() if k in ("cell", "pbc")}
        used.update({key, species, *(n for n in (energy, forces) if n)})
        used.update(name for name in more.values() if isinstance(name, str))
        data = {name: self.h5.dataset(group, name) for name in (key, species, energy, forces)
                if name is not None}  # fmt: skip
        for name in (key, forces):
            if name is not None and data[name].dtype.kind not in "fiu":
                raise DataError(
                    f"{where}: {name!r} holds no real numbers, but the type {data[name].dtype}"
                )
        shape = data[key].shape
        if len(shape) == 2 and shape[1] == 3:
            shape = (1, *shape)
        if len(shape) != 3 or shape[2] != 3:
            raise DataError(
                f"{where}: {key!r} has shape {data[key].shape}, not (conformers, atoms, 3)"
            )
        numbers = self.species(data[species], shape, where, species, key)
        block = Block(group.path, key, energy, forces, numbers, shape[0], data[key].dtype)
        block.more = more
        block.forces_dtype = None if forces is None else data[forces].dtype
        if numbers.ndim == 2:
            self.atomic_numbers_layout = False
            mapping.check_padding(numbers, data[key][()].reshape(shape), where)
        elif not numbers.all():
            raise DataError(f"{where}: 0 is not the atomic number of an element")
        if forces is not None and data[forces].shape != data[key].shape:
            raise DataError(
                f"{where}: {key!r} has shape {data[key].shape}, but {forces!r} has "
                f"{data[forces].shape}"
            )
        self.declared(group, {"length": data[key], "energy": data.get(energy or ""),
                              "force": data.get(forces or "")})  # fmt: skip
        self.label(block, None if energy is None else data[energy])
        return block

    def periodic_names(self, group: Group, where: str) -> dict[str, str | np.ndarray]:
        """Where cell, pbc, stress and virial of a group are."""
        o, names = self.options, group.names
        more: dict[str, str | np.ndarray] = {}
        for what, known in (("cell", mapping.CELL_KEYS), ("pbc", mapping.PBC_KEYS)):
            key = periodic.find_known(what, known, names, where)
            told = periodic.find_known(what, known, group.about, f"{where}, attributes")
            if key is not None:
                more[what] = key
            elif told is not None:
                more[what] = np.asarray(group.about[told])
        labels: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
            ("stress", o.stress_key, mapping.STRESS_KEYS),
            ("virial", o.virial_key, mapping.VIRIAL_KEYS),
        )
        for what, given, names_of in labels:
            key = mapping.find_key(what, given, names_of, names, where, f"{what}_key")
            if key is not None:
                more[what] = key
        self.declared(
            group,
            {k: self.h5.dataset(group, v) for k, v in more.items()
             if isinstance(v, str) and k != "pbc"},
        )  # fmt: skip
        return more

    def declared(self, group: Group, data: dict[str, h5py.Dataset | None]) -> None:
        """Units that datasets declare in attributes of their own."""
        for kind, dataset in data.items():
            if dataset is None:
                continue
            for name, value in attributes(dataset).items():
                unit = text_of(value) if name.lower() in OWN_UNIT else None
                if unit is not None:
                    self.units.add(kind, unit, f"attribute {name!r} of {dataset.name!r}")

    def species(
        self, data: h5py.Dataset, shape: tuple[int, ...], where: str, name: str, key: str
    ) -> np.ndarray:
        fits = data.shape if data.shape != (shape[1], 1) else data.shape[:1]
        if fits not in ((shape[1],), (shape[0], shape[1])):
            raise DataError(f"{where}: {key!r} has shape {shape}, but {name!r} has {data.shape}")
        values = values_of(data, f"{where}: {name!r}")
        return mapping.parse_species(values, where).reshape(fits)

    def label(self, block: Block, data: h5py.Dataset | None) -> None:
        """Read the energies (small) and decide which conformers have one."""
        where = self.h5.where(block.group)
        if data is not None:
            assert block.energy is not None
            if data.size != block.n or data.dtype.kind not in "fiu":
                raise DataError(
                    f"{where}: {block.coordinates!r} holds {block.n} "
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
                        f"{where}: {block.energy!r} of conformer {first} is {block.energies[first]}"
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


def _text(data: h5py.Dataset) -> str:
    """The string that a dataset holds: a scalar, one in an array, or an array of letters."""
    values = np.atleast_1d(data[()]).reshape(-1)
    parts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]
    if len(set(parts)) == 1:
        return parts[0]
    return "".join(parts) if all(len(p) <= 1 for p in parts) else parts[0]
