import logging
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from anipot import units
from anipot.data.load import load_dataset
from anipot.errors import DataError, SettingsError

WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])


def molecule(file, path, symbols, n, seed=0, **more):
    """Write a group of n conformers in ANI-1's layout; arrays of ``more`` replace or add to it."""
    rng = np.random.default_rng(seed)
    arrays = {
        "species": np.array([s.encode() for s in symbols]),
        "coordinates": rng.normal(size=(n, len(symbols), 3)).astype(np.float32) * 2,
        "energies": rng.normal(-76, 0.1, size=n),
    } | more
    group = file.require_group(path)
    for name, array in arrays.items():
        if array is not None:
            group[name] = array
    return arrays


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.h5"


# ---- ANI-1 -----------------------------------------------------------------------------------


def test_real_ani1_files(shared_data):
    one = load_dataset(shared_data / "ani_gdb_s01.h5")
    assert len(one) == 10_800
    assert one.elements == ("H", "C", "N", "O")
    assert np.bincount(one.molecule).tolist() == [5400, 3600, 1800]
    assert one.level_of_theory == ""
    assert one.coordinates.dtype == np.float32
    name = shared_data / "ani_gdb_s02_hydrocarbons.h5"
    assert len(load_dataset(name)) == 17_109
    extras = load_dataset(name, high_energy=True)
    assert len(extras) == 17_280
    # The file's smiles says CO2 three times; a molecule is its group.
    assert len(np.unique(extras.molecule)) == 3
    assert sorted(extras.formulas()[1]) == ["C2H2", "C2H4", "C2H6"]
    with h5py.File(name) as file:
        group = file["gdb11_s02/gdb11_s02-0"]
        np.testing.assert_array_equal(extras.energies[8469:8640], group["energiesHE"][()])
        np.testing.assert_array_equal(
            extras.coordinates[extras.offsets[8469] : extras.offsets[8640]].reshape(171, 8, 3),
            group["coordinatesHE"][()],
        )
    both = load_dataset([shared_data / "ani_gdb_s01.h5", name])
    assert len(both) == 27_909
    assert both.sources == ("ani_gdb_s01.h5", "ani_gdb_s02_hydrocarbons.h5")


@pytest.mark.parametrize("prefix", ["", "set/", "a/b/c/"])
def test_groups_of_any_nesting(path, prefix):
    with h5py.File(path, "w") as file:
        water = molecule(file, f"{prefix}water", "OHH", 4)
        oxygen = molecule(file, f"{prefix}deeper/o2", "OO", 3, seed=1)
        file.create_group("nothing here")
    data = load_dataset(path)
    assert data.grouped_by == "molecule"
    by_name = {name: data.select(molecules=[name]) for name in data.molecule_names}
    assert set(by_name) == {f"{prefix}water", f"{prefix}deeper/o2"}
    for name, arrays in ((f"{prefix}water", water), (f"{prefix}deeper/o2", oxygen)):
        part = by_name[name]
        np.testing.assert_array_equal(part.coordinates, arrays["coordinates"].reshape(-1, 3))
        np.testing.assert_array_equal(part.energies, arrays["energies"])
    assert by_name[f"{prefix}water"].atomic_numbers.tolist() == [8, 1, 1] * 4


def test_a_molecule_at_the_top_is_named_after_the_file(path):
    with h5py.File(path, "w") as file:
        molecule(file, "/", "OHH", 2)
    assert load_dataset(path).molecule_names == ("data",)


@pytest.mark.parametrize(
    "species",
    [np.array([b"O", b"H", b"H"]), [8, 1, 1], np.array([8, 1, 1], dtype=np.uint8),
     np.array(["O", "H", "H"], dtype=h5py.string_dtype()), [8.0, 1.0, 1.0], [[8, 1, 1]] * 2],
)  # fmt: skip
def test_species_in_every_form(path, species):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, species=species)
    assert load_dataset(path).atomic_numbers.tolist() == [8, 1, 1, 8, 1, 1]


