"""Runs that follow the notebook's way of training, and their table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from anipot.data.conformers import Conformers
from anipot.data.division import Division
from anipot.evaluation.error_stats import ErrorStats
from anipot.experiments.table.settings import RowSettings
from anipot.networks.self_energies import SelfEnergies


@dataclass(frozen=True)
class NotebookRun:
    """A row as the notebook trains it.

    Losses are in hartree^2, of each epoch. ``said`` is what ``evaluate`` of the notebook says,
    (loss in hartree^2, MAE in kcal/mol) by part; ``found`` the errors (kcal/mol) of the same
    weights on the conformers of the part, in evaluation mode. ``first`` and ``last`` are the losses
    of the first training batch before the first and after the last update. ``extra`` are numbers
    that only some rows have.
    """

    row: RowSettings
    train_losses: list[float]
    val_losses: list[float]
    said: dict[str, tuple[float, float]]
    found: dict[str, ErrorStats]
    first: float
    last: float
    updates: int
    seconds: list[float]
    best_epoch: int
    restoring_changed: float
    from_best: float
    squared_weights: float
    parameters: int
    weights: dict[str, torch.Tensor] = field(repr=False)
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.row.name


@dataclass(frozen=True)
class NotebookTable:
    """All rows, runs of some of them with one thing changed (``controls``), and what they share.

    ``self_energies`` are those of the whole file and of the training part; ``shift`` (kcal/mol) is
    the mean absolute difference that this makes for the energy of a test conformer.
    """

    runs: tuple[NotebookRun, ...]
    controls: dict[str, NotebookRun]
    division: Division
    data: Conformers
    batch_size: int
    batches: dict[str, int]
    targets: np.ndarray
    atoms: np.ndarray
    self_energies: tuple[SelfEnergies, SelfEnergies]
    shift: float
    device: str
    seconds: float

    def __getitem__(self, name: str) -> NotebookRun:
        """A row by its name."""
        return next(run for run in self.runs if run.name == name)
