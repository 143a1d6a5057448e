"""Names and units of the arrays in a file, and how readers find them out.

Shared by all readers, so that every one of them takes the same keywords and answers a missing or an
ambiguous key in the same words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from anipot import units
from anipot.config import ReadSettings
from anipot.elements import SYMBOLS, number_of, symbols_of
from anipot.errors import DataError, SettingsError
from anipot.system.options import checked

log = logging.getLogger("anipot")

COORDINATES_KEYS = ("coordinates", "coords", "coord", "positions", "pos", "conformations", "R")
SPECIES_KEYS = ("species", "atomic_numbers", "nuclear_charges", "numbers", "z", "Z")
ENERGY_KEYS = ("energies", "energy", "wb97x_dz.energy", "E")
FORCES_KEYS = ("forces", "force", "wb97x_dz.forces", "F")
STRESS_KEYS = ("stress",)
VIRIAL_KEYS = ("virial", "virials")
#: In any case of letters; no option names others.
CELL_KEYS = (
    "cell", "cells", "lattice", "lattices", "lattice_vectors", "box", "boxes", "box_vectors",
    "unit_cell",
)  # fmt: skip
PBC_KEYS = ("pbc", "pbcs", "periodic", "periodicity")

#: Words in the name of a key that may hold a label under a name that is not known.
LIKELY = {
    "energies": ("energ",),
    "forces": ("forc", "grad"),
    "stress": ("stress",),
    "virial": ("virial",),
}
#: Whole names, in lower case, that may hold energies.
LIKELY_ENERGIES = frozenset({"e", "e0", "etot", "e_tot", "e_total", "toten", "u0"})
#: The option that names the key of each label.
KEY_OPTIONS = {
    "energies": "energy_key",
    "forces": "forces_key",
    "stress": "stress_key",
    "virial": "virial_key",
}


class ReadOptions(ReadSettings):
    """The keywords of ``load_dataset``; make one with ``read_options``, which checks them."""

    keep_unlabelled: bool = Field(False, description="keep conformers that have no energy")

    @property
    def sign(self) -> float:
        """-1 where the caller said that the file holds gradients."""
        return -1.0 if self.forces_sign == "gradient" else 1.0

    @property
    def stress_factor(self) -> float:
        """-1 where the caller said that the file has the other sign of stress and virial."""
        return -1.0 if self.stress_sign == "negative" else 1.0


def read_options(**given: Any) -> ReadOptions:
    """Options for reading. Raises SettingsError for one that is unknown or makes no sense."""
    return checked(ReadOptions, given)


def keyword(name: str, value: object = None) -> str:
    """An option in a message, for callers from Python and from the command line alike.

    ``energy_unit='eV' (or --energy-unit eV)``
    """
    option = "--" + name.replace("_", "-")
    if value is None or value is True:
        return f"{name}={'' if value is None else value} (or {option})"
    return f"{name}={value!r} (or {option} {value})"


@dataclass(frozen=True)
class Scales:
    """Factors that turn what a file holds into hartree, angstrom, hartree/angstrom and, for the
    stress, hartree/angstrom^3. A virial is an energy. ``units`` are those of the file, for
    ``Conformers.file_units``.
    """

    energy: float
    length: float
    forces: float
    stress: float
    units: dict[str, str]


def scales(
    options: ReadOptions,
    where: str,
    *,
    energy_unit: str | None,
    length_unit: str | None,
    force_unit: str | None = None,
    stress_unit: str | None = None,
) -> Scales:
    """Factors for a file that declares (or by its kind implies) these units; keywords win.

    ``force_unit`` (``"hartree/bohr"``) defaults to the energy's over the length's, and
    ``stress_unit`` to the energy's over the cube of the length's. Raises DataError for a declared
    unit that is unknown, naming the keyword that replaces it.
    """
    told = options.energy_unit is not None or options.length_unit is not None
    force_unit = options.force_unit or (None if told else force_unit)
    stress_unit = options.stress_unit or (None if told else stress_unit)
    try:
        energy = options.energy_unit or energy_unit or "hartree"
        length = options.length_unit or length_unit or "angstrom"
        of_energy, of_length = units.energy_to_hartree(energy), units.length_to_angstrom(length)
        of_forces, of_stress = of_energy / of_length, of_energy / of_length**3
        if force_unit:
            of_forces = units.force_to_hartree_per_angstrom(force_unit)
        if stress_unit:
            of_stress = units.stress_to_hartree_per_cubic_angstrom(stress_unit)
    except SettingsError as e:
        raise DataError(
            f"{where}: {e}; give the file's units with {keyword('energy_unit')} and "
            f"{keyword('length_unit')}"
        ) from e
    of_file = {"energy": units.energy_unit(energy), "length": units.length_unit(length)}
    return Scales(of_energy, of_length, of_forces, of_stress, of_file)


def find_key(
    what: str,
    given: str | None,
    known: Sequence[str],
    present: Iterable[str],
    where: str,
    option: str,
) -> str | None:
    """The key of ``present`` that holds ``what``; None when there is none.

    Raises DataError when a key that was given is not there, and when several known ones are.
    """
    present = list(present)
    if given is not None:
        if given in present:
            return given
        raise DataError(
            f"{where} has no {given!r} for the {what}; it has {listed(present)}. Use "
            f"{keyword(option)}"
        )
    found = [key for key in known if key in present]
    if len(found) > 1:
        raise DataError(
            f"{where} has several keys for the {what}: {listed(found)}. Choose one with "
            f"{keyword(option)}"
        )
    return found[0] if found else None


def missing(
    what: str, like: str, present: Iterable[str], where: str, option: str, more: str = ""
) -> DataError:
    """The error for a key that was not found: names the likely ones, or all there are."""
    present = list(present)
    likely = [key for key in present if like in key.lower()]
    text = (
        f"the keys that look like it are {listed(likely)}"
        if likely
        else f"it has {listed(present)}"
    )
    return DataError(
        f"{where} has no {what} under a known name; {text}. Name it with {keyword(option)}{more}"
    )


def hint_unread_labels(
    name: str,
    labels: Mapping[str, bool],
    present: Iterable[str],
    options: ReadOptions,
    among: Sequence[str] = tuple(LIKELY),
) -> None:
    """Log which keys of a file look like labels that were not read, and the option for each.

    ``labels`` says of ``"energies"``, ``"forces"``, ``"stress"`` and ``"virial"`` whether the
    label was read; ``present`` are the keys that nothing was read from. Only the labels
    ``among`` are looked for.
    """
    present = sorted(set(present))
    for label in among:
        words = LIKELY[label]
        likely = [
            key
            for key in present
            if any(word in key.lower() for word in words)
            or (label == "energies" and key.lower() in LIKELY_ENERGIES)
        ]
        if not likely or labels.get(label) or getattr(options, KEY_OPTIONS[label]) is not None:
            continue
        gradients = any("grad" in key.lower() for key in likely)
        sign = f" and {keyword('forces_sign', 'gradient')}" if gradients else ""
        log.warning(
            "%s: no %s read, but there is %s: name it with %s%s",
            name, label, listed(likely), keyword(KEY_OPTIONS[label]), sign,
        )  # fmt: skip


def check_sign(options: ReadOptions, where: str) -> None:
    """Raise DataError where forces are to be read from a key that by its name holds gradients."""
    key = options.forces_key
    if key is not None and "grad" in key.lower() and options.forces_sign is None:
        raise DataError(
            f"{where}: {key!r} by its name holds gradients, the negative of forces; negate them "
            f"with {keyword('forces_sign', 'gradient')}, or read them as they are with "
            f"{keyword('forces_sign', 'forces')}"
        )


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first dozen of them."""
    names = sorted(names)
    text = ", ".join(repr(n) for n in names[:12])
    return (text or "nothing") + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def parse_species(array: np.ndarray, where: str) -> np.ndarray:
    """Atomic numbers of the same shape, uint8, from symbols or numbers; padding (-1, 0, "") is 0.

    Text may be symbols or numbers ("8", "8.0"). Raises DataError for what is no element; D and T
    are refused, too: a potential knows hydrogen only, and a mass must not be lost in silence.
    """
    array = np.asarray(array)
    if array.dtype.kind in "SOU":
        if array.dtype.kind == "O":
            array = np.array([_text(s, where) for s in array.reshape(-1)], dtype=str).reshape(
                array.shape
            )
        distinct, index = np.unique(array.reshape(-1), return_inverse=True)
        table = np.array([_number(_text(s, where), where) for s in distinct], dtype=np.uint8)
        return table[index.reshape(-1)].reshape(array.shape)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{where}: species are neither symbols nor atomic numbers ({array.dtype})")
    numbers = np.nan_to_num(array, nan=-2, posinf=-2, neginf=-2)
    wrong = (np.floor(numbers) != numbers) | (numbers < -1) | (numbers >= len(SYMBOLS))
    if wrong.any():
        raise DataError(f"{where}: {array[wrong].flat[0]} is not the atomic number of an element")
    return np.where(numbers < 0, 0, numbers).astype(np.uint8)


