"""Symmetry built into features, or shown to a network: the exercise's molecule of four particles.

Networks on positions, pair distances, sorted distances and AEVs learn the energy of noisy copies of
a molecule in the plane, and are tested, without retraining, on the same molecules rotated,
translated and permuted; then they are trained again with copies added. Once with the exercise's
formula as the label, once with what the document's loop makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from anipot.errors import SettingsError
from anipot.studies.common import Study
from anipot.studies.features import evaluation
from anipot.studies.symmetry_figures import digits
from anipot.studies.symmetry_models import (
    AUGMENTATIONS,
    FEATURES,
    LABELS,
    TRANSFORMATIONS,
    augmented,
    create,
    divided,
    noisy,
    train,
    transformed,
)
from anipot.studies.symmetry_report import PLAIN, Errors, draw_figures, tables

#: Options of ``run`` for a quick look.
QUICK: dict[str, Any] = {"seeds": 1, "updates": 800}


def run(
    folder: Path | None = None,
    *,
    molecules: int = 500,
    updates: int = 1600,
    seeds: int = 3,
    threads: int | None = None,
) -> dict[str, Any]:
    """The whole study, in ``folder``; returns the numbers that ``result.json`` holds.

    ``molecules``: noisy copies, a fifth of which are tested on; ``updates`` of every training;
    ``seeds``: repetitions, each with molecules and weights of its own. Raises SettingsError for a
    folder that holds something else, and for numbers that make no study.
    """
    if molecules < 50 or min(updates, seeds) < 1:
        raise SettingsError(
            f"molecules ({molecules}) must be at least 50, updates ({updates}) and seeds ({seeds}) "
            "at least 1"
        )
    options = {"molecules": molecules, "updates": updates, "seeds": seeds}
    with Study("symmetry", folder, options) as study:
        labels = _data(study, molecules)
        kept = _trainings(study, molecules, updates, seeds, threads)
        errors: Errors = {
            of: {t: [run["mse"][t] for run in runs] for t in TRANSFORMATIONS}
            for of, runs in kept.items()
        }
        tables(study, errors, molecules, updates, seeds)
        draw_figures(study, kept, errors, molecules, labels)
        result = {
            "labels": labels,
            "permutations_of_1024_log10": log10_factorial(1024),
            "orientations_at_one_degree": orientations(1.0),
            "runs": [
                {"features": f, "augmentation": a, "label": label, "mse": by}
                for (f, a, label), by in errors.items()
            ],
        }
        study.finish(result, _learnt(errors, labels))
    return result


def log10_factorial(n: int) -> float:
    """The decimal logarithm of n!, the number of ways to number n particles."""
    return math.lgamma(n + 1) / math.log(10)


def orientations(degrees: float) -> float:
    """Orientations of a body in space that are so many degrees apart: 8 pi^2 over angle^3."""
    return 8 * math.pi**2 / math.radians(degrees) ** 3


# ---- what is learnt, and from what ---------------------------------------------------------------


def _data(study: Study, molecules: int) -> dict[str, dict[str, float]]:
    """Tell of the labels: their variance, and how a permutation of the molecules changes them."""
    found = {}
    for label in LABELS:
        data = noisy(molecules, label, seed=0)
        moved = transformed(data, "permuted", label)
        assert data.energies is not None
        assert moved.energies is not None
        found[label] = {
            "mean": float(data.energies.mean()),
            "variance": float(data.energies.var()),
            "change_by_permutation": float(np.square(moved.energies - data.energies).mean()),
        }
    study.say(
        f"Four particles in the plane, {molecules} copies with normal noise of 0.1 on each "
        "coordinate. `formula` is the exercise's label, the sum of 1/r over pairs. `loop` is the "
        "document's: its two loops run over pairs instead of particles, so that pair j counts j "
        "times and the label depends on the numbering of the particles."
    )
    study.table(
        ["label", "mean", "variance", "mean squared change when permuted"],
        [
            [f"`{label}`", f"{v['mean']:.2f}", f"{v['variance']:.4f}",
             f"{v['change_by_permutation']:.2g}"]
            for label, v in found.items()
        ],
        "The variance is the MSE of always predicting the mean:",
    )  # fmt: skip
    return found


def _wanted() -> Iterable[tuple[str, str, str]]:
    """Trainings: features, augmentation, label."""
    for label, feature, augmentation in product(LABELS, FEATURES, AUGMENTATIONS):
        # Features that are the same for all copies gain nothing from them.
        if augmentation == PLAIN or feature in ("positions", "distances"):
            yield feature, augmentation, label


def _trainings(
    study: Study, molecules: int, updates: int, seeds: int, threads: int | None
) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Results of each training, seed by seed."""
    return {
        (feature, augmentation, label): [
            study.once(
                "-".join([label, feature, augmentation, f"seed {seed}"])
                .replace(" ", "-").replace("/", "-over-"),
                lambda f=feature, a=augmentation, of=label, s=seed: _training(  # type: ignore[misc]
                    f, a, of, s, molecules, updates, threads
                ),
            )
            for seed in range(seeds)
        ]
        for feature, augmentation, label in _wanted()
    }  # fmt: skip


