"""The comment line of an XYZ frame: keys and values, units that it declares, energies in words."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import numpy as np

from anipot import units
from anipot.data import mapping
from anipot.data.mapping import ReadOptions
from anipot.errors import DataError, SettingsError, shortly

# ASE makes "first,=T" of a word with a comma in the comment of a plain file.
_KEY = r"""(?P<key>"(?:[^"\\]|\\.)*"|[^\s="'{}\[\],;](?:[^\s="'{}\[\],;]|,(?=,*=))*)"""
_VALUE = r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^{}]*\}
    |\[(?:[^\[\]]|\[[^\[\]]*\])*\]|[^\s"'{}\[\]]\S*)"""
_PAIR = re.compile(rf"[\s,;]*{_KEY}(?:\s*=\s*{_VALUE})?", re.VERBOSE)
_EXTENDED = re.compile(r"(?<![\w-])(?:Properties|Lattice)\s*=", re.IGNORECASE)
_BOOLEANS = {"T": True, "F": False} | dict.fromkeys(("true", "True", "TRUE"), True)
_BOOLEANS |= dict.fromkeys(("false", "False", "FALSE"), False)

_NUMBER = r"([-+]?\d+\.\d*(?:[eEdD][-+]?\d+)?)"
#: How programs write an energy into the comment of plain XYZ; all of these write hartree.
_PROGRAMS = {
    "xtb": re.compile(rf"\s*energy:\s*{_NUMBER}\s+gnorm:.*xtb", re.IGNORECASE),
    "CREST": re.compile(rf"\s*{_NUMBER}\s*!\s*CONF"),
    "ORCA": re.compile(rf".*\bORCA\b.*\bE\s+{_NUMBER}"),
    "CP2K": re.compile(rf"\s*i\s*=\s*\d+\b.*\bE\s*=\s*{_NUMBER}"),
    "geomeTRIC": re.compile(rf"\s*Iteration\s+\d+\s+Energy\s+{_NUMBER}"),
}
_UNIT = r"(?:(hartrees?|Eh|Ha|a\.u\.)|(eV)|(kcal/mol)|(kJ/mol)|(Ry|rydbergs?))"
_UNITS = ("hartree", "eV", "kcal/mol", "kJ/mol", "rydberg")
_UNIT_IN_WORDS = re.compile(rf"(?<![A-Za-z/]){_UNIT}(?![A-Za-z/])", re.IGNORECASE)
_ALONE = re.compile(rf"\s*{_NUMBER}\s*(?:[(\[]?\s*{_UNIT}\s*[)\]]?)?\s*", re.IGNORECASE)
_IN_WORDS = re.compile(
    r"(?P<before>[A-Za-z-]+\.?\s+)?(?<!\w)(?:(?:energy|e_?(?:tot|pot|scf|dft))\s*"
    rf"(?:[(\[][^)\]]*[)\]]\s*)?[:=]?|(?:scf\s+done|e\s*\([^)]*\)|e)\s*[:=])\s*{_NUMBER}",
    re.IGNORECASE,
)
#: Words before "energy" that make it another than the total energy.
_NOT_TOTAL = frozenset({
    "kinetic", "relative", "rel", "homo", "lumo", "zero-point", "zeropoint", "repulsion", "binding",
    "formation", "dispersion", "free", "thermal", "gap", "atomization", "interaction",
})  # fmt: skip

_SIZE = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_ONLY_DECIMALS = re.compile(r"(?:\s*[-+]?\d+\.\d*(?:[eE][-+]?\d+)?[\s,]*){3,9}")
_CELL_IN_WORDS = re.compile(
    rf"\b(?:unit ?cell|cell|box|lattice|cryst1?)\b[^\d+-]*((?:{_SIZE}[\s,;]+){{2,8}}{_SIZE})",
    re.IGNORECASE,
)

#: The option for what a unit tag is of.
_UNIT_OPTIONS = {
    "energy": "energy_unit",
    "length": "length_unit",
    "force": "force_unit",
    "stress": "stress_unit",
    "virial": "energy_unit",
}
_UNIT_KEY = re.compile(
    r"(?:units?_(?:of_)?)?(?:(?P<energy>energy|energies)|(?P<force>forces?|gradients?)"
    r"|(?P<length>lengths?|pos|positions?|coordinates?|coords?|distances?)"
    r"|(?P<stress>stress|pressure)|(?P<virial>virials?))(?:_?units?)?"
)
#: What one word says of all units: of energy, and of length.
_SYSTEMS = {
    "atomic": ("hartree", "bohr"),
    "atomicunits": ("hartree", "bohr"),
    "au": ("hartree", "bohr"),
    "metal": ("eV", "angstrom"),
    "ase": ("eV", "angstrom"),
    "real": ("kcal/mol", "angstrom"),
}


