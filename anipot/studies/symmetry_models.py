"""The symmetry study: its molecule, labels, transformations, features, and how they are learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from anipot.aev import AEVSettings
from anipot.aev.computer import AEVComputer
from anipot.data.conformers import Conformers
from anipot.evaluation.history import History
from anipot.potential.model import ANIModel
from anipot.studies.common import finished
from anipot.studies.features import Features, MoleculeFeatures, network_on
from anipot.training.trainer import ANITrainer

#: The exercise's molecule (4, 2). It has no units: here they are angstrom and hartree.
MOLECULE = np.array(
    [[0.702581, 1.820873], [0.702581, 0.296325], [-0.702581, -0.296325], [-0.702581, -1.820873]]
)
ELEMENT = "C"

#: Two of the four particles each: the six pairs, in the order of scipy's ``pdist``.
PAIRS = np.triu_indices(len(MOLECULE), k=1)

#: The exercise's permutation: particle 3 comes first.
PERMUTATION = (3, 0, 1, 2)

HIDDEN = (32, 64, 64, 32)
BATCH_SIZE = 32


# ---- data ----------------------------------------------------------------------------------------


def formula(x: np.ndarray) -> np.ndarray:
    """(M,) labels of the exercise: the sum of 1/r over pairs. ``x`` (M, 4, 3)."""
    return np.asarray((1 / distances(x)).sum(axis=1))


def loop(x: np.ndarray) -> np.ndarray:
    """(M,) labels of the notebook: its loop over i < j runs over pairs instead of particles, so
    that pair j counts j times, and the label depends on the numbering. ``x`` (M, 4, 3).
    """
    return np.asarray((1 / distances(x)) @ np.arange(len(PAIRS[0])))


LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"formula": formula, "loop": loop}


def distances(x: np.ndarray) -> np.ndarray:
    """(M, 6) distances of the pairs of ``x`` (M, 4, 3)."""
    return np.asarray(np.linalg.norm(x[:, PAIRS[0]] - x[:, PAIRS[1]], axis=2))


def noisy(n: int, label: str, seed: int, deviation: float = 0.1) -> Conformers:
    """``n`` copies of the molecule, each coordinate in the plane moved by normal noise."""
    x = np.zeros((n, len(MOLECULE), 3))
    x[:, :, :2] = MOLECULE + np.random.default_rng(seed).normal(0, deviation, x[:, :, :2].shape)
    return conformers(x, label)


def divided(molecules: int, label: str, seed: int) -> list[Conformers]:
    """Training, validation and test set of a seed."""
    # Few to stop by: what limits positions is how many molecules they have seen.
    return noisy(molecules, label, seed).split(0.75, 0.05, 0.2, seed=seed)


def conformers(x: np.ndarray, label: str) -> Conformers:
    """Molecules at ``x`` (M, 4, 3) with their labels."""
    m, n = x.shape[:2]
    return Conformers(
        np.full(m * n, 6), x.reshape(-1, 3), np.arange(m + 1) * n, energies=LABELS[label](x)
    )


# ---- transformations -----------------------------------------------------------------------------


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """``x`` (M, 4, 3) turned in the plane about the origin by ``angles`` (M,), radian."""
    c, s = np.cos(angles), np.sin(angles)
    turn = np.zeros((len(x), 3, 3))
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1], turn[:, 2, 2] = c, -s, s, c, 1.0
    return np.asarray(x @ turn.transpose(0, 2, 1))


def right_angle(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return turned(x, np.full(len(x), np.pi / 2))


def any_angle(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return turned(x, rng.uniform(0, 2 * np.pi, len(x)))


def shifted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved in the plane, by about the size of the molecule."""
    shift = np.zeros((len(x), 1, 3))
    shift[:, 0, :2] = rng.normal(0, 1, (len(x), 2))
    return x + shift


def renumbered(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[:, PERMUTATION]


def any_order(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = rng.permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1)
    return np.take_along_axis(x, order[:, :, None], axis=1)


#: What is done to the molecules of the test set, in the order of the tables.
TRANSFORMATIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "as they are": lambda x, rng: x,
    "rotated by pi/2": right_angle,
    "rotated at random": any_angle,
    "translated": shifted,
    "permuted": renumbered,
    "permuted at random": any_order,
}

#: What the training set is doubled with, if anything.
AUGMENTATIONS: dict[str, str | None] = {
    "none": None, "rotated by pi/2": "rotated by pi/2", "permuted": "permuted",
}  # fmt: skip


def transformed(data: Conformers, name: str, label: str, seed: int = 0) -> Conformers:
    """The same molecules after a transformation, labelled anew: the loop's labels may change."""
    x = data.coordinates.reshape(len(data), -1, 3)
    return conformers(TRANSFORMATIONS[name](x, np.random.default_rng(seed)), label)


def augmented(data: Conformers, name: str | None, label: str) -> Conformers:
    """``data`` and the same molecules after a transformation; without a name, ``data``.

    Data is split first and augmented after: else copies of test molecules are trained on.
    """
    return data if name is None else Conformers.concatenate([data, transformed(data, name, label)])


# ---- features ------------------------------------------------------------------------------------


def positions_of(x: Tensor) -> Tensor:
    """(B, 8)"""
    return x[:, :, :2].flatten(1)


def distances_of(x: Tensor) -> Tensor:
    """(B, 6), in the order of the pairs."""
    i, j = PAIRS
    return (x[:, i] - x[:, j]).norm(dim=2)


def sorted_distances_of(x: Tensor) -> Tensor:
    """(B, 6), rising: without the memory of which pair is which."""
    return distances_of(x).sort(dim=1).values


#: Features of a whole molecule (B, 4, 3) -> (B, L), and L. AEVs are features of an atom: None.
FEATURES: dict[str, tuple[Features, int] | None] = {
    "positions": (positions_of, 2 * len(MOLECULE)),
    "distances": (distances_of, len(PAIRS[0])),
    "sorted distances": (sorted_distances_of, len(PAIRS[0])),
    "AEVs": None,
}


def create(feature: str, seed: int) -> ANIModel:
    """A new model of the exercise's size, 32-64-64-32, on one of FEATURES."""
    chosen = FEATURES[feature]
    if chosen is not None:
        return network_on(MoleculeFeatures(ELEMENT, *chosen), HIDDEN, seed)
    # Far enough for the ends of the molecule to see each other.
    aev = AEVSettings.cover(ELEMENT, 6.0, 6.0, 16, 4, 4, radial_start=0.8)
    return network_on(AEVComputer(aev), HIDDEN, seed)


# ---- training ------------------------------------------------------------------------------------


def train(
    model: ANIModel, training: Conformers, validation: Conformers, updates: int, **options: Any
) -> History:
    """Train in place with about so many updates; ``options`` are those of ``ANITrainer``."""
    epochs = max(1, round(updates / -(-len(training) // BATCH_SIZE)))
    given: dict[str, Any] = {
        "batch_size": BATCH_SIZE, "epochs": epochs, "patience": epochs, "learning_rate": 2e-2,
        "target_unit": "hartree", "aev_cache": "ram", **options,
    }  # fmt: skip
    return finished(ANITrainer(model, **given).train(training, validation, quiet=True))
