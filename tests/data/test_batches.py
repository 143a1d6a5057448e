import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import conformers

from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.elements import index_table
from anipot.errors import DataError, SettingsError

ORDER = ("O", "H", "N", "C")  # not by atomic number, as in ANI-2x


@given(conformers(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_holds_its_conformers_sorted_by_element(data, draw):
    index = draw.draw(st.permutations(range(len(data))))
    index = index[: draw.draw(st.integers(1, len(data)))]
    loader = BatchLoader(data, len(data), ORDER, dtype=torch.float64)
    batch = loader.batch(torch.tensor(index))
    chosen = data.take(index)
    species = index_table(ORDER)[chosen.atomic_numbers]

    assert (batch.species.diff() >= 0).all()
    assert batch.counts == tuple(np.bincount(species, minlength=4))
    # Back in conformer order, every atom is where the user has it.
    assert torch.equal(batch.conformer_order(batch.species), torch.tensor(species))
    expected = torch.tensor(chosen.coordinates, dtype=torch.float64)
    assert torch.equal(batch.conformer_order(batch.coordinates), expected)
    assert torch.equal(batch.rows[batch.atoms], torch.arange(len(species)))
    assert torch.equal(batch.offsets, torch.tensor(chosen.offsets))
    owner = np.repeat(np.arange(len(chosen)), chosen.n_atoms)
    assert torch.equal(batch.conformer_order(batch.conformer), torch.tensor(owner))
    assert torch.equal(torch.tensor(data.coordinates)[batch.data_atoms].double(), batch.coordinates)
    # Ties keep the order of the atoms, so that a batch is one thing and not several.
    for k in range(4):
        assert (batch.atoms[batch.species == k].diff() > 0).all()
    np.testing.assert_array_equal(batch.energies.numpy(), chosen.energies)
    assert (batch.forces is None) == (data.forces is None)
    if batch.forces is not None:
        np.testing.assert_array_equal(batch.conformer_order(batch.forces), chosen.forces)
    if data.cells is not None:
        np.testing.assert_array_equal(batch.cells, chosen.cells)


@given(conformers())
@settings(max_examples=30, deadline=None)
def test_sums_over_atoms_are_those_of_each_conformer(data):
    batch = Batch.of(data, ORDER)
    values = torch.arange(len(batch.species), dtype=torch.float64) ** 2
    by_atom = batch.conformer_order(values).numpy()
    expected = [by_atom[a:b].sum() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]
    np.testing.assert_allclose(batch.sum_atoms(values), expected)
    assert batch.sum_atoms(values.float()).dtype == torch.float64


@given(conformers(least=3), st.integers(0, 1000), st.integers(0, 50), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_order_is_a_function_of_seed_and_epoch(data, seed, epoch, size):
    loader = BatchLoader(data, size, ORDER, shuffle=True, seed=seed)
    again = BatchLoader(data, size, ORDER, shuffle=True, seed=seed)
    for other in range(3):
        again.order(other)  # what was asked before must not matter
    first = [b.index.tolist() for b in loader.epoch(epoch)]
    assert first == [b.index.tolist() for b in again.epoch(epoch)]
    assert sorted(i for batch in first for i in batch) == list(range(len(data)))
    assert len(first) == len(loader)
    middle = len(first) // 2
    assert first[middle:] == [b.index.tolist() for b in again.epoch(epoch, start=middle)]


def test_epochs_and_seeds_differ():
    data = Conformers(np.ones(200), np.zeros((200, 3)), np.arange(201))
    loader = BatchLoader(data, 10, "H", shuffle=True, seed=1)
    assert not torch.equal(loader.order(0), loader.order(1))
    assert not torch.equal(loader.order(0), BatchLoader(data, 1, "H", shuffle=True).order(0))
    assert torch.equal(BatchLoader(data, 10, "H").order(5), torch.arange(200))


def test_reading_batches_changes_nothing():
    data = Conformers([1, 8], np.ones((2, 3)), [0, 1, 2], energies=[-0.5, -75.0])
    before = data.content_hash()
    for batch in BatchLoader(data, 2, "HO").epoch():
        batch.coordinates.add_(1.0)
        batch.energies.add_(1.0)
    assert data.content_hash() == before


def test_an_unknown_element_is_named():
    data = Conformers([6, 1, 1, 1, 9], np.zeros((5, 3)), [0, 5])
    with pytest.raises(DataError, match=r"atom 4 of conformer 0 \(CH3F.*is F.*knows H, C, N, O"):
        BatchLoader(data, 1, "HCNO")


def test_batch_size_must_be_positive():
    with pytest.raises(SettingsError, match="batch_size"):
        BatchLoader(Conformers([1], np.zeros((1, 3)), [0, 1]), 0, "H")


def test_a_molecule_of_one_atom_and_one_conformer():
    batch = Batch.of(Conformers([1], np.zeros((1, 3)), [0, 1]), "HC")
    assert len(batch) == 1
    assert batch.counts == (1, 0)
    assert batch.n_atoms.tolist() == [1]
    assert batch.energies is None


def test_what_a_mask_says_is_lacking_is_no_label():
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(6, 3)).astype(np.float32)
    forces[2:4] = 0  # of the conformer that has none, and not NaN
    data = Conformers(
        atomic_numbers=np.array([1, 1, 1, 1, 8, 1], dtype=np.uint8),
        coordinates=rng.normal(size=(6, 3)),
        offsets=np.array([0, 2, 4, 6]),
        energies=np.array([0.0, -1.0, -2.0]),
        forces=forces,
        molecule=np.zeros(3, dtype=np.int32),
        molecule_names=("x",),
        masks={
            "energies": np.array([False, True, True]),
            "forces": np.array([True, False, True]),
        },
    )
    batch = BatchLoader(data, 3, ORDER).batch(torch.arange(3))
    assert torch.equal(batch.energies.isnan(), torch.tensor([True, False, False]))
    lacks = batch.conformer_order(batch.forces).isnan().all(1)
    assert torch.equal(lacks, torch.tensor([False, False, True, True, False, False]))
    assert not np.isnan(data.forces).any()  # the data stays as it is
    assert data.energies[0] == 0
