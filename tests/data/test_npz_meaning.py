"""Entries of ``.npz`` files that change what the numbers mean, and archives that lie."""

import io
import struct
import zipfile

import numpy as np
import pytest
from test_hdf5_meaning import CELL, MATRIX, VOIGT

from anipot import units
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def arrays(m=4, **more):
    rng = np.random.default_rng(m)
    kept = {
        "z": np.array([8, 1, 1]),
        "R": rng.normal(size=(m, 3, 3)),
        "E": rng.normal(-76, 0.1, size=m),
        "e_unit": "hartree",
    } | more
    return {key: value for key, value in kept.items() if value is not None}


@pytest.mark.parametrize("key", ["cell", "lattice", "box", "Cells"])
def test_cells(path, key):
    np.savez(path, **arrays(**{key: CELL}, pbc=np.array([True, True, False])))
    data = load_dataset(path)
    np.testing.assert_array_equal(data.cells, np.broadcast_to(CELL, (4, 3, 3)))
    assert (data.pbc == [True, True, False]).all()
    np.savez(path, **arrays(**{key: CELL}, r_unit="au"))
    np.testing.assert_allclose(load_dataset(path).cells[0], CELL * units.BOHR_TO_ANGSTROM)


@pytest.mark.parametrize("values", [VOIGT, MATRIX, MATRIX.reshape(9)])
def test_stress_and_virial(path, values, caplog):
    stress = np.broadcast_to(values, (4, *values.shape))
    np.savez(path, **arrays(cell=CELL, stress=stress, stress_unit="GPa"))
    plain = load_dataset(path).stress
    np.testing.assert_allclose(plain[0] * units.HARTREE_TO_GPA, MATRIX)
    np.savez(path, **arrays(cell=CELL, virials=-stress * np.linalg.det(CELL)))
    np.testing.assert_allclose(load_dataset(path).stress[0], MATRIX)
    np.savez(path, **arrays(cell=CELL, virials=stress, stress=stress))
    load_dataset(path)
    assert "contradict each other" in caplog.text


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("Q", np.zeros(4), np.array([0, 1, 0, 0])),
        ("charge", 0, 1),
        ("multiplicity", np.ones(4), np.full(4, 2)),
        ("spin", np.zeros((4, 1)), np.ones((4, 1))),
        ("q", np.tile([-0.8, 0.4, 0.4], (4, 1)), np.tile([-0.8, 0.9, 0.9], (4, 1))),
    ],
)
def test_only_neutral_singlets(path, key, good, bad):
    np.savez(path, **arrays(**{key: good}))
    assert len(load_dataset(path)) == 4
    np.savez(path, **arrays(**{key: bad}))
    with pytest.raises(DataError, match=rf"data.npz.*{key} .*only neutral closed-shell"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("key", "unit", "factor"),
    [("E_unit", "kcal/mol", units.HARTREE_TO_KCALMOL), ("energy_units", "eV", units.HARTREE_TO_EV),
     ("unit", "kJ/mol", units.HARTREE_TO_KJMOL), ("units", "au", 1.0)],
)  # fmt: skip
def test_units_under_several_names(path, key, unit, factor):
    np.savez(path, **arrays(e_unit=None, **{key: unit}))
    data = load_dataset(path)
    np.testing.assert_allclose(data.energies * factor, arrays()["E"])
    assert data.not_read == ()
    with pytest.raises(DataError, match=rf"'{key}' .*'{unit}', but energy_unit='meV'"):
        load_dataset(path, energy_unit="meV")


def test_what_is_not_read_is_listed_and_hinted(path, caplog):
    a = arrays()
    np.savez(
        path, nuclear_charges=a["z"], coords=a["R"], energies=a["E"], old_energies=a["E"],
        old_forces=a["R"], old_indices=np.arange(4), meta=np.array({"a": 1}),
    )  # fmt: skip
    data = load_dataset(path, energy_unit="kcal/mol")
    assert data.not_read == ("meta", "old_energies", "old_forces", "old_indices")
    assert "no forces read, but there is 'old_forces'" in caplog.text
    np.savez(path, **arrays(G_grad=a["R"]))
    with pytest.raises(DataError, match="'G_grad' by its name holds gradients"):
        load_dataset(path, forces_key="G_grad")


def test_counts_of_atoms_must_agree_with_the_padding(path):
    z, x = np.array([[8, 1, 1], [1, 1, 0]]), np.ones((2, 3, 3))
    x[1, 2] = 0
    np.savez(path, z=z, R=x, E=[-76.0, -1.1], e_unit="hartree", N=[3, 2])
    assert len(load_dataset(path)) == 2
    np.savez(path, z=z, R=x, E=[-76.0, -1.1], e_unit="hartree", N=[3, 3])
    with pytest.raises(DataError, match="conformer 1 has 2 atoms, but 'N' says 3"):
        load_dataset(path)


