"""EnergyStep: loss and gradient of a batch, without the columns that are zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.batches import Batch, BatchLoader
from anipot.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import EnergyLoss

#: Atoms in a batch from which it is divided by the elements of its conformers, and atoms that a
#: part must have.
DIVIDE_FROM = 8192
SMALLEST_PART = 2048


class _Elements(NamedTuple):
    """What conformers of some of the model's elements need: an AEV without the others' blocks."""

    symbols: list[str]
    aev: AEVComputer
    place: Tensor  # (E,) int64: of each of the model's elements among these
    columns: Tensor  # of the whole AEV that these elements have


class EnergyStep:
    """The loss of a batch on energies; its gradient is added to that of the weights.

    A hydrocarbon's ANI-1x AEV has 128 columns that are not zero, of 384, and the first layer is
    most of a network. So a large batch is divided into parts by the elements that occur in a
    conformer, and each part has AEVs of its elements only. The sum is the same but for rounding.
    This pays
    with the native engine, where AEVs cost little, and for parts of thousands of atoms.
    """

    def __init__(
        self,
        model: ANIModel,
        loader: BatchLoader,
        targets: Tensor,
        aevs: AEVSource,
        loss_of: EnergyLoss,
        to_target: float,
        composition: np.ndarray,
    ) -> None:
        self.model, self.loader, self.targets, self.aevs = model, loader, targets, aevs
        self.loss_of, self.to_target = loss_of, to_target
        self.divides = (
            model.aev.engine_on(model.device) == "native"
            and loader not in aevs
            and loader.atoms_per_batch >= DIVIDE_FROM
            and len(model.elements) < 63  # a bit each
        )
        #: (M,) which elements occur in a conformer, a bit each
        bits = (composition > 0) @ (1 << np.arange(len(model.elements)))
        self._bits = torch.as_tensor(bits.astype(np.int64))
        self._atoms = torch.as_tensor(composition.sum(axis=1))
        self._made: dict[int, _Elements] = {}

    def __call__(self, index: Tensor) -> Tensor:
        """The mean loss (a float64 scalar, detached) over the conformers ``index`` (B,)."""
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for bits, members in self._parts(index):
            batch = self.loader.batch(members)
            predicted = self._energies(batch, bits) * self.to_target
            error = predicted - self.targets[batch.index]
            loss = self.loss_of(error, batch.n_atoms).sum() / len(index)
            loss.backward()
            total += loss.detach()
        return total

    def _parts(self, index: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(elements, conformers) of each part of a batch, in an order that depends on it alone."""
        everything = (1 << len(self.model.elements)) - 1
        if not self.divides:
            yield everything, index
            return
        bits, atoms = self._bits[index], self._atoms[index]
        rest = torch.ones(len(index), dtype=torch.bool)
        for b in torch.unique(bits).tolist():
            mine = bits == b
            if b != everything and int(atoms[mine].sum()) >= SMALLEST_PART:
                rest &= ~mine
                yield b, index[mine]
        if rest.any():
            yield everything, index[rest]

    def _energies(self, batch: Batch, bits: int) -> Tensor:
        """(B,) float64: the networks' part of the energies, in the networks' unit."""
        model = self.model
        here = self._elements(bits)
        if len(here.symbols) == len(model.elements):
            return model.network_energies(batch, self.aevs(self.loader, batch))
        counts = tuple(batch.counts[model.elements.index(e)] for e in here.symbols)
        part = replace(batch, species=here.place[batch.species], counts=counts)
        with torch.no_grad():
            aevs = here.aev(part)
        atomic = [
            model.networks[e](x, here.columns)
            for e, x in zip(here.symbols, aevs.split(counts), strict=True)
        ]
        return batch.sum_atoms(torch.cat(atomic))

    def _elements(self, bits: int) -> _Elements:
        if bits not in self._made:
            model = self.model
            indices = [i for i in range(len(model.elements)) if bits >> i & 1]
            symbols = [model.elements[i] for i in indices]
            place = torch.zeros(len(model.elements), dtype=torch.int64)
            place[indices] = torch.arange(len(indices))
            settings = model.aev.settings
            self._made[bits] = _Elements(
                symbols,
                AEVComputer(settings.with_elements(symbols), model.aev.engine_name),
                place,
                torch.as_tensor(settings.columns(indices)),
            )
        return self._made[bits]
