"""What is in a data set, without and with labels: composition, environments, clusters, coverage.

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

from anipot.aev.settings import AEVSettings
from anipot.config import DataSettings, checked
from anipot.conformers import Conformers
from anipot.datasets.bundled import load_bundled
from anipot.datasets.division import divide
from anipot.datasets.load import load_dataset
from anipot.elements import number_of, symbol_of
from anipot.environments import Environments, environments
from anipot.errors import DataError
from anipot.model import ANIModel
from anipot.plotstyle import short
from anipot.self_energies import SelfEnergies
from anipot.studies import explore_figures as figures
from anipot.studies import explore_learning as learning
from anipot.studies.common import Study
from anipot.training.threads import threads as using_threads
from anipot.units import HARTREE_TO_KCALMOL

#: What chemists call carbon atoms by the number of their neighbours.
CARBON = {4: "sp3", 3: "sp2", 2: "sp"}

#: The source's correlation of energies with the number of atoms (its crystals, no molecules).
SOURCE_CORRELATION = -0.965


@dataclass(frozen=True)
class Size:
    """How much is looked at: conformers, environments of an element in PCA and in clusters, epochs
    of the potential, widths and updates of the autoencoders.
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
    learning.check_scikit_learn()
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
            "principal": principal(study, data, found, size),
        }
        number = _element(data)
        result["clusters"] = clusters(study, data, found, number, size)
        result["coverage"] = coverage(study, parts, size, threads)
        result["autoencoder"] = autoencoder(study, parts, number, size)
        study.finish(result, learnt(result))
    return result


# ---- the parts of the study ----------------------------------------------------------------------


def overview(study: Study, data: Conformers) -> dict[str, Any]:
    """What the data holds: composition, energies against size, correlations."""
    study.say(
        f"## The data\n\n{len(data):,} conformers of {len(np.unique(data.molecule))} "
        f"{data.grouped_by}s, {len(data.atomic_numbers):,} atoms."
    )
    counts = data.composition()
    study.table(
        ["element", "atoms", "share", "conformers with it", "most in one"],
        [
            [e, f"{c.sum():,}", f"{c.sum() / counts.sum():.1%}", f"{(c > 0).mean():.0%}", c.max()]
            for e, c in zip(data.elements, counts.T, strict=True)
        ],
    )
    columns = {"atoms": data.n_atoms.astype(float)}
    columns |= {f"n({e})": c.astype(float) for e, c in zip(data.elements, counts.T, strict=True)}
    labelled = data.has("energies")
    result: dict[str, Any] = {}
    energies = None
    if data.energies is not None and labelled.sum() > 2:
        energies = data.energies[labelled]
        own = SelfEnergies.fit(data, data.elements).of(data)
        above = (data.energies - own) * HARTREE_TO_KCALMOL
        columns = {"energy": data.energies, "energy above fit": above, **columns}
        spread = ((energies - energies.mean()) ** 2).sum()
        line = np.polyval(np.polyfit(columns["atoms"][labelled], energies, 1), columns["atoms"])
        result["rmse"] = {
            "mean": energies.std() * HARTREE_TO_KCALMOL,
            "line": _rms(energies - line[labelled]) * HARTREE_TO_KCALMOL,
            "composition": _rms(above[labelled]),
        }
        result["r2_composition"] = 1 - ((energies - own[labelled]) ** 2).sum() / spread
    if data.forces is not None and data.has("forces").all():
        norm = np.linalg.norm(data.forces, axis=1)
        columns["mean force"] = np.add.reduceat(norm, data.offsets[:-1]) / data.n_atoms
    table = np.stack([c[labelled] if energies is not None else c for c in columns.values()])
    with np.errstate(invalid="ignore"):  # a column that never changes has no correlation
        matrix = np.corrcoef(table)
    result["correlation"] = {"names": list(columns), "matrix": matrix}
    if energies is not None:
        result["energy_atoms"] = matrix[0, list(columns).index("atoms")]
        study.table(
            ["energies explained by", "RMSE, kcal/mol"],
            [
                ["their mean", short(result["rmse"]["mean"])],
                ["a line in the number of atoms", short(result["rmse"]["line"])],
                ["the composition (self energies)", short(result["rmse"]["composition"])],
            ],
        )
    study.figure(
        figures.overview(data.n_atoms[labelled], energies, list(columns), matrix)
        if energies is not None
        else figures.overview(data.n_atoms, None, list(columns), matrix),
        "overview",
        "Energies against size, and correlations.",
    )
    return result


