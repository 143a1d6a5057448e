"""The figures of the Lennard-Jones study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from anipot.report.figures.style import BLUE, COLUMN, GREY, ORANGE, log_axis, styled

COLOURS = (BLUE, ORANGE)
UNITS = {"energy": "epsilon", "force": "epsilon/sigma"}


@styled
def learning_figure(runs: Sequence[Mapping[str, Any]], labels: Iterable[str]) -> Figure:
    """Test errors of energies and of forces against the number of clusters learnt from.

    ``runs`` have ``kind``, ``labels``, ``n``, ``energy`` and ``force``; points are means over
    seeds, bars reach from the least to the largest.
    """
    figure = Figure(figsize=(2 * COLUMN, 2.5), layout="constrained")
    chosen = [r for r in runs if r["kind"] == "atomic networks"]
    sizes = sorted({r["n"] for r in chosen})
    for axes, what in zip(figure.subplots(1, 2), UNITS, strict=True):
        for name, colour in zip(labels, COLOURS, strict=True):
            values = [
                np.array([r[what] for r in chosen if r["n"] == n and r["labels"] == name])
                for n in sizes
            ]
            mean = np.array([v.mean() for v in values])
            reach = [mean - [v.min() for v in values], [v.max() for v in values] - mean]
            axes.errorbar(
                sizes, mean, yerr=reach, color=colour, marker="o", capsize=2, elinewidth=0.8,
                capthick=0.8, label=name,
            )  # fmt: skip
        log_axis(axes, "x", np.array([r["n"] for r in chosen], dtype=float))
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        log_axis(axes, "y", np.array([r[what] for r in chosen]))
        axes.set_xlabel("Clusters learnt from")
        axes.set_ylabel(f"MAE of {'energies' if what == 'energy' else 'forces'} ({UNITS[what]})")
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1,
    )  # fmt: skip
    return figure


@styled
def pair_figure(
    r: np.ndarray,
    truth: tuple[np.ndarray, np.ndarray],
    curves: Mapping[str, Mapping[str, np.ndarray]],
    seen: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """Energy and force of two atoms alone against their distance, a row for each kind of model.

    ``r`` (R,); ``curves``: kind -> labels -> (seeds, 2, R), energy and force, as ``truth``;
    ``seen``: a histogram (counts, edges) of the distances in the training data.
    """
    figure = Figure(figsize=(2 * COLUMN, 4.2), layout="constrained")
    grid = figure.subplots(len(curves), 2, sharex=True)
    # Around the well and the attraction: the wall, and what is learnt badly, leave the frame.
    limits = ((-2.2, 3.0), (-5.0, 15.0))
    for row, (kind, by_labels) in zip(grid, curves.items(), strict=True):
        for k, axes in enumerate(row):
            counts, edges = seen
            for low, high in zip(edges[:-1][counts > 0], edges[1:][counts > 0], strict=True):
                axes.axvspan(low, high, color="#EEEEEE", linewidth=0, zorder=0)
            axes.plot(r, truth[k], color=GREY, linewidth=1.6, label="Lennard-Jones", zorder=2)
            for (labels, found), colour in zip(by_labels.items(), COLOURS, strict=True):
                # The sample standard deviation, as in the tables; of one seed there is none.
                mean, spread = found[:, k].mean(0), found[:, k].std(0, ddof=min(len(found) - 1, 1))
                axes.fill_between(
                    r, mean - spread, mean + spread, color=colour, alpha=0.25, linewidth=0
                )
                axes.plot(r, mean, color=colour, label=labels, zorder=3)
            axes.set_xlim(r[0], r[-1])
            axes.set_ylim(*limits[k])
            what = ("Energy (epsilon)", "Force (epsilon/sigma)")[k]
            axes.set_ylabel(what)
        row[0].set_title(kind[:1].upper() + kind[1:], loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("Distance of two atoms (sigma)")
    grid[0][1].legend(loc="upper right")
    return figure
