"""Hessian: second derivatives of the energy, by autograd through the reference engine."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from anipot.aev.computer import AEVComputer
from anipot.data.batches import known_species
from anipot.data.conformers import Conformers, check_conformers
from anipot.errors import DataError
from anipot.potential.base import Potential
from anipot.potential.model import ANIModel


def hessian(potential: Potential, conformer: Conformers) -> np.ndarray:
    """(3N, 3N) hartree/angstrom^2: second derivatives of the energy of one conformer.

    Rows and columns are x, y, z of atom after atom. Of an ensemble: of the mean energy. It is
    computed in float64 whatever the potential's precision, since differences of forces are what
    matters here; a cell stays as it is. The second derivative of the CELU of the published
    potentials jumps at zero, so differences of forces over steps of 0.01 angstrom may be several
    eV/angstrom^2 off what is found here, those over 1e-5 angstrom are not. Time and memory grow
    with N^2. Raises DataError for more than one conformer and for an element that the potential
    does not know.
    """
    check_conformers(conformer, "a Hessian")
    if len(conformer) != 1:
        raise DataError(f"a Hessian is of one conformer, not of {len(conformer)}")
    models = [_exact(member) for member in potential.models]
    for model in models:
        known_species(conformer, model.trained or model.elements)
    batch = models[0].batch(conformer)
    n = len(batch.species)
    x = batch.coordinates.detach().requires_grad_()
    moved = replace(batch, coordinates=x)
    with torch.enable_grad():
        aevs = models[0].aev(moved)
        energy = torch.stack([model(moved, aevs).sum() for model in models]).mean()
        (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        rows = torch.zeros(3 * n, 3 * n, dtype=x.dtype)
        if gradient.requires_grad:  # it does not where no atom has a neighbour
            for k, slope in enumerate(gradient.reshape(-1)):
                (row,) = torch.autograd.grad(slope, x, retain_graph=True, materialize_grads=True)
                rows[k] = row.reshape(-1)
    place = batch.rows.cpu().numpy()
    whole = rows.numpy().reshape(n, 3, n, 3)[place][:, :, place].reshape(3 * n, 3 * n)
    symmetric: np.ndarray = (whole + whole.T) / 2
    return symmetric


def _exact(model: ANIModel) -> ANIModel:
    """A copy in float64 whose AEVs can be differentiated twice."""
    twin = copy.deepcopy(model).double().eval().requires_grad_(False)
    twin.aev = AEVComputer(model.aev.settings, "reference")
    return twin
