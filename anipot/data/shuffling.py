"""The order of an epoch: a function of seed and epoch alone, however many conformers there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Up to so many conformers an epoch is one permutation of all (8 MB). More are shuffled through a
#: window: blocks of neighbours are drawn from all over the data, and mixed.
PERMUTED = 1 << 20

#: Neighbours that are read together: some pages of a file, so that a disk is not asked for each.
BLOCK = 64

#: Most blocks that are mixed with each other: a batch of thousands has about one conformer of each.
WINDOW = 4096


def order(total: int, seed: int, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
    """The conformers 0 ... ``total`` - 1 in the order of an epoch, without the first ``start``.

    They come in pieces (k,) int64. Up to ``PERMUTED`` conformers, all are permuted at once. Beyond,
    they are cut into blocks of ``BLOCK`` neighbours, at places that differ from epoch to epoch;
    the blocks are permuted, and about ``WINDOW`` of them at a time are mixed. Neighbours in the
    data, mostly of one molecule, so stand about WINDOW places apart, and memory stays the same.
    """
    rng = np.random.default_rng([seed, epoch])
    if total <= PERMUTED:
        yield rng.permutation(total)[start:]
        return
    shift = int(rng.integers(total))
    blocks = np.arange(-(-total // BLOCK), dtype=np.int32)
    rng.shuffle(blocks[:-1])  # the last block may be shorter, and must not shift the others' places
    # Windows alike: a last one of a few blocks would end every epoch with batches of these alone.
    windows = -(-len(blocks) // WINDOW)
    width = -(-len(blocks) // windows)
    size = BLOCK * width
    for window in range(start // size, windows):
        first = blocks[window * width : (window + 1) * width].astype(np.int64) * BLOCK
        places = (first[:, None] + np.arange(BLOCK)).reshape(-1)
        places = places[places < total]
        # A generator of its own, so that an epoch can begin at any window. With a 0 at the end it
        # would be the one above: numpy's seeds are filled up with zeros.
        np.random.default_rng([seed, epoch, window + 1]).shuffle(places)
        yield ((places + shift) % total)[max(start - window * size, 0) :]
