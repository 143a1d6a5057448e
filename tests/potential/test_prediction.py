"""Predictions: right numbers in the right unit and place, in every form they are written in."""

import csv
import dataclasses
import json

import ase.io
import numpy as np
import pytest
from helpers import random_conformers

from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.errors import DataError, SettingsError
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.potential.prediction import Prediction

# CODATA 2014, written here again so that a wrong unit in the package is seen.
KCAL = 627.5094738898777
EV = 27.211386024367243


@pytest.fixture(scope="module")
def model() -> ANIModel:
    model = ANIModel.create("HCNO", hidden=[8], dtype="float64", output_unit="hartree", seed=1)
    model.self_energies = SelfEnergies(model.elements, np.array([-0.6, -38.1, -54.7, -75.2]))
    return model


@pytest.fixture(scope="module")
def molecules() -> Conformers:
    """Two conformers of one formula, two of others; every second has a reference energy."""
    data = random_conformers(np.random.default_rng(4), [5, 3, 1], "HCNO")
    moved = dataclasses.replace(data, coordinates=data.coordinates * 1.02)
    data = Conformers.concatenate([data, moved.take([0])])
    return dataclasses.replace(
        data,
        energies=np.array([-100.0, np.nan, -1.0, np.nan]),
        masks={"energies": np.array([True, False, True, False])},
    )


@pytest.fixture(scope="module")
def prediction(model, molecules) -> Prediction:
    return model.predict(molecules, forces=True, atomic=True)


def test_rows(prediction, molecules):
    rows = prediction.rows(molecules)
    e, f = prediction.energies, prediction.forces
    formula, names = molecules.formulas()
    assert formula[0] == formula[3]
    assert [r["frame"] for r in rows] == [0, 1, 2, 3]
    assert [r["formula"] for r in rows] == [names[i] for i in formula]
    assert [r["energy_hartree"] for r in rows] == e.tolist()
    pair = np.array([rows[0]["relative_kcalmol"], rows[3]["relative_kcalmol"]])
    np.testing.assert_allclose(pair, (e[[0, 3]] - min(e[0], e[3])) * KCAL, atol=1e-9)
    assert pair.min() == 0 < pair.max()
    assert rows[1]["relative_kcalmol"] == rows[2]["relative_kcalmol"] == 0
    assert rows[0]["error_kcalmol"] == pytest.approx((e[0] + 100.0) * KCAL, rel=1e-12)
    assert rows[2]["error_kcalmol"] == pytest.approx((e[2] + 1.0) * KCAL, rel=1e-12)
    assert "error_kcalmol" not in rows[1]
    largest = [max(np.linalg.norm(v) for v in f[a:b]) for a, b in ((0, 5), (5, 8), (8, 9), (9, 14))]
    found = [r["max_force_kcalmol_angstrom"] for r in rows]
    np.testing.assert_allclose(found, np.array(largest) * KCAL, rtol=1e-12)
    assert found[2] == 0  # a lone atom


def test_only_what_was_asked_for_is_told(model, molecules):
    rows = model.predict(molecules).rows(dataclasses.replace(molecules, energies=None, masks={}))
    assert all(set(r) == {"frame", "formula", "energy_hartree", "relative_kcalmol"} for r in rows)


def test_table(prediction, molecules):
    lines = prediction.table(molecules).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    heads = [
        "energy / hartree",
        "relative / kcal/mol",
        "error / kcal/mol",
        "max force / kcal/mol/A",
    ]
    assert all(head in lines[0] for head in heads)
    row = prediction.rows(molecules)[0]
    frame, formula, energy, relative, error, force = lines[1].split()
    assert (frame, formula) == ("0", row["formula"])
    assert float(energy) == pytest.approx(row["energy_hartree"], abs=5e-9)
    assert float(relative) == pytest.approx(row["relative_kcalmol"], abs=5e-4)
    assert float(error) == pytest.approx(row["error_kcalmol"], abs=5e-4)
    assert float(force) == pytest.approx(row["max_force_kcalmol_angstrom"], abs=5e-4)
    assert len(lines[2].split()) == 5  # no reference, no error
    short = prediction.table(molecules, most=2).splitlines()
    assert len(short) == 4
    assert short[3].startswith("... 2 more")


def test_json(prediction, molecules, tmp_path):
    path = prediction.write(molecules, tmp_path / "out.json")
    rows = json.loads(path.read_text())
    assert [r["energy_hartree"] for r in rows] == prediction.energies.tolist()
    for i, row in enumerate(rows):
        own = slice(*molecules.offsets[i : i + 2])
        np.testing.assert_allclose(
            row["forces_kcalmol_angstrom"], prediction.forces[own] * KCAL, rtol=1e-13
        )
        assert row["atomic_energies_hartree"] == prediction.atomic_energies[own].tolist()
        assert sum(row["atomic_energies_hartree"]) == pytest.approx(row["energy_hartree"])


