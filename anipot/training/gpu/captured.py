"""CapturedStep: an update of the weights with fixed shapes, replayed as one CUDA graph.

A GPU works through an update of a small batch faster than Python can ask for its operations. As a
graph they are asked for once. That needs arrays of the same shapes every time, and no look at the
device in between: so each element's slice of a batch is padded to a capacity, and batches are put
together on the device from a list of conformers. What exceeds a capacity is left to the ordinary
step. Losses and gradients of both are the same but for rounding.

The update with fixed shapes is tested on the CPU. Its capture has not been run on a GPU yet.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anipot.aev import triton_engine
from anipot.data.batches import Batch, BatchLoader
from anipot.potential.outputs import Outputs
from anipot.training.precision import matrix_products
from anipot.training.ranks import ranks
from anipot.training.step import TrainingStep

#: Capacities lie so many standard deviations above the mean of a batch, in multiples of ROUND.
SPREAD = 6.0
ROUND = 32

#: Updates made before the capture, so that what is compiled or allocated once exists.
WARM_UP = 3

#: Batches whose sizes are looked at together: each look waits for the device.
LOOK_AHEAD = 256


def capacities(composition: np.ndarray, batch_size: int) -> tuple[int, ...]:
    """Rows for each element that hold nearly every batch of conformers drawn at random.

    ``composition`` (M, E): atoms of each element in each conformer of the data.
    """
    mean, spread = composition.mean(0), composition.std(0)
    wanted = batch_size * mean + SPREAD * math.sqrt(batch_size) * spread
    largest = np.sort(composition, axis=0)[-batch_size:].sum(0)
    return tuple(
        -(-math.ceil(min(w, m)) // ROUND) * ROUND for w, m in zip(wanted, largest, strict=True)
    )


class PaddedBatches:
    """Batches of B conformers with ``capacity[e]`` rows for each element, made on the device.

    As ``loader.batch`` makes them, but for rows that no atom fills. Those belong to conformer B,
    after the others, which has no atoms: so they have no neighbours, and their energies go to a sum
    that nothing reads. No operation waits for the device. The loader must hold molecules without
    cells, on its device.
    """

    def __init__(self, loader: BatchLoader, capacity: tuple[int, ...], batch_size: int) -> None:
        self.loader, self.capacity, self.batch_size = loader, capacity, batch_size
        sizes = torch.tensor(capacity, device=loader.device)
        self._elements = torch.arange(len(capacity), device=loader.device)
        self._start = torch.cumsum(sizes, 0) - sizes
        self._slots = torch.arange(sum(capacity), device=loader.device)
        self._species = torch.repeat_interleave(self._elements, sizes)

    def batch(self, index: Tensor) -> Batch:
        """The batch of ``index`` (B,): B + 1 conformers, labels for the first B; atoms of none
        of the elements may exceed its capacity."""
        loader, size, slots = self.loader, self.batch_size, self._slots
        rows_in_all = len(slots)
        first = loader._offsets[index]
        offsets = slots.new_zeros(size + 2)
        offsets[1:-1] = torch.cumsum(loader._offsets[index + 1] - first, 0)
        offsets[-1] = offsets[-2]
        conformer = torch.searchsorted(offsets[1:-1].contiguous(), slots, right=True)
        there = conformer < size
        shift = torch.cat([first, first[:1]]) - offsets[:-1]
        in_data = torch.where(there, slots + shift[conformer], first[0])

        species = loader._species[in_data].long()
        same = (species[:, None] == self._elements) & there[:, None]
        rank = same.cumsum(0).gather(1, species[:, None])[:, 0] - 1
        row = self._start[species] + rank
        # What is to be written nowhere is written to one place more than there are.
        nowhere = slots.new_full((), rows_in_all)
        used = torch.zeros(rows_in_all + 1, dtype=torch.bool, device=slots.device)
        used = used.scatter(0, torch.where(there, row, nowhere), True)[:-1]
        place = torch.where(used, nowhere, offsets[-1] + (~used).cumsum(0) - 1)
        empty = slots.new_zeros(rows_in_all + 1).scatter(0, place, slots)[:-1]
        rows = torch.where(there, row, empty)
        atoms = torch.zeros_like(slots).scatter(0, rows, slots)

        in_data = in_data[atoms]
        forces = None
        if loader._forces is not None:
            forces = loader._forces[in_data].to(loader.dtype)
            forces = torch.where(used[:, None], forces, torch.zeros_like(forces))
        return Batch(
            coordinates=loader._coordinates[in_data].to(loader.dtype),
            species=self._species,
            counts=self.capacity,
            conformer=conformer[atoms],
            rows=rows,
            atoms=atoms,
            offsets=offsets,
            cells=None,
            pbc=None,
            index=index,
            data_atoms=in_data,
            energies=None if loader._energies is None else loader._energies[index],
            forces=forces,
        )


class CapturedStep:
    """An update of the weights: loss, gradient, clipping and the optimizer's step, in one graph.

    Calls make the update for ``index`` (B,) and return the mean loss, as TrainingStep does, before
    the update. On a GPU the first WARM_UP run as they are, and the next is captured; where that
    fails, ``failure`` says why and all run as they are. ``why_not`` tells beforehand whether a
    training can be run so. The optimizer must not be given other gradients, and its learning rates
    are set with ``set_rate``.
    """

    def __init__(
        self,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        composition: np.ndarray,
        clip: float | None,
        precision: str = "float32",
    ) -> None:
        loader = step.loader
        self.step, self.optimizer, self.clip, self.precision = step, optimizer, clip, precision
        size = loader.batch_size
        self.padded = PaddedBatches(loader, capacities(composition, size), size)
        kind = torch.int32
        self._composition = torch.as_tensor(composition, device=loader.device).to(kind)
        self._limits = torch.tensor(self.padded.capacity, device=loader.device)
        self._index = torch.zeros(size, dtype=torch.int64, device=loader.device)
        self._loss = torch.zeros((), dtype=torch.float64, device=loader.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0
        self.failure = ""
        self.report = (
            f"updates with {sum(self.padded.capacity):,} rows for "
            f"{loader.atoms_per_batch:,.0f} atoms, as a CUDA graph"
        )

    @staticmethod
    def why_not(step: TrainingStep) -> str:
        """Why a training cannot be run so; empty where it can."""
        loader, model = step.loader, step.model
        if ranks().size > 1:
            return "several processes train together"
        if loader.streams or loader._home != loader.device:
            return "the data does not fit on the GPU"
        if loader._cells is not None:
            return "there are cells"
        if loader.batch_size > loader.n_conformers:
            return "batch_size is larger than the training set"
        cache = step.aevs.caches.get(id(loader))
        if cache is not None and cache.device.type != loader.device.type:
            return "AEVs are kept in the computer's memory"
        engine = model.aev.engine_on(loader.device)
        if (cache is None or step.derivatives) and engine != "triton":
            return f"the AEV engine {engine} makes lists of other lengths for every batch"
        if not torch.isfinite(loader._coordinates).all():
            return "there are coordinates that are not finite"
        largest = int((loader._offsets[1:] - loader._offsets[:-1]).max())
        if engine == "triton" and largest > triton_engine.MOST_ATOMS:
            return f"there are conformers of more than {triton_engine.MOST_ATOMS} atoms"
        return ""

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
        """Each of ``indices``, and whether its batch is of full size and within the capacities."""
        waiting, size = iter(indices), self.padded.batch_size
        while group := list(islice(waiting, LOOK_AHEAD)):
            full = [index for index in group if len(index) == size]
            fits: list[bool] = []
            if full:
                atoms = self._composition[torch.stack(full)].sum(1)
                fits = (atoms <= self._limits).all(1).tolist()
            fits += [False] * (len(group) - len(full))  # only the last of an epoch is shorter
            yield from zip(group, fits, strict=True)

    def __call__(self, index: Tensor) -> Tensor:
        """Update the weights; returns the mean loss (a float64 scalar) over ``index`` (B,)."""
        self._index.copy_(index)
        if self._index.device.type != "cuda" or self.failure:
            self._update()
        elif self._graph is not None:
            self._graph.replay()
        elif self._warm < WARM_UP:
            self._warm += 1
            make_capturable(self.optimizer)
            # On a stream of its own, as a capture will be.
            stream, main = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                self._update()
            main.wait_stream(stream)
        else:
            self._capture()
        return self._loss.clone()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._update()
        except RuntimeError as e:
            self.failure = str(e)
            warnings.warn(
                f"updates could not be captured as a CUDA graph, and run one operation at a time: "
                f"{e}",
                stacklevel=2,
            )
            torch.cuda.synchronize()
            self._update()
        else:
            graph.replay()
            self._graph = graph

    def _update(self) -> None:
        """One update for the conformers in ``_index``, whose loss is left in ``_loss``."""
        # Zeros and not None: a graph knows gradients by where they lie.
        self.optimizer.zero_grad(set_to_none=False)
        with matrix_products(self.precision, self._index.device):
            loss = self.loss(self._index)
            loss.backward()
        self._loss.copy_(loss.detach())
        if self.clip is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.clip)
        self.optimizer.step()

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss over ``index`` (B,), with the graph of its gradient."""
        step = self.step
        batch = self.padded.batch(index)
        outputs = step._outputs(batch, (1 << len(step.model.elements)) - 1)
        outputs = Outputs(outputs.energies[:-1], outputs.forces)
        batch = replace(batch, offsets=batch.offsets[:-1])
        parts = [
            term.sum(outputs, batch) * (term.weight / term.count(index)) for term in step.terms
        ]
        return torch.stack(parts).sum()


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Let a graph read the learning rates from the device, where ``set_rate`` puts them."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        if not isinstance(group["lr"], Tensor):
            device = group["params"][0].device
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all weights; in place where a graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def portable_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state for a checkpoint that any device can read."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return state
