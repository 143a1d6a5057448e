"""ErrorStats: MAE, RMSE, largest error and R^2 of some numbers, with their N."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from anipot.errors import DataError


@dataclass(frozen=True)
class ErrorStats:
    """Errors of ``n`` predicted numbers, in the unit of the numbers (``r2`` has none).

    ``max`` is the largest absolute error. ``r2`` is the coefficient of determination, 1 - sum of
    squared errors / sum of squared deviations of the reference from its mean, which is negative for
    predictions worse than that mean. It is NaN for fewer than two numbers and for references that
    are all equal (apart from rounding).
    """

    n: int
    mae: float
    rmse: float
    max: float
    r2: float

    @classmethod
    def of(cls, reference: np.ndarray, predicted: np.ndarray) -> ErrorStats:
        """Errors of ``predicted`` against ``reference``: equal shapes, any unit, all counted alike.

        Raises DataError when shapes differ, when there is no number, or one that is not finite.
        """
        reference = np.asarray(reference, dtype=np.float64)
        predicted = np.asarray(predicted, dtype=np.float64)
        if reference.shape != predicted.shape:
            raise DataError(
                f"reference has shape {reference.shape} and predicted {predicted.shape}; errors "
                "need a prediction for every reference"
            )
        if reference.size == 0:
            raise DataError("errors of no conformer are not defined; give at least one")
        for name, array in (("reference", reference), ("predicted", predicted)):
            bad = np.flatnonzero(~np.isfinite(array.ravel()))
            if len(bad):
                raise DataError(
                    f"{name} value {bad[0]} is not finite ({len(bad)} of {array.size} are not); "
                    "leave such conformers out, or find out why the model gives them"
                )
        error = predicted - reference
        squared = float(np.sum(error**2))
        # What rounding alone spreads equal numbers over is no variance to explain.
        noise = 8 * np.finfo(np.float64).eps * float(np.abs(reference).max())
        variance = float(np.sum((reference - reference.mean()) ** 2))
        explainable = float(np.ptp(reference)) > noise and variance > 0  # squares can underflow
        return cls(
            n=int(reference.size),
            mae=float(np.abs(error).mean()),
            rmse=math.sqrt(squared / reference.size),
            max=float(np.abs(error).max()),
            r2=1.0 - squared / variance if explainable else math.nan,
        )

    def to_dict(self) -> dict[str, float | int | None]:
        """The five numbers, ready for JSON: NaN, which JSON has not, becomes None."""
        return {k: None if math.isnan(v) else v for k, v in asdict(self).items()}
