"""Errors of networks on a validation set."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anipot import units
from anipot.aev.computer import AEVComputer
from anipot.data.batches import BatchLoader
from anipot.potential.outputs import outputs_of
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import Term, forces_of
from anipot.training.ranks import ranks


class Validation(NamedTuple):
    """Errors in kcal/mol (forces: per angstrom) and the loss, of a validation set."""

    mae: float
    rmse: float
    loss: float
    force_mae: float | None = None
    force_rmse: float | None = None


def validate(
    networks: nn.Module,
    aev: AEVComputer,
    loader: BatchLoader,
    terms: list[Term],
    aevs: AEVSource,
    output_to_target: float,
    target_unit: str,
    derivatives: bool,
) -> Validation:
    """Return the errors of ``networks`` on all conformers of ``loader``, in evaluation mode.

    ``output_to_target`` is the factor from the networks' unit to ``target_unit``, that of the loss.
    Several ranks share the batches, and all return the same.
    """
    scale, group = units.hartree_to(target_unit), ranks()
    networks.eval()
    losses, counts = torch.zeros(2, len(terms), dtype=torch.float64, device=loader.device)
    # n, sum of |error|, sum of error^2
    energies, forces = torch.zeros(2, 3, dtype=torch.float64, device=loader.device)
    for k, index in enumerate(loader.indices()):
        if k % group.size != group.rank:
            continue
        batch = loader.batch(index)
        with torch.no_grad():
            outputs = outputs_of(
                lambda x, slices=batch.counts: networks(x, slices),  # type: ignore[misc]
                aev,
                batch,
                aevs(loader, batch),
                output_to_target,
                derivatives=derivatives,
                graph=False,
            )
            losses += torch.stack([term.sum(outputs, batch) for term in terms])
            counts += torch.stack([term.items(index).sum() for term in terms])
            assert batch.energies is not None
            energies += _error_sums(outputs.energies, batch.energies * scale)
            if batch.forces is not None and outputs.forces is not None:
                forces += _error_sums(*forces_of(outputs, batch, scale))
    rows = [losses, counts, energies, forces]
    sums = group.sum(torch.cat(rows)).split([len(row) for row in rows])
    of_losses, of_counts, of_energies, of_forces = (x.tolist() for x in sums)
    loss = sum(
        value / max(count, 1.0) * term.weight
        for value, count, term in zip(of_losses, of_counts, terms, strict=True)
    )
    to_kcal = units.HARTREE_TO_KCALMOL / scale
    mae, rmse = _mean_errors(of_energies, to_kcal)
    return Validation(mae, rmse, loss, *(_mean_errors(of_forces, to_kcal) if of_forces[0] else ()))


def _error_sums(predicted: Tensor, reference: Tensor) -> Tensor:
    """Number, sum of |error| and sum of error^2 (3,), float64, of what is labelled."""
    error = (predicted.double() - reference)[~torch.isnan(reference)]
    n = error.new_tensor(error.numel())
    return torch.stack([n, error.abs().sum(), error.square().sum()])


def _mean_errors(sums: list[float], scale: float) -> tuple[float, float]:
    """Mean absolute and root mean square error, times ``scale``, from ``_error_sums``."""
    n, absolute, square = sums
    return absolute / n * scale, math.sqrt(square / n) * scale
