"""A training step of anipot and of TorchANI on the same batch: ``python -m benchmarks train``.

384-128-1 ReLU networks, a batch of mixed H, C, N, O molecules, nothing cached: AEVs, networks,
loss, gradient and optimizer. Both start from unsorted float32 coordinates as a user has them:
anipot puts its batch together within the time, TorchANI has it padded beforehand. Both use the same
optimizer (AdamW, fused) and start from the same weights. The force step is a plain MSE of
energies plus one of forces.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from ase.build import molecule
from ase.collections import g2
from torch import Tensor

from anipot.aev import AEVSettings
from anipot.config import TrainingSettings
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import loss_terms
from anipot.training.step import TrainingStep
from benchmarks.timing import Load, alternate, in_words, matmul_rate, thread_counts, wait_for_quiet

SETTINGS = AEVSettings.ani1x()
HIDDEN = [128]
ENERGY_STEP, FORCE_STEP = "energy step", "energy and force step"
TARGETS = {ENERGY_STEP: 6.0, FORCE_STEP: 9.0}


def molecules(n: int) -> Conformers:
    """``n`` conformers of the G2 molecules of H, C, N, O with 8 to 16 atoms, randomly displaced."""
    frames = [molecule(name) for name in g2.names]
    kinds = [f for f in frames if 8 <= len(f) <= 16 and set(f.numbers) <= {1, 6, 7, 8}]
    rng = np.random.default_rng(0)
    chosen = [kinds[k] for k in rng.integers(len(kinds), size=n)]
    x = [f.positions + rng.normal(0, 0.1, (len(f), 3)) for f in chosen]
    sizes = [len(f) for f in chosen]
    return Conformers(
        atomic_numbers=np.concatenate([f.numbers for f in chosen]),
        coordinates=np.concatenate(x).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        energies=rng.normal(0, 0.02, n),
        forces=rng.normal(0, 0.05, (sum(sizes), 3)).astype(np.float32),
    )


class Anipot:
    """anipot's step, as ``ANITrainer`` makes it (energies), and with forces."""

    def __init__(self, conformers: Conformers, device: str = "cpu") -> None:
        engine = "native" if device == "cpu" else "auto"
        self.model = ANIModel.create(
            "HCNO", hidden=HIDDEN, activation="relu", output_unit="hartree", engine=engine
        ).to(device)
        parameters = list(self.model.networks.parameters())
        self.optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.0, fused=True)
        self.loader = BatchLoader(
            conformers, len(conformers), self.model.elements, device=self.model.device
        )
        self.index = torch.arange(len(conformers), device=self.model.device)
        aevs = AEVSource(self.model.aev, [self.loader], "auto")
        self.steps = {}
        for forces in (False, True):
            settings = TrainingSettings(target_unit="hartree", force_weight=float(forces))
            terms = loss_terms(settings, conformers, self.model.device)
            self.steps[forces] = TrainingStep(self.model, self.loader, aevs, terms, 1.0)
        for p in parameters:
            p.grad = torch.zeros_like(p)

    def step(self, forces: bool) -> Tensor:
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.steps[forces](self.index)
        self.optimizer.step()
        return loss


