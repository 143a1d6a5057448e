"""Figures of a search: how the best improved, each option by itself, and what mattered."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anipot.experiments.search.results import Search, name, unit
from anipot.experiments.search.settings import Range
from anipot.experiments.table.figures import PAGE, error_axis
from anipot.experiments.table.settings import value_in_words
from anipot.report.figures import plots
from anipot.report.figures.style import BLUE, COLUMN, GREEN, GREY, log_axis, log_tick, plain, styled

_PANELS_A_ROW = 3

#: Errors above so many times the best are at the edge of a figure.
_WORST_SHOWN = 10.0


def write_figures(search: Search) -> None:
    """Draw what a search has found into plots/; there must be a finished trial."""
    for stem, figure in (("history", history(search)), ("options", options(search))):
        plots.save_figure(figure, search.folder / "plots" / stem)


@styled
def history(search: Search) -> Figure:
    """Errors of the trials in their order, and the best so far; pruned ones with the last error
    that they reported.
    """
    figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
    axes = figure.add_subplot()
    done = _finished(search)
    pruned = [(t.number, t.reported[max(t.reported)]) for t in search.trials
              if t.state == "pruned" and t.reported]  # fmt: skip
    errors = np.array([e for _, e in done])
    numbers = [n for n, _ in done]
    top = _top(errors)
    if pruned:
        axes.plot(*zip(*((n, min(e, top)) for n, e in pruned), strict=True), "x", color=GREY,
                  markersize=3, label="pruned (last error)")  # fmt: skip
    axes.plot(numbers, np.minimum(errors, top), "o", color=BLUE, label="finished")
    last = max(t.number for t in search.trials)
    best = np.minimum.accumulate(errors)
    axes.step([*numbers, max(last, numbers[-1])], [*best, best[-1]], where="post", color=GREEN,
              label="best so far")  # fmt: skip
    shown = np.array([*errors, *(e for _, e in pruned)])
    error_axis(axes, np.minimum(shown, top).tolist())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel("Trial")
    axes.set_ylabel(_label(search))
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)
    return figure


@styled
def options(search: Search) -> Figure:
    """Errors of finished trials against each option; darker is later, the best is marked."""
    space = search.settings.space
    across = min(_PANELS_A_ROW, len(space))
    down = -(-len(space) // across)
    figure = Figure(figsize=(max(COLUMN, PAGE * across / _PANELS_A_ROW), 2.2 * down),
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(down, across, squeeze=False)
    done = [t for t in search.trials if t.error is not None]
    best = search.best
    assert best is not None
    errors = np.array([t.error for t in done], dtype=float)
    top = _top(errors)
    for panel, option in zip(grid.flat, space, strict=False):
        found = space[option]
        values = [t.changes[option] for t in done]
        places: Any
        if found.between:
            places = _along(panel, option, found, values)
        else:
            places = _places(panel, option, values)
        order = np.argsort([t.number for t in done])
        shade = np.linspace(0.25, 1.0, len(done))
        panel.scatter(
            places[order], np.minimum(errors, top)[order], s=9, linewidths=0, c=shade,
            cmap="Blues", vmin=0, vmax=1,
        )  # fmt: skip
        k = done.index(best)
        panel.plot([places[k]], [errors[k]], "D", color=GREEN, markersize=4)
        error_axis(panel, np.minimum(errors, top).tolist())
        panel.set_title(option.split(".")[1].replace("_", " "), loc="left")
    for panel in grid.flat[len(space) :]:
        panel.axis("off")
    for panel in grid[:, 0]:
        panel.set_ylabel(_label(search))
    return figure


def _along(axes: Axes, option: str, found: Range, values: list[Any]) -> np.ndarray:
    """Places along an axis of numbers; values that are not between the two lie left of it."""
    assert found.low is not None
    assert found.high is not None
    low, high = float(found.low), float(found.high)
    apart = [v for v in found.values or [] if v in values]
    step = (high / low) ** 0.15 if found.log else 0.15 * (high - low)
    edge = {repr(v): low / step ** (k + 1) if found.log else low - step * (k + 1)
            for k, v in enumerate(apart)}  # fmt: skip
    places = np.array([edge.get(repr(v), v) for v in values], dtype=float)
    if found.log:
        log_axis(axes, "x", np.array([*places, low, high]))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlim(min([*edge.values(), low]) - step / 3, high + step / 3)
    ticks = [t for t in axes.get_xticks() if low <= t <= high]
    if len(ticks) > 5:  # their numbers would touch
        ticks = ticks[len(ticks) % 2 :: 2]
    words = [f"{t:g}" if not found.log or 1e-4 <= t < 1e-3 else log_tick(t) for t in ticks]
    axes.set_xticks([*edge.values(), *ticks], [*(value_in_words(option, v) for v in apart), *words])
    return places


def _places(axes: Axes, option: str, values: list[Any]) -> np.ndarray:
    """Places of values side by side, a little apart where many share one."""
    kinds = list({repr(v): v for v in values}.values())
    if all(isinstance(v, int | float) for v in kinds):
        kinds.sort()
    words = [plain(value_in_words(option, v) if not isinstance(v, float) else f"{v:.3g}")
             for v in kinds]  # fmt: skip
    names = [repr(v) for v in kinds]
    long = max(map(len, words)) * len(words) > 26
    how: Any = {"rotation": 30, "ha": "right"} if long else {}
    axes.set_xticks(range(len(kinds)), words, **how)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))
    return np.array([names.index(repr(v)) for v in values]) + spread


def _finished(search: Search) -> list[tuple[int, float]]:
    return [(t.number, t.error) for t in search.trials if t.error is not None]


def _top(errors: np.ndarray) -> float:
    return float(errors.min()) * _WORST_SHOWN


def _label(search: Search) -> str:
    return f"Validation {name(search.settings)} ({unit(search.settings)})"
