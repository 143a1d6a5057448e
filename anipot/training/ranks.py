"""Ranks: the processes of one training, as ``torchrun`` starts them."""

from __future__ import annotations

import gc
import importlib
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from anipot.errors import TrainingError

Told = TypeVar("Told")

#: How long a rank waits for the others; the first one may read and divide data for long.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: number ``rank`` of ``size``.

    Each takes its share of every batch, gradients are summed over all, and the weights stay the
    same everywhere. Only the first writes files and prints.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This rank's part of the conformers ``index`` (B,) of a batch; parts differ by one."""
        return index.tensor_split(self.size)[self.rank] if self.size > 1 else index

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks of a tensor that each has, of the same shape."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, value: Told) -> list[Told]:
        """Collect a value of each rank, in their order (plain data)."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def tell(self, value: Told) -> Told:
        """Return the first rank's value on all ranks (plain data)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def started() -> int:
    """Number of processes that ``torchrun`` has started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """Number of joined processes that share this machine and its memory."""
    size = ranks().size
    return min(size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def ranks() -> Ranks:
    """This process among those that torch.distributed has joined; alone where it has none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started (NCCL with GPUs, gloo without).

    Does nothing in a process that was not started so, or that has joined already. The group and
    its threads end with the block, however that ends. Raises TrainingError where the others cannot
    be reached, or when the connection to one is lost.
    """
    if started() == 1 or ranks().size > 1:
        yield ranks()
        return
    if torch.cuda.is_available():
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise TrainingError(
                f"process {local} of this machine has no GPU of its own: there are {there}; start "
                f"torchrun with --nproc-per-node {there}, or with CUDA_VISIBLE_DEVICES= in the "
                "environment to train on the CPU"
            )
        torch.cuda.set_device(local)
    # Functions of this module have the group as a default argument, and so would keep it for good,
    # if DistributedDataParallel were the first to import it, when the group is there.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        dist.init_process_group(timeout=PATIENCE)  # NCCL for tensors on GPUs, gloo for others
    except (RuntimeError, ValueError) as e:
        raise TrainingError(
            f"the processes of this training cannot reach each other: {e}. Start them with "
            "'torchrun --nproc-per-node 2 -m anipot train ...'"
        ) from e
    try:
        with warnings.catch_warnings():
            # Of the one row of a last layer's weights, whose stride means nothing.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield ranks()
    except BaseException as e:
        _clear_frames(e)
        if isinstance(e, dist.DistError) or (isinstance(e, RuntimeError) and "gloo" in str(e)):
            raise TrainingError(
                f"the connection to another process of this training was lost ({e}); look at what "
                "that process printed. 'anipot train --resume RUN' goes on from the last checkpoint"
            ) from e
        raise
    finally:
        # Whatever still refers to the group keeps its threads running beyond
        # destroy_process_group. Such a thread takes the interpreter's lock to drop the tensors of
        # the last collective; if the interpreter is ending by then, the process aborts
        # ("terminate called without an active exception").
        gc.collect()
        dist.destroy_process_group()


def _clear_frames(error: BaseException) -> None:
    """Drop the local variables that the tracebacks of an error and of its causes keep alive."""
    waiting, seen = [error], set()
    while waiting:
        e = waiting.pop()
        if id(e) not in seen:
            seen.add(id(e))
            traceback.clear_frames(e.__traceback__)
            waiting += [other for other in (e.__cause__, e.__context__) if other is not None]
