"""Structures as text: read by ASE, they are what they were."""

import io

import ase.io
import numpy as np

from anipot.data.conformers import Conformers
from anipot.report.structures import with_structures, xyz


def conformers(n: int = 3, cells: bool = True) -> Conformers:
    rng = np.random.default_rng(0)
    sizes = np.arange(2, 2 + n)
    atoms = int(sizes.sum())
    more = {
        "cells": rng.normal(size=(n, 3, 3)) + 6 * np.eye(3),
        "pbc": np.ones((n, 3), dtype=bool),
    }
    return Conformers(
        atomic_numbers=rng.choice([1, 6, 14, 17], atoms).astype(np.uint8),
        coordinates=rng.normal(scale=30, size=(atoms, 3)),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        energies=np.zeros(n),
        **(more if cells else {}),
    )


def test_ase_reads_the_same_structure():
    data = conformers()
    for k in range(len(data)):
        atoms = ase.io.read(io.StringIO(xyz(data, k)), format="extxyz")
        first, last = data.offsets[k], data.offsets[k + 1]
        assert atoms.numbers.tolist() == data.atomic_numbers[first:last].tolist()
        np.testing.assert_allclose(atoms.positions, data.coordinates[first:last], atol=6e-5)
        np.testing.assert_allclose(atoms.cell.array, data.cells[k], atol=6e-5)


def test_without_a_cell_there_is_none():
    assert "Lattice" not in xyz(conformers(cells=False), 1)


def test_each_row_gets_its_own_structure_and_none_where_there_is_none():
    data = conformers()
    rows = [{"conformer": 2, "error": 1.0}, {"conformer": 0, "error": -0.5}]
    found = with_structures(rows, data)
    assert [row["xyz"] for row in found] == [xyz(data, 2), xyz(data, 0)]
    assert [row["error"] for row in found] == [1.0, -0.5]
    assert [row["xyz"] for row in with_structures(rows, None)] == [None, None]