def _training(
    feature: str, augmentation: str, label: str, seed: int, molecules: int, updates: int,
    threads: int | None,
) -> dict[str, Any]:  # fmt: skip
    # Split first, augmented after: no molecule of the test set is trained on in any guise.
    training, validation, test = divided(molecules, label, seed)
    model = create(feature, seed)
    also = AUGMENTATIONS[augmentation]
    history = train(
        model, augmented(training, also, label), augmented(validation, also, label), updates,
        seed=seed, threads=threads,
    )  # fmt: skip
    tests = {t: evaluation(model, transformed(test, t, label, seed=seed)) for t in TRANSFORMATIONS}
    return {
        "mse": {t: e.energy.rmse**2 for t, e in tests.items()},
        "train_loss": history["train_loss"],
        "val_loss": history["val_loss"],
        "predicted": tests["as they are"].predicted,
        "self_energy": tests["as they are"].self_energy,
    }


# ---- words ---------------------------------------------------------------------------------------


def _learnt(errors: Errors, labels: dict[str, dict[str, float]]) -> list[str]:
    def mse(feature: str, test: str, added: str = PLAIN, label: str = "formula") -> float:
        return float(np.median(errors[feature, added, label][test]))

    plain, right, any_angle, shifted, permuted, any_order = TRANSFORMATIONS
    rotated = right
    variance = labels["formula"]["variance"]
    worst = max(mse(f, plain) for f in FEATURES)
    plainest = [(f, "formula") for f in FEATURES]
    plainest += [(f, "loop") for f in ("positions", "distances")]
    worst_seed = max(max(errors[f, PLAIN, label][plain]) for f, label in plainest)
    symmetric = ["sorted distances", "AEVs"]
    change = max(mse(f, t) / mse(f, plain) for f in symmetric for t in TRANSFORMATIONS)
    loop = labels["loop"]["change_by_permutation"]
    seen = {f: errors[f, PLAIN, "loop"][permuted] for f in ("positions", "distances")}
    better = sum(p < d for p, d in zip(seen["positions"], seen["distances"], strict=True))
    return [
        f"All four features learn the molecule as it is: test MSE {worst:.1e} at most (median of "
        f"seeds; {worst_seed:.1e} in the worst seed, also of positions and distances on the loop's "
        f"label). The exercise demands 1e-3; always to predict the mean gives {variance:.1e}.",
        f"Positions fail every test: {mse('positions', right):.2g} rotated by pi/2, "
        f"{mse('positions', any_angle):.2g} by any angle, {mse('positions', shifted):.2g} "
        f"translated, {mse('positions', permuted):.2g} permuted. Distances fail where particles "
        f"are renumbered ({mse('distances', permuted):.2g}) and nowhere else. Sorted distances and "
        f"AEVs pass every test, without augmentation: the MSE changes by a factor of at most "
        f"{change:.3f}.",
        "Augmentation teaches what it shows, and not the symmetry. With copies rotated by pi/2, "
        f"positions have {mse('positions', right, rotated):.1e} on molecules rotated by pi/2, and "
        f"{mse('positions', any_angle, rotated):.2g} on those rotated by any angle; with one "
        f"permutation, distances have {mse('distances', permuted, permuted):.1e} on that one, and "
        f"{mse('distances', any_order, permuted):.2g} on any.",
        f"To show everything is no way out: {orientations(1.0):.1e} orientations of a body in "
        "space, one degree apart (360 in the plane), and 1024! = 10^"
        f"{log10_factorial(1024):.0f} ways to number 1,024 atoms.",
        "The document's surprise, 16.1 for permuted distances, has two parts. The loop's label "
        f"itself changes when particles are renumbered, by {loop:.2f} in the mean square, as the "
        "energy of a molecule never does (formula: 0); networks on AEVs, which cannot see a "
        f"permutation, miss just about that ({mse('AEVs', permuted, label='loop'):.2f}). The rest "
        "is extrapolation: a bond stands where the length of the molecule stood, and what a "
        f"network says there depends on the seed ({_reach(seen['distances'])} with distances, "
        f"{_reach(seen['positions'])} with positions). Positions are better than distances, as in "
        f"the document (1.6), in {better} of {len(seen['positions'])} seeds.",
        "A label that depends on the numbering cannot be learnt from features that do not: on "
        f"the loop's labels AEVs stay at {mse('AEVs', plain, label='loop'):.2g} and sorted "
        f"distances at {mse('sorted distances', plain, label='loop'):.2g} on molecules as they "
        f"are, where distances reach {mse('distances', plain, label='loop'):.1e}. Errors "
        "that no network brings down are a reason to look at the labels.",
    ]


def _reach(values: Sequence[float]) -> str:
    """``0.51 to 3.5``, or one number."""
    return " to ".join(dict.fromkeys(digits(v) for v in (min(values), max(values))))
