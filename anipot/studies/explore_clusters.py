"""Environments of atoms by principal components and clusters, beside chemistry."""

from __future__ import annotations

from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.elements import number_of, symbol_of
from anipot.studies import explore_figures as figures
from anipot.studies.common import Study
from anipot.studies.environments import Environments

#: What chemists call carbon atoms by the number of their neighbours.
CARBON = {4: "sp3", 3: "sp2", 2: "sp"}

#: Principal components in which clusters are looked for.
COMPONENTS = 10

#: Neighbours within reach that make a core point of DBSCAN.
CORE = 10


# ---- principal components ------------------------------------------------------------------------


def components(
    study: Study, data: Conformers, found: Environments, most: int
) -> dict[str, dict[str, Any]]:
    """PCA of the AEVs of each element, of ``most`` environments at most."""
    result: dict[str, dict[str, Any]] = {}
    ratios: dict[str, np.ndarray] = {}
    for element in data.elements:
        own = found.of(number_of(element), most)
        if len(own) < 10:
            continue
        ratio = principal(own.aevs)[1]
        ratios[element] = ratio
        result[element] = {
            "n": len(own),
            "columns": int((own.aevs.std(axis=0) > 0).sum()),
            "first": ratio[:2],
            **{f"for_{s}": components_for(ratio, s / 100) for s in (90, 99)},
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


def principal(aevs: np.ndarray, components: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AEVs (N, L) in principal components (N, C), and the share of the variance of each (C,).

    Columns are not scaled: to give all the same variance would raise the noise of the many that are
    nearly always zero above all else.
    """
    from sklearn.decomposition import PCA

    pca = PCA(min(components or min(aevs.shape), *aevs.shape), random_state=0)
    return pca.fit_transform(aevs.astype(np.float64)), pca.explained_variance_ratio_


def components_for(ratio: np.ndarray, share: float) -> int:
    """Number of components with that share of the variance."""
    return min(int(np.searchsorted(np.cumsum(ratio), share)) + 1, len(ratio))


# ---- clusters ------------------------------------------------------------------------------------


def groups_of(study: Study, data: Conformers, own: Environments) -> dict[str, Any]:
    """Clusters of one element's environments, beside chemistry."""
    points, ratio = principal(own.aevs, COMPONENTS)
    groups = coordination_names(own)
    labels, silhouettes = clusters(points)
    molecule = data.molecule[own.conformer]
    result: dict[str, Any] = {
        "n": len(own),
        "nearest": nearest_agrees(points, groups, molecule),
        "methods": {
            name: {
                "clusters": len(set(by.tolist()) - {-1}),
                "outside": float((by == -1).mean()),
                "silhouette": silhouettes[name],
                "coordination": agreement(by, groups),
                "neighbours": agreement(by, own.neighbours),
            }
            for name, by in labels.items()
        },
        "groups": {g: int((groups == g).sum()) for g in np.unique(groups)},
        "kinds": len(np.unique(own.neighbours)),
    }
    number = int(own.numbers[0])
    element = "carbon" if number == 6 else symbol_of(number)
    study.table(
        ["clusters by", "found", "in none", "silhouette", "coordination", "neighbours"],
        [
            [
                name, r["clusters"], f"{r['outside']:.0%}",
                f"{r['silhouette']:.2f}",
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


def clusters(points: np.ndarray, most: int = 8) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Labels (N,) by k-means for each k, Gaussian mixture and DBSCAN (-1: in no cluster); and
    their silhouettes, of points that are in a cluster.

    The mixture has the k of k-means with the largest silhouette. The reach of DBSCAN is that within
    which 95 of 100 points have ``CORE`` neighbours.
    """
    from sklearn.cluster import DBSCAN, KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import NearestNeighbors

    found = {
        f"k-means, {k}": KMeans(k, n_init=4, random_state=0).fit_predict(points)
        for k in range(2, min(most, len(points) - 1) + 1)
    }

    def silhouette(labels: np.ndarray) -> float:
        inside = labels >= 0
        if not 1 < len(set(labels[inside].tolist())) < inside.sum():
            return float("nan")
        return float(silhouette_score(points[inside], labels[inside]))

    scores = {name: silhouette(labels) for name, labels in found.items()}
    k = len(set(found[max(scores, key=scores.__getitem__)].tolist()))
    nearest = NearestNeighbors(n_neighbors=min(CORE, len(points) - 1)).fit(points)
    reach = float(np.quantile(nearest.kneighbors()[0][:, -1], 0.95))
    mixture = GaussianMixture(k, n_init=2, random_state=0)
    found[f"Gaussian mixture, {k}"] = mixture.fit_predict(points)
    found["DBSCAN"] = DBSCAN(eps=max(reach, 1e-9), min_samples=CORE).fit_predict(points)
    return found, {name: silhouette(labels) for name, labels in found.items()}


def agreement(labels: np.ndarray, truth: np.ndarray) -> float:
    """Adjusted Rand index: 1 for the same division, about 0 for two that know nothing of each
    other.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(truth, labels))


def nearest_agrees(points: np.ndarray, groups: np.ndarray, molecule: np.ndarray) -> float:
    """The share of points whose nearest one in another molecule is of the same group.

    Unlike clusters, which follow what there is much of, this does not ask how often a group occurs.
    """
    apart = np.square(points[:, None] - points[None]).sum(axis=2)
    apart[molecule[:, None] == molecule[None]] = np.inf
    return float((groups[apart.argmin(axis=1)] == groups).mean())


def coordination_names(own: Environments) -> np.ndarray:
    """(N,) text: sp3, sp2 and sp for carbon, else "2 neighbours"."""
    words = {c: f"{c} neighbour{'s' * (c != 1)}" for c in range(int(own.coordination.max()) + 1)}
    return np.array(
        [
            CARBON.get(int(c), words[int(c)]) if n == 6 else words[int(c)]
            for n, c in zip(own.numbers, own.coordination, strict=True)
        ]
    )
