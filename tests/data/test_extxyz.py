import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from anipot.data.load import load_dataset
from anipot.data.mapping import ReadOptions
from anipot.data.readers.extxyz import conformers_from_atoms
from anipot.errors import DataError
from anipot.units import HARTREE_TO_EV


def labelled(name="H2O", energy=-2000.0, **results):
    atoms = molecule(name)
    forces = np.random.default_rng(1).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, **results)
    return atoms


def test_real_periodic_cells(shared_data):
    path = shared_data / "materials" / "Li_test.extxyz"
    data = load_dataset(path)
    frames = ase.io.read(path, index=":")
    assert len(data) == len(frames) == 29
    assert data.periodic
    assert data.grouped_by == "formula"
    for i in (0, 7, 28):
        frame, atoms = frames[i], slice(data.offsets[i], data.offsets[i + 1])
        np.testing.assert_array_equal(data.cells[i], frame.cell)
        np.testing.assert_array_equal(data.coordinates[atoms], frame.positions)
        energy, forces = frame.get_potential_energy(), frame.get_forces()
        assert data.energies[i] * HARTREE_TO_EV == pytest.approx(energy, rel=1e-14)
        np.testing.assert_allclose(data.forces[atoms] * HARTREE_TO_EV, forces, rtol=1e-13)


def test_extended_xyz_round_trip(tmp_path):
    frames = [labelled("H2O"), labelled("CH4", -1100.0), labelled("H2O", -2001.0)]
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, frames)
    data = load_dataset(path)
    assert [data.molecule_names[i] for i in data.molecule] == ["H2O", "CH4", "H2O"]
    np.testing.assert_allclose(data.energies * HARTREE_TO_EV, [-2000, -1100, -2001], rtol=1e-14)
    expected = np.concatenate([f.get_forces() for f in frames])
    np.testing.assert_allclose(data.forces * HARTREE_TO_EV, expected, atol=1e-7)
    assert not data.periodic
    assert data.cells is None
    in_hartree = load_dataset(path, energy_unit="hartree", forces_sign="gradient")
    assert in_hartree.energies.tolist() == [-2000, -1100, -2001]
    np.testing.assert_allclose(in_hartree.forces, -expected, atol=1e-7)


def test_energies_and_forces_of_other_names(tmp_path, caplog):
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -2000.0
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    path = tmp_path / "ref.xyz"
    ase.io.write(path, [atoms], format="extxyz")
    data = load_dataset(
        path, energy_key="REF_energy", forces_key="REF_forces", energy_unit="hartree"
    )
    assert data.energies.tolist() == [-2000.0]
    np.testing.assert_array_equal(data.forces, np.ones((3, 3)))
    assert not caplog.text
    assert load_dataset(path).energies is None
    assert "'REF_energy': name it with energy_key=" in caplog.text
    with pytest.raises(DataError, match=r"no 'dft_energy'.*'REF_energy'.*energy_key="):
        load_dataset(path, energy_key="dft_energy")
    with pytest.raises(DataError, match=r"no 'dft_forces'.*'REF_forces'.*forces_key="):
        load_dataset(path, forces_key="dft_forces")


def test_plain_xyz(tmp_path):
    path = tmp_path / "plain.xyz"
    path.write_text(
        "2\n\nH 0 0 0\nH 0 0 0.74\n1\nan atom: energy charge spin molecule all unknown\nO 0 0 0\n"
    )
    data = load_dataset(path)
    assert data.energies is None
    assert data.n_atoms.tolist() == [2, 1]
    assert data.atomic_numbers.tolist() == [1, 1, 8]
    np.testing.assert_array_equal(data.coordinates[1], [0, 0, 0.74])


def test_other_formats_through_ase(tmp_path):
    path = tmp_path / "frames.traj"
    ase.io.write(path, [labelled()])
    assert load_dataset(path).energies[0] * HARTREE_TO_EV == pytest.approx(-2000)


