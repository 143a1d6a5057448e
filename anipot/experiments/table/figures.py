"""Figures of a table: the table itself, curves, accuracy against cost, what each setting did."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from anipot.experiments.table.columns import columns
from anipot.experiments.table.comparison import alike, value_of, varied
from anipot.experiments.table.settings import value_in_words
from anipot.experiments.table.table import IterationRow, IterationTable, SeedResult
from anipot.report.figures.style import COLUMN, GREY, ORANGE, log_axis, plain, raised, styled

#: Two columns of a journal, inches.
PAGE = 7.0

#: Panels of settings in a row, and at most.
_PANELS_A_ROW, _MOST_PANELS = 3, 12

_FONT = 6.5


def draw(table: IterationTable) -> dict[str, Figure]:
    """The figures for which the table has something to show, by name."""
    found = {"table": table_figure(table)}
    if any(len(run.history) for row in table.rows for run in row.runs):
        found["curves"] = curves(table)
    if any(row.error(table.judged) for row in table.rows):
        found["cost"] = cost(table)
    if any(alike(table, option) for option in varied(table)):
        found["effects"] = effects_figure(table)
    return found


def colours(table: IterationTable) -> dict[str, tuple[float, ...]]:
    """A colour for each row, the same in all figures."""
    n = len(table.rows)
    if n <= 10:
        return {row.name: colormaps["tab10"](k) for k, row in enumerate(table.rows)}
    return {row.name: colormaps["turbo"](0.05 + 0.9 * k / (n - 1))
            for k, row in enumerate(table.rows)}  # fmt: skip


# ---- the table -----------------------------------------------------------------------------------


@styled
def table_figure(table: IterationTable) -> Figure:
    """The table as a figure, as wide as its text needs."""
    shown = columns(table)
    if not any(row.marks for row in table.rows):
        shown = shown[:-1]
    texts = [[c.title, c.unit, *(c.cell(row) for row in table.rows)] for c in shown]
    best = table.best_row
    return _cells(texts, None if best is None else table.rows.index(best))


@styled
def cells_figure(texts: list[list[str]]) -> Figure:
    """Columns of title, unit and cells as a figure, as wide as its text needs."""
    return _cells(texts)


def _cells(texts: list[list[str]], bold: int | None = None) -> Figure:
    gap, line, margin = 9.0, 12.0, 6.0  # points
    widths = [max(_width(text) for text in column) + gap for column in texts]
    n = len(texts[0]) - 2
    width, height = sum(widths) + 2 * margin, (n + 2.6) * line + 2 * margin
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    top = margin + 2.3 * line
    x = margin
    for k, (column, w) in enumerate(zip(texts, widths, strict=True)):
        left = k == 0 or column[0] == "note"
        at, align = (x + gap / 2, "left") if left else (x + w - gap / 2, "right")
        for j, text in enumerate(column):
            y = margin + (j + 0.7) * line if j < 2 else top + (j - 2 + 0.75) * line
            weight = "bold" if j - 2 == bold and k == 0 else "normal"
            shown_text = raised(plain(text)) if j == 1 else plain(text)
            axes.text(
                at, y, shown_text, ha=align, va="center", fontsize=_FONT, weight=weight,
                color=GREY if j == 1 else "black",
            )  # fmt: skip
        x += w
    for y, thick in ((margin, 0.9), (top, 0.5), (top + (n + 0.3) * line, 0.9)):
        axes.plot([margin, width - margin], [y, y], color="black", linewidth=thick)
    return figure


@functools.cache
def _width(text: str) -> float:
    """Of a text, points; the bold of the best row's name is wider by a tenth."""
    if not text:
        return 0.0
    return 1.1 * float(TextPath((0, 0), plain(text), size=_FONT).get_extents().width)


def error_axis(axes: Axes, values: list[float]) -> None:
    """Logarithmic where errors differ by more than a factor; else linear, with room around them."""
    low, high = min(values), max(values)
    if high > 3 * low:
        log_axis(axes, "y", np.array(values))
        return
    low, high = min(low, *axes.get_ylim()), max(high, *axes.get_ylim())
    room = 0.06 * (high - low) or 0.1 * high
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))


# ---- curves --------------------------------------------------------------------------------------


@styled
def curves(table: IterationTable) -> Figure:
    """Validation MAE of every run against its updates, a colour a row; the best is marked."""
    rows = [row for row in table.rows if any(len(run.history) for run in row.runs)]
    figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
    axes = figure.add_subplot()
    colour = colours(table)
    everything: list[float] = []
    for row in rows:
        label: str | None = plain(row.name)
        for run in row.runs:
            if not len(run.history):
                continue
            values = run.history["val_mae"]
            everything += values
            axes.plot(
                run.history["updates"], values, color=colour[row.name], label=label,
                linewidth=0.8, marker="." if len(values) == 1 else "",
            )  # fmt: skip
            label = None
            best = run.history.best
            if best is not None:
                axes.plot([best.updates], [best.val_mae], "D", color=colour[row.name], markersize=3)
    error_axis(axes, everything)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel("Updates")
    axes.set_ylabel("Validation MAE (kcal/mol)")
    figure.legend(loc="outside right upper", title="Best epoch: diamond", title_fontsize=_FONT)
    return figure


