"""Figures of simulations, in the style of ``anipot.report.figures.plots``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from anipot import units
from anipot.report.figures.style import BLUE, COLUMN, GREEN, GREY, ORANGE, styled, title_text
from anipot.simulation.coordinate_scan import Coordinate, ScanPoint
from anipot.simulation.dynamics import MDResult

EV_TO_KCALMOL = units.HARTREE_TO_KCALMOL / units.HARTREE_TO_EV


@styled
def md_figure(
    result: MDResult, max_disagreement: float | None = None, title: str | None = None
) -> Figure:
    """Energies, temperature and, of an ensemble, disagreement against time.

    The total energy of an NVE run has a panel of its own, in meV/atom from its mean, with the
    fitted drift; ``max_disagreement`` (kcal/mol) is drawn as a line.
    """
    rows = result.rows
    table = {name: np.array([getattr(r, name) for r in rows]) for name in vars(rows[0])}
    time, time_unit = table["time_fs"], "fs"
    if time[-1] >= 2000:
        time, time_unit = time / 1000, "ps"
    ensemble = bool(np.isfinite(table["disagreement_kcalmol"]).any())
    nve = result.drift is not None
    heights = [1.4, *([1.0] if nve else []), 1.0, *([1.0] if ensemble else [])]
    figure = Figure(figsize=(COLUMN, 1.15 * sum(heights)), layout="constrained")
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))

    top = panels.pop(0)
    reference = table["potential_ev"][0]
    top.plot(time, table["potential_ev"] - reference, color=BLUE, label="potential (from start)")
    top.plot(time, table["kinetic_ev"], color=ORANGE, label="kinetic")
    top.plot(time, table["total_ev"] - reference, color=GREY, label="total (from start)")
    top.set_ylabel("Energy (eV)")
    top.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1, columnspacing=1.0
    )
    if title:
        top.set_title(title_text(title), loc="left", pad=14)
    if nve:
        axes = panels.pop(0)
        total = (table["total_ev"] - table["total_ev"].mean()) * 1000 / result.n_atoms
        axes.plot(time, total, color=GREY, linewidth=0.7)
        axes.plot(
            time,
            np.polyval(np.polyfit(time, total, 1), time),
            color=GREEN,
            label=f"drift {result.drift:.1e} eV/atom/ps".replace("-", "\N{MINUS SIGN}"),
        )
        axes.set_ylabel("Total energy\n(meV/atom)")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.96), borderaxespad=0.1)
    axes = panels.pop(0)
    axes.plot(time, table["temperature_k"], color=ORANGE, linewidth=0.7)
    axes.set_ylabel("Temperature\n(K)")
    axes.set_ylim(bottom=0)
    if ensemble:
        axes = panels.pop(0)
        axes.plot(time, table["disagreement_kcalmol"], color=BLUE, linewidth=0.7)
        if max_disagreement is not None:
            axes.axhline(max_disagreement, color=ORANGE, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.set_ylabel("Disagreement\n(kcal/mol)")
        axes.set_ylim(bottom=0)
    axes.set_xlabel(f"Time ({time_unit})")
    figure.align_ylabels()
    return figure


@styled
def scan_figure(
    points: Sequence[ScanPoint], coordinate: Coordinate, title: str | None = None
) -> Figure:
    """Energy in kcal/mol above the lowest point against the coordinate; open circles are points
    that did not converge."""
    values = np.array([p.value for p in points])
    energies = np.array([p.energy for p in points])
    energies = (energies - energies.min()) * EV_TO_KCALMOL
    converged = np.array([p.converged for p in points])
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(values, energies, color=BLUE, linewidth=0.9)
    axes.plot(values[converged], energies[converged], "o", color=BLUE)
    if not converged.all():
        axes.plot(
            values[~converged], energies[~converged], "o", markerfacecolor="white", color=BLUE,
            label="not converged",
        )  # fmt: skip
        axes.legend()
    degrees = coordinate.unit == "degrees"
    atoms = "\N{EN DASH}".join(map(str, coordinate.indices))
    axes.set_xlabel(f"{coordinate.kind.capitalize()} {atoms} ({coordinate.unit})")
    axes.set_ylabel("Energy (kcal/mol)")
    if degrees and np.ptp(values) >= 180:
        axes.xaxis.set_major_locator(MultipleLocator(60 if np.ptp(values) > 180 else 30))
    if title:
        axes.set_title(title_text(title), loc="left")
    return figure
