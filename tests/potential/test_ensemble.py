"""An ensemble is the mean of its members, and knows how far they disagree."""

import csv
import json

import ase.io
import numpy as np
import pytest
from helpers import evaluate_batch, random_cell, random_conformers

from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError
from anipot.formats.load import load
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.potential.prediction import disagreement
from anipot.units import HARTREE_TO_EV, HARTREE_TO_KCALMOL


def member(k: int, **options) -> ANIModel:
    model = ANIModel.create("HCNO", seed=k, **{"hidden": [16, 8], "dtype": "float64", **options})
    values = np.random.default_rng(k).uniform(-80, 0, 4)  # each its own
    model.self_energies = SelfEnergies(model.elements, values)
    return model


ENSEMBLES = {
    "alike": lambda: [member(k) for k in range(3)],
    "one": lambda: [member(0)],
    # Groups that are not next to each other: the members' order must come back.
    "mixed widths and units": lambda: [
        member(0),
        member(1, hidden=[9, 5]),
        member(2, output_unit="hartree"),
        member(3, hidden=[9, 5], activation="tanh"),
        member(4, hidden=[9, 5], output_unit="eV"),
    ],
}


@pytest.fixture(params=ENSEMBLES)
def members(request) -> list[ANIModel]:
    return ENSEMBLES[request.param]()


@pytest.fixture(params=["molecules", "crystals"])
def data(request) -> Conformers:
    rng = np.random.default_rng(7)
    sizes = [3, 1, 14, 6]
    if request.param == "molecules":
        return random_conformers(rng, sizes)
    cells = np.stack([random_cell(rng, length) for length in (4.0, 3.0, 7.0, 6.0)])
    return random_conformers(rng, sizes, cells=cells, pbc=np.ones((4, 3), dtype=bool))


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_mean_and_standard_deviation_of_the_members(members, data):
    want = {"forces": True, "atomic": True, "stress": data.periodic}
    each = [evaluate_batch(m, m.batch(data), **want) for m in members]
    found = ANIEnsemble(members).predict(data, forces_std=len(members) > 1, **want)
    close(found.energies, sum(p.energies for p in each) / len(each))
    close(found.forces, sum(p.forces for p in each) / len(each))
    close(found.atomic_energies, sum(p.atomic_energies for p in each) / len(each))
    if data.periodic:
        close(found.stress, sum(p.stress for p in each) / len(each))
    if len(members) == 1:
        assert np.isnan(found.energy_std).all()
        assert np.isnan(found.atomic_energies_std).all()
        return
    n = len(members)
    for name in ("energies", "forces", "atomic_energies"):
        std = found.energy_std if name == "energies" else getattr(found, f"{name}_std")
        values = [getattr(p, name) for p in each]
        mean = sum(values) / n
        close(std, np.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)))


def test_steps_of_an_ensemble(members, data):
    ensemble = ANIEnsemble(members)
    for k in range(len(data)):
        one = data.take([k])
        expected = ensemble.predict(one, forces=True, stress=data.periodic)
        step = ensemble.stepper(one.atomic_numbers, data.periodic)
        cell = one.cells[0] if data.periodic else None
        point = step(one.coordinates, cell, stress=data.periodic)
        assert point.energy == pytest.approx(expected.energies[0], rel=1e-13)
        np.testing.assert_allclose(
            point.forces,
            expected.forces,
            rtol=0,
            atol=1e-12 * np.abs(expected.forces).max() + 1e-300,
        )
        each = [m.predict(one).energies[0] for m in members]
        np.testing.assert_allclose(point.member_energies, each, rtol=1e-13)
        if len(members) > 1:
            assert point.energy_std == pytest.approx(expected.energy_std[0], rel=1e-9)
            by_batch = expected.disagreement(one)[0]
            assert point.disagreement == pytest.approx(by_batch, rel=1e-9)
            assert by_batch == pytest.approx(expected.energy_std[0] / np.sqrt(len(step)))
        else:
            assert np.isnan(point.disagreement)
            assert np.isnan(point.energy_std)
        if data.periodic:
            close(point.stress, expected.stress[0])


def test_disagreement_by_hand(tmp_path):
    """Two members whose networks are constants: 1 and 4 hartree for every atom."""
    members = [member(k, hidden=[], output_unit="hartree") for k in range(2)]
    for m, value in zip(members, (1.0, 4.0), strict=True):
        m.self_energies = SelfEnergies.zero(m.elements)
        for net in m.networks.values():
            net.layers[0].weight.data.zero_()
            net.layers[0].bias.data.fill_(value)
    four = random_conformers(np.random.default_rng(0), [4])
    ensemble = ANIEnsemble(members)
    prediction = ensemble.predict(four, forces=True, forces_std=True)
    assert prediction.energies == pytest.approx([10.0])
    spread = 12 / np.sqrt(2)  # 4 and 16 hartree: sample standard deviation
    assert prediction.energy_std == pytest.approx([spread])
    assert prediction.disagreement(four) == pytest.approx([spread / 2])
    assert disagreement(spread, 4) == pytest.approx(spread / 2)
    assert not prediction.forces.any()
    assert not prediction.forces_std.any()
    prediction.write(four, tmp_path / "out.json")
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["disagreement_kcalmol"] == pytest.approx(spread / 2 * HARTREE_TO_KCALMOL)
    assert row["energy_std_kcalmol"] == pytest.approx(spread * HARTREE_TO_KCALMOL)
    assert "disagreement / kcal/mol" in prediction.table(four)


