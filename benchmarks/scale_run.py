"""One training of the source's experiment in a process of its own, and what it took.

    python -m benchmarks.scale_run '{"store": "FOLDER", "mode": "streamed", "epochs": 1}'

prints a line of JSON; ``python -m benchmarks scale`` starts it.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which the first optimizer imports: it is no memory of a training

import anipot.data.views
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.experiments.table.presets import source
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.system.devices import pick_device
from anipot.training.trainer import ANITrainer
from benchmarks.memory import peak_mb
from benchmarks.timing import Load, alternate
from benchmarks.train import HIDDEN, SETTINGS, Anipot, TorchANI, operations

#: Parts of a division into training, validation and test.
PARTS = (0.8, 0.1, 0.1)

#: Memory that is no page of a file: pages of a store belong to the system, which drops them.
_ANONYMOUS = re.compile(rb"RssAnon:\s*(\d+) kB")


def anonymous_mb() -> float:
    """Memory of this process that is no file's, MB; NaN where the system does not tell."""
    try:
        found = _ANONYMOUS.search(Path("/proc/self/status").read_bytes())
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else math.nan


class AnonymousPeak(threading.Thread):
    """The highest anonymous memory seen, looked at a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = anonymous_mb()
        self.start()

    def run(self) -> None:
        while not math.isnan(self.most):
            self.most = max(self.most, anonymous_mb())
            time.sleep(0.01)


def train(
    store: str, mode: str, batch: int, epochs: int | None, updates: int | None, device: str,
    threads: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Train ``epochs`` (or ``updates``) on a store; seconds of the updates, without validation."""
    watch, start, load = AnonymousPeak(), time.perf_counter(), Load()
    imports = peak_mb()
    streamed = mode == "streamed"
    # However small: what is measured is the way of the data.
    anipot.data.views.VIEW_FROM = 0 if streamed else sys.maxsize
    data = load_dataset(store)
    if not streamed:
        data = in_memory(data)
    parts = data.split(*PARTS, seed=0)
    opened = time.perf_counter() - start
    base = source(protocol="controlled")["base"]
    model = ANIModel.create("HCNO", **base["model"])
    options = base["training"] | {"batch_size": batch, "learning_rate": 1e-3}
    trainer = ANITrainer(
        model, **options, epochs=epochs, updates=updates, device=device, threads=threads
    )
    start = time.perf_counter()
    history = trainer.train(parts[0], parts[1], early_stop=False, quiet=True)
    wall = time.perf_counter() - start
    # Before the products below, which have matrices of their own.
    peak, most = peak_mb(), watch.most
    seen = conformers_seen(len(parts[0]), batch, history.epochs[-1].updates)
    seconds = [float(e.seconds) for e in history]
    atoms = seen * data.total_atoms / len(data)
    rate = matmul_rate(parts[0], batch, trainer.device, threads)
    work = operations(model, 1, False) * atoms
    cuda = trainer.device.type == "cuda"
    return {
        "mode": mode,
        "conformers": len(data),
        "atoms": data.total_atoms,
        "training_conformers": len(parts[0]),
        "batch": batch,
        "device": torch.cuda.get_device_name(trainer.device) if cuda else "cpu",
        "engine": model.aev.engine_on(trainer.device),
        "threads": threads or torch.get_num_threads(),
        "updates": history.epochs[-1].updates,
        "seconds": sum(seconds),
        "seconds_per_epoch": sum(seconds) * len(parts[0]) / seen,
        "epoch_seconds": seconds,
        "opening_seconds": opened,
        "validation_and_rest_seconds": wall - sum(seconds),
        "conformers_per_second": seen / sum(seconds),
        "atoms_per_second": atoms / sum(seconds),
        "of_matmul": work / sum(seconds) / rate,
        "matmul_gflops": rate / 1e9,
        "peak_mb": peak,
        "imports_mb": imports,
        "anonymous_peak_mb": most,
        "anonymous_above_imports_mb": most - watch.before,
        "device_peak_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else None,
        "validation_mae_kcalmol": history.epochs[-1].val_mae,
        "others_load": load.others(),
    }