def principal(
    study: Study, data: Conformers, found: Environments, size: Size
) -> dict[str, dict[str, Any]]:
    """PCA of the AEVs of each element."""
    result: dict[str, dict[str, Any]] = {}
    ratios: dict[str, np.ndarray] = {}
    for element in data.elements:
        own = found.of(number_of(element), size.environments)
        if len(own) < 10:
            continue
        ratio = learning.principal(own.aevs)[1]
        ratios[element] = ratio
        result[element] = {
            "n": len(own),
            "columns": int((own.aevs.std(axis=0) > 0).sum()),
            "first": ratio[:2],
            **{f"for_{s}": learning.components_for(ratio, s / 100) for s in (90, 99)},
        }
    study.table(
        ["environments of", "N", "columns that vary", "1st", "2nd", "for 90 %", "for 99 %"],
        [
            [
                e, f"{r['n']:,}", r["columns"], *(f"{v:.1%}" for v in r["first"]), r["for_90"],
                r["for_99"],
            ]
            for e, r in result.items()
        ],
        "## Principal components\n\nOf AEVs (ANI-1x's constants), by element: the share of the "
        "variance that the first two have, and how many have 90 and 99 %:",
    )  # fmt: skip
    study.figure(
        figures.variance(ratios), "variance", "Variance that the first components do not explain."
    )
    return result


def clusters(
    study: Study, data: Conformers, found: Environments, number: int, size: Size
) -> dict[str, Any]:
    """Clusters of one element's environments, beside chemistry."""
    own = found.of(number, size.clustered)
    points, ratio = learning.principal(own.aevs, learning.COMPONENTS)
    groups = coordination_names(own)
    labels, silhouettes = learning.clusters(points)
    molecule = data.molecule[own.conformer]
    result: dict[str, Any] = {
        "n": len(own),
        "nearest": learning.nearest_agrees(points, groups, molecule),
        "methods": {
            name: {
                "clusters": len(set(by.tolist()) - {-1}),
                "outside": float((by == -1).mean()),
                "silhouette": silhouettes.get(name),
                "coordination": learning.agreement(by, groups),
                "neighbours": learning.agreement(by, own.neighbours),
            }
            for name, by in labels.items()
        },
        "groups": {g: int((groups == g).sum()) for g in np.unique(groups)},
        "kinds": len(np.unique(own.neighbours)),
    }
    element = "carbon" if number == 6 else symbol_of(number)
    study.table(
        ["clusters by", "found", "in none", "silhouette", "coordination", "neighbours"],
        [
            [
                name, r["clusters"], f"{r['outside']:.0%}",
                "-" if r["silhouette"] is None else f"{r['silhouette']:.2f}",
                f"{r['coordination']:.2f}",
                f"{r['neighbours']:.2f}",
            ]
            for name, r in result["methods"].items()
        ],
        f"## Clusters\n\nOf {len(own):,} environments of {element}, in {points.shape[1]} "
        "components. Agreement (adjusted Rand index: 1 is perfect, 0 chance) with the number of "
        f"bonded neighbours ({len(result['groups'])} groups), and with which they are "
        f"({result['kinds']} groups), both from distances alone:",
    )  # fmt: skip
    study.say(
        "The nearest environment in another molecule has the same number of neighbours for "
        f"{result['nearest']:.0%} of them."
    )
    by = result["methods"]
    best = max(by, key=lambda name: by[name]["neighbours"])
    study.figure(
        figures.chemistry(
            points, ratio, groups, labels[best],
            ("By the number of bonded neighbours", f"By {best} ({by[best]['clusters']} clusters)"),
        ),
        "chemistry",
        f"Environments of {element} in the first two components of their AEVs. Grey: the smaller "
        "clusters, and what is in none.",
    )  # fmt: skip
    return result


def coordination_names(own: Environments) -> np.ndarray:
    """(N,) text: sp3, sp2 and sp for carbon, else "2 neighbours"."""
    words = {c: f"{c} neighbour{'s' * (c != 1)}" for c in range(int(own.coordination.max()) + 1)}
    return np.array(
        [
            CARBON.get(int(c), words[int(c)]) if n == 6 else words[int(c)]
            for n, c in zip(own.numbers, own.coordination, strict=True)
        ]
    )


@dataclass(frozen=True)
class Parts:
    """A training set, one to stop by, and the new conformers that it may cover or not."""

    training: Conformers
    validation: Conformers
    new: Conformers


