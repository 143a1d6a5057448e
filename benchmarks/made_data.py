"""A data set of the source's size and mix, made from the bundled molecules, as a store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import anipot
from anipot.data.conformers import Conformers
from anipot.data.published.bundled import load_bundled
from anipot.data.store import seal
from anipot.potential.base import Potential

#: Conformers of ANI-1 by their number of heavy atoms (Smith, Isayev, Roitberg, Sci. Data 4, 170193,
#: 2017); together the 864,898 of the source's file.
ANI1 = {1: 10_800, 2: 50_962, 3: 151_200, 4: 651_936}

#: Standard deviation of the noise on each coordinate, angstrom.
NOISE = 0.02

#: Labels without a potential: hartree/angstrom^2 of the noise, about a bond's.
STIFFNESS = 0.5

#: Conformers that are made, labelled and written at a time.
PIECE = 1 << 15


def made_store(folder: Path, conformers: int, potential: str | None, seed: int = 0) -> Path:
    """A store in ``folder`` of so many conformers, in the mix of ``ANI1``; made once.

    Geometries are those of the bundled data, again and again with ``NOISE``, molecule after
    molecule as in ANI-1's files. Labels are the energies of ``potential``; without one, the bundled
    energies and a spring on the noise, which costs nothing and is enough to measure speed.
    """
    name = f"{conformers}-{Path(potential).stem if potential else 'springs'}"
    store = folder / name
    if store.exists():
        return store
    building = folder / f".{name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    data = load_bundled()
    counts = _counts(data, conformers)
    sizes = np.repeat(_first(data, data.n_atoms, counts), list(counts.values()))
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    m, a = len(sizes), int(offsets[-1])
    arrays = {
        column: np.lib.format.open_memmap(building / f"{column}.npy", "w+", dtype, shape)
        for column, dtype, shape in (
            ("atomic_numbers", np.uint8, (a,)),
            ("coordinates", np.float32, (a, 3)),
            ("offsets", np.int64, (m + 1,)),
            ("molecule", np.int32, (m,)),
            ("energies", np.float64, (m,)),
        )
    }
    arrays["offsets"][:] = offsets
    arrays["molecule"][:] = np.repeat(list(counts), list(counts.values()))
    known = None if potential is None else anipot.load(potential)
    rng, done = np.random.default_rng(seed), 0
    with tqdm(total=m, desc="making", unit=" conformers", disable=None, leave=False) as bar:
        for molecule, count in counts.items():
            own = np.flatnonzero(data.molecule == molecule)
            for start in range(0, count, PIECE):
                index = own[np.arange(start, min(start + PIECE, count)) % len(own)]
                part = _disturbed(data.gather(index), known, rng)
                rows = slice(done, done + len(part))
                atoms = slice(offsets[done], offsets[done + len(part)])
                arrays["energies"][rows] = part.energies
                arrays["coordinates"][atoms] = part.coordinates
                arrays["atomic_numbers"][atoms] = part.atomic_numbers
                done += len(part)
                bar.update(len(part))
    for array in arrays.values():
        array.flush()
    about = {
        "molecule_names": data.molecule_names,
        "grouped_by": data.grouped_by,
        "level_of_theory": f"made, labels of {potential or 'springs'}",
        "sources": ("made",),
        "dropped": 0,
    }
    seal(building, about, arrays)
    os.rename(building, store)
    return store


def _counts(data: Conformers, conformers: int) -> dict[int, int]:
    """Conformers of each molecule: the mix of ``ANI1``.

    Within a number of heavy atoms by the degrees of freedom, 3 N - 6, as ANI-1 was sampled (CH4
    5,400, NH3 3,600, H2O 1,800).
    """
    heavy = data.heavy_atoms
    groups = {n: np.unique(data.molecule[heavy == n]) for n in ANI1}
    freedom = {n: 3 * _first(data, data.n_atoms, g) - 6 for n, g in groups.items()}
    share = np.concatenate([ANI1[n] * f / f.sum() for n, f in freedom.items()])
    # Rounded where they add up, so that the sum is right.
    ends = np.round(np.cumsum(share) / share.sum() * conformers).astype(int)
    molecules = np.concatenate(list(groups.values())).tolist()
    return dict(zip(molecules, np.diff(ends, prepend=0).tolist(), strict=True))


def _first(data: Conformers, values: np.ndarray, molecules: Iterable[int]) -> np.ndarray:
    """``values`` (M,) of the first conformer of each molecule."""
    return np.array([values[np.argmax(data.molecule == m)] for m in molecules])


def _disturbed(
    part: Conformers, potential: Potential | None, rng: np.random.Generator
) -> Conformers:
    noise = rng.normal(scale=NOISE, size=part.coordinates.shape).astype(np.float32)
    moved = replace(part, coordinates=part.coordinates + noise)
    if potential is not None:
        return replace(moved, energies=potential.predict(moved).energies)
    assert part.energies is not None
    springs = STIFFNESS / 2 * np.add.reduceat((noise**2).sum(axis=1), part.offsets[:-1])
    return replace(moved, energies=part.energies + springs)