def one_batch(store: str, batch: int) -> tuple[Conformers, int]:
    """A batch of the training part, energies above self energies; and how many an epoch has."""
    train = load_dataset(store).split(*PARTS, seed=0)[0]
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:batch])
    conformers = train.gather(chosen)
    assert conformers.energies is not None
    above = conformers.energies - SelfEnergies.fit(conformers, "HCNO").of(conformers)
    return replace(conformers, energies=above), -(-len(train) // len(conformers))


def profile(store: str, batch: int, device: str, threads: int, steps: int = 5) -> dict[str, Any]:
    """Where the time of anipot's step goes, as torch's profiler tells it."""
    torch.set_num_threads(threads)
    place = pick_device(device)
    code = Anipot(one_batch(store, batch)[0], str(place))
    float(code.step(False))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if place.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(steps):
            float(code.step(False))
    order = f"self_{place.type}_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=50)
    return {"steps": steps, "table": table}


def side_by_side(store: str, batch: int, device: str, threads: int, rounds: int) -> dict[str, Any]:
    """A step on one batch of the training part, by anipot and by TorchANI, in turn."""
    torch.set_num_threads(threads)
    place = pick_device(device)
    conformers, batches = one_batch(store, batch)
    ours = Anipot(conformers, str(place))
    codes: dict[str, Anipot | TorchANI] = {
        "anipot": ours,
        "TorchANI": TorchANI(conformers, ours.model),
    }
    if place.type == "cuda":
        from torchani.csrc import CUAEV_IS_INSTALLED

        if CUAEV_IS_INSTALLED:
            codes["TorchANI, CUDA extension"] = TorchANI(conformers, ours.model, "cuaev")
    losses = {name: float(code.step(False)) for name, code in codes.items()}
    for name, loss in losses.items():
        if abs(loss - losses["anipot"]) > 1e-4 * abs(loss):
            raise AssertionError(f"the losses differ: {losses['anipot']} and {loss} ({name})")
    load = Load()
    # A number is there when the device has done its work.
    found = alternate({n: lambda c=c: float(c.step(False)) for n, c in codes.items()}, rounds)  # type: ignore[misc]
    rate = matmul_rate(conformers, batch, place, threads)
    work = operations(ours.model, conformers.total_atoms, False)
    others = load.others()
    return {
        name: {
            "step_seconds": s.median,
            "spread": s.spread,
            "conformers_per_second": len(conformers) / s.median,
            "atoms_per_second": conformers.total_atoms / s.median,
            "seconds_per_epoch": s.median * batches,
            "of_matmul": work / s.median / rate,
            "times_anipot": s.median / found["anipot"].median,
            "others_load": others,
        }
        for name, s in found.items()
    }


def in_memory(data: Conformers) -> Conformers:
    """A copy in memory of a data set that is mapped."""
    mapped = {k: v for k, v in vars(data).items() if isinstance(v, np.ndarray)}
    arrays: dict[str, Any] = {k: np.array(v) for k, v in mapped.items()}
    return replace(data, **arrays)


def conformers_seen(n: int, batch: int, updates: int) -> int:
    """Conformers in so many updates: the last batch of an epoch may be smaller."""
    epochs, rest = divmod(updates, -(-n // batch))
    return epochs * n + min(rest * batch, n)


def matmul_rate(
    conformers: Conformers, batch: int, device: torch.device, threads: int | None
) -> float:
    """Floating-point operations a second of the products that a batch consists of, alone.

    Those of the first layer of each element's network, which are nearly all: forward and weight
    gradient, with the rows that a batch has of the element.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    first = conformers.gather(np.arange(min(batch, len(conformers))))
    loader = BatchLoader(first, len(first), "HCNO")
    counts = loader.batch(torch.arange(len(first))).counts
    width, hidden = SETTINGS.length, HIDDEN[0]
    seconds = 0.0
    for n in counts:
        x, w = torch.randn(n, width, device=device), torch.randn(width, hidden, device=device)
        g = torch.randn(n, hidden, device=device)

        def products(x=x, w=w, g=g) -> None:  # type: ignore[no-untyped-def]
            torch.mm(x, w)
            torch.mm(x.T, g)
            if device.type == "cuda":
                torch.cuda.synchronize()

        seconds += min(alternate({"mm": products}, 5)["mm"].seconds)
    return 2 * 2 * sum(counts) * width * hidden / seconds


def main() -> None:
    given = json.loads(sys.argv[1])
    kinds = {"train": train, "side by side": side_by_side, "profile": profile}
    print(json.dumps(kinds[given.pop("kind", "train")](**given)))


if __name__ == "__main__":
    main()