def test_csv(prediction, molecules, tmp_path):
    path = prediction.write(molecules, tmp_path / "out.CSV")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = prediction.rows(molecules)
    assert len(rows) == 4
    for found, row in zip(rows, expected, strict=True):
        assert float(found["energy_hartree"]) == row["energy_hartree"]
        assert found["error_kcalmol"] == str(row.get("error_kcalmol", ""))
        assert float(found["max_force_kcalmol_angstrom"]) == row["max_force_kcalmol_angstrom"]


@pytest.mark.parametrize("ending", [".extxyz", ".xyz"])
def test_extxyz_is_what_ase_and_anipot_read(ending, prediction, molecules, tmp_path):
    path = prediction.write(molecules, tmp_path / f"out{ending}")
    frames = ase.io.read(path, ":", format="extxyz")
    for i, frame in enumerate(frames):
        own = slice(*molecules.offsets[i : i + 2])
        assert frame.get_potential_energy() == pytest.approx(prediction.energies[i] * EV, rel=1e-14)
        np.testing.assert_allclose(frame.get_forces(), prediction.forces[own] * EV, atol=1e-7)
        np.testing.assert_allclose(frame.positions, molecules.coordinates[own], atol=1e-7)
        assert not frame.pbc.any()
    back = load_dataset(path)
    np.testing.assert_allclose(back.energies, prediction.energies, rtol=1e-14)
    np.testing.assert_allclose(back.forces, prediction.forces, atol=1e-8)
    assert np.array_equal(back.atomic_numbers, molecules.atomic_numbers)


def test_forces_are_minus_the_slope_of_the_energy(model, molecules, prediction):
    """Central differences of predicted energies, atom by atom, in hartree/angstrom."""
    step = 1e-4
    for atom, axis in [(0, 0), (3, 2), (6, 1), (12, 0)]:
        energies = []
        for sign in (1, -1):
            x = molecules.coordinates.copy()
            x[atom, axis] += sign * step
            energies.append(
                model.predict(dataclasses.replace(molecules, coordinates=x)).energies.sum()
            )
        slope = (energies[0] - energies[1]) / (2 * step)
        assert prediction.forces[atom, axis] == pytest.approx(-slope, rel=1e-4)
        assert abs(slope) > 1e-2


def test_stress_and_cells_are_written(model, tmp_path):
    rng = np.random.default_rng(0)
    cell = 6 * np.eye(3)
    data = random_conformers(
        rng, [4, 4], "HC",
        cells=np.stack([cell, np.zeros((3, 3))]),
        pbc=np.array([[True] * 3, [False] * 3]),
    )  # fmt: skip
    prediction = model.predict(data, stress=True)
    step, energies = 1e-4, []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 0] += sign * step
        strained = dataclasses.replace(
            data.take([0]), coordinates=data.take([0]).coordinates @ strain,
            cells=(cell @ strain)[None],
        )  # fmt: skip
        energies.append(model.predict(strained).energies[0])
    slope = (energies[0] - energies[1]) / (2 * step) / 6**3
    assert prediction.stress[0, 0, 0] == pytest.approx(slope, rel=1e-4)
    assert abs(slope) > 1e-5
    assert np.isnan(prediction.stress[1]).all()
    rows = json.loads(prediction.write(data, tmp_path / "s.json").read_text())
    np.testing.assert_allclose(rows[0]["stress_ev_angstrom3"], prediction.stress[0] * EV)
    assert "stress_ev_angstrom3" not in rows[1]
    first, second = ase.io.read(prediction.write(data, tmp_path / "s.extxyz"), ":")
    np.testing.assert_allclose(first.get_stress(voigt=False), prediction.stress[0] * EV, atol=1e-7)
    np.testing.assert_allclose(first.cell[:], cell)
    assert first.pbc.all()
    assert not second.pbc.any()
    assert "stress" not in second.calc.results


def test_other_endings_and_a_full_disk(prediction, molecules, tmp_path, monkeypatch):
    for name in ("out.txt", "out", "out.h5"):
        with pytest.raises(SettingsError, match=r"\.json, \.csv or \.extxyz"):
            prediction.write(molecules, tmp_path / name)
    path = prediction.write(molecules, tmp_path / "out.extxyz")
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ase.io, "write", full)
    with pytest.raises(OSError, match="No space"):
        prediction.write(molecules, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_element_names_the_atom(model):
    data = random_conformers(np.random.default_rng(0), [2, 3], "HC")
    numbers = data.atomic_numbers.copy()
    numbers[3] = 16
    with pytest.raises(DataError, match=r"atom 1 of conformer 1 .* is S, .*knows H, C, N, O"):
        model.predict(dataclasses.replace(data, atomic_numbers=numbers))
