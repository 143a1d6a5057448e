"""First and second derivatives of AEVs against finite differences, in coordinates and cells."""

import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers

from anipot.aev import AEVComputer, AEVSettings
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers

#: Smooth functions that reach far: finite differences of sharp ones would say little.
SMALL = AEVSettings(
    elements=("H", "C"),
    radial_cutoff=3.0,
    angular_cutoff=2.5,
    radial_eta=(1.0, 2.0),
    radial_shifts=(0.9, 1.8),
    angular_eta=(1.5,),
    zeta=(1.0, 3.5),
    angular_shifts=(1.0, 1.6),
    angle_shifts=(0.4, 1.9),
)
COMPUTER = AEVComputer(SMALL, "reference")


def batch_of(conformers: Conformers) -> Batch:
    return Batch.of(conformers, SMALL.elements, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [[2], [3], [4, 1, 2]], ids=str)
def test_coordinates(sizes):
    batch = batch_of(random_conformers(np.random.default_rng(len(sizes)), sizes, "HC"))
    x = batch.coordinates.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: COMPUTER(batch, x), (x,))
    assert torch.autograd.gradgradcheck(lambda x: COMPUTER(batch, x), (x,))


def test_coordinates_and_cells():
    rng = np.random.default_rng(5)
    cells = np.stack([random_cell(rng, 2.0), random_cell(rng, 2.5)])
    pbc = np.array([[1, 1, 1], [0, 1, 1]], dtype=bool)
    batch = batch_of(random_conformers(rng, [2, 1], "HC", cells=cells, pbc=pbc))
    inputs = (batch.coordinates.clone().requires_grad_(), batch.cells.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, c: COMPUTER(batch, x, c), inputs)
    assert torch.autograd.gradgradcheck(lambda x, c: COMPUTER(batch, x, c), inputs)
    _, of_cells = torch.autograd.grad(COMPUTER(batch, *inputs).sum(), inputs)
    assert (of_cells[1, 0] == 0).all()  # not periodic in that direction


def test_collinear_atoms_have_second_derivatives():
    line = Conformers([1, 6, 1], np.array([[-1.1, 0, 0], [0, 0, 0], [1.2, 0, 0]]), [0, 3])
    batch = batch_of(line)
    x = batch.coordinates.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: COMPUTER(batch, x), (x,))
    assert torch.autograd.gradgradcheck(lambda x: COMPUTER(batch, x), (x,))


def bent_at(thetas: np.ndarray) -> Conformers:
    """CH2 fragments of which the angle that enters eq. 4 (with its 0.95) is theta."""
    true = np.arccos(np.cos(thetas) / 0.95)
    x = np.zeros((len(thetas), 3, 3))
    x[:, 1, 0] = 1.0
    x[:, 2, :2] = 1.1 * np.stack([np.cos(true), np.sin(true)], axis=1)
    n = len(thetas)
    return Conformers(np.tile([6, 1, 1], n), x.reshape(-1, 3), 3 * np.arange(n + 1))


def test_where_the_angular_base_is_zero():
    """theta = angle shift + pi: a power of zero, which must have its derivatives all the same."""
    theta = 2.0
    settings = AEVSettings(
        **{**SMALL.to_dict(), "angle_shifts": (theta + np.pi, theta - np.pi), "zeta": (1.0, 1.5)}
    )
    computer = AEVComputer(settings, "reference")
    batch = batch_of(bent_at(np.array([theta])))
    x = batch.coordinates.clone().requires_grad_()
    assert computer(batch, x)[:, settings.radial_length :].abs().min() < 1e-12
    assert torch.autograd.gradcheck(lambda x: computer(batch, x), (x,))
    # Around it, rounding gives bases of 0, of a hair above, and of a hair below.
    near = bent_at(theta + np.linspace(-1e-3, 1e-3, 301))
    for dtype in (torch.float32, torch.float64):
        batch = Batch.of(near, settings.elements, dtype=dtype)
        x = batch.coordinates.clone().requires_grad_()
        aev = computer(batch, x)
        (grad,) = torch.autograd.grad(aev.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        for values in (aev, grad, second):
            assert torch.isfinite(values).all()


def test_hessian_is_the_derivative_of_the_gradient_and_symmetric():
    settings = AEVSettings.ani1x("HC")
    batch = Batch.of(
        random_conformers(np.random.default_rng(9), [5], "HC", min_distance=0.9),
        settings.elements,
        dtype=torch.float64,
    )
    computer = AEVComputer(settings, "reference")
    weights = torch.linspace(-1, 1, settings.length, dtype=torch.float64)

    def energy(x):
        return torch.tanh(computer(batch, x) @ weights).sum()

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(energy(x), x)[0]

    x = batch.coordinates
    hessian = torch.autograd.functional.hessian(energy, x).view(15, 15)
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-10)
    h = 1e-5
    steps = torch.eye(15, dtype=torch.float64).view(15, 5, 3) * h
    numeric = torch.stack([(gradient(x + s) - gradient(x - s)).view(15) / (2 * h) for s in steps])
    torch.testing.assert_close(hessian, numeric, rtol=1e-6, atol=1e-6 * float(hessian.abs().max()))


def test_strain_of_coordinates_and_cell_is_the_strain_of_the_crystal():
    """The derivative in a strain, as stress needs it, against a crystal that is strained."""
    rng = np.random.default_rng(10)
    batch = batch_of(random_conformers(rng, [3], "HC", cells=random_cell(rng, 2.2)[None]))

    def total(strain):
        deformation = torch.eye(3, dtype=torch.float64) + strain
        return COMPUTER(batch, batch.coordinates @ deformation, batch.cells @ deformation).sum()

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(total(strain), strain)
    h = 1e-6
    for a in range(3):
        for b in range(3):
            step = torch.zeros(3, 3, dtype=torch.float64)
            step[a, b] = h
            numeric = (total(step) - total(-step)) / (2 * h)
            assert abs(numeric - grad[a, b]) < 1e-6 * float(grad.abs().max())
    # A rotation is no strain: the derivative in it is 0 (the antisymmetric part vanishes).
    torch.testing.assert_close(grad, grad.T, rtol=0, atol=1e-10)
