"""The study explore: what it says of made-up environments is what was put into them."""

import builtins
import json
from itertools import pairwise

import numpy as np
import pytest

from anipot import load_bundled
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.errors import SettingsError
from anipot.studies import explore, explore_autoencoder, explore_clusters, explore_coverage
from anipot.studies.environments import Environments, environments, neighbours
from anipot.studies.explore import Size

pytest.importorskip("sklearn")

#: Coordination of the carbon atoms of molecules whose structure is known.
KNOWN = {"C": [4], "CC": [4, 4], "C=C": [3, 3], "C#C": [2, 2], "CC#N": [4, 2], "CC=O": [4, 3]}


def lowest(name: str) -> Conformers:
    data = load_bundled().select(molecules=[name])
    return data.take([int(data.energies.argmin())])


@pytest.mark.parametrize("name", KNOWN)
def test_hybridisation_is_that_of_the_structure(name):
    found = environments(lowest(name)).of(6)
    assert sorted(found.coordination, reverse=True) == KNOWN[name]
    words = {4: "sp3", 3: "sp2", 2: "sp"}
    assert sorted(explore_clusters.coordination_names(found)) == sorted(
        words[c] for c in KNOWN[name]
    )


def test_neighbours_are_named_with_and_without_cells():
    assert sorted(neighbours(lowest("CO"))) == ["C", "C", "C", "CH", "HHHO", "O"]
    diamond = 0.25 * np.array([[0, 0, 0], [1, 1, 1]]) * 3.567
    cell = 0.5 * 3.567 * (1 - np.eye(3))
    crystal = Conformers(np.array([6, 6]), diamond, np.array([0, 2]), cells=cell[None])
    assert neighbours(crystal).tolist() == ["CCCC", "CCCC"]
    chloride = Conformers(
        np.array([6, 17, 17]),
        np.array([[0, 0, 0], [1.77, 0, 0], [-1.77, 0, 0.0]]),
        np.array([0, 3]),
    )
    found = environments(chloride)
    assert found.neighbours.tolist() == ["ClCl", "C", "C"]
    assert found.coordination.tolist() == [2, 1, 1]


def test_environments_stand_in_the_order_of_the_data_and_know_their_conformer():
    data = load_bundled().select(per_molecule=2)
    whole = environments(data)
    assert whole.aevs.shape == (len(data.atomic_numbers), AEVSettings.ani1x().length)
    for m in (0, 57, len(data) - 1):
        alone = environments(data.take([m]), AEVSettings.ani1x())
        np.testing.assert_allclose(whole.aevs[whole.conformer == m], alone.aevs, atol=1e-5)
    carbon = whole.of(6, 20)
    assert len(carbon) == 20
    assert (data.atomic_numbers[carbon.atom] == 6).all()
    assert (np.diff(carbon.atom) > 0).all()


def made(points: np.ndarray, number: int = 6) -> Environments:
    n = len(points)
    index = np.arange(n)
    return Environments(points, np.full(n, number), index, index, np.full(n, "H"))


def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    centres = 10 * np.eye(5)[:3]
    truth = np.repeat([0, 1, 2], 60)
    return centres[truth] + rng.normal(scale=0.5, size=(180, 5)), truth


def test_clusters_that_are_there_are_found_by_all_three_methods():
    points, truth = blobs(np.random.default_rng(0))
    labels, silhouettes = explore_clusters.clusters(points)
    assert set(silhouettes) == set(labels)
    by_k = {name: s for name, s in silhouettes.items() if name.startswith("k-means")}
    assert max(by_k, key=by_k.get) == "k-means, 3"
    # The same clusters have the same silhouette; DBSCAN's is without the points in none.
    assert silhouettes["Gaussian mixture, 3"] == pytest.approx(by_k["k-means, 3"])
    assert silhouettes["DBSCAN"] >= by_k["k-means, 3"] > 0.8
    for name in ("k-means, 3", "Gaussian mixture, 3"):
        assert explore_clusters.agreement(labels[name], truth) == 1.0
    assert explore_clusters.agreement(labels["DBSCAN"], truth) > 0.9
    shuffled = np.random.default_rng(1).permutation(truth)
    assert abs(explore_clusters.agreement(labels["k-means, 3"], shuffled)) < 0.05


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 4)) * [5.0, 2.0, 1.0, 0.1] @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    points, ratio = explore_clusters.principal(x)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    np.testing.assert_allclose(ratio, values / values.sum(), rtol=1e-6)
    np.testing.assert_allclose(points.var(axis=0, ddof=1), values, rtol=1e-6)
    assert explore_clusters.components_for(ratio, ratio[0] - 1e-9) == 1
    assert explore_clusters.components_for(ratio, 0.999999) == 4


