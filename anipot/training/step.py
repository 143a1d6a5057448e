"""TrainingStep: loss and gradient of a batch, without the columns that are zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anipot.aev.computer import ElementSubset
from anipot.data.batches import Batch, BatchLoader
from anipot.potential.model import ANIModel
from anipot.potential.outputs import Outputs, outputs_of
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import Term
from anipot.training.ranks import ranks

#: Atoms in a batch from which it is divided by the elements of its conformers, and atoms that a
#: part must have.
DIVIDE_FROM = 8192
SMALLEST_PART = 2048


class TrainingStep:
    """The loss of a batch; its gradient is added to that of the weights.

    A hydrocarbon's ANI-1x AEV has 128 columns that are not zero, of 384, and the first layer is
    most of a network. So a large batch is divided into parts by the elements that occur in a
    conformer, and each part has AEVs of its elements only. The sum is the same but for rounding.
    This pays with the native engine, where AEVs cost little, and for parts of thousands of atoms.

    The batches of ``loader`` hold labels without what the networks are not to learn (self
    energies). ``to_target`` turns the networks' unit into that of the loss.
    """

    def __init__(
        self,
        model: ANIModel,
        loader: BatchLoader,
        aevs: AEVSource,
        terms: Sequence[Term],
        to_target: float,
    ) -> None:
        self.model, self.loader, self.aevs = model, loader, aevs
        self.terms, self.to_target = terms, to_target
        self.derivatives = any(term.needs != "energies" for term in terms)
        self.divides = (
            model.aev.engine_on(model.device) == "native"
            and loader not in aevs
            and loader.atoms_per_batch >= DIVIDE_FROM
            and len(model.elements) < 63  # a bit each
        )
        self._made: dict[int, ElementSubset] = {}
        self._ranks = ranks()
        self._together: DistributedDataParallel | None = None

    def __call__(self, index: Tensor) -> Tensor:
        """The mean loss (a float64 scalar, detached) over the conformers ``index`` (B,).

        Where several ranks train together each takes its share, and what it returns is its share
        of the loss; the gradient is that of the whole batch.
        """
        counts = [term.count(index) for term in self.terms]
        if self._ranks.size > 1:
            if self._together is None:  # by now it is known which layers are frozen
                # What normalizes AEVs is a buffer that never changes: nothing to send each time.
                self._together = DistributedDataParallel(_Share(self), forward_sync_buffers=False)
            loss: Tensor = self._together(self._ranks.share(index), counts)
            (loss * self._ranks.size).backward()  # the engine takes the mean over the ranks
            return loss.detach()
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for loss in self.losses(index, counts):
            loss.backward()
            total += loss.detach()
        return total

    def leave(self) -> None:
        """Forget the other ranks; what sums gradients would keep their group's threads running."""
        self._together = None

    def losses(self, index: Tensor, counts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the contributions of parts of the conformers ``index`` to the loss."""
        for bits, members in self._parts(index):
            batch = self.loader.batch(members)
            outputs = self._outputs(batch, bits)
            parts = [
                term.sum(outputs, batch) * (term.weight / count)
                for term, count in zip(self.terms, counts, strict=True)
            ]
            yield torch.stack(parts).sum()

    def _parts(self, index: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(elements, conformers) of each part of a batch, in an order that depends on it alone."""
        everything = (1 << len(self.model.elements)) - 1
        if not self.divides:
            yield everything, index
            return
        composition = self.loader.composition(index)
        # (B,) which elements occur in a conformer, a bit each
        bits = ((composition > 0) << torch.arange(composition.shape[1])).sum(1)
        atoms = composition.sum(1)
        rest = torch.ones(len(index), dtype=torch.bool)
        for b in torch.unique(bits).tolist():
            mine = bits == b
            if b != everything and int(atoms[mine].sum()) >= SMALLEST_PART:
                rest &= ~mine
                yield b, index[mine]
        if rest.any():
            yield everything, index[rest]

    def _outputs(self, batch: Batch, bits: int) -> Outputs:
        """Output of the networks for a batch, in the unit of the loss."""
        model = self.model
        here = self._elements(bits)
        if len(here.symbols) == len(model.elements):

            def networks(x: Tensor) -> Tensor:
                energies: Tensor = model.networks(x, batch.counts)
                return energies

            aevs, aev, part = self.aevs(self.loader, batch), model.aev, batch
        else:
            counts = tuple(batch.counts[model.elements.index(e)] for e in here.symbols)
            part = replace(batch, species=here.place[batch.species], counts=counts)
            aev = here.aev

            def networks(x: Tensor) -> Tensor:
                slices = zip(here.symbols, x.split(counts), strict=True)
                return torch.cat([model.networks[e](y, here.columns) for e, y in slices])

            with torch.no_grad():
                aevs = aev(part)
        return outputs_of(networks, aev, part, aevs, self.to_target, derivatives=self.derivatives)

    def _elements(self, bits: int) -> ElementSubset:
        if bits not in self._made:
            present = [i for i in range(len(self.model.elements)) if bits >> i & 1]
            self._made[bits] = self.model.aev.subset(present)
        return self._made[bits]


class _Share(nn.Module):
    """A rank's share of a loss, as the module that DistributedDataParallel wraps."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self.networks = step.model.networks
        self._losses = step.losses

    def forward(self, index: Tensor, counts: Sequence[Tensor]) -> Tensor:
        # A weight that a rank's share does not need has a gradient of zero there: the engine waits
        # for one of every weight.
        weights = [p for p in self.networks.parameters() if p.requires_grad]
        none = torch.stack([p.double().sum() for p in weights]).sum() * 0.0
        return sum(self._losses(index, counts), none) if len(index) else none