def test_padded_species_of_each_conformer(path):
    x = np.zeros((2, 3, 3))
    x[0], x[1, :2] = WATER, [[0, 0, 0], [0, 0, 0.74]]
    with h5py.File(path, "w") as file:
        molecule(file, "3", "OHH", 2, species=[[8, 1, 1], [1, 1, -1]], coordinates=x, forces=x + 1)
    data = load_dataset(path)
    assert data.n_atoms.tolist() == [3, 2]
    assert data.grouped_by == "formula"
    assert data.molecule_names[data.molecule[1]] == "H2"
    np.testing.assert_array_equal(data.coordinates, np.concatenate([WATER, x[1, :2]]))
    np.testing.assert_array_equal(data.forces, data.coordinates + 1)


def test_places_in_a_list_of_elements_are_not_atomic_numbers(path):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, species=[[3, 0, 0], [3, 0, 0]])
    with pytest.raises(DataError, match="not places in a list"):
        load_dataset(path)


def test_one_conformer_and_one_atom(path):
    with h5py.File(path, "w") as file:
        molecule(file, "h", "H", 1)
        molecule(file, "w", "OHH", 1, coordinates=WATER, energies=-76.4)
    data = load_dataset(path)
    assert data.n_atoms.tolist() == [1, 3]
    np.testing.assert_allclose(data.coordinates[1:], WATER)
    assert data.energies[1] == -76.4


def test_precision_is_that_of_the_file(path):
    with h5py.File(path, "w") as file:
        molecule(file, "a", "OHH", 2)
    assert load_dataset(path).coordinates.dtype == np.float32
    x = np.random.default_rng(3).normal(size=(2, 3, 3))
    with h5py.File(path, "a") as file:
        molecule(file, "b", "OHH", 2, coordinates=x)
    data = load_dataset(path)
    assert data.coordinates.dtype == np.float64
    np.testing.assert_array_equal(data.coordinates[6:], x.reshape(-1, 3))


def test_single_precision_energies_are_worth_a_warning(path, caplog):
    with h5py.File(path, "w") as file:
        molecule(file, "a", "OHH", 2, energies=np.float32([-76.4, -76.3]))
    load_dataset(path)
    assert "single precision" in caplog.text


# ---- ANI-1x ----------------------------------------------------------------------------------


def ani1x(path):
    """Two formulas in the layout of the ANI-1x release, with labels missing."""
    nan = np.nan
    with h5py.File(path, "w") as file:
        for name, z, n in (("H2O1", [8, 1, 1], 4), ("C1H4", [6, 1, 1, 1, 1], 3)):
            rng = np.random.default_rng(n)
            group = file.create_group(name)
            group["atomic_numbers"] = np.array(z, dtype=np.uint8)
            group["coordinates"] = rng.normal(size=(n, len(z), 3)).astype(np.float32)
            group["wb97x_dz.energy"] = rng.normal(-76, 1, size=n)
            group["wb97x_dz.forces"] = rng.normal(size=(n, len(z), 3)).astype(np.float32)
            group["wb97x_tz.energy"] = np.where(np.arange(n) == 1, nan, -77.0)
            group["ccsd(t)_cbs.energy"] = np.where(np.arange(n) % 2, nan, -78.0 - np.arange(n))
            group["wb97x_dz.dipole"] = rng.normal(size=(n, 3))
    return path


def test_ani1x_default_labels(path):
    data = load_dataset(ani1x(path))
    assert len(data) == 7
    assert data.grouped_by == "formula"
    assert data.level_of_theory == "wb97x_dz"
    assert set(data.molecule_names) == {"H2O1", "C1H4"}
    with h5py.File(path) as file:
        part = data.select(molecules=["H2O1"])
        forces = file["H2O1/wb97x_dz.forces"][()]
    np.testing.assert_array_equal(part.forces.reshape(4, 3, 3), forces)


