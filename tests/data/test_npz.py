import numpy as np
import pytest
from hypothesis import given, settings
from strategies import conformers

from anipot.data.load import load_dataset
from anipot.errors import DataError, SettingsError
from anipot.units import HARTREE_TO_KCALMOL


def md17(**more):
    rng = np.random.default_rng(0)
    return {"z": np.array([8, 1, 1]), "R": rng.normal(size=(4, 3, 3)), "E": rng.normal(size=(4, 1)),
            "F": rng.normal(size=(4, 3, 3)), "name": np.array("water")} | more  # fmt: skip


@given(conformers())
@settings(max_examples=15, deadline=None)
def test_what_was_saved_is_loaded(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    data.save(path)
    assert load_dataset(path).content_hash() == data.content_hash()
    with pytest.raises(SettingsError, match="energy_unit="):
        load_dataset(path, energy_unit="eV")


def test_md17_needs_a_unit(tmp_path):
    path = tmp_path / "md17.npz"
    arrays = md17()
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"unit.*energy_unit='kcal/mol' .*, 'eV' or 'hartree'"):
        load_dataset(path)
    data = load_dataset(path, energy_unit="kcal/mol")
    assert data.molecule_names == ("water",)
    assert data.grouped_by == "molecule"
    assert data.atomic_numbers.tolist() == [8, 1, 1] * 4
    np.testing.assert_array_equal(data.coordinates, arrays["R"].reshape(-1, 3))
    np.testing.assert_allclose(data.energies * HARTREE_TO_KCALMOL, arrays["E"][:, 0])
    np.testing.assert_allclose(data.forces * HARTREE_TO_KCALMOL, arrays["F"].reshape(-1, 3))


def test_units_that_the_archive_declares(tmp_path):
    path = tmp_path / "sgdml.npz"
    np.savez(
        path, **md17(e_unit=np.array("kcal/mol"), r_unit=np.array("bohr"), theory=np.array("PBE"))
    )
    data = load_dataset(path)
    np.testing.assert_allclose(data.energies * HARTREE_TO_KCALMOL, md17()["E"][:, 0])
    np.testing.assert_allclose(data.coordinates, md17()["R"].reshape(-1, 3) * 0.52917721067)
    assert data.level_of_theory == "PBE"


def test_rmd17_names(tmp_path):
    path = tmp_path / "rmd17_water.npz"
    a = md17()
    np.savez(path, nuclear_charges=a["z"], coords=a["R"], energies=a["E"][:, 0], forces=a["F"],
             old_indices=np.arange(4))  # fmt: skip
    data = load_dataset(path, energy_unit="hartree", forces_sign="gradient")
    np.testing.assert_array_equal(data.energies, a["E"][:, 0])
    np.testing.assert_array_equal(data.forces, -a["F"].reshape(-1, 3))
    assert data.molecule_names == ("rmd17_water",)


def test_padded_molecules(tmp_path):
    path = tmp_path / "many.npz"
    x = np.random.default_rng(1).normal(size=(2, 3, 3))
    x[1, 2] = 0
    np.savez(path, z=[[8, 1, 1], [1, 1, 0]], R=x, E=[-76.0, -1.1])
    data = load_dataset(path, energy_unit="hartree")
    assert data.n_atoms.tolist() == [3, 2]
    assert data.grouped_by == "formula"
    np.savez(path, z=[[3, 0, 0], [3, 0, 0]], R=x + 1, E=[-76.0, -1.1])
    with pytest.raises(DataError, match="not places in a list"):
        load_dataset(path, energy_unit="hartree")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"E": np.zeros(3)}, "'R' holds 4 conformers, but 'E'"),
        ({"E": np.array([0, 1, np.nan, 0])}, r"'E' holds a number that is not finite \(row 2\)"),
        ({"F": np.zeros((4, 2, 3))}, "'F' has"),
        ({"z": np.array([8, 1])}, "'z' has"),
        ({"z": np.array([8, 1, 150])}, "150"),
        ({"R": np.zeros((4, 9))}, "not .conformers, atoms, 3"),
        ({"R": np.zeros((0, 3, 3))}, "no conformer"),
        ({"energies": np.zeros(4)}, "several keys for the energies: 'E', 'energies'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, more, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **md17(**more))
    with pytest.raises(DataError, match=rf"bad.npz.*{message}"):
        load_dataset(path, energy_unit="eV")


def test_names_can_be_given(tmp_path):
    path = tmp_path / "own.npz"
    a = md17()
    np.savez(path, elem=a["z"], xyz=a["R"], etot=a["E"])
    with pytest.raises(DataError, match=r"'elem', 'etot', 'xyz'.*coordinates_key="):
        load_dataset(path)
    with pytest.raises(DataError, match="species_key="):
        load_dataset(path, coordinates_key="xyz")
    with pytest.raises(DataError, match="energy_key="):
        load_dataset(path, coordinates_key="xyz", species_key="elem")
    keys = {"coordinates_key": "xyz", "species_key": "elem"}
    assert len(load_dataset(path, **keys, energy_key="etot", energy_unit="eV")) == 4
    assert load_dataset(path, **keys, keep_unlabelled=True).energies is None


def test_pickles_are_left_alone(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, **md17(extra=np.array({"a": 1}, dtype=object)))
    assert len(load_dataset(path, energy_unit="eV")) == 4
    np.savez(path, **md17(R=np.array([None, 1], dtype=object)))
    with pytest.raises(DataError, match=r"'R' is a pickled object.*padded with zeros"):
        load_dataset(path, energy_unit="eV")


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "cut.npz"
    np.savez(path, **md17())
    content = path.read_bytes()
    for cut in (5, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"cut.npz: not a NumPy archive"):
            load_dataset(path, energy_unit="eV")


def test_without_labels_no_unit_is_needed(tmp_path, caplog):
    path = tmp_path / "md17.npz"
    np.savez(path, **md17())
    data = load_dataset(path, keep_unlabelled=True)
    assert (data.energies, data.forces) == (None, None)
    assert "read without them; energy_unit='kcal/mol' (or --energy-unit kcal/mol)" in caplog.text
    known = load_dataset(path, keep_unlabelled=True, energy_unit="kcal/mol")
    np.testing.assert_array_equal(known.coordinates, data.coordinates)
    assert known.energies is not None
