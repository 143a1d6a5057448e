"""Number of CPU threads of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Atoms in a batch from which another thread is worth its overhead: the matrix products of smaller
#: batches take microseconds, and threads that wait for each other at the end of each one
#: bring at most a tenth on a quiet machine and stall on a busy one.
ATOMS_PER_THREAD = 500


def useful_threads(atoms_per_batch: float) -> int:
    """Threads for batches of that many atoms: at most torch's own number, at least one."""
    return max(1, min(torch.get_num_threads(), int(atoms_per_batch // ATOMS_PER_THREAD)))


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within the block torch (and the native AEV engine) use that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
