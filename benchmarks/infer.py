"""Energy and forces of a system in anipot and in TorchANI: ``python -m benchmarks infer``.

Time starts at coordinates in the user's order (float32 arrays) and ends at energy and forces of one
geometry, as in a step of molecular dynamics; the atoms are known beforehand to both. Weights are
random, in ANI-1x's shapes, and the same for both codes; energies and forces are compared before
anything is timed. TorchANI gets its own best: its implementation for ensembles (BmmEnsemble), every
neighbour list that it has for the row, plain and as TorchScript, of which the fastest in a short
trial is measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import ase
import ase.build
import numpy as np
import torch

from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANI1X_OTHER, ANI1X_WIDTHS, ANIModel
from anipot.potential.stepper import Stepper
from benchmarks.timing import Load, alternate, in_words, matmul_rate, thread_counts, wait_for_quiet

ELEMENTS = ("H", "C", "N", "O")

#: One step: energy in hartree and forces (N, 3) in hartree/angstrom.
Step = Callable[[], tuple[float, np.ndarray]]

#: (name, members, periodic, ratio wanted)
ROWS = (
    ("benzene, 1 network", 1, False, 6.0),
    ("benzene, 8 networks", 8, False, 6.0),
    ("216 water, vacuum", 8, False, 3.0),
    ("216 water, periodic", 8, True, 3.0),
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks infer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 3, 4], choices=[1, 2, 3, 4])
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for quiet, a row")
    options = parser.parse_args(argv)
    print(f"energy and forces, float32; medians of {options.rounds} rounds, in milliseconds a step")
    print(
        f"{'':21}{'threads':>8}{'anipot':>9}{'':>7}{'TorchANI':>10}{'':>7}{'ratio':>8}{'wanted':>8}"
        f"{'of matmul':>11}  {'others load':>11}  TorchANI's way"
    )
    before = torch.get_num_threads()
    worst: dict[int, float] = {}
    disturbed: set[int] = set()
    for threads in thread_counts():
        torch.set_num_threads(threads)
        rate = matmul_rate()
        for row in options.rows:
            ratio, loaded = _measure(row, threads, rate, options.rounds, options.wait)
            if loaded:
                disturbed.add(row)
            worst[row] = min(ratio, worst.get(row, ratio))
    torch.set_num_threads(before)
    print("\nthe worse of the thread counts:")
    for row, ratio in worst.items():
        name, _, _, wanted = ROWS[row - 1]
        verdict = "reached" if ratio >= wanted else "NOT reached"
        verdict += " (loaded)" if row in disturbed else ""
        print(f"  {name:21}{ratio:>8.1f} x {verdict}")
    return 0


def _measure(row: int, threads: int, rate: float, rounds: int, wait: float) -> tuple[float, bool]:
    """Measure and print a row: TorchANI's time over anipot's, and whether others disturbed it."""
    name, n, periodic, wanted = ROWS[row - 1]
    system = water_box() if "water" in name else ase.build.molecule("C6H6")
    system.pbc = periodic
    models = members(n)
    stepper, ours = anipot_step(models, system)
    choices = torchani_steps(models, system)
    check(system, ours, choices)
    trial = {way: seconds_of(step, 0.3) for way, step in choices.items()}
    way = min(trial, key=trial.__getitem__)
    theirs = choices[way]
    repeats = max(1, round(0.3 / trial[way]))
    wait_for_quiet(wait)
    load = Load()
    found = alternate({"a": several(ours, repeats), "t": several(theirs, repeats)}, rounds)
    others = load.others()
    a, t = found["a"], found["t"]
    ratio = t.median / a.median
    share = operations(stepper, models) / (a.median / repeats) / rate
    loaded = in_words(others)
    print(
        f"{name:21}{threads:>8}{a.median * 1e3 / repeats:>9.3f}{f'+-{a.spread:.0%}':>7}"
        f"{t.median * 1e3 / repeats:>10.3f}{f'+-{t.spread:.0%}':>7}{ratio:>8.1f}{wanted:>8.0f}"
        f"{share:>11.0%}  {loaded:>11}  {way}",
        flush=True,
    )
    return ratio, "loaded" in loaded


def several(step: Step, n: int) -> Callable[[], None]:
    """``n`` steps as one call: a step of a small molecule is too short to be timed alone."""

    def steps() -> None:
        for _ in range(n):
            step()

    return steps


def seconds_of(step: Step, at_least: float) -> float:
    """Median seconds of the steps that fill ``at_least`` seconds."""
    times: list[float] = []
    end = time.perf_counter() + at_least
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def operations(stepper: Stepper, models: list[ANIModel]) -> float:
    """Multiplications and additions of the networks' matrix products, forward and backward, with
    the columns that are not zero (not those of the AEVs)."""
    symbols = [ELEMENTS[{1: 0, 6: 1, 7: 2, 8: 3}[z]] for z in stepper.atomic_numbers.tolist()]
    present = len(set(symbols))
    columns = present * 16 + present * (present + 1) // 2 * 32
    total = 0
    for e in symbols:
        widths = (columns, *ANI1X_WIDTHS.get(e, ANI1X_OTHER), 1)
        total += sum(a * b for a, b in itertools.pairwise(widths))
    return 4.0 * total * len(models)


# ---- systems -------------------------------------------------------------------------------------


def water_box(n_side: int = 6, density: float = 0.9970) -> ase.Atoms:
    """Molecules of water with random orientations on a cubic lattice, at a density in g/cm^3."""
    rng = np.random.default_rng(0)
    one = ase.build.molecule("H2O")
    volume = one.get_masses().sum() / 6.02214076e23 / density * 1e24
    spacing = volume ** (1 / 3)
    box = ase.Atoms(cell=[n_side * spacing] * 3)
    for place in np.ndindex(n_side, n_side, n_side):
        molecule = one.copy()
        molecule.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        molecule.positions += spacing * (np.array(place) + 0.5) - molecule.get_center_of_mass()
        box += molecule
    return box


# ---- the two codes -------------------------------------------------------------------------------


def members(n: int) -> list[ANIModel]:
    """Models with random weights in ANI-1x's shapes that speak in hartree."""
    return [ANIModel.create(ELEMENTS, seed=k, output_unit="hartree") for k in range(n)]


