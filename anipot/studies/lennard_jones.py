"""The benefit of forces and stress: a Lennard-Jones cluster and a Lennard-Jones crystal.

The cluster is that of the lectures: eight atoms, relaxed and rattled, learnt from energies and from
energies and forces. The crystal, argon with a cutoff, is learnt with and without its stress.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from anipot.errors import SettingsError
from anipot.potential.model import ANIModel
from anipot.studies.common import Study
from anipot.studies.lennard_jones_figures import learning_figure, pair_figure
from anipot.studies.lennard_jones_models import (
    EPSILON,
    KINDS,
    SIGMA,
    STRAINS,
    cluster_aev,
    crystal_aev,
    distances,
    errors,
    pair_curve,
    rattled,
    relaxed_cluster,
    relaxed_crystal,
    train,
    true_pair,
    volume_curve,
)
from anipot.units import HARTREE_TO_EV

#: What is trained on: options of the trainer. The weight of forces is the lectures'.
CLUSTER_LABELS: dict[str, dict[str, Any]] = {
    "energies": {},
    "energies and forces": {"force_weight": 10.0},
}

#: For crystals; energies are per atom. Heavier energies, too, lower the error of stress: the second
#: row keeps that apart from what labels of stress do.
STRESS = "energies, forces and stress"
CRYSTAL_LABELS: dict[str, dict[str, Any]] = {
    "energies and forces": {"energy_weight": 10.0, "force_weight": 1.0},
    "the same, energies tenfold": {"energy_weight": 100.0, "force_weight": 1.0},
    STRESS: {"energy_weight": 10.0, "force_weight": 1.0, "stress_weight": 1.0},
}

#: Distance between the nearest neighbours in the cluster and the next, sigma.
FIRST_SHELL = 1.4

#: Options of ``run`` for a quick look.
QUICK: dict[str, Any] = {"sizes": (8, 32), "seeds": 2, "updates": 400, "tests": 60}


def run(
    folder: Path | None = None,
    *,
    sizes: Sequence[int] = (4, 8, 16, 32, 64, 128),
    curve_size: int = 32,
    crystals: int = 32,
    seeds: int = 3,
    updates: int = 800,
    tests: int = 200,
    threads: int | None = None,
) -> dict[str, Any]:
    """The whole study, in ``folder``; returns the numbers that ``result.json`` holds.

    ``sizes``: numbers of clusters to learn from, ``curve_size`` one of them, at which the pair
    curves are drawn; ``crystals``: crystals to learn from; ``seeds``: repetitions, each with
    configurations and weights of its own; ``updates`` of a training; ``tests``: configurations of
    each test set. Raises SettingsError for a folder that holds something else, and for numbers that
    make no study.
    """
    if curve_size not in sizes or min(*sizes, crystals) < 2 or min(seeds, updates, tests) < 1:
        raise SettingsError(
            f"curve_size ({curve_size}) must be one of sizes ({', '.join(map(str, sizes))}), these "
            "and crystals at least 2, and seeds, updates and tests at least 1"
        )
    options = {
        "sizes": list(sizes), "curve_size": curve_size, "crystals": crystals, "seeds": seeds,
        "updates": updates, "tests": tests,
    }  # fmt: skip
    with Study("lennard-jones", folder, options) as study:
        cluster = _cluster(study, sizes, curve_size, seeds, updates, tests, threads)
        crystal = _crystal(study, crystals, seeds, updates, tests, threads)
        result = {"cluster": cluster, "crystal": crystal}
        study.finish(result, [*_of_cluster(cluster, curve_size), *_of_crystal(crystal)])
    return result


def _cluster(
    study: Study,
    sizes: Sequence[int],
    curve_size: int,
    seeds: int,
    updates: int,
    tests: int,
    threads: int | None,
) -> dict[str, Any]:
    start = relaxed_cluster()
    test = rattled(start, tests, seed=1_000_000, deviation=0.05)
    assert test.energies is not None
    assert test.forces is not None
    spread = [np.abs(a - a.mean()).mean() * HARTREE_TO_EV for a in (test.energies, test.forces)]
    study.say(
        f"## The cluster\n\n{len(start)} atoms, V(r) = 4 epsilon ((sigma/r)^12 - (sigma/r)^6), "
        f"relaxed to {start.get_potential_energy():.4f} epsilon (the lectures stop at -9.23, on "
        "the way down), and rattled by 0.05 sigma. Errors are MAE on "
        f"{tests} other clusters, mean and standard deviation of {seeds} seeds, energies in "
        "epsilon (of a whole cluster), force components in epsilon/sigma. Loss with forces: energy "
        "+ 10 x force, as in the lectures. (RMSE would be decided by the few clusters with atoms "
        f"on the steep wall.) Every training has {updates} updates. Always to predict the mean "
        f"would be wrong by {spread[0]:.2f} and {spread[1]:.1f}."
    )
    r = np.linspace(0.9, 2.3, 141)
    wanted = [(KINDS[0], n) for n in sizes] + [(KINDS[1], curve_size)]
    runs: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], list[Any]] = {}
    for (kind, n), labels, seed in product(wanted, CLUSTER_LABELS, range(seeds)):

        def make(kind: str = kind, n: int = n, labels: str = labels, seed: int = seed) -> ANIModel:
            return train(
                rattled(start, n, seed, deviation=0.05), cluster_aev(kind), seed, updates,
                hidden=() if kind == "pairs only" else (32, 32), threads=threads,
                **CLUSTER_LABELS[labels],
            )  # fmt: skip

        potential = study.potential(_name(kind, labels, str(n), f"seed {seed}"), make)
        about = {"kind": kind, "labels": labels, "n": n, "seed": seed}
        runs.append({**about, **errors(potential, test)})
        if n == curve_size:
            curves.setdefault((kind, labels), []).append(pair_curve(potential, r))
    means = _means(runs, ("kind", "labels", "n"))
    columns = list(product(CLUSTER_LABELS, ("energy", "force")))
    study.table(
        ["", "N", *(f"{labels}: {e}" for labels, e in columns)],
        [
            [kind, f"{n}", *(_plus(means[kind, labels, n][e]) for labels, e in columns)]
            for kind, n in wanted
        ],
    )
    study.say(
        "The lectures print training losses alone, 1.9e-3 (energies) and 8.5e-4 (energies and "
        "forces) for 200 clusters, of labels in a unit of their own: not to be compared."
    )
    study.figure(
        learning_figure(runs, CLUSTER_LABELS),
        "errors",
        "Errors on other clusters against the number of clusters learnt from, atomic networks.",
    )
    seen = np.histogram(
        np.concatenate([distances(rattled(start, curve_size, s, 0.05)) for s in range(seeds)]),
        bins=np.linspace(0.8, 2.4, 65),
    )
    drawn = {name: np.array(found) for name, found in curves.items()}
    wrong = _pair_errors(study, r, drawn, seen, curve_size)
    return {"energy_relaxed": start.get_potential_energy(), "runs": runs, "pair": wrong}


def _pair_errors(
    study: Study,
    r: np.ndarray,
    curves: dict[tuple[str, str], np.ndarray],
    seen: tuple[np.ndarray, np.ndarray],
    n: int,
) -> dict[str, dict[str, list[float]]]:
    truth = true_pair(r)
    known = seen[0][np.digitize(r, seen[1]) - 1] > 0
    near = known & (r < FIRST_SHELL)
    wrong = {}
    for (kind, labels), found in curves.items():
        # Forces tell no constant, and clusters of one size and shape only the sum of several: one
        # for each atom, and one for the pairs of each shell of neighbours.
        found[:, 0] -= (found[:, 0] - truth[0])[:, near].mean(axis=1, keepdims=True)
        squares = (found - np.array(truth)) ** 2
        wrong[f"{kind}, {labels}"] = {
            "energy_rmse": np.sqrt(squares[:, 0, near].mean(axis=1)).tolist(),
            "force_rmse": np.sqrt(squares[:, 1, known].mean(axis=1)).tolist(),
        }
    study.table(
        ["learnt curve of a pair of atoms", "energy", "force"],
        [
            [name, _plus(_mean(found["energy_rmse"])), _plus(_mean(found["force_rmse"]))]
            for name, found in wrong.items()
        ],
        f"Two atoms alone, learnt from {n} clusters: RMSE of the energy over the distances of "
        "neighbours in the clusters, of the force over all distances that occur there.",
    )
    by_kind = {kind: {labels: curves[kind, labels] for labels in CLUSTER_LABELS} for kind in KINDS}
    study.figure(
        pair_figure(r, truth, by_kind, seen),
        "pair-curves",
        f"Learnt curves of a pair of atoms, from {n} clusters (mean and standard deviation of "
        "seeds), beside the true one. Grey: distances that occur in the clusters; in the gap "
        "anything may come out. Energies are shifted to the true mean over the distances of "
        "neighbours: forces tell no constant, and clusters of one shape only the sum of one for "
        "atoms and one for each shell of neighbours.",
    )
    return wrong


def _crystal(
    study: Study, n: int, seeds: int, updates: int, tests: int, threads: int | None
) -> dict[str, Any]:
    start = relaxed_crystal()
    how = {"deviation": 0.02 * SIGMA, "strain": 0.04}
    test = rattled(start, tests, seed=1_000_000, **how)
    study.say(
        f"## The crystal\n\nArgon, epsilon {1000 * EPSILON:.2f} meV and sigma {SIGMA:.2f} "
        "angstrom, smoothly cut off between 2 and 2.5 sigma: fcc, a = "
        f"{start.cell.array[0, 0]:.3f} angstrom. Learnt from {n} cells of four atoms, strained by "
        f"up to 4 % and rattled by 0.02 sigma; MAE on {tests} others."
    )
    runs: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {labels: [] for labels in CRYSTAL_LABELS}
    for labels, seed in product(CRYSTAL_LABELS, range(seeds)):

        def make(labels: str = labels, seed: int = seed) -> ANIModel:
            return train(
                rattled(start, n, seed, **how), crystal_aev(), seed, updates, unit="meV",
                per_atom=True, threads=threads, **CRYSTAL_LABELS[labels],
            )  # fmt: skip

        potential = study.potential(_name("crystal", labels, f"seed {seed}"), make)
        runs.append({"labels": labels, "seed": seed, **errors(potential, test)})
        curves[labels].append(volume_curve(start, potential.calculator()))
    study.table(
        ["trained on", "energy, meV/atom", "force, meV/angstrom", "stress, MPa"],
        [
            [
                labels,
                _plus(found["energy_mev_atom"]),
                _plus(1000 * found["force"]),
                _plus(1000 * found["stress_gpa"]),
            ]
            for (labels,), found in _means(runs, ("labels",)).items()
        ],
    )
    truth = volume_curve(start, start.calc)
    learnt = [_mean([c["mev_atom"] for c in curves[labels]]) for labels in CRYSTAL_LABELS]
    modulus = [_mean([c["bulk_modulus_gpa"] for c in curves[labels]]) for labels in CRYSTAL_LABELS]
    rows = [
        [f"{(1 + strain) ** 3:.3f}", f"{true:.2f}", *(_plus(m[:, k]) for m in learnt)]
        for k, (strain, true) in enumerate(zip(STRAINS, truth["mev_atom"], strict=True))
        if strain
    ]
    rows.append(
        ["bulk modulus, GPa", f"{truth['bulk_modulus_gpa']:.2f}", *(_plus(m) for m in modulus)]
    )
    study.table(
        ["volume / that at rest", "true", *CRYSTAL_LABELS],
        rows,
        "The energy against the volume, meV/atom above the crystal at rest:",
    )
    return {"runs": runs, "true": truth, "volume_curves": curves}


# ---- words and means -----------------------------------------------------------------------------


def _name(*parts: str) -> str:
    return "-".join(parts).replace(",", "").replace(" ", "-")


def _mean(values: Sequence[Any]) -> np.ndarray:
    """(2, ...): mean and sample standard deviation over the seeds; that of one is 0."""
    array = np.array(values, dtype=float)
    return np.stack([array.mean(0), array.std(0, ddof=1) if len(array) > 1 else 0 * array[0]])


def _means(
    runs: Sequence[dict[str, Any]], keys: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, np.ndarray]]:
    """Errors by the values of ``keys``: mean and standard deviation over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in runs:
        groups.setdefault(tuple(one[key] for key in keys), []).append(one)
    return {
        key: {e: _mean([m[e] for m in members]) for e, v in members[0].items() if type(v) is float}
        for key, members in groups.items()
    }


