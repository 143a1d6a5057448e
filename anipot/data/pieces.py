"""Runs and pieces of flat arrays: what bounds the memory of work on millions of conformers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Conformers processed at once.
ROWS = 1 << 18


def number_groups(group: np.ndarray, found: dict[int, int]) -> np.ndarray:
    """Number the groups of ``group`` (n,) in order of appearance.

    ``found`` maps groups to numbers and is extended, so that long data can be numbered in pieces.
    """
    values, own = np.unique(group, return_inverse=True)
    numbers = [found.setdefault(value, len(found)) for value in values.tolist()]
    return np.array(numbers, dtype=np.int64)[own.reshape(-1)]


def ranks_within(groups: np.ndarray) -> np.ndarray:
    """Rank (n,) of each element among those of its group, from 0."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.flatnonzero(np.append(len(order) > 0, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(first, len(order)))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(first, counts)
    return ranks


def runs(offsets: np.ndarray, atoms: int = 1 << 18) -> Iterator[tuple[int, int]]:
    """Yield runs of conformers (start, end) of about ``atoms`` atoms each."""
    start, m = 0, len(offsets) - 1
    while start < m:
        end = int(np.searchsorted(offsets, offsets[start] + atoms, side="right")) - 1
        end = min(max(end, start + 1), m)
        yield start, end
        start = end


def count_elements(index: np.ndarray, offsets: np.ndarray, elements: int) -> np.ndarray:
    """Count the atoms of each element in each conformer: (m, ``elements``) int64.

    ``index`` (n,) is the element of each atom, -1 for one that is not counted.
    """
    width = elements + 1  # the last column collects what has none (-1)
    conformer = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    cell = conformer * width + np.where(index < 0, elements, index)
    found = np.bincount(cell, minlength=(len(offsets) - 1) * width).reshape(-1, width)
    return found[:, :-1]


def in_pieces(array: np.ndarray, rows: int = 1 << 20) -> Iterator[np.ndarray]:
    """Yield an array in pieces, without copies."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def atoms_of(offsets: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the atoms of the conformers ``index`` (n,), and the offsets (n+1,) among these."""
    first = offsets[index]
    counts = offsets[index + 1] - first
    own = np.zeros(len(index) + 1, dtype=np.int64)
    np.cumsum(counts, out=own[1:])
    return np.repeat(first - own[:-1], counts) + np.arange(own[-1]), own