@styled
def notebook_curves(losses: Mapping[str, tuple[list[float], list[float]]]) -> Figure:
    """Training losses (solid) and what is called validation losses (dashed), by row, by epoch."""
    figure = Figure(figsize=(PAGE, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for k, (name, (train, val)) in enumerate(losses.items()):
        epochs, colour = range(1, len(train) + 1), colormaps["tab10"](k)
        marker = "." if len(train) == 1 else ""
        axes.plot(epochs, train, color=colour, label=plain(name), linewidth=0.9, marker=marker)
        axes.plot(epochs, val, color=colour, linewidth=0.9, linestyle=(0, (3, 2)), marker=marker)
    log_axis(axes, "y", np.array([v for pair in losses.values() for part in pair for v in part]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel("Epoch")
    axes.set_ylabel(raised("Loss (hartree^2)"))
    title = 'Solid: training\nDashed: its "validation"'
    figure.legend(loc="outside right upper", title=title, title_fontsize=_FONT)
    return figure


# ---- accuracy against cost -----------------------------------------------------------------------


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """The points (cost, error) that no other beats in one without losing in the other, by cost."""
    front: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: points[k]):
        if not front or points[k][1] < points[front[-1]][1]:
            front.append(k)
    return front


@styled
def cost(table: IterationTable) -> Figure:
    """Errors against seconds of a run and against parameters, with the Pareto fronts."""
    figure = Figure(figsize=(PAGE, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _cost(left, table, lambda run: run.seconds, "Seconds of a run")
    _cost(right, table, lambda run: run.parameters, "Parameters")
    part = table.judged.capitalize()
    left.set_ylabel(f"{part} MAE ({table.unit})")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure


def _cost(
    axes: Axes, table: IterationTable, of: Callable[[SeedResult], float | None], label: str
) -> None:
    colour = colours(table)
    rows: list[IterationRow] = []
    points: list[tuple[float, float]] = []
    for row in table.rows:
        error, price = row.error(table.judged), row.over_seeds(of)
        if error is None or price is None:
            continue
        rows.append(row)
        points.append((price.mean, error.mean))
        axes.errorbar(
            price.mean, error.mean, yerr=None if math.isnan(error.std) else error.std, fmt="o",
            color=colour[row.name], elinewidth=0.7, capsize=1.5, label=plain(row.name),
        )  # fmt: skip
    front = [points[k] for k in pareto(points)]
    log_axis(axes, "x", np.array([x for x, _ in points]))
    error_axis(axes, [y for _, y in points])
    x, y = zip(*front, strict=True)
    # A step: what lies above and to the right of the line is beaten by a point on it.
    (_, edge_x), limits = axes.get_xlim(), axes.get_ylim()
    axes.step(
        [x[0], *x, edge_x], [100 * limits[1], *y, y[-1]], where="post", color=GREY, linewidth=0.8,
        linestyle=(0, (4, 2)), zorder=0, label="Pareto front",
    )  # fmt: skip
    axes.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor=ORANGE,
              markeredgewidth=0.9, linestyle="none", label="on the front")  # fmt: skip
    axes.set_ylim(limits)
    axes.set_xlabel(label)


# ---- settings ------------------------------------------------------------------------------------


@styled
def effects_figure(table: IterationTable) -> Figure:
    """Errors by the values of each setting; a line joins rows that differ in nothing else."""
    options = [option for option in varied(table) if alike(table, option)][:_MOST_PANELS]
    across = min(_PANELS_A_ROW, len(options))
    down = -(-len(options) // across)
    figure = Figure(figsize=(max(COLUMN, PAGE * across / _PANELS_A_ROW), 2.3 * down),
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(down, across, squeeze=False)
    colour = colours(table)
    for panel, option in zip(grid.flat, options, strict=False):
        groups = alike(table, option)
        values = _ordered(
            option, [value_of(table, row, option) for group in groups for row in group]
        )
        shown: list[float] = []
        for group in groups:
            names = [value_in_words(option, value_of(table, row, option)) for row in group]
            place = [values.index(name) for name in names]
            order = np.argsort(place)
            errors = [row.error(table.judged) for row in group]
            mean = np.array([e.mean for e in errors if e is not None])
            panel.plot(np.array(place)[order], mean[order], color=GREY, linewidth=0.7, zorder=1)
            for p, row, error in zip(place, group, errors, strict=True):
                if error is None:
                    continue
                spread = None if math.isnan(error.std) else error.std
                panel.errorbar(p, error.mean, yerr=spread, fmt="o", color=colour[row.name],
                               elinewidth=0.7, capsize=1.5)  # fmt: skip
                shown.append(error.mean)
        error_axis(panel, shown)
        panel.set_xticks(range(len(values)), values)
        if max(map(len, values)) * len(values) > 26:
            panel.tick_params("x", rotation=30)
            for label in panel.get_xticklabels():
                label.set_ha("right")
        panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_title(option.split(".")[1].replace("_", " "), loc="left")
    for panel in grid.flat[len(options) :]:
        panel.axis("off")
    for panel in grid[:, 0]:
        panel.set_ylabel(f"{table.judged.capitalize()} MAE ({table.unit})")
    return figure


def _ordered(option: str, values: list[Any]) -> list[str]:
    """The values as words, each once: numbers by size, others as they come."""
    if all(isinstance(v, int | float) for v in values):
        values = sorted(values)
    return list(dict.fromkeys(value_in_words(option, v) for v in values))
