"""Wherever a conformer lies, float32 gives the numbers that it has at the origin, or says why."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import random_cell, random_conformers

from anipot.data import conformers as conformers_module
from anipot.data import views as views_module
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.positions import FARTHEST, NEAR, near_origin, resolved
from anipot.errors import DataError
from anipot.formats.load import load
from anipot.potential.model import ANIModel
from anipot.studies.environments import environments
from anipot.training.gpu.captured import PaddedBatches
from anipot.training.trainer import ANITrainer


@pytest.fixture(scope="module")
def model():
    """The first member of the potential that comes with the package."""
    return load("anipot-hcno")[0]


@pytest.fixture(scope="module")
def exact():
    """The same networks in float64."""
    return load("anipot-hcno", dtype="float64")[0]


def moved(data, distances, seed=0):
    """Each conformer moved as a whole by its distance, in a direction of its own."""
    directions = np.random.default_rng(seed).normal(size=(len(data), 3))
    directions /= np.abs(directions).max(axis=1, keepdims=True)
    shifts = directions * np.broadcast_to(distances, len(data))[:, None]
    return replace(data, coordinates=data.coordinates + np.repeat(shifts, data.n_atoms, axis=0))


def two_molecules(distance):
    """Methane, methane so far away along y, water."""
    methane, water = molecule("CH4"), molecule("H2O")
    far = methane.positions + np.array([0, distance, 0])
    x = np.concatenate([methane.positions, far, water.positions])
    numbers = np.concatenate([methane.numbers, methane.numbers, water.numbers])
    return Conformers(numbers, x, [0, 10, 13])


DISTANCES = [0.0, 50.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7]


def test_predictions_do_not_depend_on_where_a_molecule_lies(model, exact):
    data = random_conformers(np.random.default_rng(0), [5, 9, 1, 7, 6, 3, 8, 4])
    truth = exact.predict(data, forces=True)
    found = model.predict(moved(data, DISTANCES), forces=True)
    here = model.predict(data, forces=True)
    for name in ("energies", "forces"):
        expected = getattr(truth, name)
        error = np.abs(getattr(here, name) - expected).max()
        assert error < 1e-5
        np.testing.assert_allclose(getattr(found, name), expected, rtol=0, atol=3 * error + 1e-6)
    assert np.abs(truth.forces).max() > 0.1
    aevs = environments(data).aevs, environments(moved(data, DISTANCES)).aevs
    np.testing.assert_allclose(*aevs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
def test_nor_on_the_images_in_which_a_crystal_is_given(model, exact, pbc):
    """Small cells and a large one, each atom many cells away, all of them elsewhere in the open."""
    rng = np.random.default_rng(1)
    cells = np.stack([random_cell(rng, length) for length in (4.0, 5.0, 300.0, 4.5)])
    cells[3, 0] *= -1  # left-handed
    data = random_conformers(rng, [3, 5, 6, 4], cells=cells, pbc=np.array([pbc] * 4))
    truth = exact.predict(data, forces=True, stress=all(pbc))
    shifts = rng.integers(-3000, 3000, (data.total_atoms, 3)) * np.array(pbc)
    images = np.einsum("ab,abc->ac", shifts, np.repeat(cells, data.n_atoms, axis=0))
    far = replace(data, coordinates=data.coordinates + images)
    if all(pbc):
        far = moved(far, 1e5)
    found = model.predict(far, forces=True, stress=all(pbc))
    np.testing.assert_allclose(found.energies, truth.energies, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.forces, truth.forces, rtol=0, atol=2e-5)
    if all(pbc):
        np.testing.assert_allclose(found.stress, truth.stress, rtol=0, atol=1e-6)
        assert np.abs(truth.stress).max() > 1e-5
    for m in range(len(data)):
        own = slice(data.offsets[m], data.offsets[m + 1])
        step = model.stepper(data.atomic_numbers[own], pbc)
        point = step(far.coordinates[own], cells[m], stress=all(pbc))
        np.testing.assert_allclose(point.energy, truth.energies[m], rtol=0, atol=2e-5)
        np.testing.assert_allclose(point.forces, truth.forces[own], rtol=0, atol=2e-5)


def test_batches_for_training_are_near_the_origin_wherever_they_come_from(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    data = random_conformers(rng, rng.integers(2, 6, 40))
    data = replace(data, energies=rng.normal(size=40))
    far = moved(data, 10.0 ** rng.uniform(0, 7, 40))
    far.save(tmp_path / "far.npz")
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)
    store = load_dataset(pack([tmp_path / "far.npz"], tmp_path / "store", progress=False))
    assert store.streams
    index = torch.as_tensor(rng.permutation(40)[:16])
    loader = BatchLoader(data, 16, "HCNO")
    wanted = loader.batch(index)
    exact_shape = BatchLoader(data, 16, "HCNO", dtype=torch.float64).batch(index).coordinates
    memory = BatchLoader(far, 16, "HCNO")
    found = [
        memory.batch(index),
        BatchLoader(store, 16, "HCNO").batch(index),
        PaddedBatches(memory, (64, 64, 64, 64), 16).batch(index),
    ]
    for batch in found:
        real = batch.conformer < 16
        x, owner = batch.coordinates[real].double(), batch.conformer[real]
        assert x.dtype == torch.float64
        assert x.abs().max() < NEAR + 20
        for b in range(16):
            shape = exact_shape[wanted.conformer == b]
            own = x[owner == b]
            # Differences of coordinates, to the rounding of what is near the origin.
            np.testing.assert_allclose(own - own[0], shape - shape[0], rtol=0, atol=1e-5)


def test_what_lies_near_stays_as_it_is_to_the_bit():
    rng = np.random.default_rng(3)
    for kind in (np.float32, np.float64):
        data = random_conformers(rng, [4, 0, 7])
        x = (data.coordinates + np.array([40.0, -40.0, 30.0])).astype(kind)
        data = replace(data, coordinates=x)
        assert resolved(data) is data.coordinates
        # One that is moved moves no other.
        both = Conformers.concatenate([data, moved(random_conformers(rng, [3]), 1e4)])
        assert np.array_equal(resolved(both)[:11], x)
        assert np.array_equal(both.coordinates[:11], x)
    far = moved(random_conformers(rng, [5]), 1e6)
    batch = Batch.of(far, "HCNO", torch.float64)
    assert np.array_equal(batch.conformer_order(batch.coordinates), far.coordinates)


def test_what_float32_cannot_resolve_is_refused_by_name(model, exact, tmp_path, monkeypatch):
    data = two_molecules(1e6)
    message = (
        r"^conformer 0 \(C2H8\) extends over 1e\+06 angstrom, and float32 resolves 8192.*"
        "float64"
    )
    with pytest.raises(DataError, match=message):
        model.predict(data)
    with pytest.raises(DataError, match=r"^conformer 1 \(C2H8"):
        model.predict(data.take([1, 0]))
    with pytest.raises(DataError, match=r"^the system extends over 1e\+06 angstrom"):
        model.stepper(data.atomic_numbers[:10])(data.coordinates[:10])
    labelled = replace(data, energies=np.zeros(2))
    with pytest.raises(DataError, match=r"^conformer 0 \(C2H8"):
        ANITrainer(ANIModel.create("HCNO", hidden=[4]), epochs=1).train(
            labelled, labelled.take([1])
        )
    with pytest.raises(DataError, match=r"^conformer 0 \(C2H8"):
        environments(data)
    # What takes float64 is no trouble.
    apart = exact.predict(data).energies[0]
    alone = exact.predict(two_molecules(50.0)).energies[0]
    assert apart == pytest.approx(alone, abs=1e-9)

    many = Conformers.concatenate([two_molecules(50.0)] * 10 + [data] + [two_molecules(9.0)] * 5)
    many.save(tmp_path / "many.npz")
    monkeypatch.setattr(views_module, "VIEW_FROM", 5)
    monkeypatch.setattr(conformers_module, "READ_AT_ONCE", 7)
    store = load_dataset(pack([tmp_path / "many.npz"], tmp_path / "store", progress=False))
    with pytest.raises(DataError, match=r"^conformer 20 \(C2H8"):
        model.predict(store)
    with pytest.raises(DataError, match=r"^conformer 20 \(C2H8"):
        BatchLoader(store, 4, "HCNO").batch(torch.tensor([3, 20, 1]))


def test_at_the_limit_errors_are_what_the_limit_says(model, exact):
    data = two_molecules(2 * FARTHEST - 5).take([0])
    energy, truth = model.predict(data, forces=True), exact.predict(data, forces=True)
    assert abs(energy.energies - truth.energies)[0] * 627.5 < 0.01
    assert np.abs(energy.forces - truth.forces).max() * 627.5 < 0.2
    with pytest.raises(DataError, match="extends over"):
        model.predict(two_molecules(2 * FARTHEST + 5))


def test_numbers_that_are_no_places_are_left_to_the_engines(model):
    good = two_molecules(4.0)
    for bad, message in (
        (np.nan, "finite"),
        (np.inf, "finite"),
        (1e300, "1e\\+300 angstrom"),
        (-1e20, "1e\\+20 angstrom"),
    ):
        x = good.coordinates.copy()
        x[11, 1] = bad
        data = replace(good, coordinates=x)
        with pytest.raises(DataError, match=f"conformer 1 .*{message}"):
            model.predict(data)
    cell = 5 * np.eye(3)
    for spoil in (np.nan, np.inf, 0.0):
        lattice = cell.copy()
        lattice[1] = spoil
        far = replace(
            good.take([1]),
            coordinates=np.array([[0.0, 0, 0], [1e6, 0, 0], [0, 1, 1]]),
            cells=lattice[None],
            pbc=np.ones((1, 3), dtype=bool),
        )
        with pytest.raises(DataError, match="conformer 0"):
            model.predict(far)
    assert np.array_equal(near_origin(np.full((2, 3), 1e16)), np.full((2, 3), 1e16))


def test_digits_that_a_file_has_lost_are_told_once(model, caplog):
    data = moved(random_conformers(np.random.default_rng(5), [4, 3]), [1.0, 1e6])
    model.predict(data)
    assert not caplog.records
    model.predict(replace(data, coordinates=data.coordinates.astype(np.float32)))
    (record,) = caplog.records
    assert "conformer 1 (" in record.getMessage()
    assert "in float32, which rounds them by up to 3e-02 angstrom" in record.getMessage()
