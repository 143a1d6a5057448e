"""Errors of forces and of stress: of their components, and of the direction of forces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from anipot.data.mapping import keyword
from anipot.errors import DataError
from anipot.evaluation.error_stats import ErrorStats

#: Reference forces shorter than this, hartree/angstrom, have no direction to speak of.
SHORTEST = 1e-4

#: Options of reading that mend the sign and the unit of a label.
OPTIONS = {
    "forces": (("forces_sign", "gradient"), "force_unit"),
    "stress": (("stress_sign", "negative"), "stress_unit"),
}


@dataclass(frozen=True, eq=False)
class VectorErrors:
    """Predicted beside reference, (..., 3) in one unit: forces of atoms, or stress (M, 3, 3)."""

    reference: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(
        cls, reference: np.ndarray | None, predicted: np.ndarray | None, keep: np.ndarray
    ) -> VectorErrors | None:
        """Of the rows ``keep`` (bool); None where nothing was predicted or there is no reference.

        Raises DataError for numbers that are not finite.
        """
        if reference is None or predicted is None or not keep.any():
            return None
        pair = [np.asarray(a, dtype=np.float64)[keep] for a in (reference, predicted)]
        for name, values in zip(("reference", "predicted"), pair, strict=True):
            if not np.isfinite(values).all():
                raise DataError(f"a {name} force or stress is not finite; look at its geometry")
        return cls(*pair)

    def components(self, scale: float) -> ErrorStats:
        """Errors of the components, all counted alike, times ``scale``."""
        return ErrorStats.of(self.reference.ravel() * scale, self.predicted.ravel() * scale)

    @property
    def cosine(self) -> float:
        """Mean cosine of the angle between predicted and reference force, 1 for right directions.

        Atoms with a reference force below ``SHORTEST`` are left out; NaN where all are. A predicted
        force of zero has no direction and counts as 0.
        """
        length = np.linalg.norm(self.reference, axis=-1)
        other = np.linalg.norm(self.predicted, axis=-1)
        long = length > SHORTEST
        if not long.any():
            return math.nan
        dot = (self.reference * self.predicted).sum(-1)[long]
        product = (length * other)[long]
        return float(np.divide(dot, product, out=np.zeros_like(dot), where=product > 0).mean())

    def suspicion(self, label: str) -> str | None:
        """Likely mistake in the reference ``"forces"`` or ``"stress"``, or None.

        Judged by the mean cosine (of stress: of all nine components) and by the factor that brings
        the reference closest to what was predicted.
        """
        pair = VectorErrors(*(a.reshape(len(a), -1) for a in (self.reference, self.predicted)))
        cosine = pair.cosine
        if math.isnan(cosine) or len(self.reference) < 10:
            return None
        factor = float((pair.reference * pair.predicted).sum() / (pair.reference**2).sum())
        sign, unit = OPTIONS[label]
        found = f"predicted and reference {label} (mean cosine {cosine:.2f})"
        if cosine < -0.5:
            return f"{found} are opposite: the data has the other sign, which {keyword(*sign)} says"
        if cosine > 0.9 and not 0.67 < factor < 1.5:
            return (
                f"{found} differ by a factor of {factor:.3g}: is the data in another unit? Name it "
                f"with {keyword(unit)}"
            )
        return None

    def to_dict(self, scale: float, unit: str, direction: bool) -> dict[str, Any]:
        """The errors of the components, ready for JSON; with the cosine if ``direction``."""
        values: dict[str, Any] = {"unit": unit, **self.components(scale).to_dict()}
        if direction:
            cosine = self.cosine
            values["cosine"] = None if math.isnan(cosine) else cosine
        return values
