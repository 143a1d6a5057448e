"""The trainer of the source's notebook, its defects included, to be read beside ``ANITrainer``.

Each defect stands where the notebook has it, with the number that it has on the page of results.
Only the numbers that show a defect are added: what they need is marked "to measure".
"""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn

from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.targets import network_targets
from anipot.units import HARTREE_TO_KCALMOL


class FrozenBatches:
    """The batches of ``data.collate(batch_size).cache()``, which no epoch shuffles (defect 10).

    Energies are those above the model's self energies, hartree.
    """

    def __init__(self, data: Conformers, model: ANIModel, batch_size: int) -> None:
        left = network_targets(model, data)
        loader = BatchLoader(
            left, batch_size, model.elements, dtype=model.dtype, device=model.device,
            labels=("energies",),
        )  # fmt: skip
        self.n = len(data)
        self.batches = list(loader.epoch())
        self._loader = loader
        self._aevs: AEVSource | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def aevs(self, batch: Batch, computer: AEVComputer) -> Tensor:
        """(N, length) of one of the batches; where they are not computed quickly, kept."""
        if self._aevs is None:
            self._aevs = AEVSource(computer, [self._loader], "auto")
        return self._aevs(self._loader, batch)


class NotebookTrainer:
    """The notebook's ``ANITrainer`` on anipot's AEVs and networks.

    ``train_data`` is the training part in batches of the notebook's global ``batch_size``; the
    notebook has it as a global variable, too. ``batch_size`` (defect 4) is read by nothing.
    """

    def __init__(
        self,
        model: ANIModel,
        train_data: FrozenBatches,
        batch_size: int,
        learning_rate: float,
        epochs: int,
        l2: float,
    ) -> None:
        self.model, self.train_data, self.epochs = model, train_data, epochs
        self.batch_size = batch_size
        # Defect 9: Adam's weight_decay adds l2 times the weight to the gradient of a loss in
        # hartree^2, which is small against it.
        self.optimizer = torch.optim.Adam(
            model.networks.parameters(), learning_rate, weight_decay=l2
        )
        self.updates = 0
        # To measure:
        self.seconds: list[float] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self.restoring_changed = 0.0

    def train(self, val_data: FrozenBatches) -> tuple[list[float], list[float]]:
        """Training and "validation" losses (hartree^2) of each epoch, as the notebook has them."""
        networks = self.model.networks
        networks.train()
        train_losses, val_losses = [], []
        lowest_val_loss = math.inf
        for epoch in range(1, self.epochs + 1):
            began = time.monotonic()
            train_epoch_loss = 0.0
            for batch in self.train_data.batches:
                batch_loss, _ = self._loss(batch)
                self.optimizer.zero_grad()
                batch_loss.backward()
                self.optimizer.step()
                self.updates += 1
                train_epoch_loss += batch_loss.item() * (len(batch) / self.train_data.n)
            self.seconds.append(time.monotonic() - began)
            val_epoch_loss, _ = self.evaluate(val_data)
            train_losses.append(train_epoch_loss)
            val_losses.append(val_epoch_loss)
            if val_epoch_loss < lowest_val_loss:
                lowest_val_loss = val_epoch_loss
                # Defect 2: no copy. These are the weights themselves, which go on changing.
                weights = networks.state_dict()
                # To measure: what a copy would have kept.
                self.best_epoch, self.best_weights = epoch, copy.deepcopy(weights)
        before = copy.deepcopy(networks.state_dict())
        if self.best_epoch:  # a loss that was never a number leaves the notebook without weights
            networks.load_state_dict(weights)
        self.restoring_changed = largest_difference(before, networks.state_dict())
        return train_losses, val_losses

    def evaluate(self, data: FrozenBatches) -> tuple[float, float]:
        """Loss (hartree^2) and MAE (kcal/mol), as the notebook takes them for those of ``data``.

        Defect 6: ``model.eval()`` is never called, so dropout stays on.
        """
        # Defect 1: the loop goes over ``data``, but what it scores is the batch that an earlier
        # cell of the notebook left in a global variable: the first one of the training part.
        train_data_batch = self.train_data.batches[0]
        total_loss, errors = 0.0, []
        with torch.no_grad():
            for _batch_data in data.batches:
                batch_loss, error = self._loss(train_data_batch)
                # The whole weight of that batch, whatever the size of ``data``.
                total_loss += batch_loss.item() * (len(train_data_batch) / data.n)
                errors.append(error.abs() * HARTREE_TO_KCALMOL)
        return total_loss, float(torch.cat(errors).mean())

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``nn.MSELoss()(true_energies, pred_energies)``, hartree^2, and the errors (B,)."""
        assert batch.energies is not None
        true_energies = batch.energies.float()
        aevs = self.train_data.aevs(batch, self.model.aev)
        pred_energies = self.model.network_energies(batch, aevs).float()
        loss = nn.functional.mse_loss(pred_energies, true_energies)
        return loss, (pred_energies - true_energies).detach()

    # ---- to measure --------------------------------------------------------------------------

    def first_batch(self) -> tuple[float, float]:
        """Loss (hartree^2) and MAE (kcal/mol) of the first training batch, in the mode set."""
        with torch.no_grad():
            loss, error = self._loss(self.train_data.batches[0])
        return loss.item(), float(error.abs().mean() * HARTREE_TO_KCALMOL)

    def atomic_energies(self) -> Tensor:
        """(N,) hartree: what the networks give for the atoms of the first training batch."""
        batch = self.train_data.batches[0]
        with torch.no_grad():
            aevs = self.train_data.aevs(batch, self.model.aev)
            return self.model.networks(aevs, batch.counts)


def draw_as_torch(model: ANIModel, seed: int) -> None:
    """Weights as ``nn.Linear`` draws them by itself, which is what the notebook leaves them at.

    Random numbers go on from the same seed: dropout's.
    """
    torch.manual_seed(seed)
    for layer in model.networks.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest absolute difference between weights of the same names."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)
