"""Figures for papers: loss curve, parity plot, errors by group, learning curve.

Each function returns a matplotlib ``Figure`` of one column's width (3.4 inches). No pyplot: it
works without a display, leaves no figure behind, and in a notebook a ``Figure`` draws itself.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from anipot.errors import DataError, SettingsError
from anipot.files import atomic_write
from anipot.training.history import History
from anipot.training.metrics import Evaluation, Row

#: Width of one column of a journal, inches.
COLUMN = 3.4

#: Colours that stay apart for colour-blind readers (Okabe and Ito, 2008) and in grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"

#: More groups than this do not fit a page legibly: the worst are shown.
MAX_GROUPS = 40

#: More points than this are drawn as a density.
MAX_POINTS = 3000

# DejaVu comes with matplotlib: the same figure on every machine, with no missing-font fallback.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.titlesize": 7.5,
    "axes.titleweight": "regular",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "svg.hashsalt": "anipot",
}

P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in this module's style, whatever the style around it is."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            figure = draw(*args, **kwargs)
            # Ticks are made at the first drawing, with the style of that moment: so now.
            figure.draw_without_rendering()
        return figure

    return wrapped


# ---- training ------------------------------------------------------------------------------------


@_styled
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
    top.set_ylabel(f"Loss [{_units(history.loss_unit)}]" if history.loss_unit else "Loss")
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
            label = f"best: {_short(best.val_mae)} (epoch {best.epoch})"
            middle.plot(
                [best.epoch], [best.val_mae], marker="D", markersize=4, color=GREEN,
                linestyle="none", zorder=5, label=label,
            )  # fmt: skip
    for axes, columns, few in (
        (top, ("train_loss", "val_loss"), False),
        (middle, ("val_mae", "val_rmse"), False),
        (bottom, ("learning_rate",), True),
    ):
        values = np.concatenate([np.array(history[c], dtype=float) for c in columns])
        _log_axis(axes, "y", values, few)
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


@_styled
def parity(evaluation: Evaluation, title: str = "") -> Figure:
    """Predicted against reference energies above the self energies (kcal/mol), and the errors.

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
        _log_ticks(bar.ax.yaxis, *sorted(bar.ax.get_ylim()))
    else:
        size = 16.0 if len(evaluation) <= 200 else 5.0
        axes.scatter(reference, predicted, s=size, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal", adjustable="box")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("Reference energy above self energies (kcal/mol)")
    axes.set_ylabel("Predicted energy above self energies (kcal/mol)")
    # Above the axes: inside, a bad model's points would lie under it.
    numbers = f"MAE {_short(stats.mae)}, RMSE {_short(stats.rmse)} kcal/mol, N = {stats.n:,}"
    axes.set_title(f"{_text(title)}\n{numbers}" if title else numbers, loc="left", fontsize=7)
    _error_histogram(figure.add_subplot(grid[1]), evaluation.errors)
    return figure


def _error_histogram(axes: Axes, errors: np.ndarray) -> None:
    size = np.abs(errors)
    # A few outliers would press all else into one bar: they are counted in words.
    limit = 1.05 * min(float(size.max()), 4 * float(np.quantile(size, 0.9))) or 1.0
    bins = int(np.clip(round(2 * len(errors) ** 0.5), 11, 61)) | 1  # odd: one bar at zero
    axes.hist(errors, bins=bins, range=(-limit, limit), color=BLUE, alpha=0.85, linewidth=0)
    axes.axvline(0.0, color=GREY, linewidth=0.7)
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, symmetric=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, min_n_ticks=1))
    axes.set_xlabel("Error, predicted − reference (kcal/mol)")
    axes.set_ylabel("Conformers")
    outside = int((size > limit).sum())
    if outside:
        note = f"{outside:,} larger, up to {_short(float(size.max()))}"
        axes.set_title(note, fontsize=6, color=GREY, pad=2, loc="right")