def test_files_carry_the_deviations(tmp_path):
    data = random_conformers(np.random.default_rng(1), [3, 5])
    ensemble = ANIEnsemble([member(k) for k in range(3)])
    found = ensemble.predict(data, forces=True, forces_std=True, atomic=True)
    assert found.forces_std is not None
    assert found.energy_std is not None
    frames = ase.io.read(found.write(data, tmp_path / "p.extxyz"), ":")
    rows = json.loads(found.write(data, tmp_path / "p.json").read_text())
    with found.write(data, tmp_path / "p.csv").open() as file:
        lines = list(csv.DictReader(file))
    for i, (frame, row, line) in enumerate(zip(frames, rows, lines, strict=True)):
        own = slice(data.offsets[i], data.offsets[i + 1])
        per_atom = found.atomic_energies_std[own]
        ev, kcal = HARTREE_TO_EV, HARTREE_TO_KCALMOL
        spread = found.energy_std[i] / np.sqrt(own.stop - own.start)
        assert frame.info["energy_std"] == pytest.approx(found.energy_std[i] * ev)
        assert frame.info["disagreement"] == pytest.approx(spread * ev)
        np.testing.assert_allclose(
            frame.arrays["forces_std"], found.forces_std[own] * ev, atol=1e-6
        )
        np.testing.assert_allclose(frame.arrays["atomic_energies_std"], per_atom * ev, atol=1e-6)
        np.testing.assert_allclose(row["atomic_energies_std_kcalmol"], per_atom * kcal)
        np.testing.assert_allclose(row["forces_std_kcalmol_angstrom"], found.forces_std[own] * kcal)
        largest = np.sqrt((found.forces_std[own] ** 2).sum(1).max()) * kcal
        assert float(line["max_force_std_kcalmol_angstrom"]) == pytest.approx(largest)
        assert float(line["disagreement_kcalmol"]) == pytest.approx(spread * kcal)


def test_one_member_has_no_deviation_to_write(tmp_path):
    data = random_conformers(np.random.default_rng(1), [3])
    found = ANIEnsemble([member(0)]).predict(data, forces=True, forces_std=True, atomic=True)
    text = found.write(data, tmp_path / "p.json").read_text()
    assert "NaN" not in text  # which is no JSON
    assert "energy_std" not in ase.io.read(found.write(data, tmp_path / "p.extxyz")).info
    assert "disagreement" not in found.table(data)


def test_a_single_model_has_no_disagreement():
    one = random_conformers(np.random.default_rng(0), [4])
    prediction = member(0).predict(one)
    assert prediction.energy_std is None
    with pytest.raises(SettingsError, match="ensemble"):
        prediction.disagreement(one)


def test_members_that_do_not_go_together():
    with pytest.raises(SettingsError, match="AEV settings"):
        ANIEnsemble([member(0), member(1, aev="ani2x")])
    with pytest.raises(SettingsError, match="at least one"):
        ANIEnsemble([])
    with pytest.raises(SettingsError, match="are ANIModels"):
        ANIEnsemble([member(0), "ani1x"])


def test_what_an_ensemble_says_of_itself():
    ensemble = ANIEnsemble([member(0), member(1, hidden=[5])])
    assert len(ensemble) == 2
    assert ensemble.elements == ("H", "C", "N", "O")
    assert ensemble.n_parameters == sum(m.n_parameters for m in ensemble.members)


def test_only_elements_that_every_member_has_learned():
    members = [member(0), member(1)]
    members[1].trained = ("H", "O")
    ensemble = ANIEnsemble(members)
    ensemble.stepper([8, 1, 1])
    ensemble.predict(random_conformers(np.random.default_rng(0), [5], "HO"))
    with pytest.raises(DataError, match=r"is C, which this model does not know; it knows H, O"):
        ensemble.stepper([6, 1, 1])
    with pytest.raises(DataError, match="it knows H, O"):
        ensemble.predict(random_conformers(np.random.default_rng(0), [5], "C"))


def test_the_file_of_one_member_says_what_the_member_and_the_ensemble_say(tmp_path):
    model = ANIModel.create("HC", hidden=[4])
    model.about = {"best_epoch": 3, "name": "member"}
    path = ANIEnsemble([model], about={"name": "ensemble"}).save(tmp_path / "one.safetensors")
    assert load(path).about == {"best_epoch": 3, "name": "ensemble"}
