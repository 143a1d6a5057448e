"""The order of an epoch: a function of seed and epoch alone, however many conformers there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Up to so many conformers an epoch is one permutation of all (8 MB). More are shuffled through a
#: window: blocks of neighbours are drawn from all over the data, and mixed.
PERMUTED = 1 << 20

#: Neighbours that are read together: some pages of a file, so that a disk is not asked for each.
BLOCK = 64

#: Blocks that are mixed with each other: a batch of thousands has about one conformer of each.
WINDOW = 4096


def order(total: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
    """The conformers 0 ... ``total`` - 1 in the order of an epoch, without the first ``start``.

    They come in pieces (k,) int64. Up to ``PERMUTED`` conformers, all are permuted at once. Beyond,
    they are cut into blocks of ``BLOCK`` neighbours, at places that differ from epoch to epoch;
    the blocks are permuted, and ``WINDOW`` of them at a time are mixed. Neighbours in the data,
    mostly of one molecule, so stand about WINDOW places apart, and memory stays the same.
    """
    rng = np.random.default_rng([seed, epoch])
    if total <= PERMUTED:
        yield rng.permutation(total)[start:]
        return
    shift = int(rng.integers(total))
    blocks = np.arange(-(-total // BLOCK), dtype=np.int32)
    rng.shuffle(blocks[:-1])  # the last block may be shorter, and must not shift the others' places
    size = BLOCK * WINDOW
    for window in range(start // size, -(-total // size)):
        first = blocks[window * WINDOW : (window + 1) * WINDOW].astype(np.int64) * BLOCK
        places = (first[:, None] + np.arange(BLOCK)).reshape(-1)
        places = places[places < total]
        # A generator of its own, so that an epoch can begin at any window.
        np.random.default_rng([seed, epoch, window]).shuffle(places)
        yield ((places + shift) % total)[max(start - window * size, 0) :]