def _plus(mean: np.ndarray) -> str:
    """Mean and standard deviation, to two digits of the mean or three."""
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(mean[0]), 1e-12)))))
    digits = min(digits, 4)
    return f"{mean[0]:.{digits}f} +- {mean[1]:.{digits}f}"


def _of_cluster(cluster: dict[str, Any], curve_size: int) -> list[str]:
    means = _means(cluster["runs"], ("kind", "labels", "n"))
    alone, both = CLUSTER_LABELS
    sizes = sorted({n for kind, _, n in means if kind == KINDS[0]})

    def error(kind: str, labels: str, n: int, e: str) -> float:
        return float(means[kind, labels, n][e][0])

    gain = {
        e: [error(KINDS[0], both, n, e) / error(KINDS[0], alone, n, e) for n in sizes]
        for e in ("force", "energy")
    }
    most = sizes[-1]
    enough = [
        n for n in sizes
        if error(KINDS[0], both, n, "energy") <= error(KINDS[0], alone, most, "energy")
    ]  # fmt: skip
    learnt = [
        f"With forces the error of forces is {_between(gain['force'])} times as large as without, "
        f"at the same number of clusters, that of energies {_between(gain['energy'])} times: a "
        "cluster has one energy, and 24 components of forces."
    ]
    if enough and enough[0] < most:
        learnt.append(f"{enough[0]} clusters with forces give energies as good as {most} without.")
    said = [
        _lower(
            error(KINDS[0], labels, curve_size, "force")
            / error(KINDS[1], labels, curve_size, "force")
        )
        for labels in CLUSTER_LABELS
    ]
    learnt.append(
        "A model that can only be a sum over pairs, as the truth is here, has an error of forces "
        f"{said[0]} ({alone}) and {said[1]} ({both}) than atomic networks at {curve_size} clusters."
    )
    curve = {name: float(np.mean(found["force_rmse"])) for name, found in cluster["pair"].items()}
    network, pairs = (curve[f"{kind}, {both}"] for kind in KINDS)
    learnt.append(
        f"With forces its curve of a pair is {curve[f'{KINDS[1]}, {alone}'] / pairs:.1f} times "
        f"nearer to the true force than without. Atomic networks are {network / pairs:.0f} times "
        "farther off for two atoms alone, whatever they know of clusters: no cluster showed them "
        "an atom with one neighbour."
    )
    return learnt


