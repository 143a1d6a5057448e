"""Figures for papers: loss curve, parity plot, errors by group, learning curve.

Each function returns a matplotlib ``Figure`` of one column's width (3.4 inches), made without
pyplot: it needs no display and leaves nothing behind. ``save_figure`` writes it as PNG and SVG,
``show`` puts it into a notebook.
"""

from __future__ import annotations

import importlib
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anipot.errors import DataError, SettingsError
from anipot.evaluation.history import History
from anipot.evaluation.metrics import Evaluation, Row
from anipot.report.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    chemical,
    log_axis,
    log_ticks,
    raised,
    short,
    short_names,
    styled,
    title_text,
)
from anipot.system.files import atomic_write

#: More groups than this do not fit a page legibly: the worst are shown.
MAX_GROUPS = 40

#: More points than this are drawn as a density.
MAX_POINTS = 3000


# ---- training ------------------------------------------------------------------------------------


@styled
def loss_curve(history: History) -> Figure:
    """Losses, validation errors (kcal/mol) and learning rate against the epoch; the best is marked.

    Raises DataError for a history without epochs.
    """
    if not len(history):
        raise DataError("there is no epoch to draw; train for at least one")
    figure = Figure(figsize=(COLUMN, 4.0), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=(3.0, 2.6, 0.8))
    top = figure.add_subplot(grid[0])
    middle = figure.add_subplot(grid[1], sharex=top)
    bottom = figure.add_subplot(grid[2], sharex=top)
    epoch = np.array(history["epoch"])
    # A line needs two points; a short training shows its epochs one by one.
    marker = "o" if len(history) <= 20 else ""

    def line(axes: Axes, column: str, colour: str, label: str, **how: Any) -> None:
        values = np.array(history[column], dtype=float)
        axes.plot(epoch, values, color=colour, label=label, marker=marker, **how)

    line(top, "train_loss", BLUE, "training")
    line(top, "val_loss", ORANGE, "validation")
    top.set_ylabel(f"Loss [{raised(history.loss_unit)}]" if history.loss_unit else "Loss")
    line(middle, "val_rmse", GREY, "RMSE", linewidth=0.8)
    line(middle, "val_mae", ORANGE, "MAE")
    middle.set_ylabel("Validation error (kcal/mol)")
    line(bottom, "learning_rate", GREY, "learning rate", linewidth=0.8)
    bottom.set_ylabel("Learning\nrate")
    bottom.set_xlabel("Epoch")

    best = history.best
    if best is not None:
        for axes in (top, middle, bottom):
            axes.axvline(best.epoch, color=GREEN, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
        if math.isfinite(best.val_mae):
            # In the legend and not beside the point: there it can cover no data.
            label = f"best: {short(best.val_mae)} (epoch {best.epoch})"
            middle.plot(
                [best.epoch], [best.val_mae], marker="D", markersize=4, color=GREEN,
                linestyle="none", zorder=5, label=label,
            )  # fmt: skip
    for axes, columns in (
        (top, ("train_loss", "val_loss")),
        (middle, ("val_mae", "val_rmse")),
    ):
        values = np.concatenate([np.array(history[c], dtype=float) for c in columns])
        log_axis(axes, "y", values)
    bottom.set_ylim(bottom=0.0)  # a rate that falls to zero has no place on a log axis
    bottom.yaxis.set_major_locator(MaxNLocator(nbins=2))
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    for axes in (top, middle):
        axes.tick_params(axis="x", labelbottom=False)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1,
            columnspacing=1.2,
        )  # fmt: skip
    first, last = int(epoch.min()), int(epoch.max())
    margin = max(0.02 * (last - first), 0.5)
    bottom.set_xlim(first - margin, last + margin)
    bottom.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    return figure


# ---- predictions ---------------------------------------------------------------------------------


