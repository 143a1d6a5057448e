"""Coverage of new conformers by a training set, and its relation to errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.elements import symbol_of
from anipot.potential.model import ANIModel
from anipot.report.figures.style import short
from anipot.studies import explore_figures as figures
from anipot.studies.common import Study, finished
from anipot.studies.environments import Environments, environments
from anipot.training.trainer import ANITrainer
from anipot.units import HARTREE_TO_KCALMOL


@dataclass(frozen=True)
class Parts:
    """A training set, one to stop by, and the new conformers that it may cover or not."""

    training: Conformers
    validation: Conformers
    new: Conformers


def coverage(study: Study, parts: Parts, epochs: int, threads: int | None) -> dict[str, Any]:
    """Distance of new environments from those of the training, and its relation to errors."""
    settings = AEVSettings.ani1x(parts.training.elements)
    training, new = environments(parts.training, settings), environments(parts.new, settings)
    away = distances(training, new)
    # How far a training environment is from the others: a conformer is no neighbour of its own.
    half = training.conformer % 2 == 0
    within = distances(training.take(half), training.take(~half))
    usual = float(np.quantile(within, 0.95))
    of_conformer = np.maximum.reduceat(away, parts.new.offsets[:-1])
    result: dict[str, Any] = {
        "training": len(parts.training),
        "new": len(parts.new),
        "usual": usual,
        "beyond": float((away > usual).mean()),
        "beyond_of": {},
    }
    study.say(
        f"## Coverage\n\n{len(parts.new):,} new conformers of "
        f"{len(np.unique(parts.new.molecule))} {parts.new.grouped_by}s, beside "
        f"{len(parts.training):,} training conformers of "
        f"{len(np.unique(parts.training.molecule))}. The distance of an environment is that of its "
        "AEV to the nearest of the same element in the training set. Between two halves of the "
        f"training set 95 % of the environments are nearer than {usual:.2f}; of the new ones "
        f"{1 - result['beyond']:.0%} are."
    )
    if parts.new.energies is None or not parts.training.has("energies").all():
        study.say("There are no energies to train on, so nothing is said of errors.")
        return result
    potential = study.potential(
        "short-training",
        lambda: train(parts.training, parts.validation, epochs, threads),
    )
    assert isinstance(potential, ANIModel)
    energy, forces = errors(potential, parts.new)
    mean = np.add.reduceat(away, parts.new.offsets[:-1]) / parts.new.n_atoms
    ranks = {"energy, of a conformer": rank_correlation(mean, energy)}
    x, y, what = of_conformer, energy, "Relative energy error (kcal/mol)"
    owner = parts.new.molecule
    if forces is not None:
        per_conformer = np.add.reduceat(forces, parts.new.offsets[:-1]) / parts.new.n_atoms
        ranks["force, of a conformer"] = rank_correlation(mean, per_conformer)
        x, y, what = away, forces, "Force error (kcal/mol/angstrom)"
        ranks["force, of an atom"] = rank_correlation(x, y)
        for number in np.unique(new.numbers):
            own = new.numbers == number
            ranks[f"force, of an atom of {symbol_of(int(number))}"] = rank_correlation(
                x[own], y[own]
            )
        owner = owner[new.conformer]
    names = [parts.new.molecule_names[m].rsplit("/", 1)[-1] for m in np.unique(owner)]
    molecules = {
        name: (float(x[owner == m].mean()), float(y[owner == m].mean()))
        for name, m in zip(names, np.unique(owner), strict=True)
    }
    ranks["of a molecule"] = rank_correlation(*np.array(list(molecules.values())).T)
    result |= {"ranks": ranks, "bins": binned(x, y), "molecules": molecules, "what": what}
    study.table(
        ["distance", "N", f"mean {what[0].lower()}{what[1:]}", "95 % are below"],
        [
            [f"{b['from']:.2f} to {b['to']:.2f}", b["n"], short(b["mean"]), short(b["p95"])]
            for b in result["bins"]
        ],
        f"Errors of a potential that was trained for {epochs} epochs, by distance:",
    )
    study.table(
        ["rank correlation of distance and error", "Spearman"],
        [[name, f"{value:.2f}"] for name, value in ranks.items()],
    )
    study.figure(
        figures.coverage(x, y, result["bins"], molecules, what),
        "coverage",
        "Errors against the distance to the training set: each, means of sixths, molecules.",
    )
    return result


def distances(training: Environments, other: Environments, most: int = 20_000) -> np.ndarray:
    """(N,) of each environment of ``other``: the Euclidean distance of its AEV to the nearest of
    the same element in ``training`` (of at most so many); infinity where there is none.
    """
    from sklearn.neighbors import NearestNeighbors

    found = np.full(len(other), np.inf)
    for number in np.unique(other.numbers):
        own = other.numbers == number
        known = training.of(int(number), most)
        if len(known):
            nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known.aevs)
            found[own] = nearest.kneighbors(other.aevs[own])[0][:, 0]
    return found


def train(
    training: Conformers,
    validation: Conformers,
    epochs: int,
    threads: int | None,
    hidden: Sequence[int] = (64, 32),
) -> ANIModel:
    """A small potential, trained briefly, on forces where there are any."""
    model = ANIModel.create(training.elements, hidden=list(hidden))
    forces = training.has("forces").all()
    trainer = ANITrainer(
        model, epochs=epochs, force_weight=1.0 if forces else 0.0, normalize_aevs=True, l2=1.0,
        threads=threads,
    )  # fmt: skip
    finished(trainer.train(training, validation, early_stop=False, quiet=True))
    return model


def errors(model: ANIModel, data: Conformers) -> tuple[np.ndarray, np.ndarray | None]:
    """Absolute energy errors (M,) kcal/mol, each less the mean error of its molecule, and the
    length of force errors (A,) kcal/mol/angstrom, None without labels.
    """
    assert data.energies is not None
    labelled = bool(data.has("forces").all())
    found = model.predict(data, forces=labelled)
    error = (found.energies - data.energies) * HARTREE_TO_KCALMOL
    mean = np.bincount(data.molecule, error) / np.maximum(np.bincount(data.molecule), 1)
    forces = None
    if found.forces is not None and data.forces is not None:
        forces = np.linalg.norm(found.forces - data.forces, axis=1) * HARTREE_TO_KCALMOL
    return np.abs(error - mean[data.molecule]), forces


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN for fewer than three or where nothing varies."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def binned(x: np.ndarray, y: np.ndarray, bins: int = 6) -> list[dict[str, Any]]:
    """Bins with as many ``x`` each: their ends, number, mean and 95th percentile of ``y``."""
    order = np.argsort(x, kind="stable")
    return [
        {
            "from": float(x[part[0]]), "to": float(x[part[-1]]), "n": len(part),
            "mean": float(y[part].mean()), "p95": float(np.quantile(y[part], 0.95)),
        }
        for part in np.array_split(order, min(bins, len(order)))
    ]  # fmt: skip
