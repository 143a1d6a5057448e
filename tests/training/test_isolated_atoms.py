"""self_energies=isolated: the energies of single atoms in the data, which are then left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import anipot
from anipot.config import RunSettings
from anipot.data.describe import describe
from anipot.data.division import Division, divide
from anipot.data.provenance import divide_again, provenance
from anipot.data.readers.extxyz import conformers_from_atoms
from anipot.data.selection import isolated_atoms
from anipot.errors import DataError
from anipot.networks.self_energies import SelfEnergies
from anipot.runs.learning_curve import add_learning_curve
from anipot.runs.run import start_run
from anipot.system.options import checked
from anipot.training.trainer import ANITrainer
from anipot.units import HARTREE_TO_EV

OWN = {"H": -13.6, "N": -1485.0, "O": -2042.0}


def atom(symbol, energy=None, **more):
    return Atoms(symbol, [[0, 0, 0]], info={"energy": OWN[symbol] if energy is None else energy},
                 **more)  # fmt: skip


def molecules(n=16):
    rng = np.random.default_rng(0)
    frames = []
    for i in range(n):
        frame = molecule(("H2O", "H2O2", "H2", "H2O")[i % 4])
        frame.rattle(0.03, rng=rng)
        frame.info["energy"] = sum(OWN[s] for s in frame.symbols) - 4 + rng.normal(scale=0.1)
        frames.append(frame)
    return frames


@pytest.fixture
def data():
    frames = molecules()
    for place, symbol in ((2, "H"), (7, "N"), (11, "O")):
        frames.insert(place, atom(symbol))
    return conformers_from_atoms(frames)


def new_model():
    return anipot.ANIModel.create("HO", hidden=(4,), seed=0)


def test_what_an_isolated_atom_is(data):
    assert np.flatnonzero(isolated_atoms(data)).tolist() == [2, 7, 11]
    frames = [atom("H"), atom("H", cell=[5, 5, 5], pbc=True), molecule("H2"), atom("O")]
    del frames[3].info["energy"]
    assert isolated_atoms(conformers_from_atoms(frames)).tolist() == [True, False, False, False]
    assert "isolated atoms       H N O; self_energies=isolated uses them" in str(describe(data))
    assert "isolated" not in str(describe(data.take(~isolated_atoms(data))))


def test_they_become_self_energies_and_are_not_trained_on(data):
    rest = data.take(~isolated_atoms(data))
    val = rest.take(slice(12, 16))
    models = []
    for train, own in (
        (data.take(slice(0, 15)), "isolated"),
        (rest.take(slice(0, 12)), {s: OWN[s] / HARTREE_TO_EV for s in "HO"}),
    ):
        trainer = ANITrainer(new_model(), epochs=2, batch_size=4, self_energies=own)
        trainer.train(train, val, quiet=True)
        models.append(trainer.model)
    expected = np.array([OWN["H"], OWN["O"]]) / HARTREE_TO_EV
    np.testing.assert_allclose(models[0].self_energies.values, expected, rtol=1e-12)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (a == b).all()


def test_without_being_asked_they_are_ordinary_conformers(data):
    train = data.select(elements="HO")
    trainer = ANITrainer(new_model(), epochs=1, batch_size=4)
    trainer.train(train, train, quiet=True)
    fit = SelfEnergies.fit(train, "HO").values
    np.testing.assert_array_equal(trainer.model.self_energies.values, fit)


def test_elements_without_one_are_named(data):
    without = data.take(np.delete(np.arange(len(data)), [11]))
    with pytest.raises(DataError, match=r"of each element.*none of O \(there are H N\)"):
        ANITrainer(new_model(), self_energies="isolated").train(without, without, quiet=True)
    bare = data.take(~isolated_atoms(data))
    with pytest.raises(DataError, match=r"none of H, O \(there are none\)"):
        ANITrainer(new_model(), self_energies="isolated").train(bare, bare, quiet=True)
    two = conformers_from_atoms([atom("H"), atom("H", -13.7)])
    with pytest.raises(DataError, match=r"isolated atoms of H have different energies, -0\.4997"):
        SelfEnergies.isolated(two, "H")


@pytest.mark.parametrize("split", ["conformer", "molecule"])
@pytest.mark.parametrize("seed", range(3))
def test_divided_data_has_all_atoms_in_training(data, split, seed, tmp_path):
    settings = checked(RunSettings, {}).data.model_copy(
        update={"files": ["x"], "split": split, "seed": seed, "train": 0.4, "validation": 0.3,
                "test": 0.3}
    )  # fmt: skip
    division = divide(data, settings, isolated=True)
    atoms = np.flatnonzero(isolated_atoms(data))
    assert set(atoms) <= set(division.train)
    assert sorted(np.concatenate(list(division))) == list(range(len(data)))
    rest = data.take(~isolated_atoms(data))
    same = divide(rest, settings)
    test = data.take(division.test).coordinates
    np.testing.assert_array_equal(test, rest.take(same.test).coordinates)
    known = provenance(data, division, settings)
    for again in (divide_again(data, known), saved(division, tmp_path)):
        assert again.isolated
        for a, b in zip(again, division, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not replace(division, isolated=False).isolated


def saved(division, folder):
    division.save(folder / "split.npz")
    return Division.load(folder / "split.npz")


def test_a_run_with_isolated_atoms(data, tmp_path):
    file = tmp_path / "all.npz"
    data.save(file)
    settings = checked(
        RunSettings,
        {
            "data": {"files": [str(file)], "split": "conformer"},
            "model": {"hidden": [4]},
            "training": {"self_energies": "isolated", "epochs": 1, "batch_size": 4},
        },
    )
    run = start_run(settings, tmp_path / "run")
    model = anipot.load(tmp_path / "run" / "potential.safetensors")
    assert model.elements == ("H", "O")  # of nitrogen there is nothing but the atom
    expected = np.array([OWN["H"], OWN["O"]]) / HARTREE_TO_EV
    np.testing.assert_allclose(model.self_energies.values, expected, rtol=1e-12)
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["options"]["training"]["self_energies"] == "isolated"
    assert report["data"]["split"]["isolated"] is True
    assert run.folder == tmp_path / "run"
    points = add_learning_curve(tmp_path / "run")
    assert len(points) > 1
