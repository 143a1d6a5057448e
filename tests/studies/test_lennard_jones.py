"""The Lennard-Jones study: its truth against formulas, and what it claims at reduced size."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from anipot.errors import SettingsError
from anipot.studies import lennard_jones
from anipot.studies.lennard_jones_models import (
    EPSILON,
    SIGMA,
    cluster_aev,
    pair_curve,
    rattled,
    relaxed_cluster,
    relaxed_crystal,
    train,
    true_pair,
    volume_curve,
)
from anipot.units import HARTREE_TO_EV


@pytest.fixture(scope="module")
def cluster():
    return relaxed_cluster()


def test_the_cluster_is_the_known_minimum(cluster):
    """-19.821489 epsilon: the Cambridge Cluster Database (Hoare and Pal, 1971)."""
    assert cluster.get_potential_energy() == pytest.approx(-19.821489, abs=1e-6)


def test_labels_of_clusters_are_sums_over_pairs(cluster):
    data = rattled(cluster, 3, seed=5, deviation=0.05)
    for i, x in enumerate(data.coordinates.reshape(3, 8, 3)):
        r = pdist(x)
        expected = (4 * (r**-12 - r**-6)).sum()
        assert data.energies[i] * HARTREE_TO_EV == pytest.approx(expected, abs=1e-6)
    moved = data.coordinates.reshape(3, 8, 3) - cluster.positions
    assert 0.03 < moved.std() < 0.07
    again, other = (rattled(cluster, 3, seed=s, deviation=0.05) for s in (5, 6))
    assert (data.coordinates == again.coordinates).all()
    assert not np.isclose(data.coordinates, other.coordinates).any()


def test_the_pair_force_is_the_slope_of_the_pair_energy():
    r, h = np.linspace(0.9, 2.3, 20), 1e-6
    slope = (true_pair(r + h)[0] - true_pair(r - h)[0]) / (2 * h)
    np.testing.assert_allclose(true_pair(r)[1], -slope, rtol=1e-6, atol=1e-8)


def test_the_crystal_is_at_rest_and_its_bulk_modulus_follows_from_pressure():
    crystal = relaxed_crystal()
    assert np.abs(crystal.get_stress()).max() < 1e-6
    assert crystal.cell.array[0, 0] == pytest.approx(1.5487 * SIGMA, abs=1e-3)
    assert crystal.get_potential_energy() / 4 == pytest.approx(-7.8238 * EPSILON, abs=1e-5)
    volumes, pressures = [], []
    for scale in (0.999, 1.001):
        frame = crystal.copy()
        frame.calc = crystal.calc
        frame.set_cell(frame.cell.array * scale, scale_atoms=True)
        volumes.append(frame.get_volume())
        pressures.append(-frame.get_stress()[:3].mean())
    modulus = -crystal.get_volume() * np.diff(pressures)[0] / np.diff(volumes)[0] * 160.21766208
    found = volume_curve(crystal, crystal.calc)
    assert found["bulk_modulus_gpa"] == pytest.approx(modulus, rel=0.02)


def test_a_model_of_pairs_is_a_sum_over_pairs(cluster):
    """Of any weights: what it says of a cluster is what it says of its pairs and lone atoms."""
    data = rattled(cluster, 8, seed=0, deviation=0.05)
    model = train(data, cluster_aev("pairs only"), 0, updates=4, hidden=())
    predicted = model.predict(data).energies * HARTREE_TO_EV
    lone = model.predict(type(data)([18], np.zeros((1, 3)), [0, 1])).energies[0] * HARTREE_TO_EV
    for energy, x in zip(predicted, data.coordinates.reshape(-1, 8, 3), strict=True):
        assert energy == pytest.approx(8 * lone + pair_curve(model, pdist(x))[0].sum(), abs=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"curve_size": 5}, {"seeds": 0}, {"sizes": (1, 32)}, {"crystals": 1}]
)
def test_numbers_that_make_no_study_are_refused_before_any_work(tmp_path, wrong):
    with pytest.raises(SettingsError, match="curve_size"):
        lennard_jones.run(tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_forces_and_stress_buy_what_the_study_says(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    options = dict(sizes=(12,), curve_size=12, crystals=24, seeds=2, updates=400, tests=40)
    result = lennard_jones.run(folder, threads=1, **options)

    def mean(part: str, what: str, **where: object) -> float:
        chosen = [r[what] for r in result[part]["runs"] if where.items() <= r.items()]
        assert len(chosen) == 2
        return float(np.mean(chosen))

    for kind, least in (("atomic networks", 2), ("pairs only", 3)):
        alone, both = (
            mean("cluster", "force", kind=kind, labels=labels)
            for labels in ("energies", "energies and forces")
        )
        assert alone > least * both
        pair = result["cluster"]["pair"]
        if kind == "pairs only":
            assert np.mean(pair[f"{kind}, energies"]["force_rmse"]) > 2 * np.mean(
                pair[f"{kind}, energies and forces"]["force_rmse"]
            )
    without, with_stress = (
        mean("crystal", "stress_gpa", labels=labels)
        for labels in ("energies and forces", "energies, forces and stress")
    )
    assert without > 1.5 * with_stress
    report = (folder / "report.md").read_text()
    assert "What one learns" in report
    for name in ("errors", "pair-curves"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    kept = json.loads((folder / "result.json").read_text())
    assert kept["cluster"]["runs"] == result["cluster"]["runs"]

    # Interrupted before its end: it goes on from what is trained, and comes to the same.
    (folder / "result.json").unlink()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(lennard_jones, "train", refuse)
    again = lennard_jones.run(folder, threads=1, **options)
    assert again["cluster"]["runs"] == result["cluster"]["runs"]
    assert (folder / "report.md").read_text() == report