class TorchANI:
    """The same step in TorchANI's own classes, forces where there are any.

    ``strategy``: pyaev (torch operations), or cuaev (its CUDA extension).
    """

    def __init__(self, conformers: Conformers, like: ANIModel, strategy: str = "pyaev") -> None:
        os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
        from torchani.nn import ANINetworks, AtomicNetwork

        from anipot.aev.torchani_engine import torchani_computer

        device = like.device
        self.computer = torchani_computer(SETTINGS, torch.float32, device, strategy)
        widths = (SETTINGS.length, *HIDDEN, 1)
        nets = {
            e: AtomicNetwork(widths, activation=torch.nn.ReLU(), bias=True) for e in like.elements
        }
        for net, own in zip(nets.values(), like.networks.values(), strict=True):
            with torch.no_grad():
                for mine, theirs in zip(net.parameters(), own.parameters(), strict=True):
                    mine.copy_(theirs)
        self.networks = ANINetworks(nets).to(device)
        parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.0, fused=True)
        assert conformers.energies is not None
        n, m = int(conformers.n_atoms.max()), len(conformers)
        row = np.repeat(np.arange(m), conformers.n_atoms)
        column = np.arange(len(row)) - conformers.offsets[:-1][row]
        place = {1: 0, 6: 1, 7: 2, 8: 3}
        species = np.full((m, n), -1)
        species[row, column] = [place[z] for z in conformers.atomic_numbers.tolist()]
        coordinates, forces = np.zeros((2, m, n, 3), dtype=np.float32)
        coordinates[row, column] = conformers.coordinates
        if conformers.forces is not None:
            forces[row, column] = conformers.forces
        self.species = torch.as_tensor(species, device=device)
        self.coordinates = torch.as_tensor(coordinates, device=device)
        self.forces = torch.as_tensor(forces, device=device)
        self.energies = torch.as_tensor(conformers.energies, device=device).float()
        self.n_forces = 3 * len(row)

    def step(self, forces: bool) -> Tensor:
        x = self.coordinates.clone().requires_grad_(forces)
        energies = self.networks(self.species, self.computer(self.species, x))
        loss = (energies - self.energies).square().mean()
        if forces:
            (g,) = torch.autograd.grad(energies.sum(), x, create_graph=True)
            loss = loss + (-g - self.forces).square().sum() / self.n_forces
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def operations(model: ANIModel, atoms: int, forces: bool) -> float:
    """Multiplications and additions of the matrix products of a step (not of the AEVs)."""
    weights = sum(p.numel() for p in model.networks["H"].parameters() if p.dim() == 2)
    first = SETTINGS.length * HIDDEN[0]
    # Forward and weight gradient of every layer, input gradient of all but the first; with forces
    # the gradient by the AEVs as well, and the backward of that.
    products = 3 * weights - first if not forces else 6 * weights
    return 2.0 * atoms * products


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--conformers", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for quiet, a row")
    options = parser.parse_args(argv)
    conformers = molecules(options.conformers)
    atoms = len(conformers.atomic_numbers)
    print(
        f"384-128-1 ReLU, {len(conformers):,} mixed HCNO molecules, {atoms:,} atoms, float32; "
        f"medians of {options.rounds} rounds, in milliseconds"
    )
    print(
        f"{'':24}{'threads':>8}{'anipot':>9}{'':>7}{'TorchANI':>10}{'':>7}{'ratio':>8}"
        f"{'wanted':>8}{'of matmul':>11}  {'others load':>11}"
    )
    before = torch.get_num_threads()
    worst: dict[str, float] = {}
    disturbed: set[str] = set()
    for threads in thread_counts():
        torch.set_num_threads(threads)
        rate = matmul_rate()
        for name, wanted in TARGETS.items():
            forces = name == FORCE_STEP
            ours = Anipot(conformers)
            theirs = TorchANI(conformers, ours.model)
            a, b = float(ours.step(forces)), float(theirs.step(forces))
            if abs(a - b) > 1e-4 * abs(b):
                raise AssertionError(f"the losses differ: {a} and {b}")
            wait_for_quiet(options.wait)
            load = Load()
            found = alternate(
                {"a": lambda: ours.step(forces), "t": lambda: theirs.step(forces)},  # noqa: B023
                options.rounds,
            )
            others = load.others()
            a, t = found["a"], found["t"]
            ratio = t.median / a.median
            worst[name] = min(ratio, worst.get(name, ratio))
            share = operations(ours.model, atoms, forces) / a.median / rate
            loaded = in_words(others)
            if "loaded" in loaded:
                disturbed.add(name)
            print(
                f"{name:24}{threads:>8}{a.median * 1e3:>9.1f}{f'+-{a.spread:.0%}':>7}"
                f"{t.median * 1e3:>10.1f}{f'+-{t.spread:.0%}':>7}{ratio:>8.1f}{wanted:>8.0f}"
                f"{share:>11.0%}  {loaded:>11}",
                flush=True,
            )
    torch.set_num_threads(before)
    print("\nthe worse of the thread counts:")
    for name, ratio in worst.items():
        verdict = "reached" if ratio >= TARGETS[name] else "NOT reached"
        verdict += " (loaded)" if name in disturbed else ""
        print(f"  {name:24}{ratio:>8.1f} x {verdict}")
    return 0
