"""Keys and attributes of HDF5 files that change what the numbers mean: used, or refused."""

import h5py
import numpy as np
import pytest

from anipot import units
from anipot.data.load import load_dataset
from anipot.errors import DataError

CELL = np.array([[5.0, 0, 0], [0.5, 6, 0], [0.2, -0.3, 7]])
VOIGT = np.array([1.0, 2, 3, 0.1, 0.2, 0.3])
MATRIX = np.array([[1, 0.3, 0.2], [0.3, 2, 0.1], [0.2, 0.1, 3]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.h5"


def write(path, n=4, name="w", mode="w", **more):
    """A group of n conformers of water; arrays of ``more`` replace or add to it, None removes."""
    rng = np.random.default_rng(n)
    arrays = {
        "species": np.array([8, 1, 1]),
        "coordinates": rng.normal(size=(n, 3, 3)) * 2,
        "energies": rng.normal(-76, 0.1, size=n),
    } | more
    with h5py.File(path, mode) as file:
        group = file.require_group(name)
        for key, array in arrays.items():
            if array is not None:
                group[key] = array


# ---- cell and pbc ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.broadcast_to(CELL, (4, 3, 3)), CELL),
        (CELL, CELL),
        (CELL.reshape(9), CELL),
        (np.broadcast_to(CELL.reshape(9), (4, 9)), CELL),
        (np.array([5.0, 6, 7]), np.diag([5.0, 6, 7])),
        (np.broadcast_to([5.0, 6, 7], (4, 3)), np.diag([5.0, 6, 7])),
    ],
)
@pytest.mark.parametrize("key", ["cell", "Lattice", "box"])
def test_cells_in_every_shape(path, cell, expected, key):
    write(path, **{key: cell})
    data = load_dataset(path)
    assert data.pbc.all()
    np.testing.assert_array_equal(data.cells, np.broadcast_to(expected, (4, 3, 3)))
    assert data.not_read == ()


@pytest.mark.parametrize(
    ("pbc", "expected"),
    [
        (True, [True] * 3),
        (np.array([True, False, True]), [True, False, True]),
        (np.array([[1, 1, 0]] * 4), [True, True, False]),
        (np.array([1.0, 1, 1, 1]), [True] * 3),
    ],
)
def test_periodic_directions_in_every_shape(path, pbc, expected):
    write(path, cell=CELL, pbc=pbc)
    assert (load_dataset(path).pbc == expected).all()


def test_a_cell_that_is_not_periodic_is_none(path):
    write(path, cell=CELL, pbc=np.zeros(3, dtype=bool))
    assert load_dataset(path).cells is None


def test_groups_with_and_without_cell(path):
    write(path, name="a", n=2)
    write(path, name="b", n=3, mode="a", cell=np.stack([CELL, CELL + 1, CELL + 2]))
    write(path, name="c", n=2, mode="a", cell=np.stack([CELL, np.zeros((3, 3))]))
    data = load_dataset(path)
    assert data.pbc.all(axis=1).tolist() == [False, False, True, True, True, True, False]
    np.testing.assert_array_equal(data.cells[3], CELL + 1)
    assert not data.cells[-1].any()


def test_cell_and_pbc_in_attributes(path):
    write(path)
    with h5py.File(path, "a") as file:
        file.attrs["cell"] = CELL
        file["w"].attrs["pbc"] = [True, True, False]
    data = load_dataset(path)
    np.testing.assert_array_equal(data.cells[2], CELL)
    assert (data.pbc == [True, True, False]).all()
    assert data.not_read == ()


