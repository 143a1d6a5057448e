"""The parity plot of forces: its numbers, and what it does with a few atoms that nearly touch."""

import re

import numpy as np

from anipot.evaluation.vector_errors import VectorErrors
from anipot.report.figures.forces import MAX_POINTS, force_parity


def forces(n: int, outlier: float = 0.0) -> VectorErrors:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(n, 3))
    reference[0, 0] += outlier
    return VectorErrors(reference, reference + rng.normal(scale=0.1, size=(n, 3)))


def test_the_numbers_in_the_title():
    given = forces(200)
    (axes,) = force_parity(given, 627.5, "kcal/mol/angstrom", "test set").axes
    title = axes.get_title(loc="left")
    mae = 627.5 * np.abs(given.predicted - given.reference).mean()
    assert float(re.search(r"MAE ([\d.]+)", title)[1]) == np.round(mae, 1)
    assert "N = 600" in title
    assert title.startswith("Test set\n")
    assert "kcal/mol/Å" in axes.get_xlabel()


def test_an_outlier_is_counted_and_does_not_shrink_the_rest():
    for n in (500, MAX_POINTS):
        axes = force_parity(forces(n, outlier=1e4), 1.0, "eV/angstrom").axes[0]
        low, high = axes.get_xlim()
        assert high == -low < 10
        title = axes.get_title(loc="left")
        assert "outside, up to 1e+04" in title


def test_no_force_at_all_has_axes_too():
    zero = VectorErrors(np.zeros((4, 3)), np.zeros((4, 3)))
    low, high = force_parity(zero, 1.0, "eV/angstrom").axes[0].get_xlim()
    assert low < high
