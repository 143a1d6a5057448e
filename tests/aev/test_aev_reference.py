"""The reference engine against plain loops over atoms and images (tests/slow_aev.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from slow_aev import slow_aev

from anipot.aev import AEVComputer, AEVSettings
from anipot.aev import reference as reference_engine
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.elements import index_table
from anipot.errors import DataError

#: Several values of every constant, in lists of different lengths: no two axes can be mixed up.
MANY = AEVSettings(
    elements=("O", "H", "C"),
    radial_cutoff=3.3,
    angular_cutoff=2.6,
    radial_eta=(4.0, 16.0),
    radial_shifts=(0.5, 1.2, 2.0),
    angular_eta=(3.0, 8.0),
    zeta=(1.0, 7.5, 32.0),
    angular_shifts=(0.7, 1.1, 1.5, 1.9),
    angle_shifts=(0.3, 0.9, 1.6, 2.2, 2.8),
)


def aevs(conformers: Conformers, s: AEVSettings = MANY, dtype=torch.float64) -> np.ndarray:
    """(A, L) in conformer order."""
    batch = Batch.of(conformers, s.elements, dtype=dtype)
    return batch.conformer_order(AEVComputer(s, "reference")(batch)).numpy()


def slow_aevs(conformers: Conformers, s: AEVSettings = MANY) -> np.ndarray:
    species = index_table(s.elements)[conformers.atomic_numbers]
    rows = []
    for m in range(len(conformers)):
        part = slice(conformers.offsets[m], conformers.offsets[m + 1])
        cell = None if conformers.cells is None else conformers.cells[m]
        pbc = None if conformers.pbc is None else conformers.pbc[m]
        rows.append(slow_aev(s, species[part], conformers.coordinates[part], cell, pbc))
    return np.concatenate(rows)


def assert_same(conformers: Conformers, s: AEVSettings = MANY) -> None:
    truth = slow_aevs(conformers, s)
    assert np.abs(truth).max() > 1e-3
    np.testing.assert_allclose(aevs(conformers, s), truth, rtol=0, atol=1e-12 * np.abs(truth).max())


@pytest.mark.parametrize("s", [MANY, AEVSettings.ani1x("HCO")], ids=["many", "ani1x"])
def test_molecules(s):
    assert_same(random_conformers(np.random.default_rng(0), [1, 4, 2, 6], "HCO"), s)


@pytest.mark.parametrize(
    "pbc", [[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], ids=str
)
@pytest.mark.parametrize("open_vectors", ["given", "zero", "parallel", "nan"])
def test_cells_smaller_than_the_cutoff_with_atoms_outside(pbc, open_vectors):
    rng = np.random.default_rng(sum(k * p for k, p in enumerate(pbc)))
    pbc = np.array(pbc, dtype=bool)
    cell = random_cell(rng, 2.3)
    if open_vectors == "zero":
        cell[~pbc] = 0
    if open_vectors == "parallel":
        cell[~pbc] = cell[pbc][0]
    if open_vectors == "nan":
        cell[~pbc] = np.nan
    conformers = random_conformers(rng, [3], "HCO", cells=cell[None], pbc=pbc[None])
    conformers.coordinates[1] += 3 * cell[pbc].sum(0) - 7 * cell[pbc][0]
    used = np.where(pbc[:, None], cell, 0)
    truth = slow_aev(
        MANY,
        index_table(MANY.elements)[conformers.atomic_numbers],
        # the brute force would need thousands of images for atoms far outside
        conformers.coordinates
        - np.array([[0], [1], [0]]) * (3 * used[pbc].sum(0) - 7 * used[pbc][0]),
        used,
        pbc,
    )
    np.testing.assert_allclose(aevs(conformers), truth, rtol=0, atol=1e-11 * truth.max())


def test_a_batch_of_different_cells_and_molecules():
    rng = np.random.default_rng(5)
    cells = np.stack(
        [random_cell(rng, 3.0), np.zeros((3, 3)), random_cell(rng, 5.0), np.eye(3) * 2]
    )
    pbc = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0]], dtype=bool)
    assert_same(random_conformers(rng, [2, 4, 5, 3], "HCO", cells=cells, pbc=pbc))


def test_a_sheared_cell_is_the_same_lattice():
    rng = np.random.default_rng(6)
    cell = random_cell(rng, 4.0)
    conformers = random_conformers(rng, [4], "HCO", cells=cell[None])
    sheared = cell.copy()
    sheared[1] += 5 * cell[0]
    sheared[2] -= 3 * cell[1]
    other = Conformers(
        conformers.atomic_numbers, conformers.coordinates, conformers.offsets, cells=sheared[None]
    )
    np.testing.assert_allclose(aevs(other), aevs(conformers), atol=1e-12)
    assert_same(conformers)


def test_one_atom_in_a_cell_sees_only_its_images():
    cell = np.diag([1.5, 2.0, 2.9])
    conformers = Conformers([1], np.array([[0.1, 0.2, 0.3]]), [0, 1], cells=cell[None])
    assert_same(conformers)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(7)
    cells = np.stack([random_cell(rng, 3.0)] * 2)
    molecules = random_conformers(rng, [7, 9, 1, 30], "HCO")
    crystals = random_conformers(rng, [4, 3], "HCO", cells=cells)
    whole = aevs(molecules), aevs(crystals)
    monkeypatch.setattr("anipot.aev.neighbors.CANDIDATES_PER_CHUNK", 5)
    monkeypatch.setattr(reference_engine, "TRIPLES_PER_CHUNK", 7)
    monkeypatch.setattr(reference_engine, "PAIRS_PER_CHUNK", 3)
    np.testing.assert_allclose(aevs(molecules), whole[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(aevs(crystals), whole[1], rtol=0, atol=1e-14)


def test_with_and_without_gradient_are_the_same_numbers():
    conformers = random_conformers(np.random.default_rng(8), [9, 12], "HCO")
    batch = Batch.of(conformers, MANY.elements, dtype=torch.float64)
    computer = AEVComputer(MANY, "reference")
    x = batch.coordinates.clone().requires_grad_()
    torch.testing.assert_close(computer(batch, x).detach(), computer(batch), rtol=0, atol=1e-14)


def test_two_runs_give_the_same_bits():
    conformers = random_conformers(np.random.default_rng(9), [13] * 40, "HCNO")
    batch = Batch.of(conformers, "HCNO")
    computer = AEVComputer(AEVSettings.ani1x(), "reference")
    results = []
    for _ in range(3):
        x = batch.coordinates.clone().requires_grad_()
        aev = computer(batch, x)
        aev.square().sum().backward()
        results.append((aev.detach(), x.grad))
    for aev, grad in results[1:]:
        assert torch.equal(aev, results[0][0])
        assert torch.equal(grad, results[0][1])


@st.composite
def any_settings(draw: st.DrawFn) -> AEVSettings:
    def numbers(low: float, high: float) -> tuple[float, ...]:
        return tuple(draw(st.lists(st.floats(low, high), min_size=1, max_size=3)))

    angular = draw(st.floats(0.5, 4.0))
    return AEVSettings(
        elements=draw(st.sampled_from(["H", "HC", "CH", "NOHC"])),
        radial_cutoff=angular + draw(st.floats(0, 2)),
        angular_cutoff=angular,
        radial_eta=numbers(0.0, 100),
        radial_shifts=numbers(-1, 6),
        angular_eta=numbers(0.0, 100),
        zeta=numbers(1, 100),
        angular_shifts=numbers(-1, 6),
        angle_shifts=numbers(-7, 7),
    )


@hypothesis_settings(max_examples=40, deadline=None)
@given(s=any_settings(), seed=st.integers(0, 1 << 30), data=st.data())
def test_any_settings_and_any_geometry(s, seed, data):
    """Finite, of the right shape, with finite derivatives, and the numbers of the slow loops."""
    sizes = data.draw(st.lists(st.integers(0, 4), max_size=3))
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(["apart", "grid", "cells"]))
    cells = np.stack([random_cell(rng, 2.5) for _ in sizes]) if kind == "cells" and sizes else None
    conformers = random_conformers(rng, sizes, s.elements, cells=cells)
    if kind == "grid":  # many atoms on a line, in a plane, or on top of one another
        conformers.coordinates[:] = np.round(conformers.coordinates)
    for dtype in (torch.float64, torch.float32):
        batch = Batch.of(conformers, s.elements, dtype=dtype)
        x = batch.coordinates.clone().requires_grad_()
        aev = AEVComputer(s, "reference")(batch, x)
        assert aev.shape == (sum(sizes), s.length)
        assert torch.isfinite(aev).all()
        (grad,) = torch.autograd.grad(aev.sum(), x)
        assert torch.isfinite(grad).all()
        if dtype == torch.float64 and kind != "grid" and sizes:
            truth = slow_aevs(conformers, s)
            np.testing.assert_allclose(
                batch.conformer_order(aev).detach().numpy(), truth, rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_and_collinear_atoms_give_finite_numbers_and_derivatives(dtype):
    x = np.array([[0, 0, 0], [0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0], [1.0 + 1e-7, 0, 0]])
    batch = Batch.of(Conformers([6, 1, 8, 1, 1, 6], x, [0, 6]), "HCO", dtype=dtype)
    for s in (MANY.with_elements("HCO"), AEVSettings.ani2x("HCO")):

        def total(x, s=s):
            return AEVComputer(s, "reference")(batch, x).sum()

        x = batch.coordinates
        assert torch.isfinite(total(x))
        assert torch.isfinite(torch.autograd.functional.jacobian(total, x)).all()
        assert torch.isfinite(torch.autograd.functional.hessian(total, x)).all()


def test_an_atom_exactly_on_the_cutoff_adds_nothing():
    s = AEVSettings.ani1x()
    for r in (s.radial_cutoff, s.angular_cutoff):
        x = np.array([[0, 0, 0], [r, 0, 0]])
        pair = aevs(Conformers([6, 1], x, [0, 2]), s)
        if r == s.radial_cutoff:
            assert np.abs(pair).max() < 1e-15
        # with a third atom near the first: the pair on the cutoff makes no angular part
        triple = aevs(Conformers([6, 1, 1], np.vstack([x, [0, 1.0, 0]]), [0, 3]), s)
        assert np.abs(triple[0, s.radial_length :]).max() < 1e-15


def test_no_conformer_and_conformers_without_atoms():
    s = AEVSettings.ani1x()
    for sizes in ([], [0], [0, 3, 0], [1], [1, 0, 1]):
        conformers = random_conformers(np.random.default_rng(0), sizes)
        for engine in ("reference", "torchani"):
            batch = Batch.of(conformers, "HCNO", dtype=torch.float64)
            assert AEVComputer(s, engine)(batch).shape == (sum(sizes), 384)
            x = batch.coordinates.clone().requires_grad_()
            AEVComputer(s, engine)(batch, x).sum().backward()
            assert (x.grad == 0).all() or 3 in sizes


@pytest.mark.parametrize("engine", ["reference", "torchani"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_name_the_conformer_and_the_atom(engine, bad):
    conformers = random_conformers(np.random.default_rng(1), [3, 4, 5])
    conformers.coordinates[3 + 2, 1] = bad
    batch = Batch.of(conformers.take([2, 1]), "HCNO")
    with pytest.raises(DataError, match="atom 2 of conformer 1 "):
        AEVComputer(AEVSettings.ani1x(), engine)(batch)
    cells = np.stack([np.eye(3) * 5] * 3)
    cells[2, 0, 1] = bad
    batch = Batch.of(random_conformers(np.random.default_rng(1), [2, 2, 2], cells=cells), "HCNO")
    with pytest.raises(DataError, match="cell of conformer 2 "):
        AEVComputer(AEVSettings.ani1x(), engine)(batch)


@pytest.mark.parametrize("engine", ["reference", "torchani"])
@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), [1, 1, 1]),
        (np.diag([4.0, 4.0, 0.0]), [1, 1, 1]),
        ([[4.0, 0, 0], [0, 4, 0], [1 / 3, 1 / 7, 0]], [1, 1, 1]),
        ([[4.0, 0, 0], [8, 0, 0], [0, 0, 4]], [1, 1, 0]),
        ([[0.0, 0, 0], [0, 4, 0], [0, 0, 4]], [1, 0, 0]),
    ],
)
def test_a_flat_cell_is_an_error_that_names_the_conformer(engine, cell, pbc):
    cells = np.stack([np.eye(3) * 4, np.array(cell)])
    flags = np.array([[1, 1, 1], pbc], dtype=bool)
    conformers = random_conformers(np.random.default_rng(1), [2, 2], cells=cells, pbc=flags)
    batch = Batch.of(conformers.take([1]), "HCNO")
    partial = engine == "torchani" and not flags[1].all()  # refused there, whatever the cell
    why = "some directions only" if partial else "cell of conformer 0 has no volume"
    with pytest.raises(DataError, match=why):
        AEVComputer(AEVSettings.ani1x(), engine)(batch)
    if engine == "reference":
        with pytest.raises(DataError, match="cell of conformer 1 has no volume"):
            AEVComputer(AEVSettings.ani1x(), engine)(Batch.of(conformers, "HCNO"))


def test_periodic_without_a_cell_and_atoms_beyond_all_reason_are_errors():
    conformers = random_conformers(np.random.default_rng(1), [2, 2])
    batch = Batch.of(conformers, "HCNO")
    batch = replace(batch, pbc=torch.tensor([[False] * 3, [False, True, False]]))
    with pytest.raises(DataError, match="conformer 1 is periodic but has no cell"):
        AEVComputer(AEVSettings.ani1x(), "reference")(batch)
    far = random_conformers(np.random.default_rng(1), [2, 2], cells=np.stack([np.eye(3)] * 2))
    far.coordinates[2] = 1e12
    with pytest.raises(DataError, match=r"conformer 1 has an atom at .*wrap"):
        aevs(far, AEVSettings.ani1x())
