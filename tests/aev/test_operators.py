"""The native engine where PyTorch traces: compiled and exported models give the same numbers."""

import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers
from torch.library import opcheck

from anipot import ANIModel
from anipot.aev import native_library, operators

try:
    native_library.load()
except Exception as e:
    pytest.skip(f"no native engine: {e}", allow_module_level=True)


@pytest.fixture(params=[False, True], ids=["molecules", "crystals"])
def made(request):
    rng = np.random.default_rng(3)
    cells = np.stack([random_cell(rng, 5.0) for _ in range(4)]) if request.param else None
    data = random_conformers(rng, [5, 3, 9, 6], "HCNO", cells=cells)
    model = ANIModel.create("HCNO", hidden=[8, 4], seed=1, dtype="float64", engine="native")
    return model, model.batch(data)


def energies(model, batch):
    def function(x, cells):
        return model.network_energies(batch, model.aev(batch, x, cells))

    return function


def inputs(batch):
    cells = None if batch.cells is None else batch.cells.clone().requires_grad_()
    return batch.coordinates.clone().requires_grad_(), cells


def test_compiled_and_exported_models_give_the_same_numbers(made):
    model, batch = made
    function = energies(model, batch)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    x, cells = inputs(batch)
    wanted = [t for t in (x, cells) if t is not None]
    found = []
    for f in (function, compiled):
        e = f(x, cells)
        found.append([e, *torch.autograd.grad(e.sum(), wanted)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    class Module(torch.nn.Module):
        def forward(self, x, cells):
            return function(x, cells)

    given = tuple(None if t is None else t.detach() for t in (x, cells))
    exported = torch.export.export(Module(), given).module()
    torch.testing.assert_close(exported(*given), found[0][0].detach(), rtol=1e-12, atol=1e-12)


def test_the_operators_pass_the_checks_of_torch(made):
    model, batch = made
    x, cells = inputs(batch)
    rest = (batch.offsets, batch.rows, batch.species, batch.pbc, model.aev._key)
    opcheck(torch.ops.anipot.aev.default, (x, cells, *rest))
    gradient = torch.randn(len(x), model.aev.length, dtype=torch.float64).requires_grad_()
    fixed = (x.detach(), None if cells is None else cells.detach())
    opcheck(torch.ops.anipot.aev_vjp.default, (gradient, *fixed, *rest))


def test_second_derivatives_are_refused(made):
    model, batch = made
    x, cells = inputs(batch)
    rest = (batch.offsets, batch.rows, batch.species, batch.pbc, model.aev._key)
    found = operators.aev(x, cells, *rest).square().sum()
    (first,) = torch.autograd.grad(found, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="engine='reference'"):
        first.sum().backward()
