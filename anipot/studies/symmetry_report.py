"""The tables of the symmetry study, beside the document's numbers, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anipot.evaluation.metrics import Evaluation
from anipot.report.figures.plots import parity
from anipot.studies.common import Study
from anipot.studies.symmetry_figures import (
    digits,
    error_figure,
    histogram_figure,
    loss_figure,
    positions_figure,
)
from anipot.studies.symmetry_models import (
    FEATURES,
    LABELS,
    TRANSFORMATIONS,
    divided,
    noisy,
    transformed,
)

#: Test MSE in the document, whose labels are the loop's: (features, training, tested) -> MSE.
SOURCE: dict[tuple[str, str, str], float] = {
    ("positions", "none", "as they are"): 5.5e-4,
    ("positions", "none", "rotated by pi/2"): 69.5,
    ("positions", "none", "permuted"): 1.64,
    ("positions", "rotated by pi/2", "rotated by pi/2"): 4.0e-4,
    ("positions", "rotated by pi/2", "permuted"): 21.5,
    ("positions", "permuted", "permuted"): 5.1e-4,
    ("positions", "permuted", "rotated by pi/2"): 59.2,
    ("distances", "none", "as they are"): 4.8e-4,
    ("distances", "none", "rotated by pi/2"): 4.5e-4,
    ("distances", "none", "permuted"): 16.1,
    ("distances", "rotated by pi/2", "rotated by pi/2"): 3.6e-3,
    ("distances", "rotated by pi/2", "permuted"): 0.316,
    ("distances", "permuted", "permuted"): 3.7e-4,
    ("distances", "permuted", "rotated by pi/2"): 3.9e-4,
}

#: Features, training and label -> transformation -> test MSE of each seed.
Errors = dict[tuple[str, str, str], dict[str, list[float]]]

PLAIN = "none"


def tables(study: Study, errors: Errors, molecules: int, updates: int, seeds: int) -> None:
    of = f"median of {seeds} seeds" if seeds > 1 else "one seed"
    study.say(
        f"## Every feature, every transformation\n\nTest MSE on {round(0.2 * molecules)} molecules "
        f"that were never trained on, {of}. Networks 32-64-64-32, {updates} updates each. "
        "`added` is what the training set was doubled with."
    )
    for label in LABELS:
        study.table(
            ["features", "added", *TRANSFORMATIONS],
            [
                [f, a, *(digits(np.median(by[t])) for t in TRANSFORMATIONS)]
                for (f, a, labelled), by in errors.items()
                if labelled == label
            ],
            f"Label `{label}`:",
        )
    study.table(
        ["features", "added", "tested", "document", "measured", "least", "largest"],
        [
            [f, a, t, digits(value), *_spread(errors[f, a, "loop"][t])]
            for (f, a, t), value in SOURCE.items()
        ],
        "## Beside the document\n\nIts labels are the loop's. Its augmented training sets contain "
        "molecules of its rotated and permuted test sets; here they do not. It trains for 1,000 "
        "epochs, 25,000 updates and more.",
    )


def _spread(values: Sequence[float]) -> list[str]:
    return [digits(v) for v in (np.median(values), min(values), max(values))]


def draw_figures(
    study: Study,
    kept: dict[tuple[str, str, str], list[dict[str, Any]]],
    errors: Errors,
    molecules: int,
    labels: dict[str, dict[str, float]],
) -> None:
    data = noisy(molecules, "formula", seed=0)
    study.figure(
        positions_figure({t: transformed(data, t, "formula") for t in TRANSFORMATIONS}),
        "positions",
        "Positions of the particles, coloured by their number.",
    )
    study.figure(
        histogram_figure(
            {
                label: [transformed(data, t, label) for t in ("as they are", "permuted")]
                for label in LABELS
            }
        ),
        "energies",
        "Labels of the molecules, and of the same molecules permuted.",
    )  # fmt: skip
    plain = {f: kept[f, PLAIN, "formula"][0] for f in FEATURES}
    study.figure(
        loss_figure(plain),
        "losses",
        "Training loss (lines) and validation loss (dotted) of networks on the formula's labels.",
    )
    test = divided(molecules, "formula", 0)[2]
    for f, one in plain.items():
        found = Evaluation.of(test, np.array(one["predicted"]), np.array(one["self_energy"]))
        study.figure(
            parity(found.in_unit("hartree"), f"{f}, test set as it is"),
            f"parity-{f.replace(' ', '-')}",
            f"Predicted against true energies of the test set: {f}, no augmentation. The mean "
            "energy of the training set is taken off both.",
        )
    study.figure(
        error_figure(
            {
                label: {
                    f if a == PLAIN else f"{f} + {a}": [float(np.median(by[t])) for t in by]
                    for (f, a, labelled), by in errors.items()
                    if labelled == label
                }
                for label in LABELS
            },
            list(TRANSFORMATIONS),
            {label: v["variance"] for label, v in labels.items()},
        ),
        "all-errors",
        "Test MSE of every network on every transformation. White is as bad as always to predict "
        "the mean; blue is better, red worse.",
    )
