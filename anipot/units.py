"""Every unit conversion of the package, and nothing else.

Inside anipot: coordinates in angstrom, energies in hartree, forces in hartree/angstrom,
stress in hartree/angstrom^3. The constants are CODATA 2014, the set that TorchANI, ASE and the
published ANI potentials use.
"""

import re

from anipot.errors import SettingsError, shortly

HARTREE_TO_KCALMOL = 627.5094738898777
HARTREE_TO_EV = 27.211386024367243
HARTREE_TO_KJMOL = HARTREE_TO_KCALMOL * 4.184
BOHR_TO_ANGSTROM = 0.52917721067
#: A hartree/angstrom^3 in GPa (1 eV is 1.6021766208e-19 J).
HARTREE_TO_GPA = HARTREE_TO_EV * 160.21766208

#: What one hartree is in each unit of energy.
ENERGY_UNITS = {
    "hartree": 1.0,
    "kcal/mol": HARTREE_TO_KCALMOL,
    "kJ/mol": HARTREE_TO_KJMOL,
    "eV": HARTREE_TO_EV,
    "meV": HARTREE_TO_EV * 1000.0,
    "rydberg": 2.0,
}

#: What one angstrom is in each unit of length.
LENGTH_UNITS = {
    "angstrom": 1.0,
    "bohr": 1.0 / BOHR_TO_ANGSTROM,
    "nm": 0.1,
}

_ALIASES = {
    "ha": "hartree",
    "eh": "hartree",
    "e_h": "hartree",
    "hartrees": "hartree",
    "kcal": "kcal/mol",
    "kilocalorie/mol": "kcal/mol",
    "kilojoule/mol": "kJ/mol",
    "electronvolt": "eV",
    "electron_volt": "eV",
    "kcalmol": "kcal/mol",
    "kj": "kJ/mol",
    "kjmol": "kJ/mol",
    "ry": "rydberg",
    "a": "angstrom",
    "å": "angstrom",
    "ang": "angstrom",
    "angstroms": "angstrom",
    "a0": "bohr",
    "a_0": "bohr",
    "bohrs": "bohr",
    "nanometer": "nm",
    "nanometers": "nm",
}


def _plain(unit: str) -> str:
    """A unit in one spelling: ``"kilojoule_per_mole"`` and ``"kJ mol^-1"`` are ``"kj/mol"``."""
    text = unit.strip().lower().replace("_per_", "/").replace(" per ", "/").replace("³", "^3")
    text = re.sub(r"[\s*·]+([a-zå][a-zå_0]*)(?:\^|\*\*)?\(?-1\)?(?!\d)", r"/\1", text)
    text = re.sub(r"\s*(/|\^|\*\*)\s*", r"\1", text)
    return re.sub(r"\bmole\b", "mol", text)


def _canonical(unit: str, known: dict[str, float], kind: str) -> str:
    plain = _plain(unit)
    for name in known:
        if plain == name.lower():
            return name
    name = _ALIASES.get(plain, "")
    if name in known:
        return name
    raise SettingsError(f"unknown unit of {kind} {shortly(unit)}; known: {', '.join(known)}")


def energy_unit(unit: str) -> str:
    """The canonical spelling of a unit of energy (``"ev"`` -> ``"eV"``)."""
    return _canonical(unit, ENERGY_UNITS, "energy")


def hartree_to(unit: str) -> float:
    """The number that turns hartree into ``unit`` when multiplied.

    Raises SettingsError for an unknown unit.
    """
    return ENERGY_UNITS[energy_unit(unit)]


def energy_to_hartree(unit: str) -> float:
    """The number that turns energies in ``unit`` into hartree when multiplied."""
    return 1.0 / hartree_to(unit)


#: A pressure of one hartree/angstrom^3 in units of pressure that are no energy over a volume.
PRESSURE_UNITS = {
    "GPa": HARTREE_TO_GPA,
    "kbar": HARTREE_TO_GPA * 10.0,
    "bar": HARTREE_TO_GPA * 1e4,
    "Pa": HARTREE_TO_GPA * 1e9,
}


def force_to_hartree_per_angstrom(unit: str) -> float:
    """The factor that converts forces in ``unit``, such as ``"hartree/bohr"``.

    Raises SettingsError for anything but a known unit of energy over a known unit of length.
    """
    energy, slash, length = _plain(unit).rpartition("/")
    if not slash:
        raise SettingsError(f"unknown unit of force {unit!r}; give it as 'hartree/bohr'")
    return energy_to_hartree(energy.strip()) / length_to_angstrom(length.strip())


def stress_to_hartree_per_cubic_angstrom(unit: str) -> float:
    """The factor that converts stresses in ``unit``, such as ``"GPa"`` or ``"eV/angstrom^3"``.

    Raises SettingsError for anything but a known unit of pressure or a known unit of energy over
    the cube of a known unit of length.
    """
    text = _plain(unit)
    for name, in_hartree in PRESSURE_UNITS.items():
        if text == name.lower():
            return 1.0 / in_hartree
    energy, slash, volume = text.rpartition("/")
    length = next((volume[:-n] for n in (3, 2, 1) if volume[-n:] in ("**3", "^3", "3")), "")
    if not slash or not length:
        raise SettingsError(
            f"unknown unit of stress {unit!r}; known: {', '.join(PRESSURE_UNITS)}, or an energy "
            "over a volume such as 'eV/angstrom^3'"
        )
    return energy_to_hartree(energy.strip()) / length_to_angstrom(length.strip()) ** 3


def length_unit(unit: str) -> str:
    """The canonical spelling of a unit of length (``"A"`` -> ``"angstrom"``)."""
    return _canonical(unit, LENGTH_UNITS, "length")


def length_to_angstrom(unit: str) -> float:
    """The number that turns lengths in ``unit`` into angstrom when multiplied."""
    return 1.0 / LENGTH_UNITS[length_unit(unit)]
