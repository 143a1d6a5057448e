"""Parity plot of force components."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anipot.evaluation.vector_errors import VectorErrors
from anipot.report.figures.style import BLUE, COLUMN, GREY, log_ticks, short, styled, title_text

#: More components than this are drawn as a density.
MAX_POINTS = 3000


@styled
def force_parity(forces: VectorErrors, scale: float, unit: str, title: str = "") -> Figure:
    """Predicted against reference components of forces, times ``scale``, in ``unit``.

    The axes reach as far as 99.9 % of the reference components: of a few atoms nearly on top of
    each other all other forces would be a dot. The title says how many lie outside.
    """
    reference = forces.reference.ravel() * scale
    predicted = forces.predicted.ravel() * scale
    stats = forces.components(scale)
    limit = 1.1 * float(np.quantile(np.abs(reference), 0.999)) or 1.0
    inside = (np.abs(reference) <= limit) & (np.abs(predicted) <= limit)
    figure = Figure(figsize=(COLUMN, 3.2), layout="constrained")
    axes = figure.add_subplot()
    dense = len(reference) > MAX_POINTS
    axes.plot([-limit, limit], [-limit, limit], color=GREY, lw=0.7, zorder=3 if dense else 1)
    if dense:
        cells = axes.hexbin(
            reference[inside], predicted[inside], gridsize=70, bins="log", mincnt=1,
            cmap="viridis_r", linewidths=0.1, extent=(-limit, limit, -limit, limit),
        )  # fmt: skip
        bar = figure.colorbar(cells, cax=axes.inset_axes((1.03, 0.0, 0.03, 1.0)))
        bar.set_label("Components per cell")
        log_ticks(bar.ax.yaxis, *sorted(bar.ax.get_ylim()))
    else:
        axes.scatter(reference, predicted, s=5.0, color=BLUE, alpha=0.5, linewidths=0, zorder=2)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal", adjustable="box")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
    unit = unit.replace("angstrom", "Å")
    axes.set_xlabel(f"Reference force component ({unit})")
    axes.set_ylabel(f"Predicted force component ({unit})")
    numbers = f"MAE {short(stats.mae)}, RMSE {short(stats.rmse)} {unit}, N = {stats.n:,}"
    lines = [title_text(title)] if title else []
    lines.append(numbers)
    outside = int((~inside).sum())
    if outside:
        lines.append(f"{outside:,} outside, up to {short(float(np.abs(reference).max()))}")
    axes.set_title("\n".join(lines), loc="left", fontsize=7)
    return figure
