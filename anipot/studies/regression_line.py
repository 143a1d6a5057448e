"""The line of the regression study: noise, a range that is too wide, scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from anipot.studies.common import Study
from anipot.studies.regression_figures import error_figure, line_figure
from anipot.studies.regression_models import (
    INTERCEPT,
    SLOPE,
    Scaling,
    curvature,
    fit_line,
    points,
    xy,
)

#: In the document, for each noise: R^2, MSE and MAE on the test points, and what was learnt.
SOURCE = {
    1: {"r2": 0.97, "mse": 0.83, "mae": 0.73, "slope": 1.954, "intercept": 5.059},
    10: {"r2": 0.20, "mse": 91.3, "mae": 7.20, "slope": 1.454, "intercept": 6.422},
    20: {"r2": 0.07, "mse": 482.9, "mae": 17.97, "slope": 2.035, "intercept": 3.416},
}

#: Ends of the two ranges of x, and the rate that serves the first.
NARROW, WIDE = 10.0, 100.0
RATE = 1e-2

#: Trainings on the wide range: scaling, learning rate.
WIDE_RUNS = (
    ("none", RATE), ("none", 1e-4), ("min-max", RATE), ("min-max", 0.3), ("standard", 0.3),
)  # fmt: skip

#: R^2 and MSE on the test points of the wide range in the document, by scaling and rate.
SOURCE_WIDE = {("none", RATE): ("diverges", "-"), ("none", 1e-4): ("0.998", "6.09")}


def best_possible(noise: float, high: float) -> dict[str, float]:
    """R^2, MSE and MAE of the true line, for x evenly spread from 0 to ``high``."""
    variance = SLOPE**2 * high**2 / 12
    return {
        "r2": variance / (variance + noise**2),
        "mse": noise**2,
        "mae": noise * math.sqrt(2 / math.pi),
    }


def noisy_line(study: Study, n: int, epochs: int, seeds: int) -> dict[str, dict[str, Any]]:
    """The line learnt from points with noise; by noise, errors and what was learnt, by seed."""
    found: dict[str, dict[str, Any]] = {}
    for noise in SOURCE:
        fits = []
        for seed in range(seeds):
            training, test = points(n, noise, NARROW, seed).split(0.8, 0.2, seed=seed)
            # Two numbers cannot be overfitted: the training set itself says which were best.
            name = f"line-noise-{noise}-seed-{seed}"
            fits.append(
                study.once(
                    name,
                    lambda a=training, b=test, s=seed: fit_line(a, a, b, RATE, epochs, seed=s),  # type: ignore[misc]
                )
            )
            slope, intercept = np.polyfit(*xy(training), 1)
            fits[-1].update(exact_slope=float(slope), exact_intercept=float(intercept))
        found[str(noise)] = {
            **{key: [fit["test"][key] for fit in fits] for key in ("r2", "mse", "mae")},
            **{k: [fit[k] for fit in fits] for k in ("slope", "intercept", "exact_slope")},
            "best": best_possible(noise, NARROW),
        }
    study.say(
        f"## A line with noise\n\ny = {SLOPE:g}x + {INTERCEPT:g}, x between 0 and {NARROW:g}, "
        f"{n} points of which a fifth is tested on; gradient descent, rate {RATE:g}, batches of "
        f"16, {epochs} epochs. Mean and standard deviation of {seeds} seeds. `at best` is what the "
        "true line has on infinitely many points."
    )
    names = {"r2": "R2", "mse": "MSE", "mae": "MAE"}
    study.table(
        ["test error", "noise", "document", "measured", "at best"],
        [
            [names[e], f"{noise}", f"{SOURCE[noise][e]:.3g}", _plus(by[e]), f"{by['best'][e]:.3g}"]
            for e in names
            for noise, by in ((k, found[str(k)]) for k in SOURCE)
        ],
    )
    study.table(
        ["noise", "slope, document", "slope", "by least squares", "intercept, document",
         "intercept"],
        [
            [noise, f"{SOURCE[int(noise)]['slope']:.3g}", _plus(by["slope"]),
             _plus(by["exact_slope"]), f"{SOURCE[int(noise)]['intercept']:.3g}",
             _plus(by["intercept"])]
            for noise, by in found.items()
        ],
        f"What was learnt (true: {SLOPE:g} and {INTERCEPT:g}):",
    )  # fmt: skip
    study.figure(
        line_figure(
            {
                noise: (points(n, int(noise), NARROW, 0), by["slope"][0], by["intercept"][0],
                        by["r2"][0])
                for noise, by in found.items()
            },
            (SLOPE, INTERCEPT),
        ),
        "lines",
        "Points and learnt line (seed 0) for each noise; grey: the true line.",
    )  # fmt: skip
    return found


def _plus(values: list[float]) -> str:
    """Mean and sample standard deviation (of one: none)."""
    mean = f"{np.mean(values):.3g}"
    return f"{mean} +- {np.std(values, ddof=1):.2g}" if len(values) > 1 else mean


def wide_range(study: Study, n: int, epochs: int) -> list[dict[str, Any]]:
    """WIDE_RUNS, and what the curvature of the loss says of them."""
    training, test = points(n, 1, WIDE, 0).split(0.8, 0.2, seed=0)
    rows = []
    for scaling, rate in WIDE_RUNS:
        scale = Scaling.of(scaling, training)
        least, largest = curvature(xy(scale.apply(training))[0])
        fit = study.once(
            f"wide-{scaling}-rate-{rate:g}",
            lambda k=scaling, r=rate: fit_line(training, training, test, r, epochs, k),  # type: ignore[misc]
        )
        about = {"scaling": scaling, "rate": rate, "largest_rate": 2 / largest}
        if "train_loss" in fit:
            fit["train_rmse"] = [math.sqrt(v) * scale.y[1] for v in fit["train_loss"]]
        rows.append({**about, "condition": largest / least, **fit})
    stopped = rows[0].get("stopped")
    study.say(
        f"## A wide range\n\nx between 0 and {WIDE:g}, noise 1. With the rate that served before "
        + (
            f"the training was stopped, with this reason:\n\n> {stopped}"
            if stopped
            else "the training came to its end."
        )
    )
    study.table(
        ["x and y scaled", "rate", "rate must be below", "condition", "R2, document",
         "test R2", "MSE, document", "MSE", "slope", "intercept"],
        [
            [row["scaling"], f"{row['rate']:g}", f"{row['largest_rate']:.2g}",
             f"{row['condition']:,.0f}", doc[0], r2, doc[1], mse, *rest]
            for row in rows
            for doc in [SOURCE_WIDE.get((row["scaling"], row["rate"]), ("-", "-"))]
            for r2, mse, *rest in [of_fit(row)]
        ],
        f"{epochs} epochs each; MSE in the unit of y. The rate must be below 2 / the largest "
        "eigenvalue of the Hessian of the loss, and the number of updates grows with the condition "
        "number, the largest over the least. The document does not tell its lower rate.",
    )  # fmt: skip
    study.figure(
        error_figure(
            {
                f"{row['scaling']}, rate {row['rate']:g}": row["train_rmse"]
                for row in rows
                if "train_rmse" in row
            },
            "Training RMSE (unit of y)",
        ),
        "wide-errors",
        "Training RMSE on the wide range: scaling and rate of what did not diverge.",
    )
    return rows


def of_fit(row: Mapping[str, Any]) -> list[str]:
    """R^2, MSE, slope and intercept of one of ``wide_range``, as text."""
    if "stopped" in row:
        return ["diverges", "-", "-", "-"]
    test = row["test"]
    return [
        f"{test['r2']:.4f}", f"{test['mse']:.3g}", f"{row['slope']:.3f}", f"{row['intercept']:.2f}"
    ]  # fmt: skip
