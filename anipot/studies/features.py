"""Plain networks in the trainer of atomic ones: features of whole molecules in place of AEVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anipot.aev import AEVSettings
from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.evaluation.metrics import Evaluation
from anipot.networks.atomic import AtomicNetworks
from anipot.potential.model import ANIModel

#: Coordinates (B, n, 3) of molecules of n atoms -> features (B, L).
Features = Callable[[Tensor], Tensor]


class MoleculeFeatures(AEVComputer):
    """Features of the whole molecule in place of AEVs, the same for each of its atoms.

    For molecules of one element and n atoms each. The sum over the atoms' networks is then n times
    f(features), f a plain multilayer perceptron, and training is that of every other model.
    """

    def __init__(self, element: str, of: Features, length: int) -> None:
        super().__init__(AEVSettings.cover(element), "reference")
        self.of, self._length = of, length

    @property
    def length(self) -> int:
        return self._length

    def forward(
        self, batch: Batch, coordinates: Tensor | None = None, cells: Tensor | None = None
    ) -> Tensor:
        """(N, L); with one element, rows stand in the order of the atoms."""
        x = batch.coordinates if coordinates is None else coordinates
        return self.of(x.view(len(batch), -1, 3))[batch.conformer]


def network_on(computer: AEVComputer, hidden: Sequence[int], seed: int) -> ANIModel:
    """A new model on any features; it speaks hartree. Without hidden layers it is linear."""
    elements = computer.settings.elements
    networks = AtomicNetworks(elements, computer.length, hidden, "gelu")
    networks.initialize(seed)
    return ANIModel(computer, networks, output_unit="hartree")


def evaluation(model: ANIModel, data: Conformers) -> Evaluation:
    """Predictions beside the labels, errors in hartree."""
    # Not ``evaluate``, which computes AEVs itself, whatever the features of the model are.
    with torch.no_grad():
        predicted = model(model.batch(data)).cpu().numpy()
    return Evaluation.of(data, predicted, model.self_energies.of(data)).in_unit("hartree")
