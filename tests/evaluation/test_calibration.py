"""Calibration: what a disagreement means, on data whose errors are known by construction."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from anipot.errors import DataError, PotentialError, SettingsError
from anipot.evaluation.calibration import (
    Calibrated,
    Calibration,
    beyond,
    calibrate,
    calibrated,
    in_words,
)
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.report.figures import plots
from anipot.report.figures.calibration import calibration_plot
from anipot.units import HARTREE_TO_KCALMOL


def ensemble(n: int = 3, **about) -> ANIEnsemble:
    members = [ANIModel.create("HCNO", seed=k, hidden=[4], dtype="float64") for k in range(n)]
    return ANIEnsemble(members, about)


def drawn(n: int, factor: float, seed: int = 0) -> Calibration:
    """Errors drawn from a normal distribution ``factor`` times as wide as the disagreement."""
    rng = np.random.default_rng(seed)
    spread = rng.lognormal(0.0, 0.7, n)
    return Calibration(spread, np.abs(rng.normal(0, factor * spread)), rng.integers(2, 15, n))


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.05, 20), seed=st.integers(0, 10**6))
def test_the_factor_of_normal_errors_is_found(factor, seed):
    found = drawn(20_000, factor, seed)
    assert found.scale == pytest.approx(factor, rel=0.1)
    assert found.coverage(1) == pytest.approx(0.683, abs=0.04)
    assert found.coverage(2) == pytest.approx(0.954, abs=0.03)
    for b in found.bins():  # each bin by itself too: so were the errors drawn
        assert b.error / b.disagreement == pytest.approx(factor, rel=0.15)


def test_bins_hold_every_conformer_once_in_order():
    found = drawn(1037, 1.0)
    bins = found.bins()
    assert sum(b.n for b in bins) == 1037
    assert {b.n for b in bins} == {103, 104}
    assert [b.disagreement for b in bins] == sorted(b.disagreement for b in bins)
    whole = sum(b.n * b.error**2 for b in bins) / 1037
    assert whole == pytest.approx((found.error**2).mean())
    assert len(drawn(30, 1.0).bins()) == 1  # too few for two


def test_rank_correlation_is_scipys():
    found = drawn(200, 1.0)
    found.error[::3] = 0.5  # ties
    assert found.rank_correlation == pytest.approx(
        spearmanr(found.disagreement, found.error).statistic
    )
    assert np.isnan(Calibration(np.ones(5), np.arange(5.0), np.ones(5)).rank_correlation)


def test_disagreement_and_error_of_an_ensemble():
    data = random_conformers(np.random.default_rng(0), [3, 9, 4, 12])
    potential = ensemble()
    each = np.stack([m.predict(data).energies for m in potential])
    off = np.array([0.01, -0.02, np.nan, 0.003])  # hartree; the third has no label
    labelled = replace(data, energies=each.mean(0) - off, masks={"energies": np.isfinite(off)})
    found = calibrate(potential, labelled, "these")
    keep, atoms = [0, 1, 3], np.array([3, 9, 12])
    std = each[:, keep].std(0, ddof=1)
    np.testing.assert_allclose(
        found.disagreement, std / np.sqrt(atoms) * HARTREE_TO_KCALMOL, rtol=1e-9
    )
    expected = np.abs(off[keep]) / np.sqrt(atoms) * HARTREE_TO_KCALMOL
    np.testing.assert_allclose(found.error, expected, rtol=1e-9)
    assert found.about()["largest_molecule_atoms"] == 12
    assert found.about()["data"] == "these"
    assert "within it" in str(found)


def test_what_cannot_be_calibrated():
    data = random_conformers(np.random.default_rng(0), [3, 4])
    with pytest.raises(SettingsError, match="--members"):
        calibrate(ensemble()[0], data)
    with pytest.raises(SettingsError, match="single model"):
        calibrate(ensemble(1), data)
    with pytest.raises(DataError, match="no conformer has an energy"):
        calibrate(ensemble(), data)
    model = ensemble()[0]
    with pytest.raises(DataError, match="copies of one"):
        calibrate(ANIEnsemble([model, model]), replace(data, energies=np.zeros(2)))


LIMITS = {"largest_molecule_atoms": 9, "disagreement_kcalmol": 0.5, "scale": 2.0, "data": "X"}


def test_beyond_the_calibration(tmp_path):
    potential = ensemble(calibrated=LIMITS)
    kcal = 1 / HARTREE_TO_KCALMOL
    assert beyond(potential, 0.49 * kcal, 9) == []
    (strange,) = beyond(potential, 0.62 * kcal, 9)
    assert "more than the 0.5 kcal/mol" in strange
    assert "conformer 0 (0.62)" in strange
    spread = np.array([0.1, 0.9, 0.7, 0.2]) * kcal
    warnings = beyond(potential, spread, np.array([9, 3, 12, 40]), list("abcd"))
    assert "b (0.9), c (0.7)" in warnings[0]  # the worst first
    assert "more atoms than the 9" in warnings[1]
    assert "d (40), c (12)" in warnings[1]
    (many,) = beyond(potential, np.full(20, 1.0) * kcal, 5)
    assert "and 15 more" in many
    assert beyond(ensemble(), 1e3, 1000) == []  # never calibrated: nothing to go beyond


def test_the_calibration_stays_with_the_file(tmp_path):
    import anipot

    path = ensemble().save(tmp_path / "p.safetensors", calibrated=drawn(100, 1.5).about())
    again = anipot.load(path)
    assert calibrated(again).scale == drawn(100, 1.5).scale
    assert calibrated(ensemble()) is None
    data = random_conformers(np.random.default_rng(0), [3])
    assert "expected error" in in_words(again, np.array([1e-3]), data)
    assert "not calibrated" in in_words(ensemble(), np.array([1e-3]), data)


@pytest.mark.parametrize(
    "wrong", [3, "x", [], {}, {**LIMITS, "scale": -1}, {**LIMITS, "scale": "os.abort()"}]
)
def test_a_calibration_that_is_none(wrong):
    with pytest.raises(PotentialError, match="calibration is not understood"):
        beyond(ensemble(calibrated=wrong), 1.0, 3)


def test_the_limit_leaves_one_in_a_thousand_out():
    found = drawn(10_000, 1.0)
    assert (found.disagreement > found.limit).sum() == 10
    assert isinstance(Calibrated.model_validate(found.about()), Calibrated)


@pytest.mark.parametrize("n", [2, 40, 8000])
def test_the_figure(n, tmp_path):
    found = drawn(n, 0.7)
    figure = calibration_plot(found, "a title with $1")
    (axes,) = figure.axes
    bins = next(line for line in axes.lines if "RMSE" in str(line.get_label()))
    np.testing.assert_allclose(bins.get_ydata(), [b.error for b in found.bins()])
    plots.save_figure(figure, tmp_path / "c")
    assert (tmp_path / "c.png").stat().st_size > 5000
