"""SelfEnergies: the part of the energy that is linear in the composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.elements import parse_elements, symbol_of
from anipot.errors import DataError, SettingsError


@dataclass(frozen=True, eq=False)
class SelfEnergies:
    """One energy per element, hartree, float64; a molecule's is the sum over its atoms.

    ``values`` (E,) stand in the order of ``elements``. They are linear fits, not the energies of
    isolated atoms. ``note`` says in prose what is special about the fit (empty where nothing is).
    """

    elements: tuple[str, ...]
    values: np.ndarray
    note: str = ""

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        object.__setattr__(self, "values", values)
        if values.shape != (len(self.elements),) or not np.isfinite(values).all():
            raise DataError(
                f"self energies must be one finite number for each of {', '.join(self.elements)}"
            )

    @classmethod
    def zero(cls, elements: Sequence[str]) -> SelfEnergies:
        """All zero: what a model has before it is trained."""
        elements = parse_elements(elements)
        return cls(elements, np.zeros(len(elements)))

    @classmethod
    def given(cls, elements: Sequence[str], values: Mapping[str, float]) -> SelfEnergies:
        """Values by symbol, hartree. Raises SettingsError unless there is one for each element."""
        elements = parse_elements(elements)
        if set(values) != set(elements):
            raise SettingsError(
                f"self energies are given for {', '.join(values) or 'no element'}, the model has "
                f"{', '.join(elements)}; give one for each"
            )
        return cls(elements, np.array([values[e] for e in elements]), "given")

    @classmethod
    def isolated(cls, atoms: Conformers, elements: Sequence[str]) -> SelfEnergies:
        """The energies of single atoms, one conformer each, where ``elements`` has the element.

        Raises DataError naming the elements of which there is none, and one with two energies.
        """
        elements = parse_elements(elements)
        found: dict[str, float] = {}
        energies = np.zeros(0) if atoms.energies is None else atoms.energies
        for number, energy in zip(atoms.atomic_numbers, energies, strict=True):
            symbol = symbol_of(int(number))
            before = found.setdefault(symbol, float(energy))
            if abs(before - energy) > 1e-6:
                raise DataError(
                    f"isolated atoms of {symbol} have different energies, {before:.6f} and "
                    f"{energy:.6f} hartree; keep one of them"
                )
        lacking = [e for e in elements if e not in found]
        if lacking:
            there = f"there are {' '.join(found)}" if found else "there are none"
            raise DataError(
                f"self_energies=isolated needs a single atom with an energy of each element, and "
                f"the data has none of {', '.join(lacking)} ({there}); add them, or use "
                "self_energies=fit"
            )
        return cls(elements, np.array([found[e] for e in elements]), "Energies of isolated atoms.")

    @classmethod
    def fit(
        cls,
        conformers: Conformers,
        elements: Sequence[str],
        prepare: Callable[[Conformers], Conformers] | None = None,
    ) -> SelfEnergies:
        """Least squares of the energies on the composition, in float64, for a training set.

        Conformers without an energy are left out. Where the compositions do not determine all
        values (a rank deficient fit), the answer with the smallest norm is taken and ``note``
        explains what that means. ``prepare`` changes labels first, a piece of the data at a time.
        Raises DataError when there is no energy, one that is not finite,
        or an element that is not among ``elements``.
        """
        elements = parse_elements(elements)
        # Equal compositions are one row weighted by how often it occurs: millions of conformers
        # become some thousands of rows, and the normal equations stay well scaled.
        found: dict[bytes, list[float]] = {}
        for start, part in conformers.blocks():
            part = part if prepare is None else prepare(part)
            labelled = part.has("energies")
            if part.energies is None or not labelled.any():
                continue
            counts = _counts(part, elements, start)[labelled]
            energies = part.energies[labelled]
            if not np.isfinite(energies).all():
                raise DataError("self energies cannot be fitted: an energy is not finite")
            rows, group = _distinct(counts)
            before = [found.setdefault(row.tobytes(), [0, 0.0]) for row in rows]
            n, sums = np.array(before).T
            np.add.at(sums, group, energies)
            for of, here, total in zip(before, n + np.bincount(group), sums, strict=True):
                of[:] = here, total
        if not found:
            raise DataError("self energies cannot be fitted: no conformer has an energy")
        order = sorted((tuple(np.frombuffer(row, dtype=np.int64)), row) for row in found)
        unique = np.array([row for row, _ in order], dtype=np.float64)
        n, sums = np.array([found[key] for _, key in order]).T
        weight, mean = np.sqrt(n), sums / n
        values, _, rank, _ = np.linalg.lstsq(unique * weight[:, None], mean * weight, rcond=1e-12)
        return cls(elements, values, _explain(unique, elements, int(rank)))

    def of(self, conformers: Conformers) -> np.ndarray:
        """(M,) hartree: the sum of the self energies of each conformer.

        Raises DataError for an element that has none.
        """
        energies = np.empty(len(conformers))
        for start, part in conformers.blocks():
            own = _counts(part, self.elements, start)
            energies[start : start + len(part)] = own @ self.values
        return energies

    def of_batch(self, batch: Batch) -> Tensor:
        """(B,) float64 hartree, on the batch's device."""
        values = torch.as_tensor(self.values, device=batch.species.device)
        return batch.sum_atoms(values[batch.species])

    def table(self) -> str:
        """A printable table, a line an element, with the note below it."""
        lines = ["element   self energy / hartree"]
        lines += [f"{e:<7} {v:>23.8f}" for e, v in zip(self.elements, self.values, strict=True)]
        return "\n".join(lines + ([self.note] if self.note else []))


def _counts(conformers: Conformers, elements: Sequence[str], first: int = 0) -> np.ndarray:
    """(M, E) int64 composition. DataError for other elements, which would count for nothing."""
    counts = conformers.composition(elements)
    lacking = np.flatnonzero(counts.sum(axis=1) != conformers.n_atoms)
    if len(lacking):
        raise DataError(
            f"{conformers.describe(lacking[0], first)} contains an element without a self energy; "
            f"there are self energies of {', '.join(elements)}"
        )
    return counts


def _distinct(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of ``counts`` (M, E), and which of them each row is."""
    most = int(counts.max(initial=0)) + 1
    if most ** counts.shape[1] >= 2**62:
        rows, group = np.unique(counts, axis=0, return_inverse=True)
        return rows, group.reshape(-1)
    # As the digits of one number each, rows are sorted ten times as fast.
    number = counts @ most ** np.arange(counts.shape[1])
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    return counts[first], group.reshape(-1)


def _explain(compositions: np.ndarray, elements: Sequence[str], rank: int) -> str:
    """In prose, why a fit is not unique; empty when it is."""
    absent = [e for e, c in zip(elements, compositions.T, strict=True) if not c.any()]
    present = len(elements) - len(absent)
    notes = []
    if absent:
        notes.append(f"Not in the training data, and therefore 0: {', '.join(absent)}.")
    if rank < present:
        notes.append(
            f"The training data has {_plural(len(compositions), 'distinct composition')}, of "
            f"which {rank} {'is' if rank == 1 else 'are'} independent, for {present} elements: "
            "many sets of self energies fit equally well, and the one with the smallest norm was "
            "taken. Training is not harmed, but the values mean nothing one by one, and molecules "
            "of other compositions may be far off."
        )
    return " ".join(notes)


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
