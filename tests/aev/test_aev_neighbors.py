"""Neighbour pairs against ASE's neighbour list, which is independent of ours."""

from collections import Counter

import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from helpers import random_cell, random_conformers

from anipot.aev import neighbors
from anipot.aev.neighbors import chunks, neighbor_pairs, runs
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers


def found(conformers: Conformers, cutoff: float) -> Counter:
    """How often each (conformer, i, j, shift) occurs; i, j as in the conformer, both ways round."""
    batch = Batch.of(conformers, "HCNO", dtype=torch.float64)
    pairs = neighbor_pairs(batch, batch.coordinates, batch.cells, cutoff)
    shifts = torch.zeros(len(pairs), 3, dtype=torch.long) if pairs.shifts is None else pairs.shifts
    result: Counter = Counter()
    for i, j, shift in zip(pairs.i.tolist(), pairs.j.tolist(), shifts.tolist(), strict=True):
        b = int(batch.conformer[i])
        assert b == int(batch.conformer[j])
        i = int(batch.atoms[i] - batch.offsets[b])
        j = int(batch.atoms[j] - batch.offsets[b])
        result[b, i, j, tuple(shift)] += 1
        result[b, j, i, tuple(-n for n in shift)] += 1
    return result


def expected(conformers: Conformers, cutoff: float) -> Counter:
    result: Counter = Counter()
    for b in range(len(conformers)):
        part = slice(conformers.offsets[b], conformers.offsets[b + 1])
        periodic = conformers.pbc is not None
        i, j, shifts = primitive_neighbor_list(
            "ijS",
            conformers.pbc[b] if periodic else [False] * 3,
            conformers.cells[b] if periodic else np.zeros((3, 3)),
            conformers.coordinates[part],
            cutoff,
        )
        for pair in zip(i.tolist(), j.tolist(), map(tuple, shifts.tolist()), strict=True):
            result[b, *pair] += 1
    return result


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_ase(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    if seed % 2:
        monkeypatch.setattr(neighbors, "CANDIDATES_PER_CHUNK", int(rng.integers(1, 200)))
    sizes = rng.integers(1, 30, size=6)
    cells = np.stack([random_cell(rng, rng.uniform(2.5, 14)) for _ in sizes])
    pbc = rng.random((6, 3)) < 0.7
    pbc[0] = False
    conformers = random_conformers(rng, sizes, cells=cells, pbc=pbc)
    conformers.coordinates[:] += rng.normal(scale=20, size=3)  # mostly outside their cells
    assert found(conformers, 4.0) == expected(conformers, 4.0)
    molecules = random_conformers(rng, sizes)
    assert found(molecules, 4.0) == expected(molecules, 4.0)


def test_vectors_are_those_of_ase():
    rng = np.random.default_rng(3)
    cell = random_cell(rng, 3.5)
    conformers = random_conformers(rng, [5], cells=cell[None])
    batch = Batch.of(conformers, "HCNO", dtype=torch.float64)
    pairs = neighbor_pairs(batch, batch.coordinates, batch.cells, 5.0)
    vectors = pairs.vectors(batch, batch.coordinates, batch.cells).numpy()
    truth = primitive_neighbor_list("D", [True] * 3, cell, conformers.coordinates, 5.0)
    both = np.concatenate([vectors, -vectors])
    key = lambda v: np.round(v, 6)[np.lexsort(np.round(v, 6).T)]  # noqa: E731
    np.testing.assert_allclose(key(both), key(truth), atol=1e-5)


def test_pairs_do_not_depend_on_the_cells_of_other_conformers():
    rng = np.random.default_rng(4)
    cells = np.stack([random_cell(rng, 4.0), random_cell(rng, 9.0)])
    both = random_conformers(rng, [6, 20], cells=cells)
    together = found(both, 5.2)
    for b in range(2):
        alone = found(both.take([b]), 5.2)
        assert alone == Counter({(0, *k[1:]): n for k, n in together.items() if k[0] == b})


def test_two_thousand_atoms_in_a_box():
    """A dense periodic box: the number of pairs is that of ASE, and it takes no great memory."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 27, (2000, 3))
    box = Conformers(np.ones(2000, dtype=int), x, [0, 2000], cells=np.eye(3)[None] * 27.0)
    batch = Batch.of(box, "H", dtype=torch.float64)
    pairs = neighbor_pairs(batch, batch.coordinates, batch.cells, 5.2)
    i = primitive_neighbor_list("i", [True] * 3, np.eye(3) * 27, x, 5.2)
    assert 2 * len(pairs) == len(i)


def test_runs_and_chunks():
    lengths = torch.tensor([2, 0, 3, 1])
    run, place = runs(lengths, 6)
    assert run.tolist() == [0, 0, 2, 2, 2, 3]
    assert place.tolist() == [0, 1, 0, 1, 2, 0]
    assert list(chunks(lengths, 100)) == [(0, 4, 6)]
    assert list(chunks(lengths, 3)) == [(0, 2, 2), (2, 3, 3), (3, 4, 1)]
    assert list(chunks(lengths, 1)) == [(0, 1, 2), (2, 3, 3), (3, 4, 1)]
    assert list(chunks(lengths[:0], 5)) == []
    assert list(chunks(torch.zeros(4, dtype=torch.long), 5)) == []
