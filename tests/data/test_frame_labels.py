"""Labels of frames: keys, units, signs, and what is said of those that were not read."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from anipot.data.load import load_dataset
from anipot.data.mapping import read_options
from anipot.data.readers.extxyz import conformers_from_atoms
from anipot.errors import DataError, SettingsError
from anipot.units import (
    BOHR_TO_ANGSTROM,
    HARTREE_TO_EV,
    HARTREE_TO_GPA,
    HARTREE_TO_KCALMOL,
    HARTREE_TO_KJMOL,
)

POS = "Properties=species:S:1:pos:R:3"
CELL = 'Lattice="4 0 0 0 5 0 0 0 6"'
H2 = "H 0 0 0\nH 0 0 0.74\n"
FORCES = "H 0 0 0 0.5 0 1\nH 0 0 0.74 -0.5 0 -1\n"


def read(tmp_path, *comments, rows=H2, **options):
    path = tmp_path / "some.xyz"
    path.write_text("".join(f"{rows.count(chr(10))}\n{c}\n{rows}" for c in comments))
    return load_dataset(path, **options)


VOIGT = [[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]]


@pytest.mark.parametrize(
    "value",
    ['"0.01 0.02 0.03 0.004 0.005 0.006"', "[0.01, 0.02, 0.03, 4e-3, 5D-3, 0.006]",
     '"0.01 0.006 0.005 0.006 0.02 0.004 0.005 0.004 0.03"',
     "[[0.01,0.006,0.005],[0.006,0.02,0.004],[0.005,0.004,0.03]]"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["stress", "virial", "virials", "REF_stress", "dft_virial"])
def test_six_and_nine_numbers(tmp_path, key, value):
    option = {"REF_stress": "stress_key", "dft_virial": "virial_key"}.get(key)
    options = {} if option is None else {option: key}
    data = read(tmp_path, f"{CELL} {POS} {key}={value} energy=-1", **options)
    factor = 1.0 if "stress" in key else -1.0 / 120.0
    np.testing.assert_allclose(data.stress[0] * HARTREE_TO_EV, np.array(VOIGT) * factor)
    turned = read(tmp_path, f"{CELL} {POS} {key}={value} energy=-1", **options,
                  stress_sign="negative")  # fmt: skip
    np.testing.assert_array_equal(turned.stress, -data.stress)


@pytest.mark.parametrize(
    ("options", "factor"),
    [({"stress_unit": "GPa"}, 1 / HARTREE_TO_GPA), ({"stress_unit": "kbar"}, 0.1 / HARTREE_TO_GPA),
     ({"stress_unit": "hartree/bohr^3"}, BOHR_TO_ANGSTROM**-3), ({}, 1 / HARTREE_TO_EV),
     ({"energy_unit": "kcal/mol"}, 1 / HARTREE_TO_KCALMOL)],
)  # fmt: skip
def test_units_of_stress_are_not_those_of_a_virial(tmp_path, options, factor):
    data = read(tmp_path, f'{CELL} {POS} stress="1 1 1 0 0 0"', **options)
    assert data.stress[0, 0, 0] == pytest.approx(factor)
    data = read(tmp_path, f'{CELL} {POS} virial="-120 -120 -120 0 0 0"', **options)
    energy = HARTREE_TO_KCALMOL if "energy_unit" in options else HARTREE_TO_EV
    assert data.stress[0, 0, 0] == pytest.approx(1 / energy)


@pytest.mark.parametrize(
    ("comment", "said"),
    [('stress="1 2 3 4"', "6 or 9 numbers, not 4"), ('stress="a b c"', "'stress' holds something"),
     ("stress=1", "6 or 9 numbers, not 1"), ('virials="1 2"', "6 or 9 numbers, not 2"),
     ('stress="1 2 3 4 5 6 7 8 9"', "not symmetric"),
     ('stress="1 1 1 0 0 0" virial="120 120 120 0 0 0"', r"stress and virial contradict .*\(1 and "
      r"-1\).*stress_key=.*virial_key="),
     ('virial="120 120 120 0 0 0" virials="12 12 12 0 0 0"', "virial and virials contradict"),
     ('stress="10 10 10 0 0 0" virial="-120 -120 -120 0 0 0"', r"contradict.*\(10 and 1\)")],
)  # fmt: skip
def test_stresses_that_cannot_be_are_named(tmp_path, comment, said):
    with pytest.raises(DataError, match=rf"frame 1.*{said}"):
        read(tmp_path, f"{CELL} {POS}", f"{CELL} {POS} {comment}")


def test_a_stress_and_a_virial_that_agree_or_of_which_one_is_chosen(tmp_path):
    both = f'{CELL} {POS} stress="1 1 1 0 0 0" virial="-120 -120 -120.004 0 0 0"'
    assert read(tmp_path, both).stress[0, 0, 0] == pytest.approx(1 / HARTREE_TO_EV)
    other = f'{CELL} {POS} stress="1 1 1 0 0 0" virial="60 60 60 0 0 0"'
    first = read(tmp_path, other, stress_key="stress")
    assert first.stress[0, 0, 0] == pytest.approx(1 / HARTREE_TO_EV)
    assert first.not_read == ("virial",)
    second = read(tmp_path, other, virial_key="virial")
    assert second.stress[0, 0, 0] == pytest.approx(-0.5 / HARTREE_TO_EV)
    assert second.not_read == ("stress",)
    with pytest.raises(DataError, match=r"has a virial .virial. but no cell"):
        read(tmp_path, f'{POS} virial="1 1 1 0 0 0"')
    assert read(tmp_path, f'{POS} virial="0 0 0 0 0 0"').stress is None


@pytest.mark.parametrize("key", ["forces", "force"])
def test_force_is_read_as_forces_are(tmp_path, key):
    data = read(tmp_path, f"{POS}:{key}:R:3 energy=-1", rows=FORCES)
    np.testing.assert_allclose(data.forces[1] * HARTREE_TO_EV, [-0.5, 0, -1])
    assert data.not_read == ()


def test_forces_that_contradict_each_other(tmp_path):
    rows = "H 0 0 0 0 0 1 0 0 1\nH 0 0 0.74 0 0 -1 0 0 -0.5\n"
    comment = f"{POS}:forces:R:3:force:R:3"
    with pytest.raises(DataError, match=r"frame 0, forces: forces and force contradict .*-1 and "
                       r"-0\.5.*forces_key="):  # fmt: skip
        read(tmp_path, comment, rows=rows)
    chosen = read(tmp_path, comment, rows=rows, forces_key="force", energy_unit="hartree")
    assert chosen.forces[1, 2] == -0.5
    same = read(tmp_path, comment, rows=rows.replace("-0.5", "-1.00001"), energy_unit="hartree")
    assert same.forces[1, 2] == -1.0


@pytest.mark.parametrize("key", ["gradient", "dft_total_gradient", "GRAD", "gradients"])
def test_a_gradient_needs_its_sign(tmp_path, key):
    comment = f"{POS}:{key}:R:3 energy=-1"
    with pytest.raises(DataError, match=rf"'{key}' may be gradients.*forces_sign='gradient'"):
        read(tmp_path, comment, rows=FORCES, forces_key=key)
    for sign, z in (("gradient", -1.0), ("forces", 1.0)):
        data = read(tmp_path, comment, rows=FORCES, forces_key=key, forces_sign=sign,
                    force_unit="hartree/angstrom")  # fmt: skip
        assert data.forces[0, 2] == z


LIKELY = {
    "REF_energy": "energies .*energy_key", "dft_total_energy": "energies .*energy_key",
    "Energy": "energies .*energy_key", "E": "energies .*energy_key",
    "REF_stress": "stress .*stress_key", "dft_stress": "stress .*stress_key",
    "stress_GPa": "stress .*stress_key", "REF_virial": "virial .*virial_key",
    "dft_virials": "virial .*virial_key", "Virial": "virial .*virial_key",
}  # fmt: skip


@pytest.mark.parametrize("key", LIKELY)
def test_likely_keys_are_named_with_their_option(tmp_path, caplog, key):
    label, _, option = LIKELY[key].partition(" .*")
    value = "-1.0" if option == "energy_key" else '"1 1 1 0 0 0"'
    data = read(tmp_path, f"{CELL} {POS} {key}={value}", keep_unlabelled=True)
    assert f"no {label} read, but there is '{key}': name it with {option}=" in caplog.text
    assert data.not_read == (key,)
    caplog.clear()
    data = read(tmp_path, f"{CELL} {POS} {key}={value}", **{option: key})
    assert data.not_read == ()
    assert not caplog.text
    with pytest.raises(DataError, match=f"has no 'other' for the {label}; .*{key!r}.*{option}="):
        read(tmp_path, f"{CELL} {POS} {key}={value}", **{option: "other"})


@pytest.mark.parametrize("key", ["REF_forces", "dft_force", "Forces", "gradient"])
def test_likely_columns_are_named_too(tmp_path, caplog, key):
    data = read(tmp_path, f"{POS}:{key}:R:3 energy=-1 max_force=2", rows=FORCES)
    sign = " and forces_sign='gradient'" if key == "gradient" else ""
    expected = f"no forces read, but there is '{key}': name it with forces_key="
    assert expected in caplog.text
    assert (sign in caplog.text) == bool(sign) or not sign
    assert data.not_read == tuple(sorted([f"column {key}", "max_force"]))


UNITS = {
    "energy_unit=hartree": (1, 1, None, None),
    "energy-unit=kcal/mol": (HARTREE_TO_KCALMOL, 1, HARTREE_TO_KCALMOL, None),
    "EnergyUnits=kJ/mol": (HARTREE_TO_KJMOL, 1, None, None),
    "units_energy=au": (1, 1, None, None),
    "energy-unit=a.u. force-unit=hartree/bohr": (1, 1, BOHR_TO_ANGSTROM, None),
    "force-unit=kcal/mol/angstrom": (HARTREE_TO_EV, 1, HARTREE_TO_KCALMOL, None),
    "forces_unit=eV/Å": (HARTREE_TO_EV, 1, HARTREE_TO_EV, None),
    "stress-unit=kbar": (HARTREE_TO_EV, 1, None, 10 * HARTREE_TO_GPA),
    "stress_unit=au/bohr^3": (HARTREE_TO_EV, 1, None, BOHR_TO_ANGSTROM**3),
    "positions_unit=bohr": (HARTREE_TO_EV, BOHR_TO_ANGSTROM, None, None),
    'units="eV/A"': (HARTREE_TO_EV, 1, HARTREE_TO_EV, None),
    "units=metal": (HARTREE_TO_EV, 1, HARTREE_TO_EV, None),
    'units="hartree, angstrom"': (1, 1, 1, None),
    "units=atomic": (1, BOHR_TO_ANGSTROM, BOHR_TO_ANGSTROM, None),
}


@pytest.mark.parametrize("tags", UNITS)
def test_declared_units_are_used(tmp_path, caplog, tags):
    energy, length, force, stress = UNITS[tags]
    plain = read(tmp_path, f'{CELL} {POS}:force:R:3 energy=-2 stress="1 1 1 0 0 0"', rows=FORCES)
    data = read(tmp_path, f'{CELL} {POS}:force:R:3 energy=-2 stress="1 1 1 0 0 0" {tags}',
                rows=FORCES)  # fmt: skip
    assert data.energies[0] == pytest.approx(-2 / energy)
    assert data.coordinates[1, 2] == pytest.approx(0.74 * length)
    assert data.cells[0, 0, 0] == pytest.approx(4 * length)
    if force is not None:
        assert data.forces[0, 2] == pytest.approx(1 / force)
    if stress is not None:
        assert data.stress[0, 0, 0] == pytest.approx(1 / stress)
    assert data.not_read == ()
    assert plain.energies[0] == pytest.approx(-2 / HARTREE_TO_EV)
    assert not caplog.text
    told = read(tmp_path, f"{POS} energy=-2 {tags}", energy_unit="kJ/mol", length_unit="angstrom")
    assert told.energies[0] == pytest.approx(-2 / HARTREE_TO_KJMOL)
    assert told.coordinates[1, 2] == 0.74
    other = tags.startswith(("energy", "units_", "pos"))  # units= says too much to be compared
    assert ("is used as given" in caplog.text) == other


@pytest.mark.parametrize(
    ("tags", "said"),
    [("energy_unit=nonsense", "energy_unit=nonsense: unknown unit of energy.*energy_unit="),
     ("force-unit=N", "force-unit=N: unknown unit of force.*force_unit="),
     ("stress_unit=psi", "unknown unit of stress.*stress_unit="),
     ("length_unit=furlong", "unknown unit of length.*length_unit="),
     ("units=lj", "units=lj: unknown units.*energy_unit=.*length_unit="),
     ("units=hartree/bohr", "does not say whether the positions are in angstrom"),
     ("units=eV energy_unit=hartree", "is eV, energy_unit says hartree.*energy_unit="),
     ("virial_unit=1", "virial_unit=1: unknown unit of energy")],
)  # fmt: skip
def test_units_that_are_unknown_or_contradict_each_other(tmp_path, tags, said):
    with pytest.raises(DataError, match=rf"frame 1: .*{said}"):
        read(tmp_path, f"{POS} energy=-2", f"{POS} energy=-2 {tags}")


def test_units_of_each_frame_are_its_own(tmp_path):
    data = read(tmp_path, f"{POS} energy=-2 energy_unit=hartree", f"{POS} energy=-2")
    np.testing.assert_allclose(data.energies, [-2, -2 / HARTREE_TO_EV])


COMMENTS = {
    " energy: -1.25 gnorm: 0.000345 xtb: 6.6.1 (8d0f1dd)": (-1.25, "hartree as xtb writes it"),
    "        -1.25  !CONF12": (-1.25, "hartree as CREST writes it"),
    "Coordinates from ORCA-job opt_h2 E -1.25": (-1.25, "hartree as ORCA writes it"),
    " i =       12, time =        6.000, E =        -1.25": (-1.25, "hartree as CP2K writes it"),
    "Iteration 3 Energy -1.25": (-1.25, "hartree as geomeTRIC writes it"),
    "E = -1.25 Eh": (-1.25, "hartree"),
    "Energy: -1.25 hartree, kinetic energy: 3.5": (-1.25, "hartree"),
    "total energy (kcal/mol) = -627.5": (-627.5 / HARTREE_TO_KCALMOL, "kcal/mol"),
    "-34.01 eV": (-34.01 / HARTREE_TO_EV, "eV"),
    "h2 / SCF Energy -1.25 a.u.": (-1.25, "hartree"),
    "SCF Done:  E(RB3LYP) =  -1.25     A.U. after    9 cycles": (-1.25, "hartree"),
    "step 4 Epot: -34.01 eV, Ekin: 0.2 eV": (-34.01 / HARTREE_TO_EV, "eV"),
}


@pytest.mark.parametrize("comment", COMMENTS)
def test_energies_in_comments_are_offered_and_read_when_asked(tmp_path, caplog, comment):
    energy, words = COMMENTS[comment]
    assert read(tmp_path, comment, comment).energies is None
    assert f"{words}: energy_from='comment' (or --energy-from comment) reads it" in caplog.text
    assert caplog.text.count("comment holds") == 1
    data = read(tmp_path, comment, comment, energy_from="comment")
    np.testing.assert_allclose(data.energies, [energy] * 2, rtol=1e-14)
    assert data.not_read in ((), ("E",))


@pytest.mark.parametrize("comment", ["-1.25", "  -1.250000  ", "E = -1.25", "energy -1.25 step 3"])
def test_energies_without_a_unit_need_one(tmp_path, caplog, comment):
    read(tmp_path, comment)
    assert "energy_from='comment' (or --energy-from comment) and energy_unit=" in caplog.text
    with pytest.raises(DataError, match=r"frame 0: nothing says in which unit.*energy_unit="):
        read(tmp_path, comment, energy_from="comment")
    data = read(tmp_path, comment, energy_from="comment", energy_unit="kcal/mol")
    assert data.energies[0] == pytest.approx(-1.25 / HARTREE_TO_KCALMOL)


@pytest.mark.parametrize("comment", ["", "7", "hydrogen", "kinetic energy: 1.5", "0 1", "T 300.0",
                                     "energy: -1.5, energy: -1.6", "Rel. energy 0.5 kcal/mol",
                                     "\u0394E = 0.5", "dE = 0.5 eV"])  # fmt: skip
def test_comments_without_an_energy(tmp_path, caplog, comment):
    read(tmp_path, comment)
    assert "no energy read" not in caplog.text
    with pytest.raises(DataError, match=r"some\.xyz: no comment holds an energy"):
        read(tmp_path, comment, energy_from="comment")


def test_a_unit_given_against_that_of_a_program_is_said(tmp_path, caplog):
    data = read(tmp_path, *[next(iter(COMMENTS))] * 2, energy_from="comment", energy_unit="eV")
    assert data.energies[1] == pytest.approx(-1.25 / HARTREE_TO_EV)
    assert caplog.text.count("xtb writes energies in hartree; energy_unit='eV'") == 1


def test_frames_with_an_energy_by_key_keep_it(tmp_path):
    data = read(tmp_path, f"{POS} energy=-1.5", "-2.5 eV", energy_from="comment")
    np.testing.assert_allclose(data.energies * HARTREE_TO_EV, [-1.5, -2.5])


def test_energy_from_comment_and_energy_key_are_one_too_many(tmp_path):
    with pytest.raises(SettingsError, match="energy_key and energy_from are two sources"):
        read(tmp_path, "-1.5", energy_from="comment", energy_key="E")


def test_forces_in_columns_without_a_name(tmp_path, caplog):
    data = read(tmp_path, "-1.5", rows=FORCES)
    assert "columns 5-7 have no name" in caplog.text
    assert "forces_key='columns'" in caplog.text
    assert data.not_read == ("columns 5-7", "comment")
    options = {"energy_from": "comment", "energy_unit": "kcal/mol", "forces_key": "columns"}
    data = read(tmp_path, "-1.5", rows=FORCES, **options)
    np.testing.assert_allclose(data.forces[0] * HARTREE_TO_KCALMOL, [0.5, 0, 1])
    assert data.not_read == ()
    more = FORCES.replace("0.5 0 ", "0.1 0.5 0 ")
    data = read(tmp_path, "-1.5", rows=more, **options | {"forces_key": "columns 6-8"})
    np.testing.assert_allclose(data.forces[0] * HARTREE_TO_KCALMOL, [0.5, 0, 1])
    with pytest.raises(DataError, match=r"frame 0: columns 5-8 hold numbers; 'columns 7-9'"):
        read(tmp_path, "-1.5", rows=more, **options | {"forces_key": "columns 7-9"})
    with pytest.raises(DataError, match="has no 'columns' for the forces"):
        read(tmp_path, "-1.5", **options)


def test_what_was_not_read_is_listed(tmp_path):
    rows = "H 0 0 0 0.1 7\nH 0 0 0.74 -0.1 8\n"
    data = read(
        tmp_path,
        f"{POS}:charge:R:1:tag:I:1 energy=-1 config_type=bulk dipole=\"1 2 3\" charge=0",
        f"{POS}:charge:R:1:tag:I:1 energy=-1 step=7 molecule=h2",
        rows=rows,
    )  # fmt: skip
    assert data.not_read == ("column charges", "column tag", "config_type", "dipole", "step")


def test_atoms_from_python_are_read_by_the_same_rules():
    atoms = bulk("Si")
    atoms.info |= {"energy": -2.0, "energy_unit": "hartree", "my_stress": [1, 2, 3, 0, 0, 0]}
    atoms.arrays["force"] = np.ones((2, 3))
    options = read_options(stress_key="my_stress", stress_unit="GPa")
    data = conformers_from_atoms([atoms], options=options)
    assert data.energies[0] == -2.0
    assert data.stress[0, 2, 2] == pytest.approx(3 / HARTREE_TO_GPA)
    np.testing.assert_allclose(data.forces, 1.0)
    lone = Atoms("H", [[0, 0, 0]], info={"energy": "x"})
    with pytest.raises(DataError, match="frame 0: energy='x' is not one number"):
        conformers_from_atoms([lone])


@pytest.mark.parametrize(
    "comment",
    ["  10.0  10.0 12.5", "10.0 10.0 10.0 90.0 90.0 120.0", "9.0 0.0 0.0 0.0 9.0 0.0 1.0 0.0 9.0",
     "Box: 10 10 10", "frame 3, cell [10.0, 10.0, 10.0]"],
)  # fmt: skip
def test_a_comment_that_looks_like_a_cell_is_said(tmp_path, caplog, comment):
    assert read(tmp_path, "", comment, comment).pbc is None
    assert caplog.text.count("looks like a cell, but it is not read") == 1
    assert "some.xyz, frame 1: " in caplog.text
    assert "write Lattice=" in caplog.text


@pytest.mark.parametrize(
    "comment",
    ["0.1 0.2 0.3", "-5.1 0.2 9.0", "10 10 10", "1 2 3 4", "box of water",
     "10.0 10.0 10.0 0.0 0.1 0.2",
     "1.0 2.0 3.0 2.0 4.0 6.0 1.0 1.0 1.0", 'Lattice="9 9 9" Properties=species:S:1:pos:R:3'],
)  # fmt: skip
def test_comments_that_do_not_look_like_a_cell(tmp_path, caplog, comment):
    read(tmp_path, comment)
    assert "looks like a cell" not in caplog.text
