"""The labels of ASE's atoms: found under the keys that are known or given, in hartree and angstrom.

What is there and was not read is kept, to be told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from anipot import units
from anipot.data import mapping
from anipot.data.mapping import ReadOptions, Scales, log
from anipot.data.readers.charges import info_entry, tells_charge_or_spin
from anipot.data.readers.xyz_comments import (
    comment_energy,
    declared_units,
    looks_like_cell,
    unit_of,
)
from anipot.errors import DataError, SettingsError

#: Arrays of ASE that are read, or are no data.
_OWN_ARRAYS = frozenset({"numbers", "positions"})
_COLUMNS = re.compile(r"columns(?: (\d+)-(\d+))?")


class FrameLabels:
    """Reads the labels of the frames of one source; ``name`` is what messages call it."""

    def __init__(self, options: ReadOptions, name: str) -> None:
        if options.energy_key is not None and options.energy_from is not None:
            raise SettingsError("energy_key and energy_from are two sources of energies; give one")
        key = options.forces_key
        if key is not None and "grad" in key.lower() and options.forces_sign is None:
            raise DataError(
                f"{name}: {key!r} may be gradients, which are forces with the other sign: say so "
                f"with {mapping.keyword('forces_sign', 'gradient')}, or forces if they are forces"
            )
        self.options, self.name = options, name
        self.info: set[str] = set()
        self.arrays: set[str] = set()
        self.results: set[str] = set()
        self.used: set[str] = set()
        self._scales: dict[tuple[tuple[str, str], ...], tuple[Scales, float]] = {}
        self._told: set[tuple[str, str]] = set()
        self._comment: tuple[str, float, str | None, str] | None = None
        self._cell_comment: tuple[str, str] | None = None

    def read(self, frame: ase.Atoms, where: str) -> tuple[Scales, dict[str, Any]]:
        """Scales of a frame, and its energy (hartree), forces (n, 3) (hartree/angstrom) and stress
        (3, 3) (hartree/angstrom^3); None for each that it lacks.
        """
        self.info.update(frame.info)
        self.arrays.update(frame.arrays)
        if isinstance(frame.calc, SinglePointCalculator):
            self.results.update(frame.calc.results)
        comment = frame.info.get("comment")
        if self._cell_comment is None and isinstance(comment, str) and not frame.pbc.any():
            self._cell_comment = (where, comment.strip()) if looks_like_cell(comment) else None
        tags = tuple((k, str(v)) for k, v in frame.info.items() if unit_of(str(k)) is not None)
        if tags not in self._scales:
            self._scales[tags] = self._scales_of(tags, where)
        scales, of_virial = self._scales[tags]
        energy = self._energy(frame, scales, where)
        forces = self._forces(frame, where)
        return scales, {
            "energies": energy,
            "forces": None if forces is None else forces * (scales.forces * self.options.sign),
            "stress": self._stress(frame, scales, of_virial, where),
        }

    @property
    def file_units(self) -> dict[str, str]:
        """The units of energy and length of the frames read so far, as far as they agree."""
        found = [scales.units for scales, _ in self._scales.values()]
        return {
            kind: unit
            for kind, unit in (found[0] if found else {}).items()
            if all(units_.get(kind) == unit for units_ in found)
        }

    def _scales_of(self, tags: tuple[tuple[str, str], ...], where: str) -> tuple[Scales, float]:
        told = declared_units(tags, self.options, where)
        self.used.update(key for key, _ in tags)
        scales = mapping.scales(
            self.options, where,
            energy_unit=told.get("energy", "eV"), length_unit=told.get("length", "angstrom"),
            force_unit=told.get("force"), stress_unit=told.get("stress"),
        )  # fmt: skip
        virial = told.get("virial")
        return scales, scales.energy if virial is None else units.energy_to_hartree(virial)

    def _energy(self, frame: ase.Atoms, scales: Scales, where: str) -> float | None:
        options, comment = self.options, frame.info.get("comment")
        if isinstance(comment, str) and (options.energy_from or self._comment is None):
            found = comment_energy(comment)
            if found is not None and self._comment is None:
                self._comment = (where, *found)
            if options.energy_from is not None and found is not None:
                return self._from_comment(*found, where)
        key = options.energy_key or "energy"
        value = info_entry(frame, key)
        if value is None and key in ("energy", "free_energy"):
            value = stored_result(frame, key)
        if value is None or isinstance(value, bool | np.bool_):
            return None
        self.used.add(key)
        try:
            return float(np.asarray(value, dtype=float).reshape(())) * scales.energy
        except (TypeError, ValueError):
            raise DataError(f"{where}: {key}={value!r} is not one number") from None

    def _from_comment(self, value: float, unit: str | None, program: str, where: str) -> float:
        self.used.add("comment")
        given = self.options.energy_unit
        if given and unit and units.energy_unit(given) != unit and (given, unit) not in self._told:
            self._told.add((given, unit))
            log.warning(
                "%s: %s writes energies in %s; %s is used as given",
                where, program or "the comment", unit, mapping.keyword("energy_unit", given),
            )  # fmt: skip
        unit = given or unit
        if unit is None:
            raise DataError(
                f"{where}: nothing says in which unit the comment's energy {value} is; give it "
                f"with {mapping.keyword('energy_unit')} (hartree in CREST's files, "
                "kcal/mol in MD17's)"
            )
        return value * units.energy_to_hartree(unit)

    def _forces(self, frame: ase.Atoms, where: str) -> np.ndarray | None:
        key = self.options.forces_key
        if key is not None and (match := _COLUMNS.fullmatch(key)):
            return self._from_columns(frame, match, where)
        if key is not None:
            found = {key: frame.arrays.get(key)}
            if key == "forces" and found[key] is None:
                found[key] = stored_result(frame, key)
        else:
            found = {k: frame.arrays.get(k) for k in ("forces", "force")}
            found["the calculator's forces"] = stored_result(frame, "forces")
            if np.shape(found["force"]) != (len(frame), 3):
                found["force"] = None  # a magnitude
        there = {k: _array(k, v, where) for k, v in found.items() if v is not None}
        for name, value in there.items():
            if value.shape != (len(frame), 3):
                raise DataError(f"{where}: {name!r} has shape {value.shape}, not ({len(frame)}, 3)")
            self.used.add("forces" if name == "the calculator's forces" else name)
        for name in list(there)[1:]:
            first = next(iter(there))
            _check_equal(first, there[first], name, there[name], f"{where}, forces", ["forces_key"])
        return next(iter(there.values()), None)

    def _from_columns(
        self, frame: ase.Atoms, match: re.Match[str], where: str
    ) -> np.ndarray | None:
        """Forces from the columns that nothing names: the first three, or those asked for."""
        name = next((k for k in frame.arrays if _COLUMNS.fullmatch(k)), None)
        if name is None:
            return None
        first, last = map(int, name.split()[1].split("-"))
        start, end = (int(match[1]), int(match[2])) if match[1] else (first, first + 2)
        values = frame.arrays[name]
        if end - start != 2 or start < first or end > last or values.dtype.kind != "f":
            what = "numbers" if values.dtype.kind == "f" else "words"
            raise DataError(
                f"{where}: {name} hold {what}; {self.options.forces_key!r} are not three numbers "
                "of each atom among them"
            )
        self.used |= {name, match[0]}
        return np.asarray(values[:, start - first : end - first + 1])

    def _stress(
        self, frame: ase.Atoms, scales: Scales, of_virial: float, where: str
    ) -> np.ndarray | None:
        options = self.options
        keys = [options.stress_key or "stress"]
        virial_keys: Sequence[str] = (options.virial_key,) if options.virial_key else ()
        if not virial_keys and not options.stress_key:
            virial_keys = mapping.VIRIAL_KEYS
        if options.virial_key and not options.stress_key:
            keys = []
        found: dict[str, np.ndarray] = {}
        for key in keys:
            value = info_entry(frame, key)
            value = stored_result(frame, key) if value is None else value
            if value is not None:
                found[key] = _tensor(key, value, where) * scales.stress
        for key in virial_keys:
            value = info_entry(frame, key)
            if value is None:
                continue
            self.used.add(key)
            value = _tensor(key, value, where)
            volume = abs(float(np.linalg.det(np.asarray(frame.cell)))) * scales.length**3
            if volume > 0:
                found[key] = value * (-of_virial / volume)
            elif value.any():  # of molecules some programs write zeros
                raise DataError(f"{where}: has a virial ({key}) but no cell")
        self.used.update(found)
        names = list(found)
        for name in names[1:]:
            ways = ["stress_key"] * (names[0] in keys) + ["virial_key"]
            _check_equal(
                names[0], found[names[0]] / scales.stress, name, found[name] / scales.stress,
                f"{where}, stress in the file's unit (a virial is turned into one)", ways, 0.01,
            )  # fmt: skip
        return found[names[0]] * options.stress_factor if names else None

    # ---- what was not read ---------------------------------------------------------------------

    def not_read(self, columns: bool) -> tuple[str, ...]:
        """Keys, arrays and results that nothing was read from; ``columns``: as columns of XYZ."""
        known = self.used | {self.options.group_key or "molecule"}
        info = {k for k in map(str, self.info) if k not in known and not tells_charge_or_spin(k)}
        arrays = self.arrays - known - _OWN_ARRAYS
        plain = {a if not columns or a.startswith("column") else f"column {a}" for a in arrays}
        return tuple(sorted(info | plain | (self.results - known)))

    def explain(self, has: dict[str, np.ndarray]) -> None:
        """A key that was given must be somewhere; labels under other names are worth a word."""
        options, name = self.options, self.name
        read = {label: bool(there.any()) for label, there in has.items()}
        read["virial"] = read["stress"]
        info = self.info | self.results
        for label, among in (
            ("energies", info), ("forces", self.arrays), ("stress", info), ("virial", info),
        ):  # fmt: skip
            option = mapping.KEY_OPTIONS[label]
            key = getattr(options, option)
            if key is not None and key not in self.used:
                present = sorted(map(str, among - _OWN_ARRAYS))
                mapping.find_key(label, key, (), [k for k in present if k != key], name, option)
        if options.energy_from is not None and "comment" not in self.used:
            raise DataError(
                f"{name}: no comment holds an energy, for which {mapping.keyword('energy_from')} "
                "looks (a number alone, or after 'energy' or 'E')"
            )
        if self._cell_comment is not None:
            log.warning(
                "%s: the comment %r looks like a cell, but it is not read: the frame has no cell. "
                'If it should have one, write Lattice="ax ay az bx by bz cx cy cz" (angstrom) into '
                "the comment of every frame",
                *self._cell_comment,
            )
        from_comment = not read["energies"] and options.energy_key is None and self._comment
        if from_comment:
            self._offer_comment(*from_comment)
            read["energies"] = True
        arrays = {k for k in self.arrays if not _like(k, ("energ", "stress", "virial"))}
        others = {k for k in map(str, info) if not _like(k, ("forc", "grad"))}
        unread = {k for k in arrays | others if k not in self.used and unit_of(k) is None}
        mapping.hint_unread_labels(name, read, unread, options)
        columns = next((k for k in self.arrays if _three_columns(k)), None)
        if columns and not read["forces"] and options.forces_key is None:
            log.warning(
                "%s: %s have no name and were not read: if they are forces, give %s",
                name, columns, mapping.keyword("forces_key", "columns"),
            )  # fmt: skip

    def _offer_comment(self, where: str, value: float, unit: str | None, program: str) -> None:
        by = f" as {program} writes it" if program else ""
        need = ""
        if not (unit or self.options.energy_unit):
            need = f" and {mapping.keyword('energy_unit')}"
            need += " (hartree in CREST's files, kcal/mol in MD17's)"
        log.warning(
            "%s: no energy read, but the comment holds %s%s%s: %s%s reads it",
            where, value, f" {unit}" if unit else "", by,
            mapping.keyword("energy_from", "comment"), need,
        )  # fmt: skip


def stored_result(frame: ase.Atoms, name: str) -> Any:
    """A stored result of a frame; None where there is none or the atoms have moved since."""
    if not isinstance(frame.calc, SinglePointCalculator):
        return None
    try:
        return frame.calc.get_property(name, frame, allow_calculation=False)
    except PropertyNotImplementedError:
        return None


def _three_columns(name: str) -> bool:
    """Whether an array is unnamed columns of an XYZ file, of which forces could be three."""
    match = _COLUMNS.fullmatch(name)
    return match is not None and match[1] is not None and int(match[2]) - int(match[1]) >= 2


def _like(key: str, words: Sequence[str]) -> bool:
    return any(word in key.lower() for word in words)


def _array(key: str, value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {key!r} holds something else than numbers") from None


def _tensor(key: str, value: Any, where: str) -> np.ndarray:
    """(3, 3) of nine numbers, or of six in Voigt's order xx yy zz yz xz xy."""
    value = _array(key, value, where)
    if value.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(value.reshape(6)))
    if value.size != 9:
        raise DataError(f"{where}: {key}: a stress has 6 or 9 numbers, not {value.size}")
    value = value.reshape(3, 3)
    if (np.abs(value - value.T) > 0.1 * np.abs(value).max() + 1e-6).any():
        raise DataError(f"{where}: the nine numbers of {key!r} are not symmetric, as a stress is")
    return value


def _check_equal(
    first: str, a: np.ndarray, second: str, b: np.ndarray, where: str, options: Sequence[str],
    tolerance: float = 1e-4,
) -> None:  # fmt: skip
    """Raise DataError where two labels of the same meaning differ by more than rounding."""
    off = np.abs(a - b)
    if not (off > tolerance * max(np.abs(a).max(), np.abs(b).max()) + 1e-6).any():
        return
    worst = np.unravel_index(int(np.argmax(off)), off.shape)
    raise DataError(
        f"{where}: {first} and {second} contradict each other ({a[worst]:.6g} and {b[worst]:.6g}). "
        f"Choose one with {' or '.join(map(mapping.keyword, options))}"
    )