def test_stress_and_virial_keep_ases_sign():
    # EMT's own derivative of the energy with respect to strain is the independent truth.
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = EMT()
    energy = []
    for step in (-1e-4, 1e-4):
        strained = atoms.copy()
        strain = np.eye(3)
        strain[0, 0] += step
        strained.set_cell(atoms.cell @ strain, scale_atoms=True)
        strained.calc = EMT()
        energy.append(strained.get_potential_energy())
    expected = (energy[1] - energy[0]) / 2e-4 / atoms.get_volume()

    for stored in ("voigt", "full", "info", "virial"):
        frame = atoms.copy()
        stress = atoms.get_stress(voigt=stored == "voigt")
        if stored in ("voigt", "full"):
            frame.calc = SinglePointCalculator(frame, energy=1.0, stress=stress)
        elif stored == "info":
            frame.info["stress"] = stress.reshape(-1)
        else:
            frame.info["virial"] = -stress * atoms.get_volume()
        data = conformers_from_atoms([frame])
        assert data.stress[0, 0, 0] * HARTREE_TO_EV == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(
            data.stress[0] * HARTREE_TO_EV, atoms.get_stress(voigt=False), atol=1e-12
        )


def test_labels_that_some_frames_lack_are_masked(tmp_path, caplog):
    frames = [labelled(), molecule("H2O"), labelled()]
    data = conformers_from_atoms(frames)
    assert data.has("energies").tolist() == [True, False, True]
    assert data.has("forces").tolist() == [True, False, True]
    assert np.isnan(data.energies[1])
    assert conformers_from_atoms([molecule("H2O")]).energies is None
    path = tmp_path / "some.extxyz"
    ase.io.write(path, frames)
    read = load_dataset(path)
    assert len(read) == 2
    assert read.dropped == 1
    assert read.has("energies").all()
    assert read.has("forces").all()
    assert "1 frames without an energy left out" in caplog.text
    assert len(load_dataset(path, keep_unlabelled=True)) == 3


def test_molecules_and_cells_together():
    data = conformers_from_atoms([molecule("H2O"), bulk("Si")])
    assert data.pbc.tolist() == [[False] * 3, [True] * 3]
    np.testing.assert_array_equal(data.cells[1], bulk("Si").cell)


def test_grouping_by_an_info_key(tmp_path):
    frames = []
    for name, group in (("H2O", "w1"), ("H2O", "w2"), ("CH4", "m")):
        atoms = molecule(name)
        atoms.info["molecule"] = group
        atoms.info["config_type"] = "test"
        frames.append(atoms)
    data = conformers_from_atoms(frames)
    assert data.grouped_by == "molecule"
    assert [data.molecule_names[i] for i in data.molecule] == ["w1", "w2", "m"]
    path = tmp_path / "groups.extxyz"
    ase.io.write(path, frames)
    assert load_dataset(path, group_key="config_type").molecule_names == ("test",)
    with pytest.raises(DataError, match="frame 0: has no 'family'"):
        load_dataset(path, group_key="family")


def test_a_calculator_is_never_asked():
    atoms = molecule("H2O")
    atoms.calc = EMT()
    atoms.get_potential_energy()
    assert conformers_from_atoms([atoms]).energies is None
    moved = labelled()
    moved.positions[0] += 0.1  # its stored energy is no longer this geometry's
    assert conformers_from_atoms([moved]).energies is None


@pytest.mark.parametrize(
    ("info", "said"),
    [({"charge": 1}, "charge=1"), ({"total_charge": -1}, "total_charge=-1"), ({"spin": 1},
    "spin=1"),
     ({"spin_multiplicity": 3}, "spin_multiplicity=3"), ({"multiplicity": 2}, "multiplicity=2"),
     ({"charge": "plus"}, "not a number"), ({"Charge": 1}, "Charge=1"), ({"SPIN": 2}, "SPIN=2"),
     ({"Q": -1}, "Q=-1"), ({"mult": 3}, "mult=3"), ({"Mult": "2"}, "Mult=2"), ({"UHF": 1}, "UHF=1"),
     ({"nelec_unpaired": 1}, "nelec_unpaired=1"), ({"Total-Charge": 1}, "Total-Charge=1"),
     ({"Total Charge": 1}, "Total Charge=1")],
)  # fmt: skip
def test_a_charge_or_a_spin_is_an_error_that_names_the_frame(info, said):
    atoms = molecule("H2O")
    atoms.info |= info
    with pytest.raises(DataError, match=rf"frame 1.*{said}"):
        conformers_from_atoms([molecule("H2O"), atoms])


