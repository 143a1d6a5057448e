"""Regression: a line with noise, scaling, and the same tools on energies of molecules.

A line is learnt by gradient descent, as in the exercise, with the package's trainer; what R^2 says
is seen beside what it can be at best. Then the targets of a potential: self energies, which are a
linear model of the composition, and the scale in which networks learn what is left.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from anipot.errors import SettingsError
from anipot.studies.common import Study
from anipot.studies.regression_energies import mae_of, scaled_targets, self_energies
from anipot.studies.regression_line import NARROW, noisy_line, of_fit, wide_range
from anipot.studies.regression_models import INTERCEPT

#: Options of ``run`` for a quick look.
QUICK: dict[str, Any] = {"seeds": 1, "epochs": 60, "per_molecule": 8, "energy_epochs": 8}


def run(
    folder: Path | None = None,
    *,
    n: int = 200,
    epochs: int = 100,
    seeds: int = 3,
    per_molecule: int = 16,
    energy_epochs: int = 15,
    threads: int | None = None,
) -> dict[str, Any]:
    """The whole study, in ``folder``; returns the numbers that ``result.json`` holds.

    ``n`` points of the line, a fifth of which are tested on, learnt in ``epochs``, with ``seeds``
    sets of points; ``per_molecule`` conformers of each bundled molecule, trained on for
    ``energy_epochs``. Raises SettingsError for a folder that holds something else, and for numbers
    that make no study.
    """
    if n < 40 or per_molecule < 2 or min(epochs, seeds, energy_epochs) < 1:
        raise SettingsError(
            f"n ({n}) must be at least 40, per_molecule ({per_molecule}) at least 2, epochs "
            f"({epochs}), seeds ({seeds}) and energy_epochs ({energy_epochs}) at least 1"
        )
    options = {
        "n": n, "epochs": epochs, "seeds": seeds, "per_molecule": per_molecule,
        "energy_epochs": energy_epochs,
    }  # fmt: skip
    with Study("regression", folder, options) as study:
        result: dict[str, Any] = {
            "line": noisy_line(study, n, epochs, seeds),
            "wide": wide_range(study, n, epochs),
            "composition": self_energies(study),
            "targets": scaled_targets(study, per_molecule, energy_epochs, threads),
        }
        study.finish(result, _learnt(**result))
    return result


def _learnt(
    line: dict[str, dict[str, Any]], wide: list[dict[str, Any]],
    composition: dict[str, Any], targets: list[dict[str, Any]],
) -> list[str]:  # fmt: skip
    mae = {(r["targets"], r["optimizer"]): mae_of(r) for r in targets}
    _, slow, _, fast, standard = (of_fit(row)[0] for row in wide)
    names = list(dict.fromkeys(r["targets"] for r in targets))
    return [
        "R2 says how much of the variance is explained, not whether the model is right: the true "
        "line itself has "
        + ", ".join(f"{by['best']['r2']:.2f} (noise {k})" for k, by in line.items())
        + ". MSE and MAE go to the noise and no lower. Slopes have a standard error of noise / "
        f"(spread of x sqrt(N)), {10 / (NARROW / math.sqrt(12) * math.sqrt(160)):.2f} for noise 10 "
        "and 160 points; the document's 1.45 is no failure of the training.",
        f"On the wide range the rate is {wide[0]['rate'] / wide[0]['largest_rate']:.0f} times too "
        "high, and the trainer stops at the first number that is not finite. At "
        f"{wide[1]['rate']:g} the slope is learnt and hardly the intercept "
        f"({wide[1].get('intercept', math.nan):.2f}, true {INTERCEPT:g}; R2 {slow}), for the "
        f"condition is {wide[1]['condition']:,.0f}. Min-max scaling makes it "
        f"{wide[3]['condition']:.0f} and a rate of {wide[3]['rate']:g} safe (intercept "
        f"{wide[3].get('intercept', math.nan):.2f}, R2 {fast}); mean 0 and spread 1 make it "
        f"{wide[4]['condition']:.0f} (R2 {standard}). R2 hides the difference, the intercept shows "
        "it.",
        f"Self energies explain all but {1 - composition['r2']:.1e} of the variance of total "
        f"energies, and are wrong by {composition['mae']:.1f} kcal/mol: an R2 of total energies "
        "says nothing, which is why anipot takes it of what is left. They are found by least "
        "squares at once; gradient descent would need rates below "
        f"{composition['largest_rate']:.2g} and some {composition['condition']:,.0f} updates.",
        f"Self energies must be taken off: with AdamW the test MAE is {mae[names[0], 'adamw']} "
        f"kcal/mol on total energies, and {mae[names[1], 'adamw']} (hartree), "
        f"{mae[names[2], 'adamw']} (kcal/mol) and {mae[names[3], 'adamw']} (spread 1) on what is "
        "left. Steps of AdamW do not depend on the unit of the loss. Those of gradient descent do: "
        f"at one rate {mae[names[1], 'sgd']}, {mae[names[2], 'sgd']} and {mae[names[3], 'sgd']}.",
    ]
