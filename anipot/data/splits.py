"""Ways to divide a data set: at random by conformer, or so that no molecule stands on both sides.

Everything here works on index arrays alone and is a function of the seed, so that a split can be
stored, read back, and made again.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from anipot.errors import DataError, SettingsError

#: A part of a split: a fraction of all conformers, a number of conformers, or None for the rest.
Part = float | int | None

#: From so many conformers on, indices have 32 bits and are made in blocks of ``_BLOCK``.
LARGE = 1 << 20
_BLOCK = 1 << 16


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
    _check_not_percent(parts, total)
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
            raise DataError(f"{total} conformer(s) are too few for a split into {list(parts)}")
    return sizes


def _check_not_percent(parts: Sequence[Part], total: int) -> None:
    """Integers are numbers of conformers: those that look like shares are refused, not obeyed."""
    counts = [p for p in parts if isinstance(p, int | np.integer)]
    asked = sum(counts)
    if len(counts) < len(parts) or len(parts) < 2 or asked >= total:
        return
    if asked == 100 or set(counts) <= {0, 1}:
        shares = ", ".join(f"{p / asked:g}" if asked else "0" for p in counts)
        whole = ", ".join(str(p) for p in counts)
        raise SettingsError(
            f"write {shares} for fractions; whole numbers are numbers of conformers, and {whole} "
            f"of {total:,} conformers look like a mistake. If they are none, leave the rest to a "
            f"part of its own: {whole}, None"
        )


def by_conformer(total: int, parts: Sequence[Part], seed: int) -> list[np.ndarray]:
    """Random parts, sorted index arrays (n_k,). Every conformer is in at most one part.

    All splits into parts of these sizes are equally likely. Of more than ``LARGE`` conformers the
    indices have 32 bits, and are drawn block by block: how many of a block go into each part, then
    which, so that nothing else of the length of the data is held.
    """
    sizes = part_sizes(total, parts)
    if total > LARGE:
        return _by_conformer_in_blocks(total, sizes, seed)
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(sizes)
    return [np.sort(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def _by_conformer_in_blocks(total: int, sizes: list[int], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    dtype = np.int32 if total < 2**31 else np.int64
    parts = [np.empty(size, dtype) for size in sizes]
    left = np.array([*sizes, total - sum(sizes)])  # the last: in no part
    done = [0] * len(sizes)
    for start in range(0, total, _BLOCK):
        size = min(_BLOCK, total - start)
        share = rng.multivariate_hypergeometric(left, size, method="marginals")
        left -= share
        order = rng.permutation(size)
        drawn = np.split(order, np.cumsum(share)[:-1])  # the last of them is of no part
        for k, part in enumerate(parts):
            mine = drawn[k]
            part[done[k] : done[k] + len(mine)] = np.sort(mine) + start
            done[k] += len(mine)
    return parts


def by_group(group: np.ndarray, parts: Sequence[Part], seed: int) -> list[np.ndarray]:
    """Parts in which whole groups stay together, as close to the sizes asked for as groups allow.

    ``group`` (M,) integers: the molecule (or formula) of each conformer. The smaller parts are
    filled first, with groups in a random order, leaving out what would overfill them; the largest
    part takes the rest. Raises DataError when there are fewer groups than parts.
    """
    total = len(group)
    sizes = part_sizes(total, parts)
    present, counts = _occurring(group)
    asked = sorted((k for k in range(len(parts)) if sizes[k] > 0), key=lambda k: sizes[k])
    if len(counts) < len(asked):
        raise DataError(
            f"{len(counts)} molecule(s) cannot be split by molecule into {len(asked)} parts; split "
            "by conformer instead"
        )
    complete = sum(sizes) == total
    waiting = [int(g) for g in np.random.default_rng(seed).permutation(len(counts))]
    home = np.full(len(counts), -1)
    for place, k in enumerate(asked):
        still_to_fill = len(asked) - place - 1
        if still_to_fill == 0 and complete:
            home[waiting] = k
            break
        filled = 0
        left: list[int] = []
        for n, g in enumerate(waiting):
            if len(left) + len(waiting) - n > still_to_fill and filled + counts[g] / 2 <= sizes[k]:
                home[g] = k
                filled += int(counts[g])
            else:
                left.append(g)
        waiting = left
        if filled == 0:  # every group is too large: the smallest overfills it least
            smallest = min(waiting, key=lambda g: counts[g])
            home[smallest] = k
            waiting.remove(smallest)
    part_of = np.full(len(group), -1, dtype=np.int8 if len(parts) < 128 else np.int64)
    for start in range(0, total, _BLOCK):
        here = slice(start, start + _BLOCK)
        part_of[here] = home[np.searchsorted(present, group[here])]
    return [nonzero(part_of == k) for k in range(len(parts))]


def _occurring(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The groups that occur, ascending, and how often each does."""
    counts: dict[int, int] = {}
    for start in range(0, len(group), _BLOCK):
        values, often = np.unique(group[start : start + _BLOCK], return_counts=True)
        for value, n in zip(values.tolist(), often.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + n
    present = np.array(sorted(counts))
    return present, np.array([counts[g] for g in present.tolist()], dtype=np.int64)


def nonzero(mask: np.ndarray) -> np.ndarray:
    """``np.flatnonzero``; of more than ``LARGE``, in 32 bits where they do, and block by block."""
    if len(mask) <= LARGE:
        return np.flatnonzero(mask)
    index = np.empty(int(np.count_nonzero(mask)), np.int32 if len(mask) < 2**31 else np.int64)
    done = 0
    for start in range(0, len(mask), _BLOCK):
        here = np.flatnonzero(mask[start : start + _BLOCK])
        index[done : done + len(here)] = here + start
        done += len(here)
    return index


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
        yield nonzero(mask), held_out
