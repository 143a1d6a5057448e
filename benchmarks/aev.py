"""AEVs of anipot and of TorchANI on the same molecules: ``python -m benchmarks aev``.

Both start from unsorted float32 coordinates as a user has them: anipot sorts them by element within
the time, TorchANI has them padded beforehand. The codes run in turn in one process. "best chunk"
is TorchANI called in parts of the size that suits it best.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase.build import molecule
from torch import Tensor

from anipot.aev import AEVSettings, native, native_library
from anipot.aev.neighbors import neighbor_pairs
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from benchmarks.timing import (
    Load,
    alternate,
    in_words,
    matmul_rate,
    thread_counts,
    wait_for_quiet,
)

CHUNKS = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is computed, and the ratio that is wanted."""

    settings: str
    gradient: bool
    chunked: bool
    target: float

    @property
    def name(self) -> str:
        what = "forward + VJP" if self.gradient else "forward"
        return f"{what}, {self.settings}, {'best chunk' if self.chunked else 'one call'}"


ROWS = (
    Row("ani1x", gradient=False, chunked=False, target=20),
    Row("ani1x", gradient=False, chunked=True, target=10),
    Row("ani2x", gradient=False, chunked=False, target=18),
    Row("ani2x", gradient=False, chunked=True, target=0),
    Row("ani1x", gradient=True, chunked=False, target=18),
    Row("ani1x", gradient=True, chunked=True, target=8),
)


def butanes(n: int) -> Conformers:
    """``n`` butane molecules with atoms displaced at random by 0.1 angstrom."""
    m = molecule("trans-butane")
    rng = np.random.default_rng(0)
    x = m.positions + rng.normal(0, 0.1, (n, len(m), 3))
    return Conformers(
        atomic_numbers=np.tile(m.numbers, n),
        coordinates=x.reshape(-1, 3).astype(np.float32),
        offsets=np.arange(n + 1) * len(m),
    )


class Anipot:
    def __init__(self, settings: AEVSettings, conformers: Conformers, g: Tensor) -> None:
        self.settings, self.conformers = settings, conformers
        batch = Batch.of(conformers, settings.elements)
        self.g = g[batch.atoms]  # by row, as the networks would give it

    def forward(self) -> Tensor:
        batch = Batch.of(self.conformers, self.settings.elements)
        return native.aev(self.settings, batch, batch.coordinates, None)

    def gradient(self) -> Tensor:
        batch = Batch.of(self.conformers, self.settings.elements)
        x = batch.coordinates.requires_grad_()
        aevs = native.aev(self.settings, batch, x, None)
        return batch.conformer_order(torch.autograd.grad(aevs, x, self.g)[0])


