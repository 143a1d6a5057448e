"""Batch: conformers on a device, atoms sorted by element. BatchLoader: batches in a known order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anipot.data import shuffling
from anipot.data.conformers import LABELS, Conformers, check_conformers
from anipot.data.labels import per_atom
from anipot.data.positions import resolved
from anipot.elements import index_table, symbol_of
from anipot.errors import DataError, SettingsError
from anipot.system.devices import free_memory

#: Atoms evaluated at once by default: enough to hide the cost of a batch, few enough for the
#: memory of a laptop.
CHUNK_ATOMS = 8192


@dataclass(frozen=True, eq=False)
class Batch:
    """B conformers with N atoms in all, **atoms sorted by element** (then as in the conformers).

    So each element's network reads one contiguous slice and nothing is padded or masked. A *row* is
    an atom's place in this order; *conformer order* is the order in which the user has the atoms.

    ===============  ============  =================  ==========================================
    array            shape         unit, type         meaning
    ===============  ============  =================  ==========================================
    ``coordinates``  (N, 3)        angstrom           the model's precision; moved, see below
    ``species``      (N,)          int64              place of the element in the model's order
    ``counts``       E ints                           atoms of each element: the slices' lengths
    ``conformer``    (N,)          int64              conformer of the batch, 0..B-1
    ``rows``         (N,)          int64              rows[a]: row of atom a of conformer order
    ``atoms``        (N,)          int64              atoms[r]: atom of conformer order in row r
    ``offsets``      (B+1,)        int64              atoms of conformer b, in conformer order
    ``cells``        (B, 3, 3)     angstrom           lattice vectors in rows, or None
    ``pbc``          (B, 3)        bool               periodic directions, or None
    ``index``        (B,)          int64              the conformers' numbers in the data set
    ``data_atoms``   (N,)          int64              data_atoms[r]: atom of the data set in row r
    ``energies``     (B,)          hartree, float64   NaN where there is no label, or None
    ``forces``       (N, 3)        hartree/angstrom   by row; NaN where there is no label, or None
    ``stress``       (B, 3, 3)     hartree/angstrom^3 float64; NaN where there is no label, or None
    ===============  ============  =================  ==========================================

    ``labels`` holds further labels (``anipot.data.labels``) in the same order: by row if per atom.
    In float32, conformers far from the origin are moved there: see ``anipot.data.positions``.
    """

    coordinates: Tensor
    species: Tensor
    counts: tuple[int, ...]
    conformer: Tensor
    rows: Tensor
    atoms: Tensor
    offsets: Tensor
    cells: Tensor | None
    pbc: Tensor | None
    index: Tensor
    data_atoms: Tensor
    energies: Tensor | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> Tensor:
        """(B,) int64: atoms in each conformer."""
        return self.offsets[1:] - self.offsets[:-1]

    def to(self, device: torch.device) -> Batch:
        """This batch on another device."""
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        labels = {name: values.to(device) for name, values in self.labels.items()}
        return replace(self, labels=labels, **moved)

    def sum_atoms(self, values: Tensor) -> Tensor:
        """(B,) float64: sum over the atoms of each conformer of ``values`` (N,), by row."""
        sums = torch.zeros(len(self), dtype=torch.float64, device=values.device)
        return sums.index_add(0, self.conformer, values.double())

    def conformer_order(self, values: Tensor) -> Tensor:
        """``values`` (N, ...) by row, put into conformer order."""
        return values[self.rows]

    @staticmethod
    def of(
        conformers: Conformers,
        elements: Sequence[str],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        first: int = 0,
    ) -> Batch:
        """All of ``conformers`` as one batch; raises as ``BatchLoader`` does.

        ``first`` is the number of the first conformer, for messages.
        """
        check_conformers(conformers, "a batch")
        loader = BatchLoader(
            conformers, max(len(conformers), 1), elements, dtype=dtype, device=device, first=first
        )
        return loader.batch(torch.arange(len(conformers), device=device))


class BatchLoader:
    """Batches of a data set, in an order that is a function of (seed, epoch) alone.

    The data set lies on ``device`` as flat arrays, and batches are put together there; one that
    would fill more than half of a GPU's free memory stays in the computer's, and batches travel.
    A large part of a store stays on the disk, and each batch is read when its turn comes
    (``streams``). ``prepare`` changes the labels (and nothing else) of all conformers at the start,
    or of each batch that is read. ``labels``: which labels batches carry. ``periodic``: whether
    batches carry cells (default: where any conformer is periodic). ``warn``: whether to warn of
    coordinates that are stored with too few digits. ``epoch(e, start)`` can begin at
    any batch, so that an interrupted epoch goes on where it was. ``first``: the number of the first
    conformer, for messages. Raises DataError when the data contains an element that is not in
    ``elements``, or a conformer that is too large for float32; of what is streamed, when it is
    read.
    """

    def __init__(
        self,
        conformers: Conformers,
        batch_size: int,
        elements: Sequence[str],
        *,
        shuffle: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        labels: Collection[str] = tuple(LABELS),
        prepare: Callable[[Conformers], Conformers] | None = None,
        periodic: bool | None = None,
        first: int = 0,
        warn: bool = True,
    ) -> None:
        check_conformers(conformers, "a BatchLoader")
        if batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.elements, self.n_elements = tuple(elements), len(elements)
        self.dtype, self.device, self.labels = dtype, torch.device(device), tuple(labels)
        self.n_conformers, self.n_atoms = len(conformers), conformers.total_atoms
        periodic = conformers.periodic if periodic is None else periodic
        self._prepare, self._periodic = prepare, periodic
        self._home = self.device
        if self.device.type != "cpu" and conformers.nbytes > free_memory(self.device) / 2:
            self._home = torch.device("cpu")
        self._stream: Conformers | None = None
        if self._home.type == "cpu" and conformers.streams:
            self._stream = conformers
            return
        if prepare is not None:
            conformers = prepare(conformers)
        species = known_species(conformers, elements, first)
        coordinates = conformers.coordinates
        if dtype == torch.float32:
            coordinates = resolved(conformers, first, warn=warn)

        def tensor(array: np.ndarray) -> Tensor:
            if not array.flags.writeable:  # a memory-mapped file: torch would warn
                array = array.copy()
            return torch.as_tensor(array).to(self._home)

        self._species = tensor(species)
        self._coordinates = tensor(coordinates)
        self._offsets = tensor(conformers.offsets)
        self._cells = (
            tensor(conformers.cells) if periodic and conformers.cells is not None else None
        )
        self._pbc = tensor(conformers.pbc) if periodic and conformers.pbc is not None else None

        def label(name: str) -> Tensor | None:
            """The values of a label, NaN where a conformer lacks it."""
            values = conformers.array(name)
            if name not in labels or values is None:
                return None
            lacks = ~conformers.has(name)
            if per_atom(name):
                lacks = np.repeat(lacks, conformers.n_atoms)
            # Data made by hand may have zeros there, which a loss would take for labels.
            if not np.isnan(values[lacks]).all():
                values = values.copy()
                values[lacks] = np.nan
            return tensor(values)

        self._energies, self._forces, self._stress = map(label, ("energies", "forces", "stress"))
        further = {name: label(name) for name in conformers.labels}
        self._labels = {name: values for name, values in further.items() if values is not None}
        conformers.check_files()  # what was read of a store is what was checked when it was opened

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.n_conformers // self.batch_size)

    @property
    def streams(self) -> bool:
        """Whether the data stays on the disk, so that a batch's ``data_atoms`` are its own."""
        return self._stream is not None

    @property
    def atoms_per_batch(self) -> float:
        """Atoms in a batch, on average."""
        return self.n_atoms / max(len(self), 1)

    def order(self, epoch: int) -> Tensor:
        """(M,) int64: the conformers in the order of an epoch."""
        return torch.as_tensor(np.concatenate(list(self._order(epoch)))).to(self._home)

    def _order(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """The order from the ``start``-th conformer on, in pieces (k,) int64.

        The one place that decides it, for any number of processes that share batches.
        """
        if self.shuffle:
            yield from shuffling.order(self.n_conformers, self.seed, epoch, start)
            return
        for first in range(start, self.n_conformers, shuffling.PERMUTED):
            yield np.arange(first, min(first + shuffling.PERMUTED, self.n_conformers))

    def indices(self, epoch: int = 0, start: int = 0) -> Iterator[Tensor]:
        """The numbers (B,) of the conformers in each batch of an epoch, from ``start`` on."""
        waiting = torch.zeros(0, dtype=torch.int64, device=self._home)
        for piece in self._order(epoch, start * self.batch_size):
            # To the device piece by piece: a copy for each batch would wait for it.
            waiting = torch.cat([waiting, torch.as_tensor(piece).to(self._home)])
            cut = len(waiting) - len(waiting) % self.batch_size
            yield from waiting[:cut].split(self.batch_size) if cut else ()
            waiting = waiting[cut:]
        if len(waiting):
            yield waiting

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch number ``start`` on."""
        if self._stream is not None:
            self._stream.check_files()
        return map(self.batch, self.indices(epoch, start))

    def batch(self, index: Tensor) -> Batch:
        """The batch of the conformers with the numbers ``index`` (B,) int64."""
        index = index.to(self._home)
        if self._stream is not None:
            return self._read(self._stream, index)
        first = self._offsets[index]
        n_atoms = self._offsets[index + 1] - first
        offsets = torch.zeros(len(index) + 1, dtype=torch.int64, device=self._home)
        torch.cumsum(n_atoms, 0, out=offsets[1:])
        conformer = torch.repeat_interleave(n_atoms)
        in_data = (
            torch.arange(len(conformer), device=self._home) + (first - offsets[:-1])[conformer]
        )
        species = self._species[in_data]
        species, atoms = torch.sort(species, stable=True)
        species = species.long()
        in_data = in_data[atoms]
        rows = torch.empty_like(atoms)
        rows[atoms] = torch.arange(len(atoms), device=self._home)
        counts = torch.bincount(species, minlength=self.n_elements).tolist()
        batch = Batch(
            coordinates=self._coordinates[in_data].to(self.dtype),
            species=species,
            counts=tuple(counts),
            conformer=conformer[atoms],
            rows=rows,
            atoms=atoms,
            offsets=offsets,
            cells=None if self._cells is None else self._cells[index].to(self.dtype),
            pbc=None if self._pbc is None else self._pbc[index],
            index=index,
            data_atoms=in_data,
            energies=None if self._energies is None else self._energies[index],
            forces=None if self._forces is None else self._forces[in_data].to(self.dtype),
            stress=None if self._stress is None else self._stress[index].double(),
            labels={
                name: values[in_data if per_atom(name) else index]
                for name, values in self._labels.items()
            },
        )
        return batch if self._home == self.device else batch.to(self.device)

    def _read(self, data: Conformers, index: Tensor) -> Batch:
        part = data.gather(index.numpy())
        try:
            part = part if self._prepare is None else self._prepare(part)
            loader = BatchLoader(
                part, max(len(part), 1), self.elements, dtype=self.dtype, labels=self.labels,
                periodic=self._periodic, warn=False,
            )  # fmt: skip
        except DataError:
            for number in index.tolist():  # the same again, with its number in the data
                one = data.gather(np.array([number]))
                known_species(one, self.elements, number)
                if self.dtype == torch.float32:
                    resolved(one, number, warn=False)
            raise
        return replace(loader.batch(torch.arange(len(part))), index=index).to(self.device)

    def composition(self, index: Tensor) -> Tensor:
        """(B, E) int64: how often each element occurs in the conformers ``index`` (B,)."""
        index = index.to(self._home)
        if self._stream is not None:
            numbers, offsets = self._stream.atoms_at(index.numpy())
            species = torch.as_tensor(index_table(self.elements)[numbers])
            n_atoms = torch.as_tensor(np.diff(offsets))
            conformer = torch.repeat_interleave(n_atoms)
        else:
            first = self._offsets[index]
            n_atoms = self._offsets[index + 1] - first
            conformer = torch.repeat_interleave(n_atoms)
            before = torch.cumsum(n_atoms, 0) - n_atoms
            place = torch.arange(len(conformer), device=self._home)
            species = self._species[place + (first - before)[conformer]].long()
        cells = conformer * self.n_elements + species
        counts = torch.bincount(cells, minlength=len(index) * self.n_elements)
        return counts.reshape(len(index), self.n_elements)


def check_known(conformers: Conformers, elements: Sequence[str]) -> None:
    """Raise DataError, naming the first atom, for an element that is not among ``elements``."""
    if set(conformers.elements) - set(elements):
        for start, part in conformers.blocks():
            if set(part.elements) - set(elements):
                known_species(part, elements, start)


def known_species(conformers: Conformers, elements: Sequence[str], first: int = 0) -> np.ndarray:
    """(A,) int16: the place of each atom's element in ``elements``.

    Raises DataError naming the first atom whose element is not among them; ``first`` is the number
    of the first conformer.
    """
    # int16 before the look-up: in int64 the table of 11 million atoms would take 90 MB.
    species: np.ndarray = index_table(elements).astype(np.int16)[conformers.atomic_numbers]
    unknown = np.flatnonzero(species < 0)
    if not len(unknown):
        return species
    atom = int(unknown[0])
    conformer = int(np.searchsorted(conformers.offsets, atom, side="right")) - 1
    symbol = symbol_of(int(conformers.atomic_numbers[atom]))
    raise DataError(
        f"atom {atom - conformers.offsets[conformer]} of {conformers.describe(conformer, first)} "
        f"is {symbol}, which this model does not know; it knows {', '.join(elements)}"
    )


def chunks(composition: np.ndarray, batch_size: int | None) -> Iterator[np.ndarray]:
    """Indices of conformers to evaluate together, given their composition (M, E).

    Conformers of the same elements are put together, so that the most columns can be left out.
    """
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch_size must be at least 1, not {batch_size}")
    n_atoms = composition.sum(1)
    kind = np.zeros(len(composition), dtype=np.int64)
    if composition.shape[1] < 63:  # with more elements there are no bits for them
        kind = (composition > 0) @ (1 << np.arange(composition.shape[1], dtype=np.int64))
    order = np.argsort(kind, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
        if not len(group):
            continue
        if batch_size is None:
            # Cut where the running number of atoms passes a multiple of CHUNK_ATOMS.
            before = np.cumsum(n_atoms[group]) - n_atoms[group]
            cuts = np.flatnonzero(np.diff(before // CHUNK_ATOMS)) + 1
        else:
            cuts = np.arange(batch_size, len(group), batch_size)
        yield from np.split(group, cuts)