def is_extended(comment: str) -> bool:
    """Whether a comment is that of extended XYZ beyond doubt."""
    return _EXTENDED.search(comment) is not None


def parse_pairs(comment: str) -> dict[str, str | None]:
    """The keys of a comment with their values, unquoted; None for a word without a value.

    Raises ValueError for an open quote or bracket, and for a key with two values.
    """
    pairs: dict[str, str | None] = {}
    end = len(comment.rstrip(" \t,;\r\n"))
    place = 0
    while place < end:
        match = _PAIR.match(comment, place, end)
        if match is None:
            raise ValueError(
                f"cannot be read from {comment[place:end].strip()[:40]!r} on (a quote or bracket "
                "that is not closed, or a value without a key)"
            )
        key, value = match["key"].strip('"'), match["value"]
        if value is not None and value[0] in "\"'{[":
            value = re.sub(r"\\(.)", r"\1", value[1:-1]) if "\\" in value else value[1:-1]
        if value is not None and pairs.get(key, value) != value:
            raise ValueError(
                f"names {shortly(key)} twice, as {shortly(pairs[key])} and {shortly(value)}"
            )
        if value is not None or key not in pairs:
            pairs[key] = value
        place = match.end()
    return pairs


def numbers_in(text: str) -> np.ndarray:
    """The numbers of a value, brackets left out. Raises ValueError where it holds more."""
    words = re.sub(r"[\[\]{},]", " ", text).split()
    return np.array([to_float(word) for word in words], dtype=float)


def to_float(text: str) -> float:
    """A number as Python, Fortran (1.0D-3) or Mathematica (1.0*^-3) write it, else ValueError."""
    if "_" in text:  # Python's own habit, in no file
        raise ValueError(f"{shortly(text)} is not a number")
    try:
        return float(text)
    except ValueError:
        return float(text.replace("*^", "e").replace("D", "e").replace("d", "e"))


def to_value(key: str, text: str | None) -> Any:
    """A value as ASE reads it: integers, floats, booleans, arrays of them, JSON, or the text."""
    if text is None:
        return True
    if key.lower() == "uid":
        return text
    if text.startswith("_JSON "):
        try:
            value = json.loads(text[6:])
        except (ValueError, RecursionError):
            return text
        return np.array(value) if isinstance(value, list) and _numeric(value) else value
    words = re.sub(r"[\[\],]", " ", text).split()
    if words and "_" not in text:
        for kind in (int, to_float):
            try:
                numbers = [kind(word) for word in words]
            except ValueError:
                continue
            if kind is int and max(map(abs, numbers)) >= 2**63:
                continue
            return numbers[0] if len(numbers) == 1 else np.array(numbers)
        if all(word in _BOOLEANS for word in words):
            flags = [_BOOLEANS[word] for word in words]
            return flags[0] if len(flags) == 1 else flags
    return text


def _numeric(value: list[Any]) -> bool:
    try:
        return np.array(value).dtype.kind in "ifb"
    except ValueError:  # rows of different lengths
        return False


def comment_energy(comment: str) -> tuple[float, str | None, str] | None:
    """The energy that a plain comment tells of: the number, its unit, and the program known by it.

    The unit is None where neither the comment nor the program's habit says it; the program is
    empty where it is not known. None where the comment has no energy, or several.
    """
    for program, pattern in _PROGRAMS.items():
        match = pattern.match(comment)
        if match is not None:
            return to_float(match[1]), "hartree", program
    alone = _ALONE.fullmatch(comment)
    found = (
        {alone[1]}
        if alone is not None
        else {
            match[2]
            for match in _IN_WORDS.finditer(comment)
            if (match["before"] or "").strip(" \t.").lower() not in _NOT_TOTAL
        }
    )
    if len(found) != 1:
        return None
    named = {
        unit
        for texts in _UNIT_IN_WORDS.findall(comment)
        for unit, text in zip(_UNITS, texts, strict=True)
        if text
    }
    return to_float(found.pop()), named.pop() if len(named) == 1 else None, ""