def coverage(study: Study, parts: Parts, size: Size, threads: int | None) -> dict[str, Any]:
    """How far new environments are from the training's, and what that says of errors."""
    settings = AEVSettings.ani1x(parts.training.elements)
    training, new = environments(parts.training, settings), environments(parts.new, settings)
    away = learning.distances(training, new)
    # How far a training environment is from the others: a conformer is no neighbour of its own.
    half = training.conformer % 2 == 0
    within = learning.distances(training.take(half), training.take(~half))
    usual = float(np.quantile(within, 0.95))
    of_conformer = np.maximum.reduceat(away, parts.new.offsets[:-1])
    result: dict[str, Any] = {
        "training": len(parts.training),
        "new": len(parts.new),
        "usual": usual,
        "beyond": float((away > usual).mean()),
        "beyond_of": {},
    }
    study.say(
        f"## Coverage\n\n{len(parts.new):,} new conformers of "
        f"{len(np.unique(parts.new.molecule))} {parts.new.grouped_by}s, beside "
        f"{len(parts.training):,} training conformers of "
        f"{len(np.unique(parts.training.molecule))}. The distance of an environment is that of its "
        "AEV to the nearest of the same element in the training set. Between two halves of the "
        f"training set 95 % of the environments are nearer than {usual:.2f}; of the new ones "
        f"{1 - result['beyond']:.0%} are."
    )
    if parts.new.energies is None or not parts.training.has("energies").all():
        study.say("There are no energies to train on, so nothing is said of errors.")
        return result
    potential = study.potential(
        "short-training",
        lambda: learning.train(parts.training, parts.validation, size.epochs, threads),
    )
    assert isinstance(potential, ANIModel)
    energy, forces = learning.errors(potential, parts.new)
    mean = np.add.reduceat(away, parts.new.offsets[:-1]) / parts.new.n_atoms
    ranks = {"energy, of a conformer": learning.rank_correlation(mean, energy)}
    x, y, what = of_conformer, energy, "Relative energy error (kcal/mol)"
    owner = parts.new.molecule
    if forces is not None:
        per_conformer = np.add.reduceat(forces, parts.new.offsets[:-1]) / parts.new.n_atoms
        ranks["force, of a conformer"] = learning.rank_correlation(mean, per_conformer)
        x, y, what = away, forces, "Force error (kcal/mol/angstrom)"
        ranks["force, of an atom"] = learning.rank_correlation(x, y)
        for number in np.unique(new.numbers):
            own = new.numbers == number
            ranks[f"force, of an atom of {symbol_of(int(number))}"] = learning.rank_correlation(
                x[own], y[own]
            )
        owner = owner[new.conformer]
    names = [parts.new.molecule_names[m].rsplit("/", 1)[-1] for m in np.unique(owner)]
    molecules = {
        name: (float(x[owner == m].mean()), float(y[owner == m].mean()))
        for name, m in zip(names, np.unique(owner), strict=True)
    }
    ranks["of a molecule"] = learning.rank_correlation(*np.array(list(molecules.values())).T)
    result |= {"ranks": ranks, "bins": learning.binned(x, y), "molecules": molecules, "what": what}
    study.table(
        ["distance", "N", f"mean {what[0].lower()}{what[1:]}", "95 % are below"],
        [
            [f"{b['from']:.2f} to {b['to']:.2f}", b["n"], short(b["mean"]), short(b["p95"])]
            for b in result["bins"]
        ],
        f"Errors of a potential that was trained for {size.epochs} epochs, by distance:",
    )
    study.table(
        ["rank correlation of distance and error", "Spearman"],
        [[name, f"{value:.2f}"] for name, value in ranks.items()],
    )
    study.figure(
        figures.coverage(x, y, result["bins"], molecules, what),
        "coverage",
        "Errors against the distance to the training set: each, means of sixths, molecules.",
    )
    return result


def autoencoder(study: Study, parts: Parts, number: int, size: Size) -> dict[str, Any]:
    """What an autoencoder and PCA of equal width lose of environments that they have not seen."""
    settings = AEVSettings.ani1x(parts.training.elements)
    known = environments(parts.training, settings).of(number)
    held = known.conformer % 10 == 0
    new = environments(parts.new, settings).of(number, size.environments)
    sets = {"conformers": known.take(held).aevs, "molecules": new.aevs}
    if len(new) < 10:
        sets.pop("molecules")
    training = known.take(~held).of(number, size.environments).aevs
    found: dict[str, dict[str, list[float]]] = {
        str(width): study.once(
            f"autoencoder-{width}",
            lambda width=width: learning.reconstruction(  # type: ignore[misc]
                training, list(sets.values()), width, size.updates
            ),
        )
        for width in size.widths
    }
    study.table(
        ["width", *(f"{method}, new {name}" for name in sets for method in ("PCA", "autoencoder"))],
        [
            [w, *(f"{by[m][k]:.3f}" for k in range(len(sets)) for m in ("PCA", "autoencoder"))]
            for w, by in found.items()
        ],
        f"## An autoencoder beside PCA\n\nShare of the variance of held-out environments that is "
        f"lost; both learnt from {len(training):,} others:",
    )
    study.figure(
        figures.widths(found, list(sets)), "autoencoder", "What PCA and an autoencoder lose."
    )
    return {"sets": list(sets), "lost": found}


def learnt(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say."""
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


def _rms(values: np.ndarray) -> float:
    return float((values**2).mean() ** 0.5)