@styled
def parity(evaluation: Evaluation, title: str = "") -> Figure:
    """Predicted against reference energies above the self energies, and the errors.

    Below stands the histogram of the errors, predicted - reference: on the scale of the energies a
    good model's are too small to be seen. Many points are drawn as a density.
    """
    reference, predicted = evaluation.reference_above, evaluation.predicted_above
    stats = evaluation.energy
    dense = len(evaluation) > MAX_POINTS
    figure = Figure(figsize=(COLUMN, 4.3 if title else 4.15), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(4.2, 1.0))
    axes = figure.add_subplot(grid[0])
    low = float(min(reference.min(), predicted.min()))
    high = float(max(reference.max(), predicted.max()))
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.7, zorder=3 if dense else 1)
    if dense:
        cells = axes.hexbin(
            reference, predicted, gridsize=70, bins="log", mincnt=1, cmap="viridis_r",
            linewidths=0.1, extent=(low, high, low, high),
        )  # fmt: skip
        bar: Any = figure.colorbar(cells, cax=axes.inset_axes((1.03, 0.0, 0.03, 1.0)))
        bar.set_label("Conformers per cell")
        bar.outline.set_linewidth(0.4)
        log_ticks(bar.ax.yaxis, *sorted(bar.ax.get_ylim()))
    else:
        size = 16.0 if len(evaluation) <= 200 else 5.0
        axes.scatter(reference, predicted, s=size, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal", adjustable="box")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel(f"Reference energy above self energies ({evaluation.unit})")
    axes.set_ylabel(f"Predicted energy above self energies ({evaluation.unit})")
    # Above the axes: inside, a bad model's points would lie under it.
    numbers = f"MAE {short(stats.mae)}, RMSE {short(stats.rmse)} {evaluation.unit}, N = {stats.n:,}"
    axes.set_title(f"{title_text(title)}\n{numbers}" if title else numbers, loc="left", fontsize=7)
    _error_histogram(figure.add_subplot(grid[1]), evaluation.errors, evaluation.unit)
    return figure


def _error_histogram(axes: Axes, errors: np.ndarray, unit: str) -> None:
    size = np.abs(errors)
    # A few outliers would press all else into one bar: they are counted in words.
    limit = 1.05 * min(float(size.max()), 4 * float(np.quantile(size, 0.9))) or 1.0
    bins = int(np.clip(round(2 * len(errors) ** 0.5), 11, 61)) | 1  # odd: one bar at zero
    axes.hist(errors, bins=bins, range=(-limit, limit), color=BLUE, alpha=0.85, linewidth=0)
    axes.axvline(0.0, color=GREY, linewidth=0.7)
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, symmetric=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, min_n_ticks=1))
    axes.set_xlabel(f"Error, predicted − reference ({unit})")
    axes.set_ylabel("Conformers")
    outside = int((size > limit).sum())
    if outside:
        note = f"{outside:,} larger, up to {short(float(size.max()))}"
        axes.set_title(note, fontsize=6, color=GREY, pad=2, loc="right")


