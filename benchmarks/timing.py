"""Two codes timed in turn in one process, and how quiet the machine was meanwhile."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

#: Cores that others may use before a measurement counts as disturbed.
QUIET = 0.15


@dataclass
class Samples:
    """Seconds of the calls of one code."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, as a fraction of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


class Load:
    """Cores in use by other processes between two moments; None where the system does not tell."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        busy = float("nan")
        stat = Path("/proc/stat")
        if stat.exists():
            user, nice, system, _idle, _wait, irq, softirq, steal = (
                int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:9]
            )
            busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        # Processes that this one has started count when they have ended.
        return time.perf_counter(), busy, sum(os.times()[:4])

    def others(self) -> float | None:
        wall, busy, own = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return None if busy != busy else max(0.0, (busy - own) / max(wall, 1e-9))


def in_words(others: float | None) -> str:
    """The load of others for a table, marked where it disturbed the measurement."""
    told = "unknown" if others is None else f"{others:.2f}"
    return f"{told} loaded" if others is None or others >= QUIET else told


def wait_for_quiet(seconds: float) -> bool:
    """Wait, at most ``seconds``, until others leave the machine alone; whether they do."""
    end = time.monotonic() + seconds
    while True:
        load = Load()
        time.sleep(1.0)
        others = load.others()
        if others is not None and others < QUIET:
            return True
        if time.monotonic() >= end:
            return False


def alternate(codes: dict[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Call every code once to warm up, then all of them in turn ``rounds`` times."""
    samples = {name: Samples() for name in codes}
    for code in codes.values():
        code()
    for _ in range(rounds):
        for name, code in codes.items():
            start = time.perf_counter()
            result = code()
            samples[name].seconds.append(time.perf_counter() - start)
            del result  # given back before the next one asks for memory, and outside its time
    return samples


def matmul_rate(size: int = 1024) -> float:
    """Floating-point operations a second of a float32 matrix product, with torch's threads."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(s for s in alternate({"matmul": lambda: a @ b}, 15)["matmul"].seconds)
    return 2 * size**3 / best


def thread_counts() -> list[int]:
    """One thread, and two where the machine has two cores."""
    return [1, 2] if (os.cpu_count() or 1) > 1 else [1]