def test_ani1x_nan_means_no_label(path, caplog):
    data = load_dataset(ani1x(path), energy_key="ccsd(t)_cbs.energy")
    assert len(data) == 4
    assert data.dropped == 3
    assert "3 conformers without a label 'ccsd(t)_cbs.energy' left out" in caplog.text
    assert data.forces is None  # those of another method must not slip in
    water = data.select(molecules=["H2O1"])
    assert water.energies.tolist() == [-78.0, -80.0]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            water.coordinates.reshape(2, 3, 3), file["H2O1/coordinates"][()][[0, 2]]
        )


def test_ani1x_unlabelled_conformers_kept_with_a_mask(path):
    data = load_dataset(ani1x(path), energy_key="ccsd(t)_cbs.energy", keep_unlabelled=True,
                        forces_key="wb97x_dz.forces")  # fmt: skip
    assert len(data) == 7
    assert data.dropped == 0
    np.testing.assert_array_equal(data.has("energies"), np.isfinite(data.energies))
    assert data.has("energies").sum() == 4
    assert data.has("forces").all()


def test_ani1x_forces_that_some_conformers_lack_are_masked(path):
    ani1x(path)
    with h5py.File(path, "a") as file:
        file["H2O1/wb97x_dz.forces"][2, 1, 0] = np.nan
    data = load_dataset(path)
    assert len(data) == 7
    water = data.select(molecules=["H2O1"])
    assert water.has("forces").tolist() == [True, True, False, True]
    assert np.isnan(water.forces[6:9]).all()
    assert np.isfinite(water.forces[:6]).all()


def test_a_label_that_no_conformer_has(path):
    ani1x(path)
    with h5py.File(path, "a") as file:
        for group in file.values():
            group["x.energy"] = np.full(group["coordinates"].shape[0], np.nan)
    with pytest.raises(DataError, match=r"none of 7 has a label 'x.energy'"):
        load_dataset(path, energy_key="x.energy")


# ---- forces ----------------------------------------------------------------------------------


def test_forces_are_forces_unless_the_file_is_of_the_comp6_family(path, caplog):
    forces = np.random.default_rng(5).normal(size=(2, 3, 3)).astype(np.float32)
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, forces=forces)
    np.testing.assert_array_equal(load_dataset(path).forces, forces.reshape(-1, 3))
    np.testing.assert_array_equal(
        load_dataset(path, forces_sign="gradient").forces, -forces.reshape(-1, 3)
    )
    assert not caplog.text
    with h5py.File(path, "a") as file:
        for key in ("cm5", "hirdipole", "lot"):
            file[f"w/{key}"] = np.zeros(2)
    np.testing.assert_array_equal(load_dataset(path).forces, -forces.reshape(-1, 3))
    assert "were negated" in caplog.text
    np.testing.assert_array_equal(
        load_dataset(path, forces_sign="forces").forces, forces.reshape(-1, 3)
    )
    with pytest.raises(SettingsError, match="'forces' or 'gradient'"):
        load_dataset(path, forces_sign="minus")


def test_forces_that_some_groups_lack_are_masked(path):
    with h5py.File(path, "w") as file:
        molecule(file, "a", "OHH", 2, forces=np.ones((2, 3, 3)))
        molecule(file, "b", "OO", 3)
    data = load_dataset(path)
    assert data.has("forces").tolist() == [True, True, False, False, False]


# ---- units and names -------------------------------------------------------------------------