def looks_like_cell(comment: str) -> bool:
    """Whether a plain comment seems to hold a cell, which some programs write there.

    Nothing but three lengths, three lengths and three angles, or three vectors; or as many numbers
    after a word such as ``box``.
    """
    if _ONLY_DECIMALS.fullmatch(comment):
        numbers = numbers_in(comment)
    elif (match := _CELL_IN_WORDS.search(comment)) is not None:
        numbers = numbers_in(match[1].replace(";", " "))
    else:
        return False
    if numbers.size == 9:
        return bool(abs(np.linalg.det(numbers.reshape(3, 3))) > 1)
    if numbers.size not in (3, 6):
        return False
    angles = numbers[3:]
    return bool((numbers[:3] > 1).all() and ((angles > 10) & (angles < 170)).all())


@lru_cache(maxsize=1024)
def unit_of(key: str) -> str | None:
    """Quantity whose unit a key of a comment declares: energy, length ...; "all" for ``units``."""
    plain = key.lower().replace("-", "_").replace(" ", "_")
    if "unit" not in plain:
        return None
    if plain in ("unit", "units"):
        return "all"
    match = _UNIT_KEY.fullmatch(plain)
    return None if match is None else match.lastgroup


def declared_units(
    tags: tuple[tuple[str, str], ...], options: ReadOptions, where: str
) -> dict[str, str]:
    """Units by what they are of (energy, length, force, stress, virial), from (key, value) tags.

    Those for which the caller gave an option are left out. Raises DataError for a unit that is
    unknown, or that two tags tell differently.
    """
    found: dict[str, tuple[str, str]] = {}
    for key, value in tags:
        kind = unit_of(key)
        if kind == "all" and options.energy_unit and options.length_unit:
            continue
        if kind != "all" and (given := getattr(options, _UNIT_OPTIONS[str(kind)])) is not None:
            if not _same(value, given, str(kind)):
                option = mapping.keyword(_UNIT_OPTIONS[str(kind)], given)
                mapping.log.warning("%s: %s=%s; %s is used as given", where, key, value, option)
            continue
        try:
            told = _system(value) if kind == "all" else {str(kind): _checked(value, str(kind))}
        except SettingsError as e:
            names = ("energy_unit", "length_unit") if kind == "all" else (_UNIT_OPTIONS[str(kind)],)
            ways = " and ".join(mapping.keyword(name) for name in names)
            raise DataError(f"{where}: {key}={value}: {e}. Give the unit with {ways}") from None
        for name, unit in told.items():
            if getattr(options, _UNIT_OPTIONS[name]) is not None:
                continue
            key_before, before = found.setdefault(name, (key, unit))
            if before != unit:
                raise DataError(
                    f"{where}: {key_before} says that the unit of {name} is {before}, {key} says "
                    f"{unit}. Give it with {mapping.keyword(_UNIT_OPTIONS[name])}"
                )
    return {name: unit for name, (_, unit) in found.items()}


def _same(text: str, other: str, kind: str) -> bool:
    try:
        return _checked(text, kind) == _checked(other, kind)
    except SettingsError:
        return False


def _checked(text: str, kind: str) -> str:
    """A unit as anipot spells it. Raises SettingsError for one that is unknown."""
    text = text.strip().replace("Å", "angstrom").replace("a.u.", "au")
    if kind == "length":
        text = "bohr" if text.lower() in ("au", "atomic") else text
        units.length_to_angstrom(text)
        return text.lower()
    if kind in ("energy", "virial"):
        return units.energy_unit("hartree" if text.lower() in ("au", "atomic") else text)
    if kind == "force" and text.lower() in ("au", "atomic"):
        text = "hartree/bohr"
    text = re.sub(r"^au(?=/)", "hartree", text)
    if kind == "force":
        units.force_to_hartree_per_angstrom(text)
    else:
        text = "hartree/bohr^3" if text.lower() in ("au", "atomic") else text
        units.stress_to_hartree_per_cubic_angstrom(text)
    return text


def _system(text: str) -> dict[str, str]:
    """Parse ``units=``: a unit system (metal), or units of energy, length, force and stress."""
    name = re.sub(r"[\s._-]", "", text.lower())
    if name in _SYSTEMS:
        return dict(zip(("energy", "length"), _SYSTEMS[name], strict=True))
    told: dict[str, str] = {}
    for part in re.split(r"[\s,;]+", text.strip()):
        for kind in ("energy", "length", "force", "stress"):
            try:
                told[kind] = _checked(part, kind)
            except SettingsError:
                continue
            break
        else:
            raise SettingsError("unknown units")
    energy, slash, length = told.get("force", "").rpartition("/")
    if slash and "length" not in told:
        if units.length_to_angstrom(length) != 1.0:
            raise SettingsError("it does not say whether the positions are in angstrom")
        told |= {"energy": told.get("energy", units.energy_unit(energy)), "length": "angstrom"}
    return told
