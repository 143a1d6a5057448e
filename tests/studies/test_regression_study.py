"""The regression study: what is known of a line and of least squares, and what it claims."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anipot import load_bundled
from anipot.errors import SettingsError
from anipot.networks.self_energies import SelfEnergies
from anipot.studies import regression
from anipot.studies.regression_line import best_possible
from anipot.studies.regression_models import (
    Scaling,
    Targets,
    as_conformers,
    curvature,
    fit_energies,
    fit_line,
    points,
    xy,
)


def test_points_lie_on_the_line_but_for_the_noise():
    x, y = xy(points(20_000, 10, 10, seed=0))
    assert 0 <= x.min() < 0.01 < 9.99 < x.max() <= 10
    left = y - (2 * x + 5)
    assert left.std() == pytest.approx(10, rel=0.02)
    assert abs(left.mean()) < 0.3
    assert abs(np.corrcoef(x, left)[0, 1]) < 0.03
    assert not np.array_equal(xy(points(5, 1, 10, seed=1))[0], xy(points(5, 1, 10, seed=2))[0])


@pytest.mark.parametrize("noise", [1, 10, 20])
def test_the_best_that_is_possible_is_what_the_true_line_has(noise):
    x, y = xy(points(400_000, noise, 10, seed=3))
    error = y - (2 * x + 5)
    best = best_possible(noise, 10)
    assert best["r2"] == pytest.approx(1 - (error**2).mean() / y.var(), abs=3e-3)
    assert best["mse"] == pytest.approx((error**2).mean(), rel=0.01)
    assert best["mae"] == pytest.approx(np.abs(error).mean(), rel=0.01)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True),
    st.sampled_from(["none", "min-max", "standard"]),
)
def test_scaling_is_undone(values, kind):
    x = np.array(values, dtype=float)
    data = as_conformers(x, 3 * x - 7)
    scale = Scaling.of(kind, data)
    scaled_x, scaled_y = xy(scale.apply(data))
    np.testing.assert_allclose(scale.undo(scaled_y), 3 * x - 7, atol=1e-9)
    for scaled in (scaled_x, scaled_y):
        if kind == "min-max":
            assert (scaled.min(), scaled.max()) == pytest.approx((0, 1))
        if kind == "standard":
            assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1))


@pytest.mark.parametrize("high", [1.0, 10.0, 100.0])
def test_gradient_descent_diverges_above_the_rate_and_not_below(high):
    x, y = xy(points(100, 0, high, seed=0))
    _, largest = curvature(x)
    left = {}
    for factor in (0.98, 1.02):
        w = np.zeros(2)
        for _ in range(3000):
            error = w[0] * x + w[1] - y
            w -= factor * 2 / largest * 2 * np.array([(error * x).mean(), error.mean()])
        left[factor] = (error**2).mean()
    assert left[0.98] < (y**2).mean() < 1e6 < left[1.02]


def test_a_line_is_learnt_as_least_squares_finds_it():
    training, test = points(200, 1, 10, 0).split(0.8, 0.2, seed=0)
    found = fit_line(training, training, test, 1e-2, 60)
    slope, intercept = np.polyfit(*xy(training), 1)
    assert found["slope"] == pytest.approx(slope, abs=0.1)
    assert found["intercept"] == pytest.approx(intercept, abs=0.7)
    x, y = xy(test)
    error = found["slope"] * x + found["intercept"] - y
    assert found["test"]["mse"] == pytest.approx((error**2).mean(), rel=1e-4)
    assert found["test"]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert found["test"]["r2"] == pytest.approx(1 - (error**2).sum() / ((y - y.mean()) ** 2).sum())


def test_the_trainer_stops_what_diverges_and_scaling_mends_it():
    training, test = points(200, 1, 100, 0).split(0.8, 0.2, seed=0)
    stopped = fit_line(training, training, test, 1e-2, 20)
    assert set(stopped) == {"stopped"}
    assert "inf" in stopped["stopped"]
    assert "Try a smaller learning_rate" in stopped["stopped"]
    scaled = fit_line(training, training, test, 0.3, 40, "min-max")
    assert scaled["slope"] == pytest.approx(2, abs=0.05)
    assert scaled["intercept"] == pytest.approx(5, abs=2)
    assert scaled["test"]["r2"] > 0.999


def test_scaled_targets_are_undone_and_help():
    data = load_bundled().select(heavy_atoms=1, per_molecule=60)
    training, validation, test = data.split(0.6, 0.2, 0.2, seed=0)
    own = SelfEnergies.fit(training, training.elements)
    total = Targets(SelfEnergies.zero(training.elements), 1.0)
    kcal = Targets(own, 627.5094738898777)
    for targets in (total, kcal):
        scaled = targets.apply(test)
        np.testing.assert_allclose(targets.undo(scaled.energies, test), test.energies, rtol=1e-12)
    left = (training.energies - own.of(training)) * 627.5094738898777
    np.testing.assert_allclose(kcal.apply(training).energies, left)
    mae = {
        name: fit_energies(
            t, training, validation, test, 12, 0, 1, optimizer="adamw", learning_rate=2e-3
        )["mae"]
        for name, t in {"total": total, "kcal": kcal}.items()
    }
    assert mae["total"] > 10 * mae["kcal"]


@pytest.mark.parametrize("wrong", [{"n": 10}, {"seeds": 0}, {"per_molecule": 1}])
def test_numbers_that_make_no_study_are_refused_before_any_work(tmp_path, wrong):
    with pytest.raises(SettingsError, match="per_molecule"):
        regression.run(tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_the_study_shows_what_it_says(tmp_path, capsys):
    folder = tmp_path / "study"
    result = regression.run(
        folder, n=200, epochs=60, seeds=1, per_molecule=6, energy_epochs=6, threads=1
    )
    for noise, by in result["line"].items():
        assert by["r2"][0] == pytest.approx(by["best"]["r2"], abs=0.2), noise
        assert by["mse"][0] == pytest.approx(by["best"]["mse"], rel=0.5), noise
    first, _, _, fast, standard = result["wide"]
    assert "stopped" in first
    assert first["rate"] > 10 * first["largest_rate"]
    assert first["condition"] > 1000 > 50 > fast["condition"] > standard["condition"]
    assert min(fast["test"]["r2"], standard["test"]["r2"]) > 0.999
    own = result["composition"]
    assert own["r2"] > 0.99999
    assert own["mae"] > 5
    assert own["self_energies"]["C"] == pytest.approx(-38.08, abs=0.1)
    mae = {(r["targets"], r["optimizer"]): r.get("mae", np.inf) for r in result["targets"]}
    total, hartree, kcal, spread = dict.fromkeys(name for name, _ in mae)
    assert mae[total, "adamw"] > 10 * max(mae[name, "adamw"] for name in (hartree, kcal, spread))
    assert mae[total, "sgd"] == np.inf
    assert mae[spread, "sgd"] < mae[hartree, "sgd"]
    report = (folder / "report.md").read_text()
    assert "What one learns" in report
    assert "Try a smaller learning_rate" in report
    for name in ("lines", "wide-errors", "composition", "targets-errors"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    assert json.loads((folder / "result.json").read_text())["study"] == "regression"