def test_units_given_declared_and_default(path):
    x, f = np.ones((1, 3, 3)), np.full((1, 3, 3), 2.0)
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 1, energies=[-76.0], coordinates=x, forces=f)
    plain = load_dataset(path)
    assert plain.energies.tolist() == [-76.0]
    given = load_dataset(path, energy_unit="eV", length_unit="bohr")
    assert given.energies[0] == pytest.approx(-76 / units.HARTREE_TO_EV, rel=1e-14)
    assert given.coordinates[0, 0] == pytest.approx(0.52917721067, rel=1e-14)
    assert given.forces[0, 0] == pytest.approx(2 / 27.211386024 / 0.52917721067, rel=1e-9)
    with h5py.File(path, "a") as file:
        file.attrs["energy_unit"] = "kcal/mol"
        file.attrs["length_unit"] = "nm"
        file.attrs["force_unit"] = "eV/angstrom"
        file.attrs["level_of_theory"] = "HF/STO-3G"
    declared = load_dataset(path)
    assert declared.energies[0] == pytest.approx(-76 / units.HARTREE_TO_KCALMOL, rel=1e-14)
    assert declared.coordinates[0, 0] == pytest.approx(10.0)
    assert declared.forces[0, 0] == pytest.approx(2 / units.HARTREE_TO_EV, rel=1e-14)
    assert declared.level_of_theory == "HF/STO-3G"
    with pytest.raises(DataError, match=r"'energy_unit' .*'kcal/mol', but energy_unit='hartree'"):
        load_dataset(path, energy_unit="hartree")
    assert load_dataset(path, energy_unit="kcal/mol").content_hash() == declared.content_hash()


def test_an_unknown_declared_unit_names_the_keyword(path):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 1)
        file.attrs["energy_unit"] = "furlong"
    with pytest.raises(DataError, match=r"'furlong'.*energy_unit="):
        load_dataset(path)
    with pytest.raises(SettingsError, match="'furlong'"):
        load_dataset(path, energy_unit="furlong")


def test_names_that_are_not_the_usual_ones(path):
    with h5py.File(path, "w") as file:
        arrays = molecule(file, "w", "OHH", 3)
        group = file["w"]
        for old, new in (("coordinates", "xyz"), ("energies", "mp2_energy"), ("species", "elem")):
            group.move(old, new)
        group["pm6_energy"] = np.zeros(3)
    with pytest.raises(
        DataError, match=r"'elem', 'mp2_energy'.*coordinates_key= .* and species_key="
    ):
        load_dataset(path)
    with pytest.raises(DataError, match=r"group '/w' has no species.*species_key="):
        load_dataset(path, coordinates_key="xyz")
    with pytest.raises(DataError, match=r"are 'mp2_energy', 'pm6_energy'.*energy_key="):
        load_dataset(path, coordinates_key="xyz", species_key="elem")
    with pytest.raises(DataError, match=r"no 'mp2' for the energies; it has .*Use energy_key="):
        load_dataset(path, coordinates_key="xyz", species_key="elem", energy_key="mp2")
    data = load_dataset(path, coordinates_key="xyz", species_key="elem", energy_key="mp2_energy")
    np.testing.assert_array_equal(data.energies, arrays["energies"])


def test_two_energies_must_be_chosen_from(path):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, energy=np.zeros(2))
    with pytest.raises(DataError, match=r"several keys for the energies: 'energies', 'energy'"):
        load_dataset(path)
    assert load_dataset(path, energy_key="energy").energies.tolist() == [0, 0]


def test_a_file_without_energies(path):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, energies=None)
    with pytest.raises(DataError, match=r"energy_key=.*keep_unlabelled=True"):
        load_dataset(path)
    assert load_dataset(path, keep_unlabelled=True).energies is None