def test_initial_charges_and_moments():
    charged = molecule("H2O")
    charged.set_initial_charges([-1, 0, 0])
    with pytest.raises(DataError, match="add up to -1"):
        conformers_from_atoms([charged])
    charged.set_initial_charges([-0.8, 0.4, 0.4])  # partial charges of a neutral molecule
    assert len(conformers_from_atoms([charged])) == 1
    triplet = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], magmoms=[1, 1])
    with pytest.raises(DataError, match=r"frame 0 .O2.*magnetic moments"):
        conformers_from_atoms([triplet])


def test_neutral_singlets_are_fine():
    atoms = molecule("H2O")
    atoms.info |= {"charge": 0, "spin": 0, "multiplicity": 1, "spin_multiplicity": 1}
    atoms.info |= {"Charge": "0", "MULT": 1, "q": [0.1, 0.0, 0.2], "UHF": 0, "charges_of": 3}
    assert len(conformers_from_atoms([atoms])) == 1


def test_bad_frames_are_named(tmp_path):
    good = molecule("H2O")
    with pytest.raises(DataError, match="frame 1: has no atoms"):
        conformers_from_atoms([good, Atoms()])
    with pytest.raises(DataError, match=r"frame 1: atom 0 .*no known element"):
        conformers_from_atoms([good, Atoms("X", [[0, 0, 0]])])
    with pytest.raises(DataError, match="frame 0: its energies"):
        conformers_from_atoms([labelled(energy=np.nan)])
    lost = good.copy()
    lost.positions[1] = np.nan
    with pytest.raises(DataError, match="frame 1: its positions"):
        conformers_from_atoms([good, lost])
    flat = Atoms("H", [[0, 0, 0]], cell=[5, 5, 0], pbc=True)
    with pytest.raises(DataError, match="frame 0: is periodic in a direction"):
        conformers_from_atoms([flat])
    words = good.copy()
    words.info["energy"] = "high"
    with pytest.raises(DataError, match="'high' is not one number"):
        conformers_from_atoms([words])
    odd = good.copy()
    odd.arrays["f"] = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"'f' has shape \(3, 2\)"):
        conformers_from_atoms([odd], options=ReadOptions(forces_key="f"))
    with pytest.raises(DataError, match="no frame given"):
        conformers_from_atoms([])


@pytest.mark.parametrize("text", ["3\n\nO 0 0 0\nH 0 0", "nonsense", "2\n\nH 0 0 0\nQ 0 0 1\n"])
def test_a_damaged_xyz_file(tmp_path, text):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad.xyz"):
        load_dataset(path)


def xyz(path, *comments):
    path.write_text("".join(f"3\n{c}\nO 0 0 0.1\nH 0 0.8 -0.5\nH 0 -0.8 -0.5\n" for c in comments))
    return path


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("-1 1", "charge -1 and multiplicity 1"),
        (" 0  3 ", "charge 0 and multiplicity 3"),
        ("1, 2", "charge 1 and multiplicity 2"),
        ("water, Charge -1", "Charge=-1"),
        ("charge: 0 multiplicity: 2", "multiplicity=2"),
        ("charge = +1", r"charge=\+?1"),
        ("SPIN 2", "SPIN=2"),
        ("Charge=1 made by hand", "Charge=1"),
        ("CHRG -1", "CHRG=-1"),
        ("cation, mult 2", "mult=2"),
        ("UHF: 1", "UHF=1"),
    ],
)
def test_comments_that_tell_of_a_charge_or_a_spin(tmp_path, comment, said):
    path = xyz(tmp_path / "w.xyz", "0 1", comment)
    with pytest.raises(DataError, match=rf"w\.xyz, frame 1.*{said}.*neutral closed-shell"):
        load_dataset(path)


def test_comments_of_neutral_singlets(tmp_path):
    path = xyz(
        tmp_path / "w.xyz", "0 1", "charge 0, multiplicity 1", "spin: 0", "", "step 12 400",
        "energy: -5.07 gnorm: 0.0003 xtb: 6.4.1", "discharge 3", "Charge=0", "supercharge=3",
    )  # fmt: skip
    assert len(load_dataset(path)) == 9


def test_extended_comments_are_read_by_their_keys(tmp_path):
    path = xyz(tmp_path / "w.xyz", 'Properties=species:S:1:pos:R:3 note="from charge 2 to 3"')
    assert len(load_dataset(path)) == 1
