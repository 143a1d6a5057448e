"""torchani.data of TorchANI 2.2: a data set as a chain of transformations.

    training, validation = (
        torchani.data.load("ani_gdb_s01.h5")
        .subtract_self_energies(energy_shifter, species_order)
        .species_to_indices(species_order)
        .shuffle()
        .split(0.8, None)
    )
    training = training.collate(2560).cache()

Every link of a chain is a sequence that computes an element when it is asked for, from what the
link before it gives, and changes nothing: any number of passes reads the same numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anipot.compat.torchani.utils import PERIODIC_TABLE, EnergyShifter
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.elements import number_of, symbols_of
from anipot.errors import DataError, SettingsError

__all__ = ["PADDING", "PROPERTIES", "TransformableIterable", "collate_fn", "load"]

PROPERTIES = ("energies",)
PADDING = {"species": -1, "coordinates": 0.0, "forces": 0.0, "energies": 0.0}

#: The order of elements where none is given.
SPECIES_ORDER = ("H", "C", "N", "O", "F", "S", "Cl")

#: A conformer: species (list of symbols, or (A,) int64), coordinates (A, 3) angstrom, energies
#: (hartree), forces (A, 3). Or a batch of them: tensors by the same names.
Sample = dict[str, Any]


def load(
    path: str | PathLike[str], additional_properties: Sequence[str] = ()
) -> TransformableIterable:
    """The conformers of a file, or of all ``.h5`` and ``.hdf5`` files of a folder.

    ``additional_properties`` may be ``("forces",)``. Raises DataError for what cannot be read.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".h5", ".hdf5"))
        if not files:
            raise DataError(f"{path} holds no .h5 or .hdf5 file")
    conformers = load_dataset(files)
    if conformers.periodic:
        raise DataError(f"{path} holds periodic cells, which TorchANI 2.2's data sets do not have")
    wanted = ("coordinates", *PROPERTIES, *additional_properties)
    for name in wanted:
        if name not in ("coordinates", "energies", "forces"):
            raise DataError(f"property {name!r} is not read; additional_properties may be forces")
        if getattr(conformers, name) is None:
            raise DataError(f"{path} has no {name}")
    return TransformableIterable(_Lazy(len(conformers), partial(_sample, conformers, wanted)))


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"the bridge to TorchANI 2.2 has no data.{name}; data.load(path) reads data, and "
        "anipot.load_dataset(path) gives it with more methods"
    )


def collate_fn(samples: Sequence[Sample], padding: Mapping[str, float] | None = None) -> Sample:
    """One batch: numbers stacked (C,), arrays padded to the longest (C, A, ...)."""
    fill = {**PADDING, **(padding or {})}
    batch = {}
    for key in samples[0]:
        values = [torch.as_tensor(sample[key]) for sample in samples]
        if values[0].ndim == 0:
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, True, fill.get(key, 0.0))
    return batch


