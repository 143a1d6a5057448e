"""Units that a file declares, in attributes or entries of its own, and what they come to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anipot import units
from anipot.data.mapping import ReadOptions, Scales, keyword
from anipot.errors import DataError, SettingsError

#: What turns a unit of each kind into anipot's, and the option that replaces a declared one.
_KINDS: dict[str, tuple[Callable[[str], float], str]] = {
    "energy": (units.energy_to_hartree, "energy_unit"),
    "length": (units.length_to_angstrom, "length_unit"),
    "cell": (units.length_to_angstrom, "length_unit"),
    "force": (units.force_to_hartree_per_angstrom, "force_unit"),
    "stress": (units.stress_to_hartree_per_cubic_angstrom, "stress_unit"),
    "virial": (units.energy_to_hartree, "energy_unit"),
}
#: Atomic units, which mean another unit for each kind.
_ATOMIC = {
    "energy": "hartree",
    "length": "bohr",
    "cell": "bohr",
    "force": "hartree/bohr",
    "stress": "hartree/bohr^3",
    "virial": "hartree",
}
_ATOMIC_NAMES = frozenset({"au", "a.u.", "atomic", "atomic unit", "atomic units", "atomic_units"})

#: Names under which a dataset tells its own unit.
OWN_UNIT = frozenset({"unit", "units", "u"})
_UNIT_OF = re.compile(
    r"(?:(?P<energy>e|energy|energies)|(?P<force>f|forces?|gradients?)|(?P<stress>stress)"
    r"|(?P<virial>virials?)|(?P<cell>cells?|lattice|box)"
    r"|(?P<length>r|lengths?|distances?|coord|coords|coordinates?|positions?))_units?"
)


@dataclass(frozen=True)
class ArrayScales(Scales):
    """Factors for files of arrays, where cell and virial may have units of their own."""

    cell: float
    virial: float


def text_of(value: Any) -> str | None:
    """One text among attributes or entries; None for anything else."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "SUO":
        return None
    item = array.reshape(-1)[0]
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")
    return str(item) if isinstance(item, str) else None


def kind_of_unit(name: str) -> str | None:
    """Of what a key or attribute declares the unit (``"r_unit"``: length, ``"units"``: any)."""
    name = name.lower()
    if name in ("unit", "units"):
        return "any"
    match = _UNIT_OF.fullmatch(name)
    return match.lastgroup if match else None


class DeclaredUnits:
    """Units that a file declares, place by place.

    Raises DataError if the file contradicts itself or a given option, and for an unknown unit
    that no option replaces.
    """

    def __init__(self, name: str, options: ReadOptions) -> None:
        self.name, self.options = name, options
        self._found: dict[str, tuple[float, str, str]] = {}
        self._seen: set[tuple[str, str]] = set()

    def __contains__(self, kind: str) -> bool:
        return kind in self._found

    def add(self, kind: str, unit: str, place: str) -> None:
        """A declared unit of energy, length, cell, force, stress or virial."""
        if (kind, unit) in self._seen:
            return
        convert, option = _KINDS[kind]
        given = getattr(self.options, option)
        known = _ATOMIC[kind] if unit.strip().lower() in _ATOMIC_NAMES else unit
        try:
            factor = convert(known)
        except SettingsError as e:
            if given is None:
                raise DataError(
                    f"{self.name}: {place} declares an {e}; replace it with {keyword(option)}"
                ) from e
            self._seen.add((kind, unit))
            return
        own = kind not in ("cell", "virial")  # they have no option of their own
        if own and given is not None and not np.isclose(factor, convert(given), rtol=1e-6, atol=0):
            raise DataError(
                f"{self.name}: {place} declares the unit {unit!r}, but {option}={given!r} was "
                f"given. Leave {keyword(option)} out, or correct the file"
            )
        before = self._found.setdefault(kind, (factor, unit, place))
        if not np.isclose(before[0], factor, rtol=1e-6, atol=0):
            raise DataError(
                f"{self.name}: {before[2]} declares the unit {before[1]!r}, but {place} {unit!r}; "
                "a file must have one unit for each quantity"
            )
        self._seen.add((kind, unit))

    def add_entries(self, entries: Mapping[str, Any], place: str) -> None:
        """All that attributes or entries of a file (or of a group) say of units."""
        for name, value in entries.items():
            kind = kind_of_unit(name)
            unit = None if kind is None else text_of(value)
            if kind is None or unit is None:
                continue
            here = f"{name!r} of {place}"
            if kind != "any":
                self.add(kind, unit, here)
            elif unit.strip().lower() in _ATOMIC_NAMES:
                self.add("energy", unit, here)
                self.add("length", unit, here)
            else:
                self._add_any(unit, here)

    def _add_any(self, unit: str, place: str) -> None:
        for kind in ("energy", "length"):
            try:
                _KINDS[kind][0](unit)
            except SettingsError:
                continue
            self.add(kind, unit, place)
            return
        if self.options.energy_unit is None or self.options.length_unit is None:
            raise DataError(
                f"{self.name}: {place} declares the units {unit!r}, which cannot be understood; "
                f"give both {keyword('energy_unit')} and {keyword('length_unit')}"
            )

    def scales(self, energy: str = "hartree", length: str = "angstrom") -> ArrayScales:
        """Factors: options before what is declared before the defaults given here."""

        def factor(kind: str, default: float) -> float:
            convert, option = _KINDS[kind]
            given = getattr(self.options, option)
            if given is not None and kind not in ("cell", "virial"):
                return convert(given)
            return self._found[kind][0] if kind in self._found else default

        of_energy = factor("energy", units.energy_to_hartree(energy))
        of_length = factor("length", units.length_to_angstrom(length))
        return ArrayScales(
            energy=of_energy,
            length=of_length,
            forces=factor("force", of_energy / of_length),
            stress=factor("stress", of_energy / of_length**3),
            cell=factor("cell", of_length),
            virial=factor("virial", of_energy),
            units={
                kind: name
                for kind, known, of_file in (
                    ("energy", units.ENERGY_UNITS, of_energy),
                    ("length", units.LENGTH_UNITS, of_length),
                )
                for name, per_own in known.items()
                if np.isclose(of_file * per_own, 1.0, rtol=1e-6)
            },
        )
