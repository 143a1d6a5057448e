"""An autoencoder beside principal components of equal width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from anipot.aev.settings import AEVSettings
from anipot.studies import explore_figures as figures
from anipot.studies.common import Study
from anipot.studies.environments import environments
from anipot.studies.explore_coverage import Parts


def autoencoder(
    study: Study, parts: Parts, number: int, most: int, widths: Sequence[int], updates: int
) -> dict[str, Any]:
    """Compare the losses of an autoencoder and of PCA of equal width on held-out environments.

    Of one element; learnt from ``most`` environments at most.
    """
    settings = AEVSettings.ani1x(parts.training.elements)
    known = environments(parts.training, settings).of(number)
    held = known.conformer % 10 == 0
    new = environments(parts.new, settings).of(number, most)
    sets = {"conformers": known.take(held).aevs, "molecules": new.aevs}
    if len(new) < 10:
        sets.pop("molecules")
    training = known.take(~held).of(number, most).aevs
    found: dict[str, dict[str, list[float]]] = {
        str(width): study.once(
            f"autoencoder-{width}",
            lambda width=width: reconstruction(  # type: ignore[misc]
                training, list(sets.values()), width, updates
            ),
        )
        for width in widths
    }
    study.table(
        ["width", *(f"{method}, new {name}" for name in sets for method in ("PCA", "autoencoder"))],
        [
            [w, *(f"{by[m][k]:.3f}" for k in range(len(sets)) for m in ("PCA", "autoencoder"))]
            for w, by in found.items()
        ],
        f"## An autoencoder beside PCA\n\nShare of the variance of held-out environments that is "
        f"lost; both learnt from {len(training):,} others:",
    )
    study.figure(
        figures.widths(found, list(sets)), "autoencoder", "What PCA and an autoencoder lose."
    )
    return {"sets": list(sets), "lost": found}


def reconstruction(
    training: np.ndarray, held_out: Sequence[np.ndarray], width: int, steps: int, seed: int = 0
) -> dict[str, list[float]]:
    """Loss of PCA and of an autoencoder of one width on each set of held-out AEVs (N, L).

    The loss is the mean squared error over that of the mean AEV of the training. The autoencoder
    is L-64-width-64-L with SiLU, on the same AEVs as PCA; Adam, batches of 256, one cycle of the
    learning rate.
    """
    mean = training.mean(0)
    # One scale for all columns, so that both minimise the same error.
    scale = float((training - mean).std())
    x, *others = [torch.as_tensor((a - mean) / scale).float() for a in (training, *held_out)]
    _, _, axes = torch.linalg.svd(x, full_matrices=False)
    axes = axes[:width]
    torch.manual_seed(seed)
    length = x.shape[1]
    network = nn.Sequential(
        nn.Linear(length, 64), nn.SiLU(), nn.Linear(64, width),
        nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, length),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = x[torch.randint(len(x), (256,), generator=generator)]
        loss = (network(part) - part).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():

        def lost(of: torch.Tensor, seen: torch.Tensor) -> float:
            return float((of - seen).square().mean() / of.square().mean())

        return {
            "PCA": [lost(o, o @ axes.T @ axes) for o in others],
            "autoencoder": [lost(o, network(o)) for o in others],
        }
