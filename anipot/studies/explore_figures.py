"""The figures of the study `explore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from anipot.report.figures.style import BLUE, COLUMN, GREEN, GREY, ORANGE, log_axis, plain, styled

#: Okabe and Ito's other colours after those of the package, for up to eight groups.
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


@styled
def overview(
    sizes: np.ndarray,
    energies: np.ndarray | None,
    counts: Mapping[str, np.ndarray],
    names: Sequence[str],
    matrix: np.ndarray,
) -> Figure:
    """Energies (hartree) against atoms, conformers by their atoms of each element, and the
    correlation matrix of ``names``.
    """
    figure = Figure(figsize=(2 * COLUMN, 3.6), layout="constrained")
    panels = figure.subplot_mosaic([["size", "matrix"], ["counts", "matrix"]])
    left, below, right = panels["size"], panels["counts"], panels["matrix"]
    if energies is not None:
        left.scatter(sizes, energies, s=4, color=BLUE, alpha=0.4, linewidths=0, rasterized=True)
        left.set_ylabel("Energy (hartree)")
    else:
        left.bar(*np.unique(sizes, return_counts=True), color=BLUE)
        left.set_ylabel("Conformers")
    left.set_xlabel("Atoms")
    for (element, of), colour in zip(counts.items(), COLOURS, strict=False):
        below.plot(np.bincount(of), "o-", color=colour, label=element)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("Atoms of the element")
    below.set_ylabel("Conformers")
    below.legend(ncols=2)
    image = right.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    right.set_xticks(range(len(names)), names, rotation=45, ha="right")
    right.set_yticks(range(len(names)), names)
    for spine in right.spines.values():
        spine.set_visible(False)
    right.tick_params(length=0)
    for i in range(len(names)):
        for j in range(len(names)):
            if np.isfinite(matrix[i, j]):
                right.text(
                    j, i, f"{matrix[i, j]:.2f}".replace("-", "\N{MINUS SIGN}"), ha="center",
                    va="center", fontsize=5,
                    color="white" if abs(matrix[i, j]) > 0.6 else "black",
                )  # fmt: skip
    bar: Any = figure.colorbar(image, ax=right, shrink=0.8)
    bar.set_label("Correlation")
    bar.outline.set_linewidth(0.4)
    return figure


@styled
def variance(ratios: Mapping[str, np.ndarray]) -> Figure:
    """Share of the variance of AEVs that the first components leave, by element."""
    figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for (element, ratio), colour in zip(ratios.items(), COLOURS, strict=False):
        left = np.clip(1 - np.cumsum(ratio), 1e-9, 1)
        shown = left > 1e-4
        axes.plot(np.arange(1, len(left) + 1)[shown], left[shown], color=colour, label=element)
    log_axis(axes, "y", np.array([1e-4, 1.0]))
    axes.set_xlabel("Principal components of AEVs")
    axes.set_ylabel("Share of the variance not explained")
    axes.legend()
    return figure


@styled
def chemistry(
    points: np.ndarray,
    ratio: np.ndarray,
    groups: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
) -> Figure:
    """Environments in their first two components, coloured by chemistry and by cluster.

    ``points`` (N, 2) or more; ``groups`` (N,) text; ``labels`` (N,) clusters, -1 for none;
    ``names``: titles of both.
    """
    figure = Figure(figsize=(2 * COLUMN, 3.0), layout="constrained")
    for axes, by, title in zip(
        figure.subplots(1, 2, sharey=True), (groups, labels), names, strict=True
    ):
        present, counts = np.unique(by, return_counts=True)
        ordered = [g for g in present[np.argsort(-counts)] if g != -1]
        # The rare ones last, so that they are not covered.
        for group, colour in zip(ordered, COLOURS, strict=False):
            own = by == group
            label = f"{group} ({own.sum():,})" if by is groups else None
            axes.scatter(
                points[own, 0], points[own, 1], s=4, color=colour, alpha=0.6, linewidths=0,
                label=label, rasterized=True,
            )  # fmt: skip
        rest = ~np.isin(by, ordered[: len(COLOURS)])
        if rest.any():
            axes.scatter(
                points[rest, 0], points[rest, 1], s=3, color="#BBBBBB", linewidths=0, zorder=0,
                label=f"other ({rest.sum():,})" if by is groups else None, rasterized=True,
            )  # fmt: skip
        axes.set_title(title, loc="left")
        axes.set_xlabel(f"Component 1 ({100 * ratio[0]:.0f} % of the variance)")
        if by is groups:
            axes.set_ylabel(f"Component 2 ({100 * ratio[1]:.0f} %)")
            axes.legend(markerscale=2.5, handletextpad=0.2)
    return figure


@styled
def coverage(
    distances: np.ndarray,
    errors: np.ndarray,
    bins: Sequence[Mapping[str, Any]],
    molecules: Mapping[str, tuple[float, float]],
    what: str,
) -> Figure:
    """Errors against the distance to the training, of single atoms or conformers with bins, and of
    molecules.
    """
    figure = Figure(figsize=(2 * COLUMN, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    there = np.isfinite(distances) & (distances > 0) & (errors > 0)
    left.scatter(
        distances[there], errors[there], s=3, color="#BBBBBB", linewidths=0, rasterized=True
    )
    middle = [(b["from"] * b["to"]) ** 0.5 for b in bins if b["from"] > 0]
    mean = [b["mean"] for b in bins if b["from"] > 0]
    left.plot(middle, mean, "o-", color=ORANGE, label="mean of as many each")
    log_axis(left, "x", np.quantile(distances[there], [0.002, 1]))
    log_axis(left, "y", np.quantile(errors[there], [0.01, 1]))
    left.set_xlabel("Distance to the nearest training environment")
    left.set_ylabel(what)
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    x, y = np.array(list(molecules.values())).T
    right.scatter(x, y, s=14, color=BLUE, linewidths=0)
    for name, (a, b) in molecules.items():
        right.annotate(
            plain(name), (a, b), xytext=(3, 2), textcoords="offset points", fontsize=6, color=GREY
        )
    right.margins(x=0.15, y=0.12)
    right.set_xlabel("Mean distance, by molecule")
    right.set_ylabel("Mean error, by molecule")
    return figure


@styled
def widths(found: Mapping[str, Mapping[str, Sequence[float]]], sets: Sequence[str]) -> Figure:
    """Plot the loss of PCA and autoencoder against their width, for each set of held-out AEVs."""
    figure = Figure(figsize=(2 * COLUMN, 2.4), layout="constrained")
    shown = [int(w) for w in found]
    for k, (axes, name) in enumerate(
        zip(figure.subplots(1, len(sets), sharey=True), sets, strict=True)
    ):
        for method, colour in (("PCA", BLUE), ("autoencoder", ORANGE)):
            lost = [found[w][method][k] for w in found]
            axes.plot(shown, lost, "o-", color=colour, label=method)
        log_axis(axes, "x", np.array(shown, dtype=float))
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_minor_locator(NullLocator())
        log_axis(axes, "y", np.array([v for by in found.values() for m in by.values() for v in m]))
        axes.set_title(f"New {name}", loc="left")
        axes.set_xlabel("Width")
        if not k:
            axes.set_ylabel("Share of the variance lost")
            axes.legend()
    return figure