def _text(value: Any, where: str) -> str:
    """One entry of an array of text."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where}: {value!r} is not the symbol of an element") from None
    return str(value).strip("\x00 \t\r\n")


def _number(symbol: str, where: str) -> int:
    """The atomic number of one entry; 0 for padding."""
    if symbol == "":
        return 0
    wrong = DataError(f"{where}: {symbol!r} is not the symbol of an element")
    if symbol in ("D", "T"):
        raise DataError(
            f"{where}: {symbol!r} is an isotope of hydrogen; potentials know elements only. Write H"
        )
    try:
        number = float(symbol)
    except ValueError:
        try:
            return number_of(symbol)
        except (SettingsError, OverflowError):
            raise wrong from None
    if number in (-1, 0):
        return 0
    if not (1 <= number < len(SYMBOLS) and number == int(number)):
        raise wrong
    return int(number)


def is_formula(name: str, numbers: np.ndarray) -> bool:
    """Whether a group's name is the formula of its atoms, as in ``C10H10N2O1``."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", name)
    if "".join(s + n for s, n in parts) != name or len({s for s, _ in parts}) != len(parts):
        return False
    counts = {s: int(n or 1) for s, n in parts}
    values, occur = np.unique(numbers, return_counts=True)
    counts = {s: n for s, n in counts.items() if n}
    return counts == dict(zip(symbols_of(values), occur.tolist(), strict=True))


def check_padding(numbers: np.ndarray, coordinates: np.ndarray, where: str) -> None:
    """Raise DataError when what looks like padding sits on an atom.

    ``numbers`` (n, a) with 0 for padding, ``coordinates`` (n, a, 3).

    Some files number their elements 0, 1, 2...: taking their 0 for padding would silently
    drop every hydrogen.
    """
    padding = numbers == 0
    if not padding.any():
        return
    rows, columns = np.nonzero(padding)
    at = coordinates[rows, columns]
    bad = (np.nan_to_num(at) != 0).any(axis=1)
    if (np.diff(padding.astype(np.int8), axis=1) < 0).any() or bad.any():
        raise DataError(
            f"{where}: species 0 or -1 is no element, and it is not the padding at a row's end "
            "either; species must be symbols or atomic numbers, not places in a list of elements"
        )
