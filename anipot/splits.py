"""Ways to divide a data set: at random by conformer, or so that no molecule stands on both sides.

Everything here works on index arrays alone and is a function of the seed, so that a split can be
stored, read back, and made again.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from anipot.errors import DataError, SettingsError

#: A part of a split: a fraction of all conformers, a number of conformers, or None for the rest.
Part = float | int | None


def part_sizes(total: int, parts: Sequence[Part]) -> list[int]:
    """Number of conformers in each part.

    Fractions (floats) may add up to less than 1, the remainder is then unused; rounding never makes
    a part empty that was asked for while there are conformers to give. Raises SettingsError for
    parts that cannot be met.
    """
    if not parts:
        raise SettingsError("a split needs at least one part, for example split(0.8, 0.1, 0.1)")
    if sum(p is None for p in parts) > 1:
        raise SettingsError("only one part of a split can be None (the rest)")
    sizes: list[int] = []
    # numpy's float32 is no Python float, and int(0.8) would quietly ask for nothing.
    parts = [float(p) if isinstance(p, np.floating) else p for p in parts]
    fractions = [p for p in parts if isinstance(p, float)]
    if any(not 0 <= f <= 1 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise SettingsError(
            f"the fractions of a split lie in 0..1 and add up to at most 1: {parts}"
        )
    for p in parts:
        if p is None:
            sizes.append(-1)
        elif isinstance(p, float):
            sizes.append(max(round(p * total), 1 if p > 0 else 0))
        elif p < 0:
            raise SettingsError(f"a part of a split cannot have {p} conformers")
        else:
            sizes.append(int(p))
    # All fractions together must be all conformers when they add up to 1: the largest takes what
    # rounding left over.
    if fractions and len(fractions) == len(parts) and abs(sum(fractions) - 1) < 1e-9:
        largest = int(np.argmax(sizes))
        sizes[largest] = total - (sum(sizes) - sizes[largest])
    if -1 in sizes:
        rest = sizes.index(-1)
        sizes[rest] = total - (sum(sizes) + 1)
    for p, size in zip(parts, sizes, strict=True):
        if size < 0 or (size == 0 and isinstance(p, float) and p > 0) or sum(sizes) > total:
            raise DataError(f"{total} conformers are too few for a split into {list(parts)}")
    return sizes


def by_conformer(total: int, parts: Sequence[Part], seed: int) -> list[np.ndarray]:
    """Random parts, sorted index arrays (n_k,) int64. Every conformer is in at most one part."""
    sizes = part_sizes(total, parts)
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(sizes)
    return [np.sort(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def by_group(group: np.ndarray, parts: Sequence[Part], seed: int) -> list[np.ndarray]:
    """Parts in which whole groups stay together, as close to the sizes asked for as groups allow.

    ``group`` (M,) integers: the molecule (or formula) of each conformer. Groups are taken in a
    random order and each goes to the part that is furthest below its share. Raises DataError when
    there are fewer groups than parts.
    """
    total = len(group)
    sizes = np.array(part_sizes(total, parts), dtype=float)
    _, group = np.unique(group, return_inverse=True)
    counts = np.bincount(group)
    wanted = int((sizes > 0).sum())
    if len(counts) < wanted:
        raise DataError(
            f"{len(counts)} molecule(s) cannot be split by molecule into {wanted} parts; split "
            "by conformer instead"
        )
    # Every part that was asked for gets a group first, the smallest part first; what the parts
    # do not ask for (fractions below 1 in all) goes to a part that is thrown away.
    targets = np.append(sizes, total - sizes.sum())
    filled = np.zeros(len(targets))
    n_groups = np.zeros(len(targets), dtype=int)
    home = np.empty(len(counts), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(counts))
    for place, g in enumerate(order):
        empty = [k for k in range(len(parts)) if sizes[k] > 0 and n_groups[k] == 0]
        if empty and len(order) - place <= len(empty):
            k = min(empty, key=lambda i: sizes[i])
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                lack = np.where(targets > 0, (targets - filled) / targets, -np.inf)
            k = int(np.argmax(lack))
        home[g] = k
        filled[k] += counts[g]
        n_groups[k] += 1
    part_of = home[group]
    return [np.flatnonzero(part_of == k) for k in range(len(parts))]


def folds(
    total: int, k: int, seed: int, group: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """k pairs (training indices, held-out indices); every conformer is held out exactly once.

    With ``group`` (M,), whole groups are held out together.
    """
    if not 2 <= k <= total:
        raise SettingsError(f"cannot make {k} folds of {total} conformers")
    # Whole numbers: rounding total/k for each fold could leave the last one none.
    equal: list[Part] = [total // k + (i < total % k) for i in range(k)]
    parts = by_conformer(total, equal, seed) if group is None else by_group(group, equal, seed)
    for held_out in parts:
        mask = np.ones(total, dtype=bool)
        mask[held_out] = False
        yield np.flatnonzero(mask), held_out