def anipot_step(models: list[ANIModel], system: ase.Atoms) -> tuple[Stepper, Step]:
    stepper = ANIEnsemble(models).stepper(system.numbers, bool(system.pbc.any()))
    coordinates = system.positions.astype(np.float32)
    cell = np.array(system.cell, dtype=np.float32) if stepper.periodic else None

    def step() -> tuple[float, np.ndarray]:
        point = stepper(coordinates, cell)
        return point.energy, point.forces

    return stepper, step


def torchani_steps(models: list[ANIModel], system: ase.Atoms) -> dict[str, Step]:
    """TorchANI's ways to the same numbers, by name."""
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    # Its fast ensemble marks ranges for NVIDIA's profiler, which torch for CPUs does not have.
    torch.cuda.nvtx.range_push = lambda *_: 0  # type: ignore[assignment]
    torch.cuda.nvtx.range_pop = lambda: 0  # type: ignore[assignment]
    lists = ("cell_list", "verlet_cell_list") if system.pbc.any() else ("all_pairs", "adaptive")
    steps = {}
    for neighbors in lists:
        model = _torchani(models, neighbors)
        steps[neighbors] = _torchani_step(model, system)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scripted = torch.jit.script(model)
                step = _torchani_step(scripted, system)
                for _ in range(3):
                    step()
            except Exception as e:  # TorchScript may go; TorchANI is then measured without it
                print(f"TorchScript of {neighbors}: {type(e).__name__}")
                continue
        steps[f"{neighbors}, TorchScript"] = step
    return steps


def _torchani(models: list[ANIModel], neighbors: str) -> Any:
    from torchani.aev import AEVComputer
    from torchani.arch import ANI
    from torchani.nn import ANINetworks, AtomicNetwork, Ensemble
    from torchani.sae import SelfEnergy

    containers = []
    for model in models:
        nets = {}
        for e in ELEMENTS:
            widths = (model.aev.length, *ANI1X_WIDTHS.get(e, ANI1X_OTHER), 1)
            nets[e] = AtomicNetwork(widths, "celu", bias=True)
            layers = [*nets[e].layers, nets[e].final_layer]
            for theirs, ours in zip(layers, model.networks[e].layers, strict=True):
                theirs.load_state_dict(ours.state_dict())
        containers.append(ANINetworks(nets))
    networks = containers[0] if len(containers) == 1 else Ensemble(containers)
    aev = AEVComputer.like_1x(neighborlist=neighbors, num_species=len(ELEMENTS))
    whole = ANI(ELEMENTS, aev, networks, SelfEnergy(ELEMENTS, [0.0] * len(ELEMENTS)))
    return whole.to_infer_model() if len(models) > 1 else whole


def _torchani_step(model: Any, system: ase.Atoms) -> Step:
    species = torch.as_tensor(system.numbers)[None]
    coordinates = torch.as_tensor(system.positions, dtype=torch.float32)[None]
    cell = pbc = None
    if system.pbc.any():
        cell = torch.as_tensor(np.array(system.cell), dtype=torch.float32)
        pbc = torch.tensor([True, True, True])

    def step() -> tuple[float, np.ndarray]:
        x = coordinates.requires_grad_()
        energy = model((species, x), cell, pbc).energies
        (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.item(), -gradient[0].numpy()

    return step


def check(system: ase.Atoms, ours: Step, choices: dict[str, Step]) -> None:
    """Stop where the two codes do not compute the same."""
    energy, forces = ours()
    for name, step in choices.items():
        other, other_forces = step()
        wrong = abs(other - energy) / len(system)
        wrong_forces = np.abs(other_forces - forces).max() / np.abs(forces).max()
        if wrong > 1e-5 or wrong_forces > 1e-4:
            raise AssertionError(
                f"{name}: energies differ by {wrong:.1e}, forces by {wrong_forces:.1e}"
            )
