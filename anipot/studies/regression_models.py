"""The regression study: a line learnt by the package's trainer, and energies in several scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from anipot.data.conformers import Conformers
from anipot.errors import TrainingError
from anipot.evaluation.metrics import Evaluation
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.studies.common import finished
from anipot.studies.features import MoleculeFeatures, evaluation, network_on
from anipot.training.trainer import ANITrainer

SLOPE, INTERCEPT = 2.0, 5.0

#: Angstrom for a unit of x: small, since conformers far from the origin are moved there
#: (``anipot.data.positions``), and a power of two, which rounds nothing.
STEP = 0.125


# ---- the line ------------------------------------------------------------------------------------


def points(n: int, noise: float, high: float, seed: int) -> Conformers:
    """``n`` points of y = 2x + 5 with normal noise, x between 0 and ``high``.

    A point is a lone atom at (x STEP, 0, 0) with the energy y, so that data sets, trainer and
    metrics are those of molecules.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, high, n)
    return as_conformers(x, SLOPE * x + INTERCEPT + noise * rng.normal(size=n))


def as_conformers(x: np.ndarray, y: np.ndarray) -> Conformers:
    """Points (M,), (M,) as lone atoms."""
    place = np.zeros((len(x), 3))
    place[:, 0] = x * STEP
    return Conformers(np.ones(len(x), dtype=int), place, np.arange(len(x) + 1), energies=y)


def xy(data: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """x and y (M,) of points."""
    assert data.energies is not None
    return data.coordinates[:, 0] / STEP, data.energies


def _x_of(coordinates: Tensor) -> Tensor:
    return coordinates[:, 0, :1] / STEP


@dataclass(frozen=True)
class Scaling:
    """(value - shift) / width for x and for y, as found in a training set."""

    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, kind: str, data: Conformers) -> Scaling:
        """``"none"``; ``"min-max"``: to 0..1; ``"standard"``: to mean 0 and spread 1."""
        if kind == "none":
            return cls()
        if kind == "min-max":
            return cls(*((float(v.min()), float(np.ptp(v))) for v in xy(data)))
        return cls(*((float(v.mean()), float(v.std())) for v in xy(data)))

    def apply(self, data: Conformers) -> Conformers:
        x, y = xy(data)
        return as_conformers((x - self.x[0]) / self.x[1], (y - self.y[0]) / self.y[1])

    def undo(self, y: np.ndarray) -> np.ndarray:
        """Predicted y (M,) in the unit of the data."""
        return y * self.y[1] + self.y[0]


def fit_line(
    training: Conformers, validation: Conformers, test: Conformers, rate: float, epochs: int,
    scaling: str = "none", seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Slope, intercept, errors and losses of a line learnt by gradient descent at a constant rate.

    Losses are in the scaled y's unit, all else in that of the data. A training that diverges gives
    ``stopped``: the trainer's reason.
    """
    scale = Scaling.of(scaling, training)
    model = network_on(MoleculeFeatures("H", _x_of, 1), (), seed)
    trainer = ANITrainer(
        model, optimizer="sgd", learning_rate=rate, schedule="constant", warmup=0.0, batch_size=16,
        epochs=epochs, patience=epochs, target_unit="hartree", self_energies="keep", threads=1,
        seed=seed,
    )  # fmt: skip
    try:
        history = finished(
            trainer.train(scale.apply(training), scale.apply(validation), quiet=True)
        )
    except TrainingError as e:
        return {"stopped": str(e)}
    learnt = {
        part: Evaluation.of(
            data, scale.undo(evaluation(model, scale.apply(data)).predicted), np.zeros(len(data))
        ).in_unit("hartree")
        for part, data in (("train", training), ("test", test))
    }
    ends = as_conformers(np.array([0.0, 1.0]), np.zeros(2))
    at = scale.undo(evaluation(model, scale.apply(ends)).predicted)
    return {
        "slope": float(at[1] - at[0]),
        "intercept": float(at[0]),
        **{part: {**e.energy.to_dict(), "mse": e.energy.rmse**2} for part, e in learnt.items()},
        "train_loss": history["train_loss"],
    }


def curvature(x: np.ndarray) -> tuple[float, float]:
    """Least and largest eigenvalue of the Hessian of the MSE of a line by slope and intercept.

    Gradient descent diverges at rates above 2 / largest, and needs about largest / least updates
    at a rate below. ``x`` (M,).
    """
    hessian = 2 * np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1.0]])
    least, largest = np.linalg.eigvalsh(hessian)
    return float(least), float(largest)


# ---- molecules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Targets:
    """Labels of the networks: (energy - self energies) x ``factor``."""

    own: SelfEnergies
    factor: float

    def apply(self, data: Conformers) -> Conformers:
        assert data.energies is not None
        return data.replaced(energies=(data.energies - self.own.of(data)) * self.factor)

    def undo(self, targets: np.ndarray, data: Conformers) -> np.ndarray:
        """(M,) hartree: total energies."""
        return np.asarray(targets / self.factor + self.own.of(data))


def fit_energies(
    targets: Targets, training: Conformers, validation: Conformers, test: Conformers,
    epochs: int, seed: int, threads: int | None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Errors on ``test`` (kcal/mol) of a short training on scaled targets, and its losses.

    ``options`` are those of ``ANITrainer``. A training that diverges gives ``stopped``.
    """
    # What the networks and the loss take for hartree is the scaled target.
    model = ANIModel.create(
        training.elements, hidden=[64, 32], activation="gelu", output_unit="hartree", seed=seed
    )
    trainer = ANITrainer(
        model, epochs=epochs, patience=epochs, target_unit="hartree", self_energies="keep",
        batch_size=32, seed=seed, threads=threads, **options,
    )  # fmt: skip
    try:
        history = finished(
            trainer.train(targets.apply(training), targets.apply(validation), quiet=True)
        )
    except TrainingError as e:
        return {"stopped": str(e)}
    predicted = targets.undo(model.predict(test).energies, test)
    found = Evaluation.of(test, predicted, targets.own.of(test))
    return {"mae": found.energy.mae, "rmse": found.energy.rmse, "val_loss": history["val_loss"]}
