import ase.units
import pytest

from anipot import units
from anipot.errors import SettingsError


def test_constants_are_those_of_the_published_potentials():
    # NUMERICS: CODATA 2014; ase.units 2014 is an independent table of the same set.
    table = ase.units.create_units("2014")
    assert pytest.approx(table["Hartree"], rel=1e-8) == units.HARTREE_TO_EV
    assert pytest.approx(table["Hartree"] / (table["kcal"] / table["mol"]), rel=1e-8) == (
        units.HARTREE_TO_KCALMOL
    )
    assert pytest.approx(table["Bohr"], rel=1e-9) == units.BOHR_TO_ANGSTROM
    assert pytest.approx(table["Hartree"] / (table["kJ"] / table["mol"]), rel=1e-8) == (
        units.HARTREE_TO_KJMOL
    )


@pytest.mark.parametrize(
    ("unit", "one"),
    [("hartree", 1.0), ("Ha", 1.0), ("EV", 27.211386), ("kcal/mol", 627.50947), ("kcal", 627.50947),
     ("kJ/mol", 2625.4996), ("rydberg", 2.0), ("meV", 27211.386)],
)  # fmt: skip
def test_one_hartree_in_every_unit(unit, one):
    assert units.hartree_to(unit) == pytest.approx(one, rel=1e-7)
    assert units.energy_to_hartree(unit) * one == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize(("unit", "angstrom"), [("bohr", 0.52917721), ("nm", 10.0), ("Ang", 1.0)])
def test_lengths(unit, angstrom):
    assert units.length_to_angstrom(unit) == pytest.approx(angstrom, rel=1e-8)


def test_unknown_unit_names_the_known_ones():
    with pytest.raises(SettingsError, match=r"'calories'.*hartree, kcal/mol"):
        units.hartree_to("calories")
    with pytest.raises(SettingsError, match=r"'inch'.*angstrom, bohr"):
        units.length_to_angstrom("inch")


@pytest.mark.parametrize("unit", ["eV/angstrom^3", "eV/A**3", "ev/angstrom3"])
def test_stress_over_a_volume(unit: str) -> None:
    assert units.stress_to_hartree_per_cubic_angstrom(unit) == pytest.approx(
        1 / units.HARTREE_TO_EV, rel=1e-12
    )


def test_pressures() -> None:
    # 1 eV/angstrom^3 is 160.21766208 GPa.
    factor = units.stress_to_hartree_per_cubic_angstrom
    assert factor("GPa") * units.HARTREE_TO_EV == pytest.approx(1 / 160.21766208, rel=1e-12)
    assert factor("kbar") == pytest.approx(factor("GPa") / 10)


def test_forces_of_two_units() -> None:
    factor = units.force_to_hartree_per_angstrom("hartree/bohr")
    assert factor == pytest.approx(1 / units.BOHR_TO_ANGSTROM)


@pytest.mark.parametrize("unit", ["eV", "eV/parsec", "eV/angstrom^2", "furlong", ""])
def test_unknown_units_of_force_and_stress(unit: str) -> None:
    with pytest.raises(SettingsError, match="unit"):
        units.force_to_hartree_per_angstrom(unit)
    with pytest.raises(SettingsError, match="unit"):
        units.stress_to_hartree_per_cubic_angstrom(unit)


@pytest.mark.parametrize(
    "unit",
    [
        "hartree / bohr",
        "Eh/a0",
        "Hartree*Bohr^-1",
        "hartree bohr**-1",
        "hartree bohr-1",
        "Ha/bohrs",
    ],
)
def test_spellings_of_a_unit_of_force(unit: str) -> None:
    factor = units.force_to_hartree_per_angstrom(unit)
    assert factor == pytest.approx(1 / units.BOHR_TO_ANGSTROM)


@pytest.mark.parametrize(
    ("unit", "same"),
    [("kcal mol^-1", "kcal/mol"), ("kilojoule_per_mole", "kJ/mol"), ("kJ mol-1", "kJ/mol"),
     ("kilocalorie / mole", "kcal/mol"), ("electronvolt", "eV"), (" Eh ", "hartree")],
)  # fmt: skip
def test_spellings_of_a_unit_of_energy(unit: str, same: str) -> None:
    assert units.energy_unit(unit) == same


@pytest.mark.parametrize("unit", ["kJ mol^-2", "eV/atom", "mol^-1", "/", "1/eV", "kcal mol^-10"])
def test_what_only_looks_like_a_unit(unit: str) -> None:
    with pytest.raises(SettingsError, match="unknown unit"):
        units.energy_unit(unit)
