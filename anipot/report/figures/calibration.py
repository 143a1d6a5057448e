"""The figure of a calibration: errors against the disagreement of an ensemble's members."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from anipot.evaluation.calibration import Calibration
from anipot.report.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    log_axis,
    plain,
    short,
    styled,
)

#: Of more conformers than this a random choice is drawn.
MAX_POINTS = 5000


@styled
def calibration_plot(calibration: Calibration, title: str = "") -> Figure:
    """Error of each conformer and RMSE of each bin against the disagreement, with the scaled line.

    Both are in kcal/mol over the square root of the number of atoms.
    """
    figure = Figure(figsize=(COLUMN, 3.1), layout="constrained")
    axes = figure.add_subplot()
    x, y = calibration.disagreement, calibration.error
    chosen = np.random.default_rng(0).permutation(len(x))[:MAX_POINTS]
    axes.plot(
        x[chosen], y[chosen], ".", color=GREY, alpha=0.4,
        markersize=5 if len(x) < 500 else 2, markeredgewidth=0,
        label="conformers", rasterized=True,
    )  # fmt: skip
    bins = calibration.bins()
    log_axis(axes, "x", x)
    # Errors reach zero by chance: what is far below the median tells nothing.
    log_axis(axes, "y", np.append(y[y > np.median(y) / 30], [b.error for b in bins]))
    ends = np.array(axes.get_xlim())
    axes.plot(
        ends, calibration.scale * ends, color=BLUE, linewidth=0.9,
        label=f"error = {short(calibration.scale)} × disagreement",
    )  # fmt: skip
    axes.plot(
        [b.disagreement for b in bins], [b.error for b in bins], "o", color=ORANGE,
        label=f"RMSE of {bins[0].n:,} conformers" if len(bins) > 1 else "RMSE",
    )  # fmt: skip
    axes.axvline(
        calibration.limit, color=GREEN, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0,
        label=f"limit: {short(calibration.limit)}",
    )  # fmt: skip
    axes.set_xlabel("Disagreement of the members, std / √N (kcal/mol)")
    axes.set_ylabel("Error / √N (kcal/mol)")
    if title:
        axes.set_title(plain(title))
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1,
        columnspacing=1.2,
    )  # fmt: skip
    return figure
