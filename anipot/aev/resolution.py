"""Resolution of a data set by AEV settings: shells and angles that distinguish its geometries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anipot.aev.computer import AEVComputer
from anipot.aev.neighbors import neighbor_pairs
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch, BatchLoader
from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError

#: A column whose values differ by less over all atoms of an element tells a network in single
#: precision nothing.
CONSTANT = 1e-6

#: Atoms looked at together.
ATOMS_AT_ONCE = 4096

#: The percentiles of distances that are given.
PERCENTILES = (1, 50, 99)


@dataclass(frozen=True)
class PairDistances:
    """Distances of two elements within the radial cutoff, angstrom.

    ``count`` of pairs, each once; ``nearest``, ``percentiles`` (those of PERCENTILES) and
    ``farthest`` distance.
    """

    elements: tuple[str, str]
    count: int
    nearest: float
    percentiles: tuple[float, ...]
    farthest: float


@dataclass(frozen=True)
class Centre:
    """The AEVs of the atoms of one element.

    ``radial_neighbors`` and ``angular_neighbors``: (mean, most) atoms within the two cutoffs.
    ``varying`` of all columns are not the same for all atoms; ``silent`` names the blocks of which
    no column varies (``"N"``: the radial block of neighbours N; ``"HN"``: the angular one of a
    neighbour H and a neighbour N), and ``dull`` the number of the other columns that do not vary.
    """

    element: str
    atoms: int
    radial_neighbors: tuple[float, int]
    angular_neighbors: tuple[float, int]
    varying: int
    silent: tuple[str, ...]
    dull: int


@dataclass(frozen=True)
class Resolution:
    """Result of ``resolution``; ``str`` gives a table with explanations.

    ``conformers`` were looked at, of ``of``; ``lonely`` atoms, of conformers of three atoms or more
    or periodic ones, have fewer than two neighbours within the angular cutoff, and so no angle.
    """

    settings: AEVSettings
    conformers: int
    of: int
    distances: tuple[PairDistances, ...]
    centres: tuple[Centre, ...]
    lonely: int

    @property
    def nearest(self) -> float:
        """The smallest distance seen, angstrom; infinite where no atom has a neighbour."""
        return min((d.nearest for d in self.distances), default=math.inf)

    @property
    def width(self) -> float:
        """Angstrom: the standard deviation of a radial shell, 1 / sqrt(2 EtaR)."""
        return 1 / math.sqrt(2 * max(self.settings.radial_eta))

    @property
    def warnings(self) -> list[str]:
        """Reasons why geometries cannot be told apart, in words; empty if there are none."""
        s, found = self.settings, []
        first, second = s.radial_shifts[0], 2 * self.width
        near = [d for d in self.distances if d.nearest < first - second]
        if near:
            pairs = ", ".join(f"{'-'.join(d.elements)} {d.nearest:.2f}" for d in near)
            found.append(
                f"the first shell, at {first:.2f} angstrom, reaches down to {first - second:.2f}; "
                f"closer atoms hardly differ: {pairs}. "
                + (
                    f"Begin further in: aev=cover with radial_start={self.nearest:.2g}"
                    if self.nearest > 0.1
                    else "Such atoms lie in one place: look with anipot data check"
                )
            )
        if self.distances and not near:
            empty = sum(shift + second < self.nearest for shift in s.radial_shifts)
            if empty:
                found.append(
                    f"{empty} of {len(s.radial_shifts)} radial shells lie below the smallest "
                    f"distance, {self.nearest:.2f} angstrom, and are never reached. Begin further "
                    f"out: aev=cover with radial_start={self.nearest:.2g}"
                )
        if not self.distances:
            found.append(
                f"no two atoms lie within the radial cutoff of {s.radial_cutoff:g} angstrom"
            )
        if self.lonely:
            atoms = sum(c.atoms for c in self.centres)
            found.append(
                f"{self.lonely:,} of {atoms:,} atoms (not counting molecules of one or two) have "
                "fewer than two neighbours within the angular cutoff of "
                f"{s.angular_cutoff:g} angstrom, and so no angle. Widen it: aev=cover with a "
                "larger angular_cutoff"
            )
        return found

    def __str__(self) -> str:
        s = self.settings
        lines = [
            f"{self.conformers:,} of {self.of:,} conformers, AEVs of {s.length} columns",
            f"radial    {len(s.radial_shifts)} shells from {s.radial_shifts[0]:.2f} to the cutoff "
            f"of {s.radial_cutoff:g} angstrom, each {self.width:.2f} wide (standard deviation)",
            f"angular   {len(s.angular_shifts)} shells x {len(s.angle_shifts)} angles, cutoff "
            f"{s.angular_cutoff:g} angstrom",
            "",
            "Distances within the radial cutoff, angstrom",
            *_table(
                ["pair", "pairs", "nearest", *(f"{p}%" for p in PERCENTILES), "farthest"],
                [
                    [
                        "-".join(d.elements),
                        f"{d.count:,}",
                        *(f"{r:.3f}" for r in (d.nearest, *d.percentiles, d.farthest)),
                    ]
                    for d in self.distances
                ],
            ),
            "",
            "Neighbours of an atom (mean, most); columns of its AEV that vary from atom to atom;",
            "of the others, how many blocks are silent as a whole, and how many columns remain",
            *_table(
                [
                    "atom",
                    "atoms",
                    "radial",
                    "angular",
                    "columns",
                    "vary",
                    "silent blocks",
                    "others",
                ],
                [
                    [
                        c.element,
                        f"{c.atoms:,}",
                        "{:.1f}, {}".format(*c.radial_neighbors),
                        "{:.1f}, {}".format(*c.angular_neighbors),
                        f"{s.length}",
                        f"{c.varying} ({c.varying / s.length:.0%})",
                        f"{len(c.silent)}",
                        f"{c.dull}",
                    ]
                    for c in self.centres
                ],
            ),
        ]
        silent = {c.element: " ".join(c.silent) for c in self.centres if c.silent}
        if silent:
            lines += ["", "Silent blocks (one element: radial, two: angular)"]
            lines += [f"  {element:<3} {blocks}" for element, blocks in silent.items()]
        lines += ["", *(f"warning: {text}" for text in self.warnings)]
        if not self.warnings:
            lines.append("Shells and cutoffs suit these distances.")
        return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(heads))]
    return [
        "  " + "  ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def resolution(
    settings: AEVSettings, conformers: Conformers, sample: int = 10_000, seed: int = 0
) -> Resolution:
    """Measure how ``settings`` resolve ``conformers``: distances, neighbors, constant columns.

    At most ``sample`` conformers are looked at, drawn with ``seed``. Raises SettingsError for a
    sample of none, and DataError for no conformers and for an element that the settings lack.
    """
    if sample < 1:
        raise SettingsError(f"sample must be at least 1, not {sample}")
    if not len(conformers):
        raise DataError("there are no conformers to look at")
    if sample < len(conformers):
        drawn = np.random.default_rng(seed).choice(len(conformers), sample, replace=False)
        data = conformers.take(np.sort(drawn))
    else:
        data = conformers
    e = settings.n_elements
    seen: dict[int, list[np.ndarray]] = {}
    radial: list[np.ndarray] = []
    angular: list[np.ndarray] = []
    lonely = 0
    lowest = torch.full((e, settings.length), math.inf, dtype=torch.float64)
    highest = -lowest
    species = []
    computer = AEVComputer(settings)
    loader = BatchLoader(data, 1, settings.elements, dtype=torch.float64, labels=())
    part = data.offsets[:-1] // ATOMS_AT_ONCE
    for index in np.split(np.arange(len(data)), np.flatnonzero(np.diff(part)) + 1):
        batch = loader.batch(torch.as_tensor(index))
        n = len(batch.species)
        if not n:
            continue
        pairs = neighbor_pairs(batch, batch.coordinates, batch.cells, settings.radial_cutoff)
        distances = pairs.vectors(batch, batch.coordinates, batch.cells).norm(dim=1)
        inside = distances <= settings.angular_cutoff
        for counts, among in ((radial, slice(None)), (angular, inside)):
            ends = torch.cat([pairs.i[among], pairs.j[among]])
            counts.append(torch.bincount(ends, minlength=n).numpy())
        kinds = _pair_kinds(settings, batch, pairs.i, pairs.j)
        for kind in np.unique(kinds):
            seen.setdefault(int(kind), []).append(distances.numpy()[kinds == kind])
        aevs = computer(batch)
        for k, rows in enumerate(aevs.split(batch.counts)):
            if len(rows):
                lowest[k] = torch.minimum(lowest[k], rows.amin(0))
                highest[k] = torch.maximum(highest[k], rows.amax(0))
        species.append(batch.species.numpy())
        alone = batch.n_atoms < 3
        if batch.pbc is not None:
            alone &= ~batch.pbc.any(1)
        lonely += int(((angular[-1] < 2) & ~alone[batch.conformer].numpy()).sum())
    where = np.concatenate(species) if species else np.zeros(0, np.int64)
    near, close = (np.concatenate(c) if c else where for c in (radial, angular))
    varies = (highest - lowest > CONSTANT).numpy()
    return Resolution(
        settings,
        len(data),
        len(conformers),
        tuple(_distances(settings, kind, parts) for kind, parts in sorted(seen.items())),
        tuple(
            _centre(settings, k, near[where == k], close[where == k], varies[k])
            for k in range(e)
            if (where == k).any()
        ),
        lonely,
    )


def _pair_kinds(
    settings: AEVSettings, batch: Batch, i: torch.Tensor, j: torch.Tensor
) -> np.ndarray:
    """(P,) the two elements of a pair as one number: first * E + second, first <= second."""
    a, b = batch.species[i], batch.species[j]
    kinds: np.ndarray = (torch.minimum(a, b) * settings.n_elements + torch.maximum(a, b)).numpy()
    return kinds


def _distances(settings: AEVSettings, kind: int, parts: list[np.ndarray]) -> PairDistances:
    first, second = divmod(kind, settings.n_elements)
    r = np.concatenate(parts)
    return PairDistances(
        (settings.elements[first], settings.elements[second]),
        len(r),
        float(r.min()),
        tuple(float(q) for q in np.percentile(r, PERCENTILES)),
        float(r.max()),
    )


def _centre(
    settings: AEVSettings, k: int, near: np.ndarray, close: np.ndarray, varies: np.ndarray
) -> Centre:
    names = settings.elements
    radial = varies[: settings.radial_length].reshape(-1, settings.radial_terms)
    blocks = dict(zip(names, radial, strict=True))
    by_pair = varies[settings.radial_length :].reshape(-1, settings.angular_terms)
    for a in range(len(names)):
        for b in range(a, len(names)):
            blocks[names[a] + names[b]] = by_pair[settings.pair_index(a, b)]
    return Centre(
        names[k],
        len(near),
        (float(near.mean()), int(near.max())),
        (float(close.mean()), int(close.max())),
        int(varies.sum()),
        tuple(name for name, block in blocks.items() if not block.any()),
        sum(int((~block).sum()) for block in blocks.values() if block.any()),
    )
