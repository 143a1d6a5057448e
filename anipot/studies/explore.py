"""Explore a data set: composition, environments, clusters, coverage.

Nothing here is told what carbon is. AEVs of all atoms are taken apart by principal components and
clusters, and compared with what a chemist would say: an atom's number of bonded neighbours (four
for sp3 carbon, three for sp2, two for sp) and which they are, both from distances alone. Then the
distance of new environments to those of a training set is held against the errors of a potential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anipot.config import DataSettings
from anipot.data.conformers import Conformers
from anipot.data.division import divide
from anipot.data.load import load_dataset
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError, SettingsError
from anipot.report.figures.style import short
from anipot.studies.common import Study
from anipot.studies.environments import environments
from anipot.studies.explore_autoencoder import autoencoder
from anipot.studies.explore_clusters import components, groups_of
from anipot.studies.explore_coverage import Parts, coverage
from anipot.studies.explore_data import SOURCE_CORRELATION, overview
from anipot.system.options import checked
from anipot.system.threads import threads as using_threads


@dataclass(frozen=True)
class Size:
    """Size of the study: conformers, environments of an element in PCA and in clusters, epochs of
    the potential, widths and updates of the autoencoders.
    """

    conformers: int = 10_000
    environments: int = 4000
    clustered: int = 2000
    epochs: int = 10
    widths: tuple[int, ...] = (2, 4, 8, 16)
    updates: int = 2000


#: To see in half a minute how it goes.
QUICK = Size(1000, 800, 600, 4, (2, 8), 400)


def run(
    files: Sequence[str | Path] = (),
    folder: str | Path | None = None,
    *,
    new: Sequence[str | Path] = (),
    quick: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """The whole study of a data set (default: the bundled one); returns what ``result.json`` holds.

    ``new``: files with the conformers of which the coverage is asked; by default those of a tenth
    of the molecules, which are then left out of the training. Data beyond ``Size.conformers`` is
    drawn at random. Raises SettingsError without scikit-learn.
    """
    check_scikit_learn()
    size = QUICK if quick else Size()
    names, others = [str(f) for f in files], [str(f) for f in new]
    data = _some(load_dataset(names) if names else load_bundled(), size.conformers)
    if len(data) < 20:
        raise DataError(f"{', '.join(names)}: {len(data)} conformers are too few to explore")
    parts = _parts(data, _some(load_dataset(others), size.conformers) if others else None)
    with (
        using_threads(threads or torch.get_num_threads()),
        Study("explore", folder, {"files": names, "new": others, "quick": quick}) as study,
    ):
        found = environments(data)
        result = {
            "data": overview(study, data),
            "principal": components(study, data, found, size.environments),
        }
        number = _element(data)
        result["clusters"] = groups_of(study, data, found.of(number, size.clustered))
        result["coverage"] = coverage(study, parts, size.epochs, threads)
        result["autoencoder"] = autoencoder(
            study, parts, number, size.environments, size.widths, size.updates
        )
        study.finish(result, learnt(result))
    return result


def learnt(result: Mapping[str, Any]) -> list[str]:
    """Conclusions from the numbers."""
    said = []
    data = result["data"]
    if "rmse" in data:
        rmse = data["rmse"]
        said.append(
            f"Energies and numbers of atoms correlate with {data['energy_atoms']:.2f} (the "
            f"lectures' crystals: {SOURCE_CORRELATION}), and a line still errs by "
            f"{short(rmse['line'])} kcal/mol; the composition leaves {short(rmse['composition'])}. "
            "A large correlation is no good prediction: the networks learn what is left."
        )
    by = result["clusters"]["methods"]
    coarse = max(by, key=lambda name: by[name]["coordination"])
    fine = max(by, key=lambda name: by[name]["neighbours"])
    said.append(
        f"AEVs hold the chemistry that nobody told them: for {result['clusters']['nearest']:.0%} "
        "the nearest environment in another molecule has as many neighbours. Of the clusterings, "
        f"{coarse} comes nearest to that number (adjusted Rand index "
        f"{by[coarse]['coordination']:.2f}), {fine} to which neighbours they are "
        f"({by[fine]['neighbours']:.2f}): each method finds what has the shape of its idea of a "
        "cluster and what there is much of, and the silhouette knows of neither."
    )
    found = result["coverage"]
    if "ranks" in found:
        bins, ranks = found["bins"], found["ranks"]
        single = ranks.get("force, of an atom", ranks["energy, of a conformer"])
        within = [v for name, v in ranks.items() if name.startswith("force, of an atom of ")]
        said.append(
            f"Errors of the farthest sixth are {bins[-1]['mean'] / bins[0]['mean']:.1f} times "
            f"those of the nearest, and distance and error have a rank correlation of {single:.2f}"
            + (
                f"; among atoms of one element it is {min(within):.2f} to {max(within):.2f}, for "
                "some of it is that elements differ in both. "
                if within
                else ". "
            )
            + (
                "Distances say where data is lacking, and little of a single error."
                if single < 0.5
                else "Distances tell before any calculation where a potential will err."
            )
        )
    lost = result["autoencoder"]["lost"]
    better = {
        name: [w for w, m in lost.items() if m["autoencoder"][k] < m["PCA"][k]]
        for k, name in enumerate(result["autoencoder"]["sets"])
    }
    said.append(
        "An autoencoder loses less than PCA of equal width "
        + ", and ".join(
            f"for new {name} "
            + (f"at width {', '.join(ws)}" if ws else "at no width")
            + f" of {', '.join(lost)}"
            for name, ws in better.items()
        )
        + ". PCA keeps what spreads most; an autoencoder may bend, and has to learn how from data."
    )
    return said


# ---- helpers -------------------------------------------------------------------------------------


def check_scikit_learn() -> None:
    """Raise SettingsError where scikit-learn is missing, with the way to it."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise SettingsError(
            "the study explore needs scikit-learn, which is not installed: "
            "pip install 'anipot[explore]'"
        ) from None


def _parts(data: Conformers, new: Conformers | None) -> Parts:
    """The division by molecule (of the bundled data: its own lists), or ``new`` as what is new."""
    by = "molecule" if len(np.unique(data.molecule)) >= 10 else "conformer"
    if new is not None:
        unknown = [e for e in new.elements if e not in data.elements]
        if unknown:
            raise DataError(
                f"{', '.join(new.sources)}: no conformer of the data contains "
                f"{', '.join(unknown)}, so nothing there can be near; leave those conformers out"
            )
        training, validation = data.split(0.9, 0.1, by="conformer")
        return Parts(training, validation, new)
    return Parts(*divide(data, checked(DataSettings, {"split": by})).take(data))


def _some(data: Conformers, most: int) -> Conformers:
    if len(data) <= most:
        return data
    return data.take(np.sort(np.random.default_rng(0).choice(len(data), most, replace=False)))


def _element(data: Conformers) -> int:
    """Carbon, or else the heavy element of which there are most atoms."""
    numbers, counts = np.unique(data.atomic_numbers, return_counts=True)
    counts = np.where(numbers == 1, 0, counts)
    return 6 if 6 in numbers else int(numbers[counts.argmax()])
