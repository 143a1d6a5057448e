"""Figures of the study of forces: parity of forces, errors by molecules trained on, survival.

What is drawn of two potentials comes in a dictionary: trained on energies, and with forces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anipot.data.conformers import Conformers
from anipot.potential.base import Potential
from anipot.report.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    ORANGE,
    log_axis,
    log_ticks,
    short,
    styled,
)
from anipot.units import HARTREE_TO_KCALMOL

#: Of the potential trained on energies only, and of that with forces.
COLOURS = (ORANGE, BLUE)


@styled
def parity(pair: Mapping[str, Potential], data: Conformers) -> Figure:
    """Force components of ``data``, kcal/mol/angstrom, predicted against reference."""
    figure = Figure(figsize=(2 * COLUMN, 3.5), layout="constrained")
    axes = figure.subplots(1, len(pair), sharex=True, sharey=True)
    assert data.forces is not None
    reference = data.forces.ravel() * HARTREE_TO_KCALMOL
    # Wide enough for nearly all: a few forces of squeezed atoms would press the rest together.
    limit = 1.05 * float(np.quantile(np.abs(reference), 0.999))
    for panel, (kind, potential) in zip(axes, pair.items(), strict=True):
        found = potential.predict(data, forces=True).forces
        assert found is not None
        predicted = found.ravel() * HARTREE_TO_KCALMOL
        panel.plot([-limit, limit], [-limit, limit], color=GREY, linewidth=0.7, zorder=3)
        cells = panel.hexbin(
            reference, predicted, gridsize=70, bins="log", mincnt=1, cmap="viridis_r",
            linewidths=0.1, extent=(-limit, limit, -limit, limit),
        )  # fmt: skip
        mae = float(np.abs(predicted - reference).mean())
        outside = int((np.maximum(np.abs(predicted), np.abs(reference)) > limit).sum())
        panel.set_title(
            f"Trained on {kind}\nMAE {short(mae)} kcal/mol/Å, N = {len(reference):,}"
            + (f" ({outside:,} outside)" if outside else ""),
            loc="left", fontsize=7,
        )  # fmt: skip
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        panel.set_xlabel("Reference force (kcal/mol/Å)")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
        panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
        panel.label_outer()
    axes[0].set_ylabel("Predicted force (kcal/mol/Å)")
    bar: Any = figure.colorbar(cells, ax=axes, shrink=0.8, aspect=30)
    bar.set_label("Components per cell")
    bar.outline.set_linewidth(0.4)
    log_ticks(bar.ax.yaxis, *sorted(bar.ax.get_ylim()))
    return figure


@styled
def curve_figure(by_molecules: Mapping[str, Any], known: Mapping[str, Any]) -> Figure:
    """Force error on new molecules against molecules trained on; dashed: on known molecules."""
    figure = Figure(figsize=(COLUMN, 2.8), layout="constrained")
    axes = figure.add_subplot()
    sizes = np.array([int(n) for n in by_molecules], dtype=float)
    drawn = []
    for kind, colour, marker in zip(known, COLOURS, "os", strict=True):
        values = [e[kind]["force_mae"] for e in by_molecules.values()]
        axes.plot(sizes, values, color=colour, marker=marker, label=f"new, {kind}")
        level = known[kind]["force_mae"]
        axes.axhline(
            level, color=colour, linestyle=(0, (4, 2)), linewidth=0.8, label=f"known, {kind}"
        )
        drawn += [*values, level]
    log_axis(axes, "x", sizes)
    log_axis(axes, "y", np.array(drawn))
    axes.set_xlabel("Molecules in the training")
    axes.set_ylabel("Test force MAE (kcal/mol/Å)")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def survival_figure(found: Mapping[str, Sequence[Sequence[float | None]]], time: float) -> Figure:
    """Fraction of the runs with all bonds, against time, for both potentials.

    ``found``: of each potential, a row a molecule, the time (fs) of the first break in each run, or
    None; ``time``: of the whole run.
    """
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for (kind, rows), colour in zip(found.items(), COLOURS, strict=True):
        runs = [t for row in rows for t in row]
        breaks = sorted(t for t in runs if t is not None)
        kept = 1 - np.arange(len(breaks) + 1) / len(runs)
        axes.step(
            np.array([0, *breaks, time]) / 1000, [*kept, kept[-1]], where="post",
            color=colour, label=kind,
        )  # fmt: skip
    axes.set(xlim=(0, time / 1000), ylim=(0, 1.04))
    axes.set_xlabel("Time (ps)")
    axes.set_ylabel("Runs with all bonds")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    return figure
