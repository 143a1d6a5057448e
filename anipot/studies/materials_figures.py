"""Figures of the materials study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anipot.report.figures.style import BLUE, COLUMN, GREY, short, styled


@styled
def parity(name: str, result: dict[str, Any]) -> Figure:
    """Predicted against reference energies and forces of the test crystals, and the errors."""
    figure = Figure(figsize=(2 * COLUMN, 3.6), layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(3.0, 1.2), sharex="col")
    energies, forces = np.array(result["energies"]), np.array(result["forces"])
    energies = (energies - energies[0].min()) / 1000
    _parity(axes[:, 0], energies, 1000, "Energy above the lowest (eV/atom)", "Error (meV/atom)")
    _parity(axes[:, 1], forces, 1, "Force component (eV/Å)", "Error (eV/Å)")
    for k, (what, n) in enumerate((("energy", energies.shape[1]), ("forces", forces.shape[1]))):
        unit = "eV/Å" if k else "meV/atom"
        title = f"{name}, {what}: RMSE {short(result['test'][what])} {unit}, N = {n:,}"
        axes[0, k].set_title(title, loc="left")
    return figure


def _parity(axes: Sequence[Axes], values: np.ndarray, per: float, what: str, error: str) -> None:
    top, bottom = axes
    reference, predicted = values
    ends = [values.min(), values.max()]
    top.plot(ends, ends, color=GREY, linewidth=0.7, zorder=1)
    bottom.axhline(0.0, color=GREY, linewidth=0.7, zorder=1)
    size = 14.0 if len(reference) < 200 else 4.0
    how: Any = {"s": size, "color": BLUE, "alpha": 0.5, "linewidths": 0, "zorder": 2}
    top.scatter(reference, predicted, **how)
    bottom.scatter(reference, (predicted - reference) * per, **how)
    top.set_ylabel("Predicted")
    bottom.set_ylabel(error)
    bottom.set_xlabel(what)
