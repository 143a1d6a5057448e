import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from anipot.data import splits
from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError

FRACTIONS = st.sampled_from(
    [(0.8, 0.1, 0.1), (0.5, 0.5), (0.7, 0.2), (0.6, None), (0.34, 0.33, 0.33)]
)
SEEDS = st.integers(0, 2**31)


def disjoint(parts, total):
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert ((together >= 0) & (together < total)).all()
    return together


@given(st.integers(10, 500), FRACTIONS, SEEDS)
def test_by_conformer_is_disjoint_sized_and_reproducible(total, fractions, seed):
    parts = splits.by_conformer(total, fractions, seed)
    together = disjoint(parts, total)
    for fraction, part in zip(fractions, parts, strict=True):
        assert len(part) >= 1
        if fraction is not None:
            assert abs(len(part) - fraction * total) <= len(fractions)
    if None in fractions or abs(sum(fractions) - 1) < 1e-9:
        assert len(together) == total
    for a, b in zip(parts, splits.by_conformer(total, fractions, seed), strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.lists(st.integers(0, 15), min_size=20, max_size=300), FRACTIONS, SEEDS)
def test_by_group_never_divides_a_group(groups, fractions, seed):
    group = np.array(groups)
    assume(len(np.unique(group)) >= 4)
    parts = splits.by_group(group, fractions, seed)
    together = disjoint(parts, len(group))
    sides = [set(group[part].tolist()) for part in parts]
    for i, a in enumerate(sides):
        assert a
        for b in sides[i + 1 :]:
            assert not a & b
    if None in fractions or abs(sum(fractions) - 1) < 1e-9:
        assert len(together) == len(group)
    for a, b in zip(parts, splits.by_group(group, fractions, seed), strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.integers(2, 60), st.integers(2, 10), SEEDS)
def test_folds_hold_out_every_conformer_once_and_are_even(total, k, seed):
    assume(k <= total)
    pairs = list(splits.folds(total, k, seed))
    held = np.concatenate([b for _, b in pairs])
    np.testing.assert_array_equal(np.sort(held), np.arange(total))
    sizes = [len(b) for _, b in pairs]
    assert max(sizes) - min(sizes) <= 1
    for train, out in pairs:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, out])), np.arange(total))


@given(st.integers(3, 8), SEEDS)
def test_folds_by_group(k, seed):
    group = np.repeat(np.arange(10), np.arange(1, 11))
    pairs = list(splits.folds(len(group), k, seed, group))
    held = np.concatenate([b for _, b in pairs])
    np.testing.assert_array_equal(np.sort(held), np.arange(len(group)))
    for train, out in pairs:
        assert len(out)
        assert not set(group[train]) & set(group[out])


def test_seeds_differ():
    a, _ = splits.by_conformer(1000, (0.5, 0.5), 0)
    b, _ = splits.by_conformer(1000, (0.5, 0.5), 1)
    assert not np.array_equal(a, b)


def test_numpy_fractions_are_fractions():
    assert splits.part_sizes(10, [np.float32(0.5), np.float64(0.5)]) == [5, 5]


@pytest.mark.parametrize(
    ("total", "parts", "error"),
    [(10, (), SettingsError), (10, (0.8, 0.4), SettingsError), (10, (-0.1,), SettingsError),
     (10, (None, None), SettingsError), (10, (-1,), SettingsError), (10, (float("nan"),),
     SettingsError), (10, (8, 3), DataError), (2, (0.8, 0.1, 0.1), DataError), (1, (0.8, 0.2),
     DataError),
     (10, (11, None), DataError)],
)  # fmt: skip
def test_impossible_parts(total, parts, error):
    with pytest.raises(error):
        splits.by_conformer(total, parts, 0)


def test_too_few_molecules_says_what_to_do():
    with pytest.raises(DataError, match=r"1 molecule.*split by conformer"):
        splits.by_group(np.zeros(100, dtype=int), (0.8, 0.2), 0)
    with pytest.raises(SettingsError, match="1 folds"):
        list(splits.folds(10, 1, 0))


# ---- on data ---------------------------------------------------------------------------------


