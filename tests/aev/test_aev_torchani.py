"""The reference engine and anipot's use of TorchANI against TorchANI itself, in float64."""

import numpy as np
import pytest
import torch
from helpers import as_padded, exact_torchani_aev, random_cell, random_conformers
from torch import Tensor

from anipot.aev import AEVComputer, AEVSettings
from anipot.data.batches import Batch

SETTINGS = {"ani1x": AEVSettings.ani1x(), "ani2x": AEVSettings.ani2x()}
ENGINES = ["reference", "torchani"]


def closeness(value: Tensor, truth: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((value - truth).detach().abs().max() / truth.detach().abs().max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("sizes", [[2], [5], [13], [40], [1, 40, 2, 7, 1, 23, 13, 3, 40]], ids=str)
def test_aev_and_derivative_are_those_of_torchani(name, engine, sizes):
    settings = SETTINGS[name]
    rng = np.random.default_rng(len(sizes) + sizes[0])
    conformers = random_conformers(rng, sizes, settings.elements)
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    x = batch.coordinates.clone().requires_grad_()
    aev = AEVComputer(settings, engine)(batch, x)

    species, padded = as_padded(conformers, settings.elements)
    there = species >= 0
    padded.requires_grad_()
    truth = exact_torchani_aev(settings)(species, padded)[there]
    assert closeness(batch.conformer_order(aev), truth) < 1e-10

    weights = torch.as_tensor(rng.normal(size=truth.shape))
    (batch.conformer_order(aev) * weights).sum().backward()
    (truth * weights).sum().backward()
    assert closeness(batch.conformer_order(x.grad), padded.grad[there]) < 1e-9


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("length", [3.0, 6.0, 11.0])
def test_periodic_aev_and_derivatives_are_those_of_torchani(name, engine, length):
    settings = SETTINGS[name]
    rng = np.random.default_rng(int(length))
    cell = random_cell(rng, length)
    size = max(2, round(0.08 * abs(np.linalg.det(cell))))
    conformers = random_conformers(rng, [size], settings.elements, cells=cell[None])
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    x = batch.coordinates.clone().requires_grad_()
    cells = batch.cells.clone().requires_grad_()
    aev = AEVComputer(settings, engine)(batch, x, cells)

    species, padded = as_padded(conformers, settings.elements)
    padded.requires_grad_()
    cell_of_torchani = torch.as_tensor(cell).requires_grad_()
    pbc = torch.tensor([True] * 3)
    truth = exact_torchani_aev(settings)(species, padded, cell_of_torchani, pbc)[0]
    assert closeness(batch.conformer_order(aev), truth) < 1e-10

    weights = torch.as_tensor(rng.normal(size=truth.shape))
    (batch.conformer_order(aev) * weights).sum().backward()
    (truth * weights).sum().backward()
    assert closeness(batch.conformer_order(x.grad), padded.grad[0]) < 1e-9
    assert closeness(cells.grad[0], cell_of_torchani.grad) < 1e-9


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_is_as_close_as_float32_can_be(name):
    settings = SETTINGS[name]
    conformers = random_conformers(np.random.default_rng(3), [20, 1, 9], settings.elements)
    exact = AEVComputer(settings, "reference")(
        Batch.of(conformers, settings.elements, dtype=torch.float64)
    )
    for engine in ENGINES:
        aev = AEVComputer(settings, engine)(Batch.of(conformers, settings.elements))
        assert aev.dtype == torch.float32
        assert closeness(aev.double(), exact) < 2e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_pair_index_is_torchanis_order_of_element_pairs(name):
    settings = SETTINGS[name]
    table = exact_torchani_aev(settings).triu_index
    n = settings.n_elements
    ours = [[settings.pair_index(a, b) for b in range(n)] for a in range(n)]
    assert table.tolist() == ours


def test_published_settings_are_those_of_torchani():
    from torchani.aev import AEVComputer as Theirs

    for name, settings in SETTINGS.items():
        theirs = Theirs(name, name, settings.n_elements)
        ours = exact_torchani_aev(settings, torch.float32)
        for key, value in theirs.state_dict().items():
            # TorchANI makes the shifts with linspace, the parameter files have 8 digits.
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=2e-7, atol=5e-8)
        assert settings.length == theirs.out_dim
        assert settings.radial_cutoff == theirs.radial.cutoff
        assert settings.angular_cutoff == theirs.angular.cutoff