def test_torchani_writes_a_cell_that_is_read(tmp_path):
    datasets = pytest.importorskip("torchani.datasets")
    path = tmp_path / "torchani.h5"
    ds = datasets.ANIDataset(path, grouping="by_num_atoms", verbose=False)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 3, 3))
    ds.append_conformers(
        "003",
        {
            "species": np.array([[8, 1, 1], [8, 1, 1], [1, 1, 8]]),
            "coordinates": x,
            "energies": np.array([-76.0, -76.1, -76.2]),
            "cell": np.broadcast_to(CELL, (3, 3, 3)).copy(),
            "pbc": np.array([[True] * 3, [True] * 3, [False] * 3]),
        },
    )
    data = load_dataset(path)
    np.testing.assert_array_equal(data.cells[1], CELL)
    assert data.pbc.all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cell": np.ones((5, 3, 3))}, r"'cell' has shape \(5, 3, 3\); a cell of 4"),
        ({"cell": np.ones((4, 6))}, r"'cell' has shape \(4, 6\)"),
        ({"cell": np.full((3, 3), np.nan)}, "'cell' holds a number that is not finite"),
        ({"cell": np.ones((3, 3))}, "lie in one plane"),
        ({"cell": np.array([b"cubic"])}, "'cell' holds no real numbers"),
        ({"cell": CELL, "lattice": CELL}, "several keys for the cell: 'cell', 'lattice'"),
        ({"pbc": np.ones(3, dtype=bool)}, "is periodic, but there is no cell"),
        ({"cell": CELL, "pbc": np.array([2, 0, 0])}, "other values than true and false"),
        ({"cell": CELL, "pbc": np.ones((2, 2))}, r"'pbc' has shape \(2, 2\)"),
        ({"cell": np.diag([5.0, 6, 0]), "pbc": True}, "direction that has no lattice vector"),
        ({"virial": np.ones((4, 9))}, "has a virial but no cell"),
        ({"cell": CELL, "stress": np.ones((4, 5))}, r"'stress' has shape \(4, 5\)"),
        ({"cell": CELL, "stress": np.full((4, 6), np.inf)}, "'stress' of conformer 0 .*not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(path, more, message):
    write(path, **more)
    with pytest.raises(DataError, match=rf"data.h5, group '/w'.*{message}"):
        load_dataset(path)


# ---- stress and virial -----------------------------------------------------------------------


@pytest.mark.parametrize("values", [VOIGT, MATRIX, MATRIX.reshape(9)])
def test_stress_in_every_shape(path, values):
    write(path, cell=CELL, stress=np.broadcast_to(values, (4, *values.shape)))
    plain = load_dataset(path)
    np.testing.assert_allclose(plain.stress, np.broadcast_to(MATRIX, (4, 3, 3)))
    gpa = load_dataset(path, stress_unit="GPa", stress_sign="negative")
    np.testing.assert_allclose(gpa.stress * units.HARTREE_TO_GPA, -plain.stress)


def test_a_virial_is_divided_by_the_volume(path, caplog):
    volume = np.linalg.det(CELL)
    write(path, cell=CELL, my_virial=np.broadcast_to(VOIGT * volume, (4, 6)))
    assert load_dataset(path).stress is None
    assert "virial_key" in caplog.text
    assert "'my_virial'" in caplog.text
    data = load_dataset(path, virial_key="my_virial", energy_unit="eV")
    np.testing.assert_allclose(data.stress[0] * units.HARTREE_TO_EV, -MATRIX)


def test_stress_and_virial_that_disagree_are_said(path, caplog):
    virial = np.broadcast_to(-MATRIX * np.linalg.det(CELL), (4, 3, 3))
    write(path, cell=CELL, stress=np.broadcast_to(MATRIX, (4, 3, 3)), virial=virial)
    load_dataset(path)
    assert "contradict" not in caplog.text
    load_dataset(path, stress_sign="negative")  # both are negated
    assert "contradict" not in caplog.text
    load_dataset(path, stress_unit="kbar")
    assert "stress and virial of 4 conformers contradict each other" in caplog.text


# ---- charge and spin -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("charge", np.zeros(4), np.array([0, 0, 1, 0])),
        ("total_charge", 0, -1),
        ("Q", np.zeros((4, 1)), np.ones((4, 1))),
        ("spin", np.zeros(4), np.array([0, 2.0, 0, 0])),
        ("multiplicity", np.ones(4, dtype=int), 3),
        ("charges", np.tile([-0.8, 0.4, 0.4], (4, 1)), np.tile([-0.2, 0.6, 0.6], (4, 1))),
        ("formal_charges", np.array([-1, 1, 0]), np.array([1, 0, 0])),
        ("mbis_charges", np.zeros((4, 3, 1)), np.full((4, 3, 1), 1 / 3)),
    ],
)
def test_only_neutral_singlets(path, key, good, bad):
    write(path, **{key: good})
    data = load_dataset(path)
    # What was checked was read; charges of the atoms were not kept.
    assert data.not_read == ((key,) if "charges" in key else ())
    write(path, **{key: bad})
    with pytest.raises(DataError, match=rf"group '/w'.*{key}.*only neutral closed-shell"):
        load_dataset(path)


@pytest.mark.parametrize("owner", ["/", "w"])
def test_charge_in_an_attribute(path, owner):
    write(path)
    with h5py.File(path, "a") as file:
        file[owner].attrs["charge"] = 0
        assert len(file[owner].attrs) == 1
    assert load_dataset(path).not_read == ()
    with h5py.File(path, "a") as file:
        file[owner].attrs["charge"] = 1
    with pytest.raises(DataError, match="attribute: has charge 1"):
        load_dataset(path)


def test_charge_and_cell_in_a_group_above(path):
    write(path, name="set/w")
    with h5py.File(path, "a") as file:
        file["set/charge"] = 1
    with pytest.raises(DataError, match="group '/set': has charge 1"):
        load_dataset(path)
    with h5py.File(path, "a") as file:
        del file["set/charge"]
        file["set/cell"] = CELL
    with pytest.raises(DataError, match="group '/set': 'cell' is in a group without coordinates"):
        load_dataset(path)


# ---- units and sign --------------------------------------------------------------------------


def declare(path, **said):
    with h5py.File(path, "a") as file:
        for key, unit in said.items():
            file[f"w/{key}"].attrs["units"] = unit


