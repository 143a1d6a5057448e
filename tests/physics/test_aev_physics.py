"""What holds of an AEV because of physics, for every engine: invariance, locality, smoothness."""

import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers
from torch import Tensor

from anipot.aev import AEVComputer, AEVSettings
from anipot.aev.computer import engine_report
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers

#: Those for GPUs have tests of their own.
ENGINES = [
    name
    for name, available, _ in engine_report()
    if available and name not in ("triton", "torchani-cuda")
]
SETTINGS = {"ani1x": AEVSettings.ani1x(), "ani2x": AEVSettings.ani2x()}


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    return request.param


def aevs(conformers: Conformers, settings: AEVSettings, engine: str) -> np.ndarray:
    """(A, L) float64 in conformer order."""
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    return batch.conformer_order(AEVComputer(settings, engine)(batch)).numpy()


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))  # proper or not: AEVs do not see handedness


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("periodic", [False, True])
def test_translation_rotation_reflection_and_order_of_atoms(engine, settings, periodic):
    rng = np.random.default_rng(1)
    cells = random_cell(rng, 4.0)[None] if periodic else None
    one = random_conformers(rng, [12], settings.elements, cells=cells)
    turn, order = rotation(rng), rng.permutation(12)
    other = Conformers(
        one.atomic_numbers[order],
        ((one.coordinates + np.array([3.0, -20.0, 7.0])) @ turn)[order],
        one.offsets,
        cells=None if cells is None else cells @ turn,
    )
    np.testing.assert_allclose(
        aevs(other, settings, engine), aevs(one, settings, engine)[order], atol=1e-12
    )


def test_two_molecules_far_apart_are_as_if_alone(engine):
    settings = SETTINGS["ani1x"]
    pair = random_conformers(np.random.default_rng(2), [9, 6])
    alone = aevs(pair, settings, engine)
    x = pair.coordinates.copy()
    x[9:] += [20.0, 0, 0]
    together = Conformers(pair.atomic_numbers, x, [0, 15])
    np.testing.assert_allclose(aevs(together, settings, engine), alone, atol=1e-13)


def test_batch_is_singles(engine):
    settings = SETTINGS["ani2x"]
    batch = random_conformers(np.random.default_rng(3), [1, 13, 2, 30, 5], settings.elements)
    singles = np.concatenate([aevs(batch.take([m]), settings, engine) for m in range(5)])
    np.testing.assert_allclose(aevs(batch, settings, engine), singles, rtol=0, atol=1e-13)


def test_batch_of_cells_is_singles():
    engines = [e for e in ENGINES if e != "torchani"]  # TorchANI's engine refuses batches of cells
    rng = np.random.default_rng(4)
    cells = np.stack([random_cell(rng, length) for length in (2.5, 4.0, 8.0, 3.0)])
    pbc = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=bool)
    batch = random_conformers(rng, [2, 5, 20, 6], cells=cells, pbc=pbc)
    for name in engines:
        singles = [aevs(batch.take([m]), SETTINGS["ani1x"], name) for m in range(4)]
        np.testing.assert_allclose(
            aevs(batch, SETTINGS["ani1x"], name), np.concatenate(singles), rtol=0, atol=1e-12
        )


def test_no_derivative_across_the_conformers_of_a_batch(engine):
    settings = SETTINGS["ani1x"]
    conformers = random_conformers(np.random.default_rng(5), [4, 7, 3])
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    x = batch.coordinates.clone().requires_grad_()
    aev = AEVComputer(settings, engine)(batch, x)
    (grad,) = torch.autograd.grad(aev[batch.conformer == 1].square().sum(), x)
    assert (grad[batch.conformer != 1] == 0).all()
    assert (grad[batch.conformer == 1] != 0).any()


def test_a_lone_atom_has_the_zero_aev(engine):
    for settings in SETTINGS.values():
        lone = random_conformers(np.random.default_rng(6), [1, 1, 1], settings.elements)
        assert (aevs(lone, settings, engine) == 0).all()


def test_blocks_of_absent_elements_are_exactly_zero(engine):
    settings = SETTINGS["ani1x"]
    hydrocarbon = aevs(random_conformers(np.random.default_rng(7), [30], "HC"), settings, engine)
    columns = np.flatnonzero((hydrocarbon != 0).any(axis=0))
    radial = range(2 * 16)
    angular = [64 + 32 * settings.pair_index(a, b) + k for a, b in ((0, 0), (0, 1), (1, 1))
               for k in range(32)]  # fmt: skip
    assert set(columns) <= {*radial, *angular}
    assert len({*radial, *angular}) == 128
    assert len(columns) > 100


def test_rows_of_a_supercell_are_those_of_the_cell(engine):
    settings = SETTINGS["ani1x"]
    rng = np.random.default_rng(8)
    cell = random_cell(rng, 3.2)
    small = random_conformers(rng, [4], cells=cell[None])
    shifts = np.array([[a, b, c] for a in range(2) for b in range(2) for c in range(2)]) @ cell
    big = Conformers(
        np.tile(small.atomic_numbers, 8),
        (small.coordinates[None] + shifts[:, None]).reshape(-1, 3),
        [0, 32],
        cells=2 * cell[None],
    )
    np.testing.assert_allclose(
        aevs(big, settings, engine), np.tile(aevs(small, settings, engine), (8, 1)), atol=1e-12
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("which", ["radial_cutoff", "angular_cutoff"])
def test_value_and_derivative_are_continuous_where_a_neighbour_crosses_a_cutoff(
    engine, settings, which
):
    """Neighbour moved by +-h about the cutoff: changes vanish with h, as h^2 for the value."""
    cutoff = getattr(settings, which)
    conformer = Conformers([6, 1, 8, 1], np.zeros((4, 3)), [0, 4])
    batch = Batch.of(conformer, settings.elements, dtype=torch.float64)

    def at(r: float) -> tuple[Tensor, Tensor]:
        x = torch.tensor([[0, 0, 0], [0.3, 1.0, 0], [-0.4, -0.5, 1.1], [1.0, 0, 0]]).double()
        x[3] = x[3] * r
        x = x[batch.atoms].requires_grad_()
        aev = AEVComputer(settings, engine)(batch, x)
        # Of the carbon alone: the others see the moved atom at other distances.
        row = int(batch.rows[0])
        weights = torch.linspace(1, 2, settings.length, dtype=torch.float64)
        weights[: settings.radial_length] *= which == "radial_cutoff"
        (slope,) = torch.autograd.grad((aev[row] * weights).sum(), x)
        return aev[row].detach() * (weights != 0), slope

    far, far_slope = at(cutoff + 1e-3)
    for h in (1e-3, 1e-4, 1e-5):
        value, slope = at(cutoff - h)
        assert (value - far).abs().max() < 30 * h * h
        assert (slope - far_slope).abs().max() < 300 * h
    inside, _ = at(cutoff - 0.1)
    assert (inside - far).abs().max() > 1e-7  # the test sees the neighbour come in
