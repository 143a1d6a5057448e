"""Labels that other code registers travel with the data."""

import numpy as np
import pytest

from anipot.data import labels as labels_module
from anipot.data import views
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.data.labels import Label, labels
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.errors import DataError, SettingsError
from anipot.registry import Registry


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """A dipole of each conformer and a charge of each atom, for one test."""
    monkeypatch.setattr(labels, "_known", dict(labels._known))
    labels.register("dipole")(Label("conformer", (3,), "e*angstrom"))
    labels.register("charges")(Label("atom", (), "e"))


@pytest.fixture
def data():
    sizes = np.arange(20) % 3 + 1
    atoms = sizes.sum()
    return Conformers(
        atomic_numbers=np.ones(atoms, dtype=int),
        coordinates=np.arange(3.0 * atoms).reshape(-1, 3),
        offsets=np.append(0, np.cumsum(sizes)),
        energies=np.arange(20.0),
        labels={
            "dipole": np.arange(60.0).reshape(20, 3),
            "charges": np.arange(float(atoms)),
        },
    )


def same(a, b):
    assert a.labels.keys() == b.labels.keys() == {"dipole", "charges"}
    for name, values in a.labels.items():
        np.testing.assert_array_equal(values, b.labels[name])


def test_parts_hold_the_rows_of_their_conformers(data):
    part = data.take([4, 1])
    np.testing.assert_array_equal(part.labels["dipole"], data.labels["dipole"][[4, 1]])
    # Conformer 4 has atoms 7 and 8, conformer 1 has 1 and 2; each atom's charge is its number.
    np.testing.assert_array_equal(part.labels["charges"], [7, 8, 1, 2])
    train, test = data.split(0.5, 0.5)
    dipoles = np.concatenate([train.labels["dipole"], test.labels["dipole"]])
    assert sorted(dipoles[:, 0]) == sorted(data.labels["dipole"][:, 0])


def test_concatenation_masks_what_a_part_lacks(data):
    whole = Conformers.concatenate([data, data.replaced(labels={})])
    np.testing.assert_array_equal(whole.labels["dipole"][:20], data.labels["dipole"])
    assert np.isnan(whole.labels["charges"][data.total_atoms :]).all()
    for name in ("dipole", "charges"):
        np.testing.assert_array_equal(whole.has(name), np.arange(40) < 20)


def test_files_and_stores_keep_them(data, tmp_path, monkeypatch):
    whole = Conformers.concatenate([data, data.replaced(labels={})])
    whole.save(tmp_path / "data.npz")
    read = load_dataset(tmp_path / "data.npz")
    same(read, whole)
    stored = load_dataset(pack([tmp_path / "data.npz"], tmp_path / "store", progress=False))
    same(stored, whole)
    assert stored.content_hash() == read.content_hash() == whole.content_hash()
    assert whole.content_hash() != whole.replaced(labels={}).content_hash()
    np.testing.assert_array_equal(stored.has("charges"), whole.has("charges"))
    monkeypatch.setattr(views, "VIEW_FROM", 5)
    monkeypatch.setattr(views, "PIECE", 3)
    index = np.arange(39, 0, -3)
    view = stored.take(index)
    assert isinstance(view, views.ConformersView)
    same(view, whole.take(index))
    assert view.content_hash() == whole.take(index).content_hash()


def test_batches_carry_them_when_asked(data):
    loader = BatchLoader(data, 4, ["H"], labels=["energies", "dipole", "charges"])
    batch = next(loader.epoch(0, 1))
    np.testing.assert_array_equal(batch.labels["dipole"], data.labels["dipole"][4:8])
    np.testing.assert_array_equal(batch.labels["charges"], batch.data_atoms)
    assert Batch.of(data, ["H"]).labels == {}


def test_wrong_shapes_and_unregistered_names_are_refused(data):
    with pytest.raises(DataError, match=r"dipole has shape \(20,\).*need \(20, 3\)"):
        data.replaced(labels={"dipole": np.zeros(20)})
    with pytest.raises(DataError, match="'quadrupole' is not registered"):
        data.replaced(labels={"quadrupole": np.zeros(20)})
    with pytest.raises(SettingsError, match="registered already"):
        labels.register("forces")(Label("atom", (3,)))


def test_a_file_with_a_label_that_is_not_registered(data, tmp_path, monkeypatch):
    data.save(tmp_path / "data.npz")
    monkeypatch.setattr(labels_module, "labels", Registry("label", "anipot.labels"))
    with pytest.raises(DataError, match=r"data\.npz.*registered label"):
        load_dataset(tmp_path / "data.npz")