def water_and_methane():
    """40 waters and 60 methanes of two groups each."""
    numbers = np.concatenate([np.tile([8, 1, 1], 40), np.tile([6, 1, 1, 1, 1], 60)])
    counts = np.repeat([3, 5], [40, 60])
    return Conformers(
        numbers,
        np.zeros((len(numbers), 3)),
        np.concatenate([[0], np.cumsum(counts)]),
        energies=np.arange(100.0),
        molecule=np.concatenate([np.arange(40) % 2, 2 + np.arange(60) % 2]),
        molecule_names=("w/a", "w/b", "m/a2", "m/b2"),
    )


def test_an_element_missing_in_training_is_an_error():
    data = water_and_methane()
    with pytest.raises(DataError, match="no training conformer contains O"):
        data.split_molecules(["w/a", "w/b"])
    with pytest.raises(DataError, match=r"no training conformer contains (O|C)"):
        data.split(0.5, 0.5, by="formula")


def test_split_by_a_list_of_molecules():
    data = water_and_methane()
    train, val, test = data.split_molecules(["b2"], ["w/b"])
    assert {data.molecule_names[i] for i in data.molecule[train]} == {"w/a", "m/a2"}
    assert set(data.molecule[val]) == {3}
    assert set(data.molecule[test]) == {1}
    assert len(train) + len(val) + len(test) == 100
    with pytest.raises(DataError, match="two lists"):
        data.split_molecules(["w/a"], ["w/b", "w/a"])
    with pytest.raises(DataError, match="nothing is left to train on"):
        data.split_molecules(["w/a", "w/b", "m/a2", "m/b2"])
    with pytest.raises(DataError, match=r"'w/A' is not in the data; did you mean"):
        data.split_molecules(["w/A"])


def test_unknown_way_to_split():
    with pytest.raises(SettingsError, match="conformer, molecule, formula"):
        water_and_methane().split(0.5, 0.5, by="smiles")


def test_split_by_molecule_of_data():
    numbers = np.tile([8, 1, 1], 80)
    data = Conformers(numbers, np.zeros((240, 3)), np.arange(0, 241, 3), molecule=np.arange(80) % 8)
    for seed in range(5):
        train, test = data.split(0.5, 0.5, by="molecule", seed=seed)
        assert not set(train.molecule) & set(test.molecule)
        assert len(train) == len(test) == 40


def test_one_large_molecule_does_not_fill_a_small_part():
    group = np.repeat([0, 1, 2], [5000, 10, 10])
    for seed in range(20):
        parts = splits.by_group(group, (0.8, 0.1, 0.1), seed)
        assert [len(p) for p in parts] == [5000, 10, 10]


def test_by_group_takes_time_proportional_to_the_groups():
    def seconds(groups):
        start = time.process_time()
        splits.by_group(np.arange(groups), (0.8, 0.1, 0.1), 0)
        return time.process_time() - start

    assert seconds(400_000) < 25 * min(seconds(50_000) for _ in range(3))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((80, 10, 10), "write 0.8, 0.1, 0.1 for fractions"),
        ((np.int64(50), 50), "write 0.5, 0.5 for fractions"),
        ((1, 0, 0), "write 1, 0, 0 for fractions"),
        ((0, 0), "look like a mistake"),
    ],
)
def test_whole_numbers_that_are_meant_as_shares(parts, said):
    with pytest.raises(SettingsError, match=said):
        splits.by_conformer(1080, parts, 0)
    # The way out that the message names, and sets of which they are all.
    sizes = [len(p) for p in splits.by_conformer(1080, (*parts, None), 0)]
    assert sizes == [*parts, 1080 - sum(parts)]
    if sum(parts) > 0:
        assert [len(p) for p in splits.by_conformer(sum(parts), parts, 0)] == list(parts)


def test_counts_stay_counts():
    for parts in ((800, 100, 100), (79, 10, 10), (100,), (1, None), (2, 1)):
        sizes = [len(p) for p in splits.by_conformer(1080, parts, 0)]
        assert [s for s, p in zip(sizes, parts, strict=True) if p is not None] == [
            p for p in parts if p is not None
        ]


def test_lists_do_not_name_molecules_without_conformers():
    data = water_and_methane()
    left = data.select(molecules=["w/a", "m/a2", "m/b2"])  # the names stay, the conformers went
    with pytest.raises(DataError, match=r"no conformer of 'w/b' is left in this data"):
        left.split_molecules(["b2"], ["w/b"])