def test_distances_are_to_the_nearest_of_the_same_element():
    training = made(np.array([[0.0, 0.0], [10.0, 0.0]]))
    other = made(np.array([[3.0, 4.0], [10.0, 0.5]]))
    np.testing.assert_allclose(explore_coverage.distances(training, other), [5.0, 0.5], atol=1e-6)
    assert np.isinf(explore_coverage.distances(training, made(np.zeros((1, 2)), 7))).all()


def test_an_autoencoder_beats_pca_on_a_curve_and_cannot_on_a_plane():
    rng = np.random.default_rng(3)
    t = rng.uniform(0, 2 * np.pi, 1200)
    curve = np.stack([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], axis=1)
    lost = explore_autoencoder.reconstruction(curve[:1000], [curve[1000:]], 2, 500)
    assert lost["PCA"][0] > 0.4  # two of four equal variances
    assert lost["autoencoder"][0] < 0.2
    plane = rng.normal(size=(1200, 2)) @ rng.normal(size=(2, 6))
    lost = explore_autoencoder.reconstruction(plane[:1000], [plane[1000:]], 2, 100)
    assert lost["PCA"][0] < 1e-9 < lost["autoencoder"][0]


def test_bins_hold_all_in_order_and_ranks_are_spearmans():
    rng = np.random.default_rng(4)
    x = rng.uniform(size=100)
    bins = explore_coverage.binned(x, 2 * x, 5)
    assert [b["n"] for b in bins] == [20] * 5
    assert all(a["to"] <= b["from"] for a, b in pairwise(bins))
    assert all(b["mean"] == pytest.approx(2 * x[(x >= b["from"]) & (x <= b["to"])].mean())
               for b in bins)  # fmt: skip
    assert explore_coverage.rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert np.isnan(explore_coverage.rank_correlation(x, np.ones(100)))


def test_without_scikit_learn_the_way_to_it_is_told(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **how):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **how)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'anipot\[explore\]'"):
        explore.run(folder=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_carbon_of_real_molecules_falls_apart_as_chemists_say():
    """The nearest carbon of another molecule has the same hybridisation, far beyond chance."""
    data = load_bundled().select(per_molecule=20)
    found = environments(data).of(6, 600)
    points, _ = explore_clusters.principal(found.aevs, explore_clusters.COMPONENTS)
    molecule = data.molecule[found.conformer]
    chance = max(np.bincount(found.coordination)) / len(found)
    assert chance < 0.6
    assert explore_clusters.nearest_agrees(points, found.coordination, molecule) > 0.85
    shuffled = np.random.default_rng(0).permutation(found.coordination)
    assert explore_clusters.nearest_agrees(points, shuffled, molecule) < 0.6


@pytest.mark.slow
def test_the_study_of_the_bundled_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explore, "QUICK", Size(700, 300, 300, 2, (2,), 200))
    result = explore.run(folder=tmp_path / "study", quick=True, threads=1)
    told = capsys.readouterr().out
    kept = json.loads((tmp_path / "study" / "result.json").read_text())
    assert kept["coverage"]["ranks"] == pytest.approx(result["coverage"]["ranks"])
    for name in ("overview", "variance", "chemistry", "coverage", "autoencoder"):
        assert (tmp_path / "study" / "figures" / f"{name}.png").stat().st_size > 5000
    # The mean explains least, the composition nearly all.
    rmse = result["data"]["rmse"]
    assert rmse["mean"] > rmse["line"] > 100 * rmse["composition"]
    assert set(result["principal"]) == set("HCNO")
    assert set(result["coverage"]["molecules"]) == {
        "CO", "C=CC", "CC#N", "NC=O", "CNC", "CCCO", "CC(=O)O",
    }  # fmt: skip
    assert result["coverage"]["beyond"] > 0.05  # new molecules are farther than new conformers
    assert "Spearman" in told


@pytest.mark.slow
def test_data_without_labels_and_another_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explore, "QUICK", Size(400, 200, 200, 1, (2,), 50))
    data = load_bundled().select(heavy_atoms=2, per_molecule=12)
    plain = Conformers(data.atomic_numbers, data.coordinates, data.offsets)
    plain.save(tmp_path / "plain.npz")
    far = load_bundled().select(molecules=["CC(=O)O"], per_molecule=12)
    far.save(tmp_path / "far.npz")
    result = explore.run(
        [tmp_path / "plain.npz"], tmp_path / "study", new=[tmp_path / "far.npz"], quick=True,
        threads=1,
    )  # fmt: skip
    assert "rmse" not in result["data"]
    assert result["coverage"]["beyond"] > 0.3  # no molecule of two heavy atoms has a carboxyl
    assert "no energies to train on" in capsys.readouterr().out
