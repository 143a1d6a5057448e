"""Normalization of AEVs: their mean and spread over the atoms of each element."""

from __future__ import annotations

import torch

from anipot.data.batches import BatchLoader
from anipot.errors import SettingsError
from anipot.networks.atomic import AtomicNet
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import CHUNK, AEVSource

#: Conformers that are looked at, evenly spread over the data: more would change no digit that
#: matters.
ENOUGH = 10_000


def normalize_inputs(model: ANIModel, loader: BatchLoader, aevs: AEVSource) -> None:
    """Let each network's first layer see AEVs less their mean, over the largest spread of a column.

    The mean and spread are those of the element's atoms in ``loader``. A trained model stays the
    same function; ``AtomicNetworks.fold`` makes ordinary layers of it again. An element of which
    all atoms have the same AEV stays as it is.
    """
    every = -(-loader.n_conformers // ENOUGH)
    chosen = torch.arange(0, loader.n_conformers, every, device=loader.device)
    length, device = model.aev.length, loader.device
    sums = torch.zeros(2, len(model.elements), length, dtype=torch.float64, device=device)
    counts = torch.zeros(len(model.elements), dtype=torch.float64, device=device)
    for index in chosen.split(CHUNK):
        batch = loader.batch(index)
        for e, x in enumerate(aevs(loader, batch).double().split(batch.counts)):
            sums[0, e] += x.sum(0)
            sums[1, e] += x.square().sum(0)
            counts[e] += len(x)
    means, squares = sums / counts.clamp(min=1)[:, None]
    spreads = (squares - means.square()).clamp(min=0).sqrt().amax(1)
    for net, mean, spread in zip(model.networks.values(), means, spreads.tolist(), strict=True):
        if not isinstance(net, AtomicNet):
            raise SettingsError("normalize_aevs needs network=mlp")
        if spread > 1e-6:  # less is rounding
            net.normalize(mean, spread, same=bool(model.trained))