class TorchANI:
    def __init__(self, settings: AEVSettings, conformers: Conformers, g: Tensor) -> None:
        from anipot.aev.torchani_engine import torchani_computer

        self.computer = torchani_computer(settings, torch.float32, torch.device("cpu"))
        n = int(conformers.n_atoms[0])
        species = Batch.of(conformers.take([0]), settings.elements)
        self.species = species.conformer_order(species.species).repeat(len(conformers), 1)
        self.x = torch.as_tensor(conformers.coordinates).view(-1, n, 3)
        self.g = g.view(len(conformers), n, -1)

    def forward(self, chunk: int | None = None, first: int | None = None) -> Tensor:
        parts = []
        total = len(self.x) if first is None else first
        with torch.no_grad():
            for k in range(0, total, chunk or total):
                part = slice(k, min(k + (chunk or total), total))
                parts.append(self.computer(self.species[part], self.x[part]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gradient(self, chunk: int | None = None, first: int | None = None) -> Tensor:
        parts = []
        total = len(self.x) if first is None else first
        for k in range(0, total, chunk or total):
            part = slice(k, min(k + (chunk or total), total))
            x = self.x[part].clone().requires_grad_()
            aevs = self.computer(self.species[part], x)
            parts.append(torch.autograd.grad(aevs, x, self.g[part])[0])
        return torch.cat(parts).view(-1, 3)


def best_chunk(code: Callable[[int, int], object], n: int) -> int:
    """The size of parts in which TorchANI is fastest, tried on the first molecules."""
    seconds = {}
    for chunk in CHUNKS:
        first = min(n, 512)
        code(chunk, chunk)
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            code(chunk, first)
            tries.append(time.perf_counter() - start)
        seconds[chunk] = min(tries)
    return min(seconds, key=lambda chunk: seconds[chunk])


def operations(settings: AEVSettings, conformers: Conformers, gradient: bool) -> float:
    """Multiplications and additions of the sums alone: 2 a column of each pair's and triple's block
    (and 4 more of a triple's for the VJP). Exponentials and powers come on top, uncounted."""
    batch = Batch.of(conformers.take(slice(0, 64)), settings.elements)

    def ends(cutoff: float) -> Tensor:
        pairs = neighbor_pairs(batch, batch.coordinates, None, cutoff)
        return torch.bincount(torch.cat([pairs.i, pairs.j]), minlength=len(batch.species))

    pairs = float(ends(settings.radial_cutoff).sum())
    near = ends(settings.angular_cutoff).double()
    triples = float((near * (near - 1) / 2).sum())
    scale = len(conformers) / len(batch)
    radial, angular = (4, 6) if gradient else (2, 2)
    return scale * (
        radial * pairs * settings.radial_terms + angular * triples * settings.angular_terms
    )


def errors(settings: AEVSettings, conformers: Conformers) -> list[str]:
    """Largest errors in float32 of both codes, against float64."""
    few = conformers.take(slice(0, 200))
    g = torch.randn(
        len(few.atomic_numbers), settings.length, generator=torch.Generator().manual_seed(0)
    )
    ours, theirs = Anipot(settings, few, g), TorchANI(settings, few, g)
    batch = Batch.of(few, settings.elements, dtype=torch.float64)
    exact = native.aev(settings, batch, batch.coordinates, None)
    exact_gradient = native.vjp(settings, batch, batch.coordinates, None, ours.g.double())[0]
    lines = []
    for what, truth, a, b in (
        ("AEV", batch.conformer_order(exact), ours.forward()[batch.rows], theirs.forward()),
        ("VJP", batch.conformer_order(exact_gradient), ours.gradient(), theirs.gradient()),
    ):
        one, two = (float((t.reshape(truth.shape) - truth).abs().max()) for t in (a, b))
        lines.append(
            f"  {what}: anipot {one:.1e}, TorchANI {two:.1e}, ratio {one / two:.2f} (at most 2)"
        )
    return lines


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks aev", description=__doc__)
    parser.add_argument("--conformers", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for quiet, a row")
    options = parser.parse_args(argv)
    conformers = butanes(options.conformers)
    kernels = native_library.variant()
    print(
        f"AEVs of {options.conformers} butanes (14 atoms), float32; anipot's {kernels} "
        f"kernels; medians of {options.rounds} rounds, in milliseconds"
    )
    head = f"{'':38}{'threads':>8}{'anipot':>9}{'':>7}{'TorchANI':>10}{'':>7}{'ratio':>8}"
    print(head + f"{'wanted':>8}{'of matmul':>11}  {'others load':>11}")
    worst: dict[Row, float] = {}
    disturbed: set[Row] = set()
    before = torch.get_num_threads()
    for threads in thread_counts():
        torch.set_num_threads(threads)
        rate = matmul_rate()
        for row in ROWS:
            settings = AEVSettings.named(row.settings)
            g = torch.randn(len(conformers.atomic_numbers), settings.length)
            ours, theirs = Anipot(settings, conformers, g), TorchANI(settings, conformers, g)
            mine = ours.gradient if row.gradient else ours.forward
            other = theirs.gradient if row.gradient else theirs.forward
            chunk = best_chunk(other, len(conformers)) if row.chunked else None
            wait_for_quiet(options.wait)
            load = Load()
            found = alternate(
                {"anipot": mine, "torchani": functools.partial(other, chunk)}, options.rounds
            )
            others = load.others()
            a, t = found["anipot"], found["torchani"]
            ratio = t.median / a.median
            worst[row] = min(ratio, worst.get(row, ratio))
            share = operations(settings, conformers, row.gradient) / a.median / rate
            name = row.name + (f" ({chunk})" if chunk else "")
            loaded = in_words(others)
            if "loaded" in loaded:
                disturbed.add(row)
            wanted = f"{row.target:.0f}" if row.target else "-"
            print(
                f"{name:38}{threads:>8}{a.median * 1e3:>9.1f}{f'+-{a.spread:.0%}':>7}"
                f"{t.median * 1e3:>10.1f}{f'+-{t.spread:.0%}':>7}{ratio:>8.1f}{wanted:>8}"
                f"{share:>11.0%}  {loaded:>11}",
                flush=True,
            )
    torch.set_num_threads(before)
    print("\nthe worse of the thread counts:")
    for row, ratio in worst.items():
        verdict = "" if not row.target else " reached" if ratio >= row.target else " NOT reached"
        verdict += " (loaded)" if row in disturbed else ""
        print(f"  {row.name:36}{ratio:>8.1f} x{verdict}")
    print("\nlargest errors in float32, against float64:")
    for name in ("ani1x", "ani2x"):
        print(f" {name}", *errors(AEVSettings.named(name), conformers), sep="\n")
    return 0