@_styled
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
    labels = _short_names([label for label, _ in rows])
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
    axes.set_yticks(place, [_chemical(label) for label, _ in shown])
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
    heading = _text(title)
    if n < len(rows):
        note = f"the {n} of {len(rows)} with the largest MAE"
        heading = f"{heading}\n({note})" if heading else note
    if heading:
        figure.suptitle(heading, fontsize=7.5)
    figure.legend(handles=[bars, points], loc="outside lower center", ncols=2)
    return figure


@_styled
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
        by_size: dict[float, list[float]] = defaultdict(list)
        for row in array:
            by_size[row[0]].append(row[column])
        values = [np.array(by_size[n]) for n in sizes]
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
    _log_axis(axes, "x", array[:, 0])
    _log_axis(axes, "y", array[:, 1:])
    axes.set_xlabel("Training conformers")
    axes.set_ylabel("Test error (kcal/mol)")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    if title:
        axes.set_title(_text(title), loc="left")
    return figure


# ---- files ---------------------------------------------------------------------------------------


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


# ---- text and axes -------------------------------------------------------------------------------

_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:[2-9]|[1-9]\d+)?)+")


def _short(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"


def _text(text: str) -> str:
    """Text as it is: a dollar sign would start a formula (and is a bond in SMILES)."""
    return text.replace("$", r"\$")


def _units(unit: str) -> str:
    """``(kcal/mol)^2`` with the exponent raised."""
    return re.sub(r"\^(\d+)", r"$^{\1}$", unit)


def _chemical(label: str) -> str:
    """A label of a group, with the numbers of a formula as subscripts, cut where it is too long.

    A SMILES like ``C1CC1`` is no formula: an element occurs twice or a number is 1.
    """
    if _FORMULA.fullmatch(label):
        symbols = re.findall(r"[A-Z][a-z]?", label)
        if len(set(symbols)) == len(symbols):
            return re.sub(r"(\d+)", r"$_{\1}$", label)
    return _text(label if len(label) <= 28 else label[:27] + "…")


def _short_names(labels: list[str]) -> list[str]:
    """Names without the leading folders of the file, while all have one and no two become equal."""
    while all("/" in label.strip("/") for label in labels):
        shorter = [label.strip("/").split("/", 1)[1] for label in labels]
        if len(set(shorter)) < len(set(labels)):
            break
        labels = shorter
    return labels


def _log_axis(axes: Axes, which: str, values: np.ndarray, few: bool = False) -> None:
    """A logarithmic axis with limits around ``values`` and numbers on it that people can read.

    ``few``: numbers at powers of ten alone. Values that are not above 0 have no place on the axis;
    without any other, it stays linear.
    """
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    # Wide enough for two numbers (of few: one) wherever it lies, and with air around the data.
    widen = max(1.6 if few else 1.2, math.sqrt((10.5 if few else 5.0) * low / high))
    low, high = low / widen, high * widen
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    _log_ticks(axes.xaxis if which == "x" else axes.yaxis, low, high, few)


def _log_ticks(axis: Axis, low: float, high: float, few: bool = False) -> None:
    # matplotlib's own locator numbers an axis of less than a decade at 300, 400, 500, ...
    decades = math.log10(high / low)
    step = max(1, round(decades / 5))
    powers = range(math.floor(math.log10(low)) // step * step, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if decades < 2.2 and not few else (1,)
    major = [f * 10.0**p for p in powers[::step] for f in factors]
    minor = [f * 10.0**p for p in powers for f in range(1, 10)] if decades < 4 else []
    axis.set_major_locator(FixedLocator([t for t in major if low <= t <= high]))
    axis.set_minor_locator(FixedLocator([t for t in minor if low <= t <= high and t not in major]))
    axis.set_major_formatter(FuncFormatter(_log_tick))
    axis.set_minor_formatter(NullFormatter())


def _log_tick(value: float, _: object = None) -> str:
    """1000, 0.01, and 10 to a power beyond that."""
    if value <= 0:
        return ""
    if 1e-3 <= value < 1e5:
        return f"{value:,.0f}" if value >= 1 else f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    power = rf"10$^{{{exponent}}}$".replace("-", "\N{MINUS SIGN}")
    factor = round(value / 10.0**exponent)
    return power if factor == 1 else f"{factor}×{power}"