def _of_crystal(crystal: dict[str, Any]) -> list[str]:
    found = {labels: e for (labels,), e in _means(crystal["runs"], ("labels",)).items()}
    true = crystal["true"]["bulk_modulus_gpa"]
    off = {
        labels: float(np.mean([abs(c["bulk_modulus_gpa"] / true - 1) for c in curves]))
        for labels, curves in crystal["volume_curves"].items()
    }
    others = [labels for labels in CRYSTAL_LABELS if labels != STRESS]
    ratios = [float(found[o]["stress_gpa"][0] / found[STRESS]["stress_gpa"][0]) for o in others]
    return [
        f"Trained on stress too, the error of stress is {_lower(ratios[0])} than with energies and "
        f"forces, and {_lower(ratios[1])} than with energies that weigh tenfold. The bulk modulus "
        f"is off by {off[STRESS]:.0%}, instead of {off[others[0]]:.0%} and {off[others[1]]:.0%}."
    ]


def _between(ratios: Sequence[float]) -> str:
    """``0.21 to 0.34``, or one number."""
    return " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))))


def _lower(ratio: float) -> str:
    """Describe an error, compared with another that is ``ratio`` times as large."""
    return f"{ratio:.1f} times lower" if ratio >= 1 else f"{1 / ratio:.1f} times higher"
