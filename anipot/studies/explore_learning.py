"""What the study `explore` does to environments: clusters, coverage, an autoencoder beside PCA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from anipot.conformers import Conformers
from anipot.environments import Environments
from anipot.errors import SettingsError
from anipot.model import ANIModel
from anipot.studies.common import finished
from anipot.training.trainer import ANITrainer
from anipot.units import HARTREE_TO_KCALMOL

#: Principal components in which clusters are looked for.
COMPONENTS = 10

#: Neighbours within reach that make a core point of DBSCAN.
CORE = 10


def check_scikit_learn() -> None:
    """Raise SettingsError where scikit-learn is missing, with the way to it."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise SettingsError(
            "the study explore needs scikit-learn, which is not installed: "
            "pip install 'anipot[explore]'"
        ) from None


# ---- principal components, clusters --------------------------------------------------------------


def principal(aevs: np.ndarray, components: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AEVs (N, L) in principal components (N, C), and the share of the variance of each (C,).

    Columns are not scaled: to give all the same variance would raise the noise of the many that are
    nearly always zero above all else.
    """
    from sklearn.decomposition import PCA

    pca = PCA(min(components or min(aevs.shape), *aevs.shape), random_state=0)
    return pca.fit_transform(aevs.astype(np.float64)), pca.explained_variance_ratio_


def components_for(ratio: np.ndarray, share: float) -> int:
    """How many components have that share of the variance."""
    return min(int(np.searchsorted(np.cumsum(ratio), share)) + 1, len(ratio))


def clusters(points: np.ndarray, most: int = 8) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Labels (N,) by k-means for each k, Gaussian mixture and DBSCAN (-1: in no cluster); and the
    silhouettes of k-means.

    The mixture has the k of the largest silhouette. The reach of DBSCAN is that within which 95 of
    100 points have ``CORE`` neighbours.
    """
    from sklearn.cluster import DBSCAN, KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import NearestNeighbors

    found = {
        f"k-means, {k}": KMeans(k, n_init=4, random_state=0).fit_predict(points)
        for k in range(2, min(most, len(points) - 1) + 1)
    }
    scores = {name: float(silhouette_score(points, labels)) for name, labels in found.items()}
    k = len(set(found[max(scores, key=scores.__getitem__)].tolist()))
    nearest = NearestNeighbors(n_neighbors=min(CORE, len(points) - 1)).fit(points)
    reach = float(np.quantile(nearest.kneighbors()[0][:, -1], 0.95))
    mixture = GaussianMixture(k, n_init=2, random_state=0)
    found[f"Gaussian mixture, {k}"] = mixture.fit_predict(points)
    found["DBSCAN"] = DBSCAN(eps=max(reach, 1e-9), min_samples=CORE).fit_predict(points)
    return found, scores


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


# ---- coverage ------------------------------------------------------------------------------------


def distances(training: Environments, other: Environments, most: int = 20_000) -> np.ndarray:
    """(N,) of each environment of ``other``: the Euclidean distance of its AEV to the nearest of
    the same element in ``training`` (of at most so many); infinity where there is none.
    """
    from sklearn.neighbors import NearestNeighbors

    found = np.full(len(other), np.inf)
    for number in np.unique(other.numbers):
        own = other.numbers == number
        known = training.of(int(number), most)
        if len(known):
            nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known.aevs)
            found[own] = nearest.kneighbors(other.aevs[own])[0][:, 0]
    return found


def train(
    training: Conformers,
    validation: Conformers,
    epochs: int,
    threads: int | None,
    hidden: Sequence[int] = (64, 32),
) -> ANIModel:
    """A small potential, trained briefly, on forces where there are any."""
    model = ANIModel.create(training.elements, hidden=list(hidden))
    forces = training.has("forces").all()
    trainer = ANITrainer(
        model, epochs=epochs, force_weight=1.0 if forces else 0.0, normalize_aevs=True, l2=1.0,
        threads=threads,
    )  # fmt: skip
    finished(trainer.train(training, validation, early_stop=False, quiet=True))
    return model


def errors(model: ANIModel, data: Conformers) -> tuple[np.ndarray, np.ndarray | None]:
    """Absolute energy errors (M,) kcal/mol, each less the mean error of its molecule, and the
    length of force errors (A,) kcal/mol/angstrom, None without labels.
    """
    assert data.energies is not None
    labelled = bool(data.has("forces").all())
    found = model.predict(data, forces=labelled)
    error = (found.energies - data.energies) * HARTREE_TO_KCALMOL
    mean = np.bincount(data.molecule, error) / np.maximum(np.bincount(data.molecule), 1)
    forces = None
    if found.forces is not None and data.forces is not None:
        forces = np.linalg.norm(found.forces - data.forces, axis=1) * HARTREE_TO_KCALMOL
    return np.abs(error - mean[data.molecule]), forces


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN for fewer than three or where nothing varies."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def binned(x: np.ndarray, y: np.ndarray, bins: int = 6) -> list[dict[str, Any]]:
    """Bins with as many ``x`` each: their ends, number, mean and 95th percentile of ``y``."""
    order = np.argsort(x, kind="stable")
    return [
        {
            "from": float(x[part[0]]), "to": float(x[part[-1]]), "n": len(part),
            "mean": float(y[part].mean()), "p95": float(np.quantile(y[part], 0.95)),
        }
        for part in np.array_split(order, min(bins, len(order)))
    ]  # fmt: skip


# ---- autoencoder ---------------------------------------------------------------------------------


def reconstruction(
    training: np.ndarray, held_out: Sequence[np.ndarray], width: int, steps: int, seed: int = 0
) -> dict[str, list[float]]:
    """What PCA and an autoencoder of one width lose of each set of held-out AEVs (N, L): mean
    squared error over that of the mean AEV of the training.

    The autoencoder is L-64-width-64-L with SiLU, on the same AEVs as PCA; Adam, batches of 256, one
    cycle of learning rate.
    """
    mean = training.mean(0)
    # One scale for all columns, so that both minimise the same error.
    scale = float((training - mean).std())
    x, *others = [torch.as_tensor((a - mean) / scale).float() for a in (training, *held_out)]
    _, _, axes = torch.linalg.svd(x, full_matrices=False)
    axes = axes[:width]
    torch.manual_seed(seed)
    length = x.shape[1]
    network = nn.Sequential(
        nn.Linear(length, 64), nn.SiLU(), nn.Linear(64, width),
        nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, length),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = x[torch.randint(len(x), (256,), generator=generator)]
        loss = (network(part) - part).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():

        def lost(of: torch.Tensor, seen: torch.Tensor) -> float:
            return float((of - seen).square().mean() / of.square().mean())

        return {
            "PCA": [lost(o, o @ axes.T @ axes) for o in others],
            "autoencoder": [lost(o, network(o)) for o in others],
        }
