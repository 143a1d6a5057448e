"""Style of the figures: sizes, colors, logarithmic axes, and text on them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

#: Width of one column of a journal, inches.
COLUMN = 3.4

#: Colours that stay apart for colour-blind readers (Okabe and Ito, 2008) and in grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"

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


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
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


# ---- text ----------------------------------------------------------------------------------------

_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:[2-9]|[1-9]\d+)?)+")


def short(value: float) -> str:
    """Three digits that count."""
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"


def plain(text: str) -> str:
    """Text as it is: a dollar sign would start a formula (and is a bond in SMILES)."""
    return text.replace("$", r"\$")


def title_text(title: str) -> str:
    """A title as it is, but that it begins with a capital."""
    return plain(title[:1].upper() + title[1:])


def raised(unit: str) -> str:
    """``(kcal/mol)^2`` with the exponent raised."""
    return re.sub(r"\^(\d+)", r"$^{\1}$", unit)


def chemical(label: str) -> str:
    """A label of a group, with the numbers of a formula as subscripts, cut where it is too long.

    A SMILES like ``C1CC1`` is no formula: an element occurs twice or a number is 1.
    """
    if _FORMULA.fullmatch(label):
        symbols = re.findall(r"[A-Z][a-z]?", label)
        if len(set(symbols)) == len(symbols):
            return re.sub(r"(\d+)", r"$_{\1}$", label)
    return plain(label if len(label) <= 28 else label[:27] + "…")


def short_names(labels: list[str]) -> list[str]:
    """Names without the leading folders of the file, while all have one and no two become equal."""
    while all("/" in label.strip("/") for label in labels):
        shorter = [label.strip("/").split("/", 1)[1] for label in labels]
        if len(set(shorter)) < len(set(labels)):
            break
        labels = shorter
    return labels


# ---- logarithmic axes ----------------------------------------------------------------------------


def log_axis(axes: Axes, which: str, values: np.ndarray) -> None:
    """A logarithmic axis with limits around ``values`` and numbers on it that people can read.

    Values that are not above 0 have no place on the axis; without any other, it stays linear.
    """
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    # Wide enough for two numbers wherever it lies, and with air around the data.
    widen = max(1.2, math.sqrt(5.0 * low / high))
    low, high = low / widen, high * widen
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    log_ticks(axes.xaxis if which == "x" else axes.yaxis, low, high)


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Numbers between ``low`` and ``high`` at 1, 2, 5, 10, ..., or powers of ten on a long axis."""
    # matplotlib's own locator numbers an axis of less than a decade at 300, 400, 500, ...
    decades = math.log10(high / low)
    step = max(1, round(decades / 5))
    powers = range(math.floor(math.log10(low)) // step * step, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if decades < 2.2 else (1,)
    major = [f * 10.0**p for p in powers[::step] for f in factors]
    minor = [f * 10.0**p for p in powers for f in range(1, 10)] if decades < 4 else []
    axis.set_major_locator(FixedLocator([t for t in major if low <= t <= high]))
    axis.set_minor_locator(FixedLocator([t for t in minor if low <= t <= high and t not in major]))
    axis.set_major_formatter(FuncFormatter(log_tick))
    axis.set_minor_formatter(NullFormatter())


def log_tick(value: float, _: object = None) -> str:
    """``1,000``, ``0.01``, and a power of ten beyond that."""
    if value <= 0:
        return ""
    if 1e-3 <= value < 1e5:
        return f"{value:,.0f}" if value >= 1 else f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    power = rf"10$^{{{exponent}}}$".replace("-", "\N{MINUS SIGN}")
    factor = round(value / 10.0**exponent)
    return power if factor == 1 else f"{factor}×{power}"