class TransformableIterable:
    """Conformers, or batches of them after ``collate``; every method returns a new one.

    ``wrapped_iterable`` may be any iterable of dicts; what is no sequence is read once, here.
    """

    def __init__(
        self, wrapped_iterable: Iterable[Sample], transformations: Sequence[str] = ()
    ) -> None:
        self.wrapped_iterable: Sequence[Sample] = (
            wrapped_iterable if isinstance(wrapped_iterable, Sequence) else list(wrapped_iterable)
        )
        self.transformations = tuple(transformations)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.wrapped_iterable)

    def __len__(self) -> int:
        return len(self.wrapped_iterable)

    def __getattr__(self, name: str) -> Any:
        known = [n for n in vars(TransformableIterable) if not n.startswith("_")]
        raise AttributeError(
            f"the bridge to TorchANI 2.2 has no transformation {name!r}, only {', '.join(known)}; "
            "anipot.load_dataset(path) gives data with more methods"
        )

    # ---- of conformers -------------------------------------------------------------------------

    def species_to_indices(
        self, species_order: str | Sequence[str] = SPECIES_ORDER
    ) -> TransformableIterable:
        """Symbols into places in ``species_order``, or into atomic numbers: "periodic_table".

        DataError, when the conformer is read, for an element that has no place.
        """
        order = PERIODIC_TABLE if species_order == "periodic_table" else species_order
        places = {symbol: i for i, symbol in enumerate(order)}
        return self._each("species_to_indices", partial(_with_indices, places))

    def subtract_self_energies(
        self,
        self_energies: EnergyShifter | Mapping[str, float],
        species_order: Sequence[str] | None = None,
    ) -> TransformableIterable:
        """Energies without the self energies of the atoms, hartree, from a mapping by symbol.

        An ``EnergyShifter`` is fitted to these conformers by least squares, and gets an energy for
        each element of ``species_order`` (default: that of ``species_to_indices``, up to the last
        element that occurs), 0 for one that the data lacks. Raises DataError for an element that is
        not in it.
        """
        intercept = 0.0
        if isinstance(self_energies, EnergyShifter):
            values, intercept = self._fit(self_energies, species_order)
        else:
            values = dict(self_energies)
        return self._each("subtract_self_energies", partial(_without, values, intercept))

    def remove_outliers(
        self, threshold1: float = 15.0, threshold2: float = 8.0
    ) -> TransformableIterable:
        """Without conformers whose energy over the square root of the number of atoms exceeds
        ``threshold1`` hartree, nor then those beyond ``threshold2`` standard deviations."""
        self._conformers_only("remove_outliers")
        energies = np.array([float(sample["energies"]) for sample in self])
        atoms = np.array([len(sample["species"]) for sample in self])
        keep = np.abs(energies) / np.sqrt(atoms) < threshold1
        mean, std = energies[keep].mean(), energies[keep].std()
        keep &= np.abs(energies - mean) < threshold2 * std
        return self._picked("remove_outliers", np.flatnonzero(keep).tolist())

    def collate(
        self, batch_size: int, padding: Mapping[str, float] | None = None
    ) -> TransformableIterable:
        """Batches of tensors, the last one with what is left; ``collate_fn`` says how."""
        if batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, not {batch_size}")
        self._conformers_only("collate")
        batches = partial(_batch, self.wrapped_iterable, batch_size, padding)
        return self._then("collate", _Lazy(-(-len(self) // batch_size), batches))

    # ---- of conformers and of batches ----------------------------------------------------------

    def shuffle(self) -> TransformableIterable:
        """Another order, drawn once, now, from Python's ``random``: that of 2.2 for each seed."""
        order = list(range(len(self)))
        random.shuffle(order)
        return self._picked("shuffle", order)

    def split(self, *nums: float | int | None) -> list[TransformableIterable]:
        """Parts, one after the other: fractions (0.8) or counts (1000); None is what is left over.

        A fraction is rounded down, as in 2.2, so that without None some of the last may be in no
        part. Raises SettingsError for parts that are more than there is.
        """
        sizes = [
            None if n is None else int(n) if isinstance(n, Integral) else int(n * len(self))
            for n in nums
        ]
        rest = len(self) - sum(n for n in sizes if n is not None)
        if rest < 0 or sizes.count(None) > 1 or any(n is not None and n < 0 for n in sizes):
            raise SettingsError(
                f"split{nums} of {len(self)} does not work out: give fractions (0.8) that add up "
                f"to 1 at most, or counts up to {len(self)}, and None once for the rest"
            )
        parts, start = [], 0
        for size in sizes:
            stop = start + (rest if size is None else size)
            parts.append(self._picked("split", range(start, stop)))
            start = stop
        return parts

    def cache(self) -> TransformableIterable:
        """All elements computed now and kept in memory."""
        return self._then("cache", list(self))

    def pin_memory(self) -> TransformableIterable:
        """Tensors in page-locked memory, from where they reach a GPU sooner; nothing without."""
        if not torch.cuda.is_available():
            return self._then("pin_memory", self.wrapped_iterable)
        pinned = partial(_applied, _pinned, self.wrapped_iterable)
        return self._then("pin_memory", _Lazy(len(self), pinned))

    # ---- the links of the chain ----------------------------------------------------------------

    def _then(self, name: str, sequence: Sequence[Sample]) -> TransformableIterable:
        return TransformableIterable(sequence, (*self.transformations, name))

    def _each(self, name: str, function: Callable[[Sample], Sample]) -> TransformableIterable:
        self._conformers_only(name)
        element = partial(_applied, function, self.wrapped_iterable)
        return self._then(name, _Lazy(len(self), element))

    def _picked(self, name: str, order: Sequence[int]) -> TransformableIterable:
        element = partial(_picked, self.wrapped_iterable, order)
        return self._then(name, _Lazy(len(order), element))

    def _conformers_only(self, name: str) -> None:
        if "collate" in self.transformations:
            raise SettingsError(f"{name} works on conformers: call it before collate")

    def _fit(
        self, shifter: EnergyShifter, species_order: Sequence[str] | None
    ) -> tuple[dict[Any, float], float]:
        """Self energies by element (or place), and the intercept; the shifter gets them too."""
        compositions: dict[tuple[Any, ...], int] = {}
        composition, energies = [], []
        for sample in self:
            species = tuple(sample["species"])
            composition.append(compositions.setdefault(species, len(compositions)))
            energies.append(float(sample["energies"]))
        if not energies:
            raise DataError("self energies cannot be fitted: there are no conformers")
        present = {s for species in compositions for s in species}
        order = _order(present, species_order)
        counts = np.array([[c.count(s) for s in order] for c in compositions], dtype=np.float64)
        matrix = counts[composition]
        if shifter.fit_intercept:
            matrix = np.hstack([matrix, np.ones((len(matrix), 1))])
        values = np.linalg.lstsq(matrix, np.array(energies), rcond=None)[0]
        shifter.self_energies = torch.as_tensor(values)
        intercept = float(values[-1]) if shifter.fit_intercept else 0.0
        return dict(zip(order, values[: len(order)].tolist(), strict=True)), intercept


def _order(present: set[Any], species_order: Sequence[str] | None) -> list[Any]:
    """The elements in order, or their places where the species are places already."""
    order: list[Any]
    if not all(isinstance(s, str) for s in present):
        order = list(range(len(species_order or ()) or int(max(present)) + 1))
    elif species_order is not None:
        order = list(species_order)
    elif present <= set(SPECIES_ORDER):
        order = list(SPECIES_ORDER[: 1 + max(SPECIES_ORDER.index(s) for s in present)])
    else:
        order = sorted(present, key=number_of)
    lacking = sorted(present - set(order))
    if lacking:
        raise DataError(
            f"self energies cannot be fitted: {lacking[0]} is in the data and not in "
            f"species_order {order}"
        )
    return order


# Functions of a module, not of a function: a chain can be pickled, for workers and for the disk.


class _Lazy(Sequence[Sample]):
    """``get(i)`` for each i below ``length``, computed when asked for."""

    def __init__(self, length: int, get: Callable[[int], Sample]) -> None:
        self._length, self._get = length, get

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        which = range(self._length)[index]
        return [self._get(i) for i in which] if isinstance(which, range) else self._get(which)

    def __iter__(self) -> Iterator[Sample]:
        return map(self._get, range(self._length))


def _sample(conformers: Conformers, wanted: Sequence[str], index: int) -> Sample:
    atoms = slice(conformers.offsets[index], conformers.offsets[index + 1])
    sample = {"species": symbols_of(conformers.atomic_numbers[atoms])}
    for name in wanted:
        sample[name] = getattr(conformers, name)[index if name == "energies" else atoms]
    return sample


def _applied(function: Callable[[Sample], Sample], samples: Sequence[Sample], index: int) -> Sample:
    return function(samples[index])


def _picked(samples: Sequence[Sample], order: Sequence[int], index: int) -> Sample:
    return samples[order[index]]


def _batch(
    samples: Sequence[Sample], size: int, padding: Mapping[str, float] | None, index: int
) -> Sample:
    return collate_fn(samples[index * size : (index + 1) * size], padding)


def _with_indices(places: Mapping[str, int], sample: Sample) -> Sample:
    try:
        indices = [places[symbol] for symbol in sample["species"]]
    except KeyError as e:
        raise DataError(
            f"species_to_indices: {e} is in the data and not in species_order {list(places)}"
        ) from None
    return {**sample, "species": np.array(indices, dtype=np.int64)}


def _without(values: Mapping[Any, float], intercept: float, sample: Sample) -> Sample:
    try:
        subtracted = sum((values[s] for s in sample["species"]), intercept)
    except KeyError as e:
        raise DataError(
            f"subtract_self_energies: no self energy of {e}; there are those of {list(values)}"
        ) from None
    return {**sample, "energies": sample["energies"] - subtracted}


def _pinned(batch: Sample) -> Sample:
    return {name: value.pin_memory() for name, value in batch.items()}