@pytest.mark.parametrize("name", ["unit", "Units", "u"])
def test_units_of_each_dataset(path, name):
    x, f = np.ones((1, 3, 3)), np.full((1, 3, 3), 2.0)
    write(path, n=1, coordinates=x, forces=f, energies=[-76.0], cell=CELL, virial=[MATRIX])
    said = {"coordinates": "bohr", "energies": "kJ/mol", "forces": "eV / Ang", "cell": "nm",
            "virial": "eV"}  # fmt: skip
    with h5py.File(path, "a") as file:
        for key, unit in said.items():
            file[f"w/{key}"].attrs[name] = unit
    data = load_dataset(path)
    assert data.coordinates[0, 0] == pytest.approx(units.BOHR_TO_ANGSTROM)
    assert data.energies[0] * units.HARTREE_TO_KJMOL == pytest.approx(-76)
    assert data.forces[0, 0] * units.HARTREE_TO_EV == pytest.approx(2)
    np.testing.assert_allclose(data.cells[0], CELL * 10)
    volume = np.linalg.det(CELL * 10)
    np.testing.assert_allclose(data.stress[0] * units.HARTREE_TO_EV, -MATRIX / volume)


def test_forces_without_a_unit_follow_energy_and_length(path):
    write(path, forces=np.ones((4, 3, 3)))
    declare(path, coordinates="a0", energies="Eh")
    assert load_dataset(path).forces[0, 0] == pytest.approx(1 / units.BOHR_TO_ANGSTROM)


@pytest.mark.parametrize("owner", ["/", "w"])
@pytest.mark.parametrize(("said", "energy"), [("atomic units", 1.0), ("eV", 27.211386024367243)])
def test_units_of_a_group(path, owner, said, energy):
    write(path, coordinates=np.ones((4, 3, 3)), energies=np.full(4, -76.0))
    with h5py.File(path, "a") as file:
        file[owner].attrs["units"] = said
    data = load_dataset(path)
    assert data.energies[0] * energy == pytest.approx(-76)
    bohr = units.BOHR_TO_ANGSTROM if said == "atomic units" else 1.0
    assert data.coordinates[0, 0] == pytest.approx(bohr)


def test_units_that_contradict_each_other(path):
    write(path, name="w")
    declare(path, coordinates="bohr")
    with pytest.raises(DataError, match=r"'/w/coordinates' .*'bohr', but length_unit='nm'"):
        load_dataset(path, length_unit="nm")
    load_dataset(path, length_unit="bohr")
    write(path, name="x", mode="a")
    with h5py.File(path, "a") as file:
        file["x/coordinates"].attrs["units"] = "angstrom"
    with pytest.raises(DataError, match=r"'/w/coordinates' .*'bohr', but .*'/x/coo.*'angstrom'"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("key", "unit", "option", "replacement"),
    [
        ("coordinates", "furlong", "length_unit", "angstrom"),
        ("energies", "kcal", "energy_unit", None),
        ("energies", "cm^-1", "energy_unit", "kcal/mol"),
        ("forces", "newton", "force_unit", "eV/angstrom"),
    ],
)
def test_an_unknown_unit_names_the_option(path, key, unit, option, replacement):
    write(path, forces=np.ones((4, 3, 3)))
    declare(path, **{key: unit})
    if replacement is None:  # kcal is kcal/mol
        load_dataset(path)
        return
    with pytest.raises(DataError, match=rf"'/w/{key}' .*'{unit.split('^')[0]}.*{option}="):
        load_dataset(path)
    load_dataset(path, **{option: replacement})


def test_a_gradient_needs_a_sign(path, caplog):
    gradient = np.random.default_rng(3).normal(size=(4, 3, 3))
    write(path, dft_gradients=gradient)
    data = load_dataset(path)
    assert data.forces is None
    assert data.not_read == ("dft_gradients",)
    assert "no forces read, but there is 'dft_gradients'" in caplog.text
    assert "forces_sign" in caplog.text
    with pytest.raises(DataError, match=r"forces_sign='gradient' .*forces_sign='forces'"):
        load_dataset(path, forces_key="dft_gradients")
    for sign, factor in (("gradient", -1), ("forces", 1)):
        read = load_dataset(path, forces_key="dft_gradients", forces_sign=sign)
        np.testing.assert_array_equal(read.forces, factor * gradient.reshape(-1, 3))


# ---- what is not read ------------------------------------------------------------------------


def test_what_was_not_read_is_listed_once(path):
    for name in ("a", "b"):
        write(path, name=name, mode="a", smiles=[b"O"] * 4, dipole=np.zeros((4, 3)))
        with h5py.File(path, "a") as file:
            file[name].attrs["temperature"] = 300
            file.require_group("readme")["text"] = b"hello" if name == "a" else b""
            if name == "a":
                del file["readme"]
    assert load_dataset(path).not_read == ("attribute temperature", "dipole", "smiles", "text")
