"""Losses on energies, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anipot.config import TrainingSettings

#: (errors (B,), atoms (B,)) -> (B,) each conformer's share of the loss.
EnergyLoss = Callable[[Tensor, Tensor], Tensor]


def energy_loss(settings: TrainingSettings) -> EnergyLoss:
    """The loss that ``settings.loss`` names; the loss of a batch is the mean over its conformers.

    Errors are predicted minus true energies in ``settings.target_unit``. "mse": squared error;
    "mse/sqrt(n)": squared error over the square root of the number of atoms (TorchANI's choice);
    "huber": half the squared error up to ``huber_delta``, linear beyond.
    """
    if settings.loss == "mse":
        return lambda error, n_atoms: error.square()
    if settings.loss == "mse/sqrt(n)":
        return lambda error, n_atoms: error.square() / n_atoms.sqrt()
    delta = settings.huber_delta

    def huber(error: Tensor, n_atoms: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(
            error, torch.zeros_like(error), reduction="none", delta=delta
        )

    return huber


def loss_unit(settings: TrainingSettings) -> str:
    """Unit of the loss, for tables and axes."""
    if settings.loss == "mse/sqrt(n)":
        return f"({settings.target_unit})^2/sqrt(atom)"
    return f"({settings.target_unit})^2"