def test_ragged_arrays_are_named_with_the_way_out(path):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.zeros((3, 3)), np.zeros((2, 3))]
    np.savez(path, R=ragged, Z=ragged, E=np.zeros(2))
    with pytest.raises(DataError, match=r"'R' is a pickled .*pickled: 'R', 'Z'.*padded with zero"):
        load_dataset(path, energy_unit="eV")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"R": np.array(1.0)}, "not .conformers, atoms, 3"),
        ({"R": np.zeros((4, 3, 3), dtype=complex)}, "'R' has the type complex128"),
        ({"R": np.zeros((4, 3, 3), dtype=[("x", "f8")])}, "'R' has the type"),
        ({"E": np.array(["a"] * 4)}, "'E' has the type"),
        ({"F": np.zeros(3, dtype=object)}, "'F' is a pickled object"),
        ({"Q": np.array([None] * 4)}, "'Q' is a pickled object"),
        ({"cell": np.array(["cubic"])}, "'cell' has the type"),
        ({"z": np.array(["O", "H", "O1"])}, "'O1' is not the symbol"),
        ({"z": np.array(["O", "D", "D"])}, "'D' is an isotope"),
        ({"z": np.array([8, 1, np.nan])}, "nan is not the atomic number"),
    ],
)
def test_types_that_hold_no_data(path, more, message):
    np.savez(path, **arrays(**more))
    with pytest.raises(DataError, match=rf"data.npz: .*{message}"):
        load_dataset(path)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", "<f16", "i4"])
def test_numbers_of_every_kind(path, dtype):
    x = np.asfortranarray(np.arange(36).reshape(4, 3, 3).astype(dtype))
    np.savez(path, **arrays(R=x, F=x))
    data = load_dataset(path)
    assert data.coordinates.dtype.itemsize == (4 if dtype == ">f4" else 8)
    np.testing.assert_array_equal(data.coordinates.reshape(4, 3, 3), x.astype(float))
    np.testing.assert_array_equal(data.forces.reshape(4, 3, 3), x.astype(float))


# ---- archives that are not what they say -----------------------------------------------------


def npy(header: dict, content: bytes = b"", version=(1, 0)) -> bytes:
    """A .npy file with any header."""
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + content


def with_member(path, name: str, content: bytes, **how) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for key, value in arrays(**{name: None}).items():
            buffer = io.BytesIO()
            np.save(buffer, value)
            zipped.writestr(key + ".npy", buffer.getvalue())
        zipped.writestr(name + ".npy", content, **how)


F8 = {"descr": "<f8", "fortran_order": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(F8 | {"shape": (10**12, 3, 3)}), "'R' declares an array of shape"),
        (npy(F8 | {"shape": (10**30, 3, 3)}), "'R' declares an array of shape"),
        (npy(F8 | {"shape": (4, 3, 3)}, bytes(8)), "'R' declares an array of shape"),
        (npy(F8 | {"shape": (2**18, 3, 3)}, bytes(2**18 * 72)), "bytes of it that unpack to"),
        (npy(F8 | {"shape": (-4, 3, 3)}), "damaged"),
        (npy(F8 | {"shape": "four"}), "damaged"),
        (npy({"descr": "<q9", "fortran_order": False, "shape": ()}), "damaged"),
        (npy(F8 | {"shape": ()}, version=(9, 9)), "damaged"),
        (b"\x93NUMPY", "damaged"),
    ],
)
def test_headers_that_lie(path, content, message):
    how = {"compress_type": zipfile.ZIP_BZIP2} if len(content) > 10**6 else {}
    with_member(path, "R", content, **how)
    with pytest.raises(DataError, match=rf"data.npz.*'R'.*{message}|data.npz: {message}|{message}"):
        load_dataset(path)


def test_every_flipped_bit_is_found_or_harmless(path):
    np.savez(path, **arrays())
    content, whole = path.read_bytes(), load_dataset(path).content_hash()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(content), 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = load_dataset(path).content_hash()
        except DataError:
            refused += 1
        else:
            assert found == whole
    assert refused > 50


def test_own_files_that_are_damaged_are_named(path):
    np.savez(path, **arrays())
    load_dataset(path).save(path)
    with np.load(path) as file:
        good = {name: file[name] for name in file.files}
    assert len(Conformers.load(path)) == 4
    bad = {
        "coordinates": [np.zeros(3), np.array(["a"]), np.array([None]), np.zeros(12, complex)],
        "offsets": [np.zeros(0, int), np.array(3), np.array([0.0, 1, 2, 3, 12]), np.arange(5)],
        "about": [np.frombuffer(b'{"format": "anipot conformers 1"}', dtype=np.uint8),
                  np.frombuffer(b'{"format": "anipot conformers 9"}', dtype=np.uint8)],
        "molecule": [np.array([0, 0, 0, 9]), np.zeros((4, 1), int)],
        "mask_energies": [np.ones(4), np.ones(3, dtype=bool)],
        "surprise": [np.zeros(3)],
    }  # fmt: skip
    for name, values in bad.items():
        for value in values:
            np.savez(path, **(good | {name: value}))
            for load in (Conformers.load, load_dataset):
                with pytest.raises(DataError, match=r"data\.npz"):
                    load(path)
    for name in ("about", "offsets", "coordinates"):
        np.savez(path, **{key: value for key, value in good.items() if key != name})
        with pytest.raises(DataError, match=r"data\.npz"):
            Conformers.load(path)


def test_a_foreign_entry_called_about(path):
    np.savez(path, **arrays(about="water from a box"))
    assert load_dataset(path).not_read == ("about",)


def test_a_plain_array_is_no_data_set(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"x.npy is a single array.*numpy.savez"):
        load_dataset(tmp_path / "x.npy")
