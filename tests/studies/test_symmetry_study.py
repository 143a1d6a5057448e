"""The symmetry study: labels, transformations and features against formulas, and what it claims."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from anipot.aev import AEVSettings
from anipot.errors import SettingsError
from anipot.studies import symmetry
from anipot.studies.features import evaluation
from anipot.studies.symmetry_models import (
    AUGMENTATIONS,
    FEATURES,
    LABELS,
    MOLECULE,
    TRANSFORMATIONS,
    augmented,
    create,
    divided,
    noisy,
    train,
    transformed,
)

ROTATIONS = ("rotated by pi/2", "rotated at random")
PERMUTATIONS = ("permuted", "permuted at random")


def places(data):
    return data.coordinates.reshape(len(data), 4, 3)


def test_labels_are_the_formula_and_the_documents_loop():
    for label in LABELS:
        data = noisy(20, label, seed=1)
        for x, energy in zip(places(data), data.energies, strict=True):
            pairs = 1 / pdist(x)
            if label == "formula":
                expected = sum(
                    1 / np.linalg.norm(x[i] - x[j]) for i in range(4) for j in range(i + 1, 4)
                )
            else:  # the notebook's lines
                expected = 0.0
                for i in range(len(pairs)):
                    for j in range(i + 1, len(pairs)):
                        expected += pairs[j]
            assert energy == pytest.approx(expected)
    moved = places(noisy(4000, "formula", seed=0))[:, :, :2] - MOLECULE
    assert moved.std() == pytest.approx(0.1, rel=0.02)


def test_only_the_loops_label_depends_on_the_numbering():
    for label in LABELS:
        data = noisy(50, label, seed=2)
        for name in TRANSFORMATIONS:
            same = np.allclose(transformed(data, name, label).energies, data.energies)
            assert same == (label == "formula" or name not in PERMUTATIONS), (label, name)


def test_transformations_do_what_they_say():
    data = noisy(200, "formula", seed=3)
    x = places(data)
    for name in TRANSFORMATIONS:
        y = places(transformed(data, name, "formula"))
        assert (y[:, :, 2] == 0).all()
        for before, after in zip(x, y, strict=True):
            np.testing.assert_allclose(np.sort(pdist(after)), np.sort(pdist(before)))
        assert np.allclose(y, x) == (name == "as they are")
    turned = places(transformed(data, "rotated by pi/2", "formula"))
    np.testing.assert_allclose(turned[..., 0], -x[..., 1])
    np.testing.assert_allclose(turned[..., 1], x[..., 0])
    permuted = places(transformed(data, "permuted", "formula"))
    np.testing.assert_array_equal(permuted, x[:, [3, 0, 1, 2]])
    first = places(transformed(data, "permuted at random", "formula"))[:, 0]
    of = np.argmin(np.linalg.norm(x - first[:, None], axis=2), axis=1)
    assert (np.bincount(of, minlength=4) > 25).all()


@pytest.mark.parametrize(
    ("feature", "changed_by"),
    [
        ("positions", {*ROTATIONS, "translated", *PERMUTATIONS}),
        ("distances", set(PERMUTATIONS)),
        ("sorted distances", set()),
        ("AEVs", set()),
    ],
)
def test_which_transformations_features_and_networks_see(feature, changed_by):
    """Untrained networks, the truth being geometry: see also the largest change of a feature."""
    data = noisy(30, "formula", seed=4)
    model = create(feature, seed=0)
    before = evaluation(model, data).predicted
    for name in TRANSFORMATIONS:
        after = evaluation(model, transformed(data, name, "formula")).predicted
        changed = np.abs(after - before).max() / np.abs(before).mean()
        assert (changed > 1e-2) if name in changed_by else (changed < 1e-4), (name, changed)


def test_networks_on_features_of_molecules_are_plain_perceptrons():
    data = noisy(10, "formula", seed=5)
    model = create("distances", seed=1)
    x = torch.tensor(np.array([pdist(m) for m in places(data)]), dtype=torch.float32)
    layers = model.networks["C"].layers
    assert [layer.out_features for layer in layers] == [32, 64, 64, 32, 1]
    for layer in layers[:-1]:
        x = torch.nn.functional.gelu(layer(x))
    expected = 4 * layers[-1](x).squeeze(1)
    np.testing.assert_allclose(
        evaluation(model, data).predicted, expected.detach().numpy(), rtol=1e-5
    )
    of = create("AEVs", seed=1).aev.settings
    assert of == AEVSettings.cover("C", 6.0, 6.0, 16, 4, 4, radial_start=0.8)


def test_no_test_molecule_is_trained_on_in_any_guise():
    training, validation, test = divided(100, "formula", seed=0)
    assert (len(training), len(validation), len(test)) == (75, 5, 20)

    def known(data):
        return {tuple(np.sort(pdist(x)).round(9)) for x in places(data)}

    for name in AUGMENTATIONS.values():
        more = augmented(training, name, "formula")
        assert len(more) == len(training) * (1 if name is None else 2)
        assert known(more) == known(training)
        assert not known(more) & known(test)
        assert not known(augmented(validation, name, "formula")) & known(test)


def test_numbers_of_copies():
    digits = str(math.factorial(1024))
    expected = len(digits) - 1 + math.log10(float(f"{digits[0]}.{digits[1:15]}"))
    assert symmetry.log10_factorial(1024) == pytest.approx(expected)
    # As many cubes of one radian as fill the space of rotations, of volume 8 pi^2.
    assert symmetry.orientations(math.degrees(1.0)) == pytest.approx(78.957, abs=1e-3)
    assert symmetry.orientations(1.0) == pytest.approx(8 * symmetry.orientations(2.0))


def test_distances_learn_rotations_for_nothing_and_permutations_not():
    training, validation, test = divided(150, "formula", seed=0)
    model = create("distances", seed=0)
    train(model, training, validation, 250, threads=1)
    mse = {t: evaluation(model, transformed(test, t, "formula")).energy.rmse ** 2
           for t in TRANSFORMATIONS}  # fmt: skip
    assert mse["as they are"] < 0.3 * test.energies.var()
    for name in (*ROTATIONS, "translated"):
        assert mse[name] == pytest.approx(mse["as they are"], rel=1e-3)
    assert mse["permuted"] > 50 * mse["as they are"]


@pytest.mark.parametrize("wrong", [{"molecules": 20}, {"updates": 0}, {"seeds": 0}])
def test_numbers_that_make_no_study_are_refused_before_any_work(tmp_path, wrong):
    with pytest.raises(SettingsError, match="molecules"):
        symmetry.run(tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_the_study_shows_what_it_says(tmp_path, capsys):
    folder = tmp_path / "study"
    result = symmetry.run(folder, molecules=300, updates=400, seeds=1, threads=1)
    mse = {
        (r["features"], r["augmentation"], r["label"]): {t: v[0] for t, v in r["mse"].items()}
        for r in result["runs"]
    }
    plain = {f: mse[f, "none", "formula"] for f in FEATURES}
    assert all(by["as they are"] < 2e-3 for by in plain.values())
    mean = 0.0134  # of always predicting the mean
    assert all(plain["positions"][t] > mean for t in [*ROTATIONS, "translated", *PERMUTATIONS])
    assert all(plain["distances"][t] > 0.05 for t in PERMUTATIONS)
    for feature in ("sorted distances", "AEVs"):
        for t in TRANSFORMATIONS:
            assert plain[feature][t] == pytest.approx(plain[feature]["as they are"], rel=0.01)
    # Augmentation teaches what it shows.
    turned = mse["positions", "rotated by pi/2", "formula"]
    assert turned["rotated by pi/2"] < 0.02 < 0.1 < turned["rotated at random"]
    permuted = mse["distances", "permuted", "formula"]
    assert permuted["permuted"] < 0.01 < 0.03 < permuted["permuted at random"]
    # Of the loop's labels, features without numbering miss what numbering decides.
    change = result["labels"]["loop"]["change_by_permutation"]
    assert result["labels"]["formula"]["change_by_permutation"] < 1e-20
    aevs = mse["AEVs", "none", "loop"]
    assert 0.6 * change < aevs["permuted"] < 1.5 * change
    assert aevs["as they are"] > 10 * mse["distances", "none", "loop"]["as they are"]
    report = (folder / "report.md").read_text()
    assert "What one learns" in report
    assert "10^2640" in report
    for name in ("positions", "energies", "losses", "parity-AEVs", "all-errors"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    assert json.loads((folder / "result.json").read_text())["study"] == "symmetry"
