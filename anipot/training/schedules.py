"""Learning-rate schedules as pure functions of progress: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from anipot.config import TrainingSettings

#: A one-cycle schedule starts at this fraction of its highest rate.
ONE_CYCLE_START = 1 / 25


def learning_rate(settings: TrainingSettings, update: int, total: int) -> float:
    """The rate of update number ``update`` (from 0) of ``total``.

    It rises during the first ``warmup`` of all updates (one-cycle: along a cosine from 1/25; the
    others: linearly) and then falls to zero along a cosine (one-cycle, cosine) or a line (linear),
    or stays (constant).
    """
    warmup = settings.warmup * total
    if update < warmup:
        x = (update + 1) / warmup if settings.schedule != "one-cycle" else update / warmup
        if settings.schedule == "one-cycle":
            x = ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * x)) / 2
        return settings.learning_rate * min(x, 1.0)
    x = (update - warmup) / max(total - warmup, 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - x)
    return settings.learning_rate * (1 + math.cos(math.pi * x)) / 2