# ---- what is wrong is named ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"energies": np.zeros(3)}, "'coordinates' holds 2 conformers, but 'energies' has shape"),
        ({"species": [8, 1]}, r"'coordinates' has shape \(2, 3, 3\), but 'species' has \(2,\)"),
        ({"coordinates": np.zeros((2, 9))}, "not .conformers, atoms, 3"),
        ({"forces": np.zeros((2, 2, 3))}, r"but 'forces' has \(2, 2, 3\)"),
        ({"species": np.array([b"O", b"H", b"Qq"])}, "'Qq' is not the symbol"),
        ({"species": [8, 1, 200]}, "200 is not the atomic number"),
        ({"species": [8, 1, 0]}, "0 is not the atomic number"),
        ({"energies": np.array([-76, np.nan])}, "'energies' of conformer 1 is nan"),
        ({"energies": np.array([np.inf, -76])}, "'energies' of conformer 0 is inf"),
        ({"coordinates": np.full((2, 3, 3), np.nan)}, "'coordinates' of conformer 0 .*not finite"),
        ({"forces": np.full((2, 3, 3), np.nan)}, "'forces' of conformer 0 .*not finite"),
        ({"energies": np.array([b"a", b"b"])}, "type"),
    ],
)
def test_a_bad_group_is_named_with_the_reason(path, more, message):
    with h5py.File(path, "w") as file:
        molecule(file, "set/a good one", "OHH", 2)
        molecule(file, "set/bad", "OHH", 2, **more)
    with pytest.raises(DataError, match=rf"data.h5, group '/set/bad'.*{message}"):
        load_dataset(path)


def test_a_group_that_lacks_an_array_is_not_passed_over(path):
    with h5py.File(path, "w") as file:
        molecule(file, "good", "OHH", 2)
        molecule(file, "bad", "OHH", 2, coordinates=None)
    with pytest.raises(DataError, match="group '/bad' has no coordinates"):
        load_dataset(path)


def test_damaged_files(path):
    with h5py.File(path, "w") as file:
        for i in range(5):
            molecule(file, f"m{i}", "OHH", 500, seed=i)
    content = path.read_bytes()
    for cut in (1, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"data.h5: not an HDF5 file, or cut short or damaged"):
            load_dataset(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        load_dataset(path)
    path.write_text("this is text")
    with pytest.raises(DataError, match="not an HDF5 file"):
        load_dataset(path)


def test_a_file_with_nothing_in_it(path):
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DataError, match="no group holds coordinates and species"):
        load_dataset(path)
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 0)
    with pytest.raises(DataError, match="no conformer to read: it is empty"):
        load_dataset(path)


def test_the_file_is_not_changed(path):
    ani1x(path)
    path.chmod(0o444)
    before = path.read_bytes()
    data = load_dataset(path, energy_unit="eV", length_unit="bohr", forces_sign="gradient")
    data.coordinates[:] = 0
    assert path.read_bytes() == before


def test_high_energy_asked_for_but_not_there(path, caplog):
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2)
    load_dataset(path, high_energy=True)
    assert "no high-energy extras" in caplog.text


def test_high_energy_left_out_is_logged(path, caplog):
    caplog.set_level(logging.INFO, logger="anipot")
    with h5py.File(path, "w") as file:
        molecule(file, "w", "OHH", 2, coordinatesHE=np.ones((3, 3, 3)), energiesHE=np.zeros(3))
    assert len(load_dataset(path)) == 2
    assert "3 high-energy conformers left out" in caplog.text
    assert len(load_dataset(path, high_energy=True)) == 5


def test_links_that_lead_round_in_a_circle(path):
    with h5py.File(path, "w") as file:
        molecule(file, "set/w", "OHH", 2)
        file["set/again"] = file["set"]
        file["set/twin"] = file["set/w"]
    assert len(load_dataset(path)) == 2


def test_many_groups_take_time_in_proportion(path):
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(2000):
            molecule(file, f"m{i}", "HH", 1)
    start = time.perf_counter()
    with h5py.File(path) as file:
        read = [dataset[()] for group in file.values() for dataset in group.values()]
    plain = time.perf_counter() - start
    assert len(load_dataset(path)) == len(read) / 3
    # Twice as slow as plain reading is usual; time that grows with the square would be 60 times.
    assert time.perf_counter() - start - plain < 20 * plain


@pytest.mark.slow
def test_loading_takes_the_memory_of_the_data_and_little_more():
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "memory", "--limit", "400"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("865,000 conformers of 13 atoms")
