"""Folders of DeePMD systems."""

import numpy as np
import pytest
from test_hdf5_meaning import CELL, MATRIX

from anipot import units
from anipot.data.load import load_dataset
from anipot.errors import DataError


def write(folder, frames=(3, 2), nopbc=False, symbols="O H", types=(0, 1, 1), raw=False, **more):
    """A system with a set for each of ``frames``; arrays of ``more`` replace or add to it."""
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("\n".join(map(str, types)))
    if symbols:
        (folder / "type_map.raw").write_text("\n".join(symbols.split()) + "\n")
    if nopbc:
        (folder / "nopbc").touch()
    kept = {}
    for i, n in enumerate(frames):
        rng = np.random.default_rng(i)
        size = 3 * len(types)
        arrays = {
            "coord": rng.normal(size=(n, size)),
            "energy": rng.normal(-2000, 1, size=(n,)),
            "force": rng.normal(size=(n, size)),
            "box": None if nopbc else np.tile(CELL.reshape(9), (n, 1)),
        } | {key: None if value is None else np.array([value] * n) for key, value in more.items()}
        for key, array in arrays.items():
            if array is None:
                continue
            kept.setdefault(key, []).append(array)
            if raw:
                np.savetxt(folder / f"{key}.raw", array.reshape(n, -1))
            else:
                (folder / f"set.{i:03}").mkdir(exist_ok=True)
                np.save(folder / f"set.{i:03}" / f"{key}.npy", array)
    return {key: np.concatenate(parts) for key, parts in kept.items()}


@pytest.mark.parametrize("raw", [False, True])
def test_a_system_is_in_ev_and_angstrom(tmp_path, raw):
    virial = MATRIX.reshape(9) * np.linalg.det(CELL)
    a = write(tmp_path / "s", raw=raw, frames=(3,) if raw else (3, 2), virial=virial)
    data = load_dataset(tmp_path / "s")
    np.testing.assert_allclose(data.coordinates, a["coord"].reshape(-1, 3))
    np.testing.assert_allclose(data.energies * units.HARTREE_TO_EV, a["energy"])
    np.testing.assert_allclose(data.forces * units.HARTREE_TO_EV, a["force"].reshape(-1, 3))
    np.testing.assert_allclose(data.cells, np.broadcast_to(CELL, (len(data), 3, 3)))
    # A virial is -dE/dstrain, a stress dE/dstrain over the volume.
    np.testing.assert_allclose(data.stress[0] * units.HARTREE_TO_EV, -MATRIX)
    assert data.pbc.all()
    assert data.atomic_numbers[:3].tolist() == [8, 1, 1]
    assert data.molecule_names == ("s",)


def test_molecules_have_no_box(tmp_path):
    write(tmp_path / "s", nopbc=True, box=np.zeros(9))
    assert load_dataset(tmp_path / "s").cells is None


def test_several_systems_below_a_folder(tmp_path):
    write(tmp_path / "all" / "a" / "x", nopbc=True)
    write(tmp_path / "all" / "b", types=(1, 1), nopbc=True)
    data = load_dataset(tmp_path / "all")
    assert data.molecule_names == ("a/x", "b")
    assert np.bincount(data.molecule).tolist() == [5, 5]
    (tmp_path / "all" / "more.xyz").write_text("")
    with pytest.raises(DataError, match=r"holds files \('more.xyz'\).*systems \('a/x', 'b'\)"):
        load_dataset(tmp_path / "all")


def test_folders_named_by_formula_are_grouped_by_it(tmp_path):
    write(tmp_path / "O1H2", nopbc=True)
    write(tmp_path / "O0H2", types=(1, 1), nopbc=True)
    data = load_dataset(tmp_path)
    assert data.grouped_by == "formula"
    assert sorted(data.molecule_names) == ["H2", "H2O"]


def test_mixed_types_with_virtual_atoms(tmp_path):
    write(tmp_path / "s", types=(0, 0, 0), nopbc=True)
    for i, n in enumerate((3, 2)):
        folder = tmp_path / "s" / f"set.{i:03}"
        x = np.load(folder / "coord.npy")
        x[0, 6:] = 0
        np.save(folder / "coord.npy", x)
        np.save(folder / "real_atom_types.npy", [[1, 1, -1]] + [[0, 1, 1]] * (n - 1))
    data = load_dataset(tmp_path / "s")
    assert data.n_atoms.tolist() == [2, 3, 3, 2, 3]
    assert data.grouped_by == "formula"


def test_what_is_not_read_is_listed(tmp_path):
    write(tmp_path / "s", nopbc=True, dipole=np.zeros(3), fparam=[1.0])
    assert load_dataset(tmp_path / "s").not_read == ("dipole", "fparam")


def test_a_part_of_a_system_names_its_folder(tmp_path):
    write(tmp_path / "s")
    for part in ("set.000/coord.npy", "type.raw", "set.000"):
        with pytest.raises(DataError, match=r"part of a DeePMD system; give its folder, .*s$"):
            load_dataset(tmp_path / "s" / part)


def test_any_other_folder_names_what_is_in_it(tmp_path):
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(DataError, match=r"neither a store .* name the files in it: 'a.xyz'"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"symbols": ""}, "has no type_map.raw"),
        ({"symbols": "O"}, "type 1 is none of the 1 types"),
        ({"symbols": "OW HW"}, "'HW' is not the symbol"),
        ({"types": (0, 1, 1, 1), "coord": np.zeros(9)}, "3 frames of 12 numbers"),
        ({"box": None}, "has no box.npy.*nopbc"),
        ({"box": np.zeros(9)}, "no lattice vector"),
        ({"box": np.ones(4)}, "3 frames of 9 numbers"),
        ({"coord": None}, "has no coordinates"),
        ({"energy": None}, "has no energies"),
        ({"energy": np.nan}, "energy.npy holds a number that is not finite"),
        ({"force": "a"}, "force.npy holds no numbers"),
        ({"spin": np.ones(9)}, "spin .*only neutral"),
        ({"virial": np.ones(5)}, r"'virial' has shape"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, more, message):
    write(tmp_path / "s", **more)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "s")


def test_damaged_arrays(tmp_path):
    write(tmp_path / "s")
    path = tmp_path / "s" / "set.000" / "coord.npy"
    content = path.read_bytes()
    for damaged in (b"", content[:40], content[:-8], content + b"x", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"coord\.npy"):
            load_dataset(tmp_path / "s")
    np.save(path, np.array([None]))
    with pytest.raises(DataError, match=r"coord.npy holds Python objects"):
        load_dataset(tmp_path / "s")
    (tmp_path / "s" / "type.raw").write_text("oxygen")
    with pytest.raises(DataError, match=r"type.raw: is not a table of numbers"):
        load_dataset(tmp_path / "s")
    path.unlink()
    (tmp_path / "s" / "type.raw").write_text("0 1 1")
    with pytest.raises(DataError, match=r"set.000: has no coord.npy, which other sets"):
        load_dataset(tmp_path / "s")


def test_names_can_be_given(tmp_path):
    a = write(tmp_path / "s", nopbc=True, energy=None, e2=-10.0)
    data = load_dataset(tmp_path / "s", energy_key="e2", energy_unit="hartree")
    np.testing.assert_array_equal(data.energies, a["e2"])
    with pytest.raises(DataError, match="leave species_key="):
        load_dataset(tmp_path / "s", energy_key="e2", species_key="z")
