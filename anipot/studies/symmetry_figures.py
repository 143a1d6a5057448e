"""The figures of the symmetry study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from anipot.data.conformers import Conformers
from anipot.report.figures.style import BLUE, COLUMN, GREEN, GREY, ORANGE, log_axis, styled

COLOURS = (BLUE, ORANGE, GREEN, GREY)


@styled
def positions_figure(by_name: Mapping[str, Conformers]) -> Figure:
    """Where the particles of molecules of one size are, a panel for each name."""
    figure = Figure(figsize=(2 * COLUMN, 4.4), layout="constrained")
    for axes, (name, data) in zip(
        figure.subplots(2, 3, sharex=True, sharey=True).ravel(), by_name.items(), strict=True
    ):
        x = data.coordinates.reshape(len(data), -1, 3)
        for k, colour in enumerate(COLOURS):
            axes.scatter(x[:, k, 0], x[:, k, 1], s=2, color=colour, linewidths=0, label=f"{k}")
        axes.set_title(name, loc="left")
        axes.set_aspect("equal")
        axes.set_xlim(-4.5, 4.5)
        axes.set_ylim(-4.5, 4.5)
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("x")
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("y")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, title="particle", markerscale=3,
        title_fontsize=6.5,
    )  # fmt: skip
    return figure


@styled
def histogram_figure(by_label: Mapping[str, Sequence[Conformers]]) -> Figure:
    """Energies of two data sets for each label: molecules as they are, and permuted."""
    figure = Figure(figsize=(2 * COLUMN, 2.0), layout="constrained")
    for axes, (label, sets) in zip(figure.subplots(1, 2), by_label.items(), strict=True):
        energies = [data.energies for data in sets if data.energies is not None]
        edges = np.histogram_bin_edges(np.concatenate(energies), bins=40)
        for values, colour, name, fill in zip(
            energies, (BLUE, ORANGE), ("as they are", "permuted"), (True, False), strict=True
        ):
            axes.hist(
                values, bins=edges, color=colour, histtype="stepfilled" if fill else "step",
                alpha=0.6 if fill else 1.0, label=name,
            )  # fmt: skip
        axes.set_title(f"label: {label}", loc="left")
        axes.set_xlabel("Energy")
        axes.set_ylabel("Molecules")
    axes.legend(loc="upper right")
    return figure


@styled
def loss_figure(by_feature: Mapping[str, Mapping[str, Any]]) -> Figure:
    """``train_loss`` and ``val_loss`` of each network against the epoch."""
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for (feature, kept), colour in zip(by_feature.items(), COLOURS, strict=True):
        epochs = np.arange(1, len(kept["train_loss"]) + 1)
        axes.plot(epochs, kept["train_loss"], color=colour, linewidth=0.9, label=feature)
        axes.plot(epochs, kept["val_loss"], color=colour, linewidth=0.7, linestyle=":")
    losses = [np.array(kept[k]) for kept in by_feature.values() for k in ("train_loss", "val_loss")]
    log_axis(axes, "y", np.concatenate(losses))
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Loss (MSE)")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    return figure


@styled
def error_figure(
    by_label: Mapping[str, Mapping[str, Sequence[float]]],
    tests: Sequence[str],
    variance: Mapping[str, float],
) -> Figure:
    """A cell for each network (rows) and test (columns) with its MSE, a panel for each label.

    Colours are those of MSE / ``variance``, logarithmic.
    """
    rows = [len(by_network) for by_network in by_label.values()]
    figure = Figure(figsize=(2 * COLUMN, 0.9 + 0.19 * sum(rows)), layout="constrained")
    panels = np.atleast_1d(
        figure.subplots(len(rows), 1, sharex=True, gridspec_kw={"height_ratios": rows})
    )
    norm = TwoSlopeNorm(0.0, -4.0, 4.0)
    for axes, (label, by_network) in zip(panels, by_label.items(), strict=True):
        values = np.array(list(by_network.values()))
        shade = np.log10(np.maximum(values, 1e-12) / variance[label])
        cells = axes.imshow(shade, cmap="RdBu_r", norm=norm, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            axes.text(
                j, i, digits(value), ha="center", va="center", fontsize=6,
                color="white" if abs(shade[i, j]) > 2.4 else "black",
            )  # fmt: skip
        axes.set_yticks(range(len(by_network)), list(by_network))
        axes.set_xticks(range(len(tests)), [re.sub(" (?=by|at)", "\n", t) for t in tests])
        axes.tick_params(length=0, labeltop=axes is panels[0], labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(f"label: {label}")
    bar: Any = figure.colorbar(cells, ax=list(panels), shrink=0.6, pad=0.02)
    bar.set_label("log10 (test MSE / variance of the labels)")
    bar.outline.set_linewidth(0.4)
    return figure


def digits(value: float) -> str:
    """Two or three digits: 0.28, 2.0, 14.8, and 5.5e-04 below a hundredth."""
    if value < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if value >= 10 else f"{value:#.2g}"
