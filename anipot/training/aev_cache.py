"""AEVs of a data set, computed once: they do not change between epochs."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch, BatchLoader
from anipot.errors import SettingsError
from anipot.system.devices import free_memory
from anipot.training.ranks import on_this_machine

#: "auto" fills at most this fraction of the memory that is free.
SHARE_OF_FREE_MEMORY = 0.5

#: Cached entries smaller than this become zero: they are 20 orders of magnitude below float32's
#: resolution of the others, and products with them underflow to denormal numbers, which processors
#: multiply so slowly that training takes twice as long.
NEGLIGIBLE = 1e-30

#: Conformers whose AEVs are computed at once while the cache is filled.
CHUNK = 256


class AEVSource:
    """Gives the AEVs of batches of one or more loaders: computed anew, or from a cache.

    ``where``: "off", "ram" (the computer's memory), "device" (the loader's device), or "auto": off
    with the native engine, which computes AEVs about as fast as memory gives them back; else the
    device or the memory, where they fill at most half of what is free. ``report`` says what was
    decided.
    """

    def __init__(self, computer: AEVComputer, loaders: list[BatchLoader], where: str) -> None:
        self.computer = computer
        self.caches: dict[int, Tensor] = {}
        device = loaders[0].device
        itemsize = torch.finfo(loaders[0].dtype).bits // 8
        atoms = sum(loader.n_atoms for loader in loaders)
        size = atoms * computer.length * itemsize
        reason = "aev_cache=off"
        if any(loader.streams for loader in loaders):
            if where not in ("auto", "off"):
                raise SettingsError(
                    f"aev_cache={where} keeps AEVs of all conformers, and these are read from a "
                    "store batch by batch; take aev_cache=off, or data that fits into memory"
                )
            where, reason = "off", "the data is read from the disk batch by batch"
        elif where == "auto" and computer.engine_on(device) == "native":
            where, reason = "off", "the native engine is as fast as a cache"
        elif where == "auto":
            reason = f"{_gb(size)} would not fit in half of the memory that is free"
            places = {"device": device, "ram": torch.device("cpu")}
            # Each rank keeps the AEVs of all conformers: it may meet any in its share of a batch.
            fitting = [
                p
                for p, d in places.items()
                if size * (on_this_machine() if d.type == "cpu" else 1)
                <= free_memory(d) * SHARE_OF_FREE_MEMORY
            ]
            where = fitting[0] if fitting else "off"
        if where == "off":
            self.report = f"AEVs are computed anew in every epoch ({reason})"
            return
        home = torch.device("cpu") if where == "ram" else device
        for loader in loaders:
            self.caches[id(loader)] = self._fill(loader, home)
        self.report = f"AEVs of {atoms:,} atoms kept in {_place(home)}: {_gb(size)}"

    def _fill(self, loader: BatchLoader, home: torch.device) -> Tensor:
        cache = torch.empty(loader.n_atoms, self.computer.length, dtype=loader.dtype, device=home)
        with torch.no_grad():
            for start in range(0, loader.n_conformers, CHUNK):
                stop = min(start + CHUNK, loader.n_conformers)
                batch = loader.batch(torch.arange(start, stop, device=loader.device))
                aevs = self.computer(batch)
                aevs[aevs.abs() < NEGLIGIBLE] = 0.0
                cache[batch.data_atoms.to(home)] = aevs.to(home)
        return cache

    def __contains__(self, loader: BatchLoader) -> bool:
        """Whether the AEVs of a loader are cached."""
        return id(loader) in self.caches

    def __call__(self, loader: BatchLoader, batch: Batch) -> Tensor:
        """AEVs (N, length) of a batch of ``loader``, by row."""
        cache = self.caches.get(id(loader))
        if cache is None:
            with torch.no_grad():
                return self.computer(batch)
        return cache[batch.data_atoms.to(cache.device)].to(loader.device)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _place(device: torch.device) -> str:
    return "memory" if device.type == "cpu" else f"the memory of {device}"