@styled
def error_by_group(
    rows: Sequence[Row], title: str = "", unit: str = "kcal/mol", order: str = "error"
) -> Figure:
    """MAE (bars) and RMSE (points) of each group, with the number of conformers N.

    ``rows`` is what ``Evaluation.by_formula()``, ``by_molecule()`` or ``by_heavy_atoms()`` gives,
    its errors in ``unit``. ``order`` is ``"error"`` (largest MAE on top) or ``"given"``. Of more
    than 40 groups the 40 with the largest MAE are shown, and the figure says so. Raises DataError
    for no rows, SettingsError for another order.
    """
    if not rows:
        raise DataError("there is no group to draw; evaluate at least one conformer")
    if order not in ("error", "given"):
        raise SettingsError(f"order is 'error' or 'given', not {order!r}")
    labels = short_names([label for label, _ in rows])
    named = [(label, stats) for label, (_, stats) in zip(labels, rows, strict=True)]
    by_error = sorted(range(len(named)), key=lambda i: -named[i][1].mae)[:MAX_GROUPS]
    shown = [named[i] for i in (by_error if order == "error" else sorted(by_error))]

    n = len(shown)
    figure = Figure(figsize=(COLUMN, 0.95 + 0.155 * max(n, 3)), layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(n)
    mae = [stats.mae for _, stats in shown]
    rmse = [stats.rmse for _, stats in shown]
    bars = axes.barh(place, mae, height=0.62, color=BLUE, label="MAE")
    (points,) = axes.plot(
        rmse, place, linestyle="none", marker="o", markersize=3.2, markerfacecolor="white",
        markeredgecolor=ORANGE, markeredgewidth=0.9, label="RMSE", clip_on=False,
    )  # fmt: skip
    axes.set_yticks(place, [chemical(label) for label, _ in shown])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(max(n, 3) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.06 * max(*rmse, *mae, 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.5)
    axes.set_xlabel(f"Error ({unit})")
    # N stands in a column of its own, outside the axes, where no bar can reach it.
    columns = axes.get_yaxis_transform()
    for y, (_, stats) in enumerate(shown):
        axes.text(
            1.10, y, f"{stats.n:,}", transform=columns, ha="right", va="center", fontsize=6,
            color=GREY,
        )  # fmt: skip
    axes.text(1.10, -0.75, "N", transform=columns, ha="right", va="bottom", fontsize=6, color=GREY)
    heading = title_text(title)
    if n < len(rows):
        note = f"the {n} of {len(rows)} with the largest MAE"
        heading = f"{heading}\n({note})" if heading else note
    if heading:
        figure.suptitle(heading, fontsize=7.5)
    figure.legend(handles=[bars, points], loc="outside lower center", ncols=2)
    return figure


@styled
def learning_curve(points: Sequence[tuple[int, float, float]], title: str = "") -> Figure:
    """Test errors against the number of training conformers, both logarithmic, with the slope.

    ``points`` are (number of training conformers, MAE, RMSE) in kcal/mol. Several points of one
    number are repetitions (seeds): the marker is their mean, the bar reaches from the least to the
    largest. The line is error ~ N^b, fitted by least squares to the logarithms of all points; b
    stands in the legend. Raises DataError for no points and for numbers that have no logarithm.
    """
    if not points:
        raise DataError("a learning curve needs at least one point")
    array = np.array(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 3 or not (np.isfinite(array) & (array > 0)).all():
        raise DataError(
            "each point of a learning curve is (training conformers, MAE, RMSE), all above 0"
        )
    figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
    axes = figure.add_subplot()
    sizes = np.unique(array[:, 0])
    for column, name, colour, marker in ((2, "RMSE", ORANGE, "s"), (1, "MAE", BLUE, "o")):
        values = [array[array[:, 0] == n, column] for n in sizes]
        label = name
        if len(sizes) > 1:
            slope, intercept = np.polyfit(np.log(array[:, 0]), np.log(array[:, column]), 1)
            fitted = np.exp(intercept + slope * np.log(sizes))
            axes.plot(sizes, fitted, color=colour, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
            exponent = f"{slope:.2f}".replace("-", "\N{MINUS SIGN}")
            label = rf"{name}  $\propto N^{{\mathregular{{{exponent}}}}}$"
        mean = np.array([v.mean() for v in values])
        spread = [mean - [v.min() for v in values], [v.max() for v in values] - mean]
        axes.errorbar(
            sizes, mean, yerr=spread if len(array) > len(sizes) else None, color=colour,
            marker=marker, linestyle="none", elinewidth=0.8, capsize=2, capthick=0.8, label=label,
            zorder=3,
        )  # fmt: skip
    log_axis(axes, "x", array[:, 0])
    log_axis(axes, "y", array[:, 1:])
    axes.set_xlabel("Training conformers")
    axes.set_ylabel("Test error (kcal/mol)")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    if title:
        axes.set_title(title_text(title), loc="left")
    return figure


# ---- out -----------------------------------------------------------------------------------------


def show(figure: Figure) -> None:
    """Show a figure in a notebook; elsewhere nothing happens (``save_figure`` writes files)."""
    ipython = sys.modules.get("IPython")  # loaded already in a notebook, and no dependency
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=200)
    # As an image: notebooks draw a Figure themselves only after pyplot has been imported.
    display = importlib.import_module("IPython.display")
    display.display(display.Image(data=content.getvalue(), width=round(110 * COLUMN)))


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write ``stem.png`` (200 dpi) and ``stem.svg``, each all or nothing; returns both paths.

    The same figure gives the same bytes each time: the SVG has fixed identifiers and no date.
    """
    stem = Path(stem)
    paths = []
    for kind in ("png", "svg"):
        path = stem.with_name(f"{stem.name}.{kind}")  # with_suffix would cut a stem like "fold.1"
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "anipot", "svg.fonttype": "path"}):
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(content, format=kind, dpi=200, metadata=metadata)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getvalue())
        paths.append(path)
    return paths
