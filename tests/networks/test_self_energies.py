"""Self energies: least squares in float64, what they say when they are not unique."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st

from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.data.published.bundled import load_bundled
from anipot.elements import numbers_of
from anipot.errors import DataError
from anipot.networks.self_energies import SelfEnergies

EXACT = np.array([-0.60095298, -38.08316124, -54.7077577, -75.19446356])


def made_of(*formulas: str, energies=None) -> Conformers:
    """Conformers from strings of one-letter symbols; coordinates do not matter here."""
    n = [len(f) for f in formulas]
    return Conformers(
        numbers_of("".join(formulas)),
        np.arange(3.0 * sum(n)).reshape(-1, 3),
        np.concatenate([[0], np.cumsum(n)]),
        energies=energies,
    )


def with_energies(data: Conformers, energies: np.ndarray, **more) -> Conformers:
    return dataclasses.replace(data, energies=energies, **more)


def test_exact_values_are_found_to_the_last_digits():
    data = random_conformers(np.random.default_rng(0), [3, 5, 9, 2, 12, 7, 4, 30], "HCNO")
    data = with_energies(data, data.composition("HCNO") @ EXACT)
    fit = SelfEnergies.fit(data, "HCNO")
    np.testing.assert_allclose(fit.values, EXACT, rtol=1e-12)
    assert fit.values.dtype == np.float64
    assert fit.note == ""
    np.testing.assert_allclose(fit.of(data), data.energies, rtol=1e-14)


def test_the_order_is_that_of_the_elements_asked_for():
    data = random_conformers(np.random.default_rng(1), [4] * 12, "HCNO")
    data = with_energies(data, data.composition("HCNO") @ EXACT)
    fit = SelfEnergies.fit(data, ["O", "H", "N", "C"])
    assert fit.elements == ("O", "H", "N", "C")
    np.testing.assert_allclose(fit.values, EXACT[[3, 0, 2, 1]], rtol=1e-11)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), elements=st.sampled_from(["HC", "HCNO"]))
def test_the_fit_is_that_of_all_rows(seed, n, elements):
    """Grouping equal compositions changes neither the answer nor, if deficient, its norm."""
    rng = np.random.default_rng(seed)
    data = random_conformers(rng, rng.integers(1, 5, size=n), elements)
    counts = data.composition(elements).astype(float)
    data = with_energies(data, counts @ EXACT[: len(elements)] + rng.normal(scale=0.05, size=n))
    expected, _, rank, _ = np.linalg.lstsq(counts, data.energies, rcond=None)
    fit = SelfEnergies.fit(data, elements)
    np.testing.assert_allclose(fit.values, expected, rtol=1e-8, atol=1e-9)
    assert ("smallest norm" in fit.note) == (rank < (counts.sum(axis=0) > 0).sum())


def test_real_data_in_float64():
    data = load_bundled()
    expected = np.linalg.lstsq(data.composition("HCNO").astype(float), data.energies, rcond=None)[0]
    np.testing.assert_allclose(SelfEnergies.fit(data, "HCNO").values, expected, rtol=1e-10)


def test_three_molecules_of_four_elements():
    """Methane, ammonia and water: H, C, N, O from three equations."""
    data = made_of("CHHHH", "NHHH", "OHH", energies=[-40.5, -56.5, -76.4])
    fit = SelfEnergies.fit(data, "HCNO")
    a = np.array([[4, 1, 0, 0], [3, 0, 1, 0], [2, 0, 0, 1.0]])
    np.testing.assert_allclose(fit.values, np.linalg.pinv(a) @ data.energies, rtol=1e-12)
    np.testing.assert_allclose(fit.of(data), data.energies, rtol=1e-13)
    assert "3 distinct compositions, of which 3 are independent, for 4 elements" in fit.note
    assert "smallest norm" in fit.note
    assert fit.note in fit.table()
    one = SelfEnergies.fit(made_of("OHH", energies=[-76.4]), "HO")
    assert "1 distinct composition, of which 1 is independent, for 2 elements" in one.note
    np.testing.assert_allclose(one.values, [-76.4 * 2 / 5, -76.4 / 5])


def test_an_absent_element_is_zero_and_told():
    data = made_of("CHHHH", "CCHHHHHH", energies=[-40.5, -79.8])
    fit = SelfEnergies.fit(data, "HCNO")
    assert fit.values[2] == fit.values[3] == 0
    assert "Not in the training data, and therefore 0: N, O." in fit.note
    assert "smallest norm" not in fit.note
    np.testing.assert_allclose(fit.of(data), data.energies, rtol=1e-13)


def test_an_element_without_a_self_energy_is_an_error_and_not_free():
    data = made_of("CHHHH", "OHH", energies=[-40.5, -76.4])
    with pytest.raises(DataError, match=r"conformer 1 \(H2O.*self energies of H, C"):
        SelfEnergies.fit(data, "HC")
    with pytest.raises(DataError, match=r"conformer 1 \(H2O"):
        SelfEnergies(("H", "C"), np.array([-0.5, -38.0])).of(data)


def test_unlabelled_conformers_are_left_out():
    data = made_of("CHHHH", "NHHH", "CCHHHHHH", energies=[-40.5, np.nan, -79.8])
    masked = dataclasses.replace(data, masks={"energies": np.array([True, False, True])})
    fit = SelfEnergies.fit(masked, "HC" + "N")
    np.testing.assert_allclose(fit.of(data.take([0, 2])), [-40.5, -79.8], rtol=1e-13)
    with pytest.raises(DataError, match="not finite"):
        SelfEnergies.fit(data, "HCN")
    with pytest.raises(DataError, match="no conformer has an energy"):
        SelfEnergies.fit(dataclasses.replace(data, energies=None), "HCN")
    nothing = dataclasses.replace(masked, masks={"energies": np.zeros(3, dtype=bool)})
    with pytest.raises(DataError, match="no conformer has an energy"):
        SelfEnergies.fit(nothing, "HCN")


def test_values_must_be_one_finite_number_an_element():
    for values in ([1.0], [1.0, np.nan], [[1.0, 2.0]]):
        with pytest.raises(DataError, match="one finite number for each of H, C"):
            SelfEnergies(("H", "C"), np.array(values))


def test_of_a_batch_is_of_the_conformers():
    data = random_conformers(np.random.default_rng(2), [3, 1, 7, 5], "HCNO")
    energies = SelfEnergies(("H", "C", "N", "O"), EXACT)
    batch = Batch.of(data, energies.elements, torch.float32)
    found = energies.of_batch(batch)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), data.composition("HCNO") @ EXACT, rtol=1e-15)


def test_the_table_is_readable():
    lines = SelfEnergies(("H", "Cl"), np.array([-0.6, -460.1681939421027])).table().splitlines()
    assert lines[0] == "element   self energy / hartree"
    assert lines[1].split() == ["H", "-0.60000000"]
    assert lines[2].split() == ["Cl", "-460.16819394"]
    assert len({len(line) for line in lines}) == 1
    assert not SelfEnergies.zero("HCl").values.any()
    assert SelfEnergies.zero("HCl").elements == ("H", "Cl")
