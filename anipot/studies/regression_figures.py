"""The figures of the regression study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from anipot.data.conformers import Conformers
from anipot.report.figures.style import BLUE, COLUMN, GREEN, GREY, ORANGE, log_axis, styled
from anipot.units import HARTREE_TO_KCALMOL


@styled
def line_figure(
    by_noise: Mapping[str, tuple[Conformers, float, float, float]], truth: tuple[float, float]
) -> Figure:
    """A panel for each noise: points, slope, intercept and R^2 of what was learnt of them."""
    figure = Figure(figsize=(2 * COLUMN, 2.3), layout="constrained")
    grid = figure.subplots(1, len(by_noise), sharex=True, sharey=True)
    for axes, (noise, (data, slope, intercept, r2)) in zip(grid, by_noise.items(), strict=True):
        x = data.coordinates[:, 0]
        ends = np.array([x.min(), x.max()])
        axes.scatter(x, data.energies, s=4, color=BLUE, alpha=0.55, linewidths=0, label="points")
        axes.plot(ends, truth[0] * ends + truth[1], color=GREY, label="true")
        axes.plot(ends, slope * ends + intercept, color=ORANGE, label="learnt")
        axes.set_title(f"noise {noise}, test R$^2$ {r2:.2f}", loc="left")
        axes.set_xlabel("x")
    grid[0].set_ylabel("y")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def error_figure(by_name: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Errors of trainings against the epoch; ``label`` says which, and their unit."""
    figure = Figure(figsize=(COLUMN, 2.7), layout="constrained")
    axes = figure.add_subplot()
    for (name, errors), colour in zip(by_name.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
        axes.plot(np.arange(1, len(errors) + 1), errors, color=colour, label=name)
    log_axis(axes, "y", np.concatenate(list(by_name.values())))
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    return figure


@styled
def composition_figure(data: Conformers, self_energies: np.ndarray) -> Figure:
    """Total energies against sums of self energies (M,) hartree, and their difference, kcal/mol."""
    assert data.energies is not None
    left = (data.energies - self_energies) * HARTREE_TO_KCALMOL
    figure = Figure(figsize=(2 * COLUMN, 2.5), layout="constrained")
    for axes, y, name in zip(
        figure.subplots(1, 2),
        (data.energies, left),
        ("Energy (hartree)", "Energy − self energies (kcal/mol)"),
        strict=True,
    ):
        axes.scatter(self_energies, y, s=3, color=BLUE, alpha=0.4, linewidths=0)
        axes.set_xlabel("Sum of self energies (hartree)")
        axes.set_ylabel(name)
    return figure
