"""Calibration: what error a disagreement of an ensemble's members means, and how far that is known.

The members of an ensemble disagree by ``std / sqrt(N)``; the same measure of the true error is
``|predicted - reference| / sqrt(N)``. Both are compared on conformers with reference energies that
no member was trained on. Source of binned calibration: Levi, Gispan, Giladi, Fetaya, Sensors 2022,
22, 5540; of the measure: Smith et al., J. Chem. Phys. 2018, 148, 241733.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field, ValidationError
from scipy.stats import rankdata

from anipot.data.conformers import Conformers
from anipot.errors import DataError, PotentialError, SettingsError
from anipot.potential.base import Potential
from anipot.potential.ensemble import ANIEnsemble
from anipot.units import HARTREE_TO_KCALMOL

#: The share of a calibration's conformers whose disagreement is within its limit: not all, so that
#: one strange conformer does not decide.
WITHIN = 0.999

#: Conformers of one bin: an RMSE of fewer is mostly noise.
LEAST_IN_BIN = 20

#: Conformers that a warning names.
MOST_NAMED = 5


class Bin(NamedTuple):
    """Conformers of similar disagreement: how many, RMS of disagreement and of error, kcal/mol."""

    n: int
    disagreement: float
    error: float


#: Conformers below which quantiles and correlations say little.
FEW = 30


class Calibrated(BaseModel):
    """The entry ``about["calibrated"]`` of a potential, in kcal/mol."""

    largest_molecule_atoms: int = Field(ge=1)
    disagreement_kcalmol: float = Field(gt=0, allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)
    data: str = ""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Disagreement and error of M conformers with reference energies.

    ``disagreement`` (M,) and ``error`` (M,) kcal/mol, both over the square root of the number of
    atoms; ``n_atoms`` (M,); ``data`` says in words what the conformers are.
    """

    disagreement: np.ndarray
    error: np.ndarray
    n_atoms: np.ndarray
    data: str = ""

    def __len__(self) -> int:
        return len(self.error)

    @property
    def scale(self) -> float:
        """The factor that makes the RMS of the disagreement the RMS error."""
        return _rms(self.error) / _rms(self.disagreement)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of disagreement and error; NaN where one of them does not vary."""
        ranks = [rankdata(x) - (len(self) + 1) / 2 for x in (self.disagreement, self.error)]
        norm = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
        return float(ranks[0] @ ranks[1]) / norm if norm else math.nan

    def coverage(self, widths: float = 1.0) -> float:
        """The share of errors within so many scaled disagreements.

        Normally distributed errors would have 0.683 within one and 0.954 within two.
        """
        return float((self.error <= widths * self.scale * self.disagreement).mean())

    @property
    def limit(self) -> float:
        """kcal/mol: the disagreement that a share ``WITHIN`` of the conformers does not exceed."""
        return float(np.quantile(self.disagreement, WITHIN))

    def bins(self, most: int = 10) -> list[Bin]:
        """Equally many conformers a bin, by rising disagreement."""
        count = max(1, min(most, len(self) // LEAST_IN_BIN))
        parts = np.array_split(np.argsort(self.disagreement, kind="stable"), count)
        return [Bin(len(p), _rms(self.disagreement[p]), _rms(self.error[p])) for p in parts]

    def about(self) -> dict[str, Any]:
        """For a potential's ``about["calibrated"]``: what ``beyond`` looks at."""
        return {
            "largest_molecule_atoms": int(self.n_atoms.max()),
            "disagreement_kcalmol": self.limit,
            "scale": self.scale,
            "data": self.data,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        rank = self.rank_correlation
        return {
            **self.about(),
            "conformers": len(self),
            "rank_correlation": None if math.isnan(rank) else rank,
            "coverage": {str(k): self.coverage(k) for k in (1, 2)},
            "bins_kcalmol": [b._asdict() for b in self.bins()],
        }

    def __str__(self) -> str:
        lines = ["   N  RMS disagreement  RMS error / kcal/mol per sqrt(atom)"]
        lines += [f"{b.n:>4}  {b.disagreement:>16.4f}  {b.error:>9.4f}" for b in self.bins()]
        return "\n".join(
            [
                *lines,
                f"error = {self.scale:.3g} x disagreement; within it {self.coverage(1):.0%} of the "
                f"errors (normal: 68%), within twice that {self.coverage(2):.0%} (95%)",
                f"rank correlation {self.rank_correlation:.2f}; {len(self):,} conformers of up to "
                f"{self.n_atoms.max()} atoms, disagreement up to {self.limit:.3g} kcal/mol",
                *([f"fewer than {FEW} conformers: not to be relied on"] if len(self) < FEW else []),
            ]
        )


def calibrate(
    potential: Potential, data: Conformers, name: str = "", progress: bool = False
) -> Calibration:
    """Compare disagreement and error on the conformers of ``data`` that have an energy.

    They should be unknown to all members: on what these were trained on, errors are too small.
    ``name`` says what the data is. Raises SettingsError for a potential without members that could
    disagree, DataError for data without energies.
    """
    if not isinstance(potential, ANIEnsemble) or len(potential) < 2:
        raise SettingsError(
            "only an ensemble of two or more has members that disagree, and this potential is a "
            "single model; train one with: anipot train --members 4"
        )
    labelled = data.has("energies")
    if data.energies is None or not labelled.any():
        raise DataError("there is nothing to calibrate on: no conformer has an energy")
    chosen = data if labelled.all() else data.take(labelled)
    assert chosen.energies is not None
    found = potential.predict(chosen, progress=progress)
    spread = found.disagreement(chosen) * HARTREE_TO_KCALMOL
    if not spread.any():
        raise DataError("the members say the same of every conformer: are they copies of one?")
    error = np.abs(found.energies - chosen.energies) * HARTREE_TO_KCALMOL
    return Calibration(spread, error / np.sqrt(chosen.n_atoms), chosen.n_atoms, name)


def calibrated(potential: Potential) -> Calibrated | None:
    """Return the calibration of a potential, or None.

    Raises PotentialError when what its file says of it is not understood.
    """
    told = potential.about.get("calibrated")
    try:
        return None if told is None else Calibrated.model_validate(told)
    except ValidationError as e:
        where = ".".join(map(str, e.errors()[0]["loc"])) or "calibrated"
        raise PotentialError(
            f"the potential's own calibration is not understood ({where}: "
            f"{e.errors()[0]['msg']}); calibrate it again: anipot calibrate"
        ) from None


def beyond(
    potential: Potential,
    disagreement: ArrayLike,
    n_atoms: ArrayLike,
    names: Sequence[str] | None = None,
) -> list[str]:
    """Sentences that warn where a prediction goes beyond the calibration; none where it does not.

    ``disagreement`` hartree and ``n_atoms``, of one conformer or of M; ``names`` are what the
    conformers are called in the sentences. A potential that was never calibrated gives none.
    """
    known = calibrated(potential)
    if known is None:
        return []
    spread = np.atleast_1d(disagreement) * HARTREE_TO_KCALMOL
    sizes = np.broadcast_to(np.atleast_1d(n_atoms), spread.shape)

    def told(mask: np.ndarray, value: np.ndarray, text: str) -> str:
        worst = np.flatnonzero(mask)
        worst = worst[np.argsort(-value[worst], kind="stable")]
        called = [
            f"{names[int(i)] if names else f'conformer {i}'} ({value[i]:{text}})"
            for i in worst[:MOST_NAMED]
        ]
        more = f" and {len(worst) - MOST_NAMED:,} more" if len(worst) > MOST_NAMED else ""
        return ", ".join(called) + more

    warnings = []
    # A single precision model gives a conformer of the calibration again with other last digits.
    strange = spread > known.disagreement_kcalmol * (1 + 1e-3)
    if strange.any():
        warnings.append(
            f"the members disagree by more than the {known.disagreement_kcalmol:.3g} kcal/mol up "
            f"to which their errors are known: {told(strange, spread, '.3g')}"
        )
    large = sizes > known.largest_molecule_atoms
    if large.any():
        warnings.append(
            f"more atoms than the {known.largest_molecule_atoms} of the largest molecule that the "
            f"errors are known for: {told(large, sizes, 'd')}"
        )
    return warnings


def in_words(potential: Potential, disagreement: np.ndarray, conformers: Conformers) -> str:
    """A line on how far the members disagree about conformers, (M,) hartree, and what it means."""
    spread = disagreement * HARTREE_TO_KCALMOL
    if np.isnan(spread).all():
        return "an ensemble of one: nothing is known of the error"
    worst = int(np.nanargmax(spread))
    formula, names = conformers.formulas()
    line = (
        f"disagreement, std / sqrt(atoms): median {np.median(spread):.3g}, largest "
        f"{spread[worst]:.3g} kcal/mol (frame {worst}, {names[formula[worst]]}); "
    )
    known = calibrated(potential)
    if known is None:
        return line + "not calibrated: anipot calibrate says what error that means"
    errors = known.scale * spread * np.sqrt(conformers.n_atoms)
    return line + (
        f"expected error: median {np.median(errors):.3g}, largest {errors.max():.3g} kcal/mol "
        f"(calibrated on {known.data})"
    )


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(values**2)))
