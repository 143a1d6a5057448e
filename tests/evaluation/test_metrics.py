"""Error statistics against numbers worked out by hand, and their invariances."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anipot.data import views as views_module
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.views import ConformersView
from anipot.errors import DataError
from anipot.evaluation import metrics as metrics_module
from anipot.evaluation.error_stats import ErrorStats
from anipot.evaluation.metrics import Evaluation
from anipot.units import HARTREE_TO_KCALMOL

KCAL = 1.0 / HARTREE_TO_KCALMOL
WATER, METHANE, HELIUM_HYDRIDE = [8, 1, 1], [6, 1, 1, 1, 1], [2, 1]


def conformers(
    molecules: list[list[int]],
    energies: list[float] | None,
    groups: list[int] | None = None,
    names: tuple[str, ...] = (),
    **more: object,
) -> Conformers:
    numbers = np.concatenate([np.array(m) for m in molecules])
    return Conformers(
        atomic_numbers=numbers,
        coordinates=np.arange(3.0 * len(numbers)).reshape(-1, 3),
        offsets=np.cumsum([0, *map(len, molecules)]),
        energies=None if energies is None else np.array(energies),
        molecule=None if groups is None else np.array(groups),
        molecule_names=names,
        **more,
    )


@pytest.fixture
def evaluation() -> Evaluation:
    """3 waters and 2 methanes, self energies -76 and -40; errors +1, -2, +3 and 0, +4 kcal/mol."""
    data = conformers(
        [WATER, WATER, METHANE, WATER, METHANE],
        [-76 + 10 * KCAL, -76 + 20 * KCAL, -40 + 5 * KCAL, -76 + 30 * KCAL, -40 + 15 * KCAL],
        [0, 0, 1, 0, 1],
        ("set/O", "set/C"),
    )
    assert data.energies is not None
    predicted = data.energies + KCAL * np.array([1.0, -2.0, 0.0, 3.0, 4.0])
    return Evaluation.of(data, predicted, np.array([-76.0, -76.0, -40.0, -76.0, -40.0]))


def test_stats_by_hand() -> None:
    stats = ErrorStats.of(np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 1.0, 6.0]))
    # errors 1, 0, -2, 0; deviations from the mean 3: -2, -1, 0, 3
    assert stats.n == 4
    assert stats.mae == 0.75
    assert stats.rmse == math.sqrt(5 / 4)
    assert stats.max == 2.0
    assert stats.r2 == pytest.approx(1 - 5 / 14)


def test_r2_is_negative_for_what_is_worse_than_the_mean() -> None:
    stats = ErrorStats.of(np.array([0.0, 2.0]), np.array([4.0, -2.0]))
    assert stats.r2 == pytest.approx(1 - 32 / 2)


@pytest.mark.parametrize("reference", [[5.0], [0.1 + 0.2, 0.3, 0.3], [-76.0, -76.0]])
def test_r2_of_references_without_variance_is_nan(reference: list[float]) -> None:
    stats = ErrorStats.of(np.array(reference), np.array(reference) + 0.5)
    assert math.isnan(stats.r2)
    assert stats.mae == pytest.approx(0.5)
    assert stats.to_dict()["r2"] is None
    assert stats.to_dict()["n"] == len(reference)


@pytest.mark.parametrize(
    ("reference", "predicted", "words"),
    [
        ([], [], "no conformer"),
        ([1.0, 2.0], [1.0], "shape"),
        ([1.0, 2.0], [[1.0], [2.0]], "shape"),  # would broadcast to 2 x 2 errors
        ([1.0, math.nan], [1.0, 2.0], "reference value 1 is not finite"),
        ([1.0, 2.0], [math.inf, 2.0], "predicted value 0 is not finite"),
    ],
)
def test_stats_refuse(reference: list, predicted: list, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ErrorStats.of(np.array(reference), np.array(predicted))


# To a digit that means something: squares of less than 1e-154 underflow.
energies = st.floats(-1e3, 1e3).map(lambda x: round(x, 12))


@given(st.lists(st.tuples(energies, energies), min_size=1, max_size=30), energies)
def test_stats_order_each_other_and_ignore_a_common_shift(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    reference, predicted = np.array(pairs).T
    stats = ErrorStats.of(reference, predicted)
    assert stats.mae <= stats.rmse * (1 + 1e-12)
    assert stats.rmse <= stats.max * (1 + 1e-12)
    assert math.isnan(stats.r2) or stats.r2 <= 1
    moved = ErrorStats.of(reference + shift, predicted + shift)
    assert moved.rmse == pytest.approx(stats.rmse, abs=1e-9)
    back = ErrorStats.of(reference[::-1], predicted[::-1])
    assert back.mae == pytest.approx(stats.mae)


def test_errors_have_a_sign_and_are_in_kcalmol(evaluation: Evaluation) -> None:
    np.testing.assert_allclose(evaluation.errors, [1, -2, 0, 3, 4], atol=1e-10)


def test_energy(evaluation: Evaluation) -> None:
    stats = evaluation.energy
    assert stats.n == 5
    assert stats.mae == pytest.approx(2.0)
    assert stats.rmse == pytest.approx(math.sqrt(30 / 5))
    assert stats.max == pytest.approx(4.0)
    # Above the self energies the reference is 10, 20, 5, 30, 15: mean 16, squares 370.
    assert stats.r2 == pytest.approx(1 - 30 / 370)


def test_r2_does_not_hide_in_the_self_energies(evaluation: Evaluation) -> None:
    total = ErrorStats.of(evaluation.reference, evaluation.predicted)
    assert total.r2 > 0.99999
    assert evaluation.energy.r2 < 0.93


def test_per_atom(evaluation: Evaluation) -> None:
    stats = evaluation.per_atom
    assert stats.mae == pytest.approx((1 / 3 + 2 / 3 + 0 + 3 / 3 + 4 / 5) / 5)
    assert stats.max == pytest.approx(1.0)


def test_relative_energies_are_about_the_mean_of_the_molecule(evaluation: Evaluation) -> None:
    stats = evaluation.relative
    assert stats is not None
    # Water's errors 1, -2, 3 about their mean 2/3; methane's 0, 4 about 2.
    expected = np.array([1 / 3, -8 / 3, 7 / 3, -2, 2])
    assert stats.n == 5
    assert stats.mae == pytest.approx(np.abs(expected).mean())
    assert stats.rmse == pytest.approx(math.sqrt((expected**2).mean()))
    # The reference about its means: -10, 0, 10 and -5, 5.
    assert stats.r2 == pytest.approx(1 - (expected**2).sum() / 250)


def test_a_constant_error_of_each_molecule_leaves_relative_energies_exact() -> None:
    data = conformers(
        [WATER, WATER, METHANE, METHANE], [1.0, 1.5, 2.0, 2.25], [0, 0, 1, 1], ("a", "b")
    )
    assert data.energies is not None
    found = Evaluation.of(data, data.energies + np.array([0.5, 0.5, -1.0, -1.0]), np.zeros(4))
    assert found.energy.mae == pytest.approx(0.75 * HARTREE_TO_KCALMOL)
    assert found.relative is not None
    assert found.relative.max == pytest.approx(0.0, abs=1e-9)


def test_relative_energies_leave_out_molecules_with_one_conformer() -> None:
    data = conformers([WATER, WATER, METHANE], [1.0, 2.0, 5.0], [0, 0, 1], ("O", "C"))
    found = Evaluation.of(data, np.array([1.0, 2.0, 99.0]), np.zeros(3))
    assert found.relative is not None
    assert found.relative.n == 2
    assert found.relative.max == 0.0


def test_relative_energies_do_not_mix_formulas_of_one_group() -> None:
    data = conformers([WATER, METHANE], [1.0, 2.0], [0, 0], ("everything",))
    found = Evaluation.of(data, np.array([1.0, 3.0]), np.zeros(2))
    assert found.relative is None
    assert "no molecule has two conformers" in found.summary()
    assert found.to_dict()["relative"] is None


def test_all_equal_energies() -> None:
    data = conformers([WATER] * 3, [-76.3] * 3, [0] * 3, ("O",))
    found = Evaluation.of(data, np.array([-76.3, -76.2, -76.3]), np.full(3, -75.7))
    assert math.isnan(found.energy.r2)
    assert found.relative is not None
    assert math.isnan(found.relative.r2)
    assert found.to_dict()["energy"]["r2"] is None


def test_one_conformer() -> None:
    data = conformers([HELIUM_HYDRIDE], [-3.0], [0], ("[HeH+]",))
    found = Evaluation.of(data, np.array([-3.0 - 2 * KCAL]), np.array([-2.0]))
    assert found.energy.mae == pytest.approx(2.0)
    assert found.relative is None
    assert found.summary("test").startswith("test: 1 conformer of 1 molecule\n")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["energy"]["r2"] is None


def test_conformers_without_a_label_are_left_out_and_numbers_stay_those_of_the_data() -> None:
    data = conformers(
        [WATER, METHANE, WATER],
        [1.0, math.nan, 2.0],
        [0, 1, 0],
        ("O", "C"),
        masks={"energies": np.array([True, False, True])},
    )
    predicted = np.array([1.0, math.nan, 2.0 + KCAL])
    found = Evaluation.of(data, predicted, np.zeros(3))
    assert len(found) == 2
    assert found.energy.max == pytest.approx(1.0)
    assert found.worst(1).tolist() == [2]
    assert [label for label, _ in found.by_molecule()] == ["O"]
    assert found.summary().startswith("2 conformers of 1 molecule\n")


def test_no_label_at_all() -> None:
    unlabelled = conformers([WATER], None, [0], ("O",))
    masked = conformers([WATER], [math.nan], [0], ("O",), masks={"energies": np.array([False])})
    for data in (unlabelled, masked):
        with pytest.raises(DataError, match="reference energy"):
            Evaluation.of(data, np.zeros(1), np.zeros(1))


def test_a_prediction_that_is_not_finite_is_named() -> None:
    data = conformers([WATER, METHANE], [1.0, 2.0], [0, 1], ("O", "C"))
    with pytest.raises(DataError, match=r"predicted of conformer 1 \(CH4, molecule 'C'\)"):
        Evaluation.of(data, np.array([1.0, math.nan]), np.zeros(2))
    with pytest.raises(DataError, match=r"predicted has shape \(1,\)"):
        Evaluation.of(data, np.array([1.0]), np.zeros(2))


def test_groups(evaluation: Evaluation) -> None:
    by_heavy = dict(evaluation.by_heavy_atoms())
    assert list(by_heavy) == ["1"]
    assert by_heavy["1"] == evaluation.energy
    by_formula = dict(evaluation.by_formula())
    assert list(by_formula) == ["H2O", "CH4"]  # fewest atoms first
    assert by_formula["H2O"].n == 3
    assert by_formula["H2O"].mae == pytest.approx(2.0)
    assert by_formula["CH4"].rmse == pytest.approx(math.sqrt(8))
    by_molecule = evaluation.by_molecule()
    assert [label for label, _ in by_molecule] == ["set/O", "set/C"]
    assert by_molecule[1][1] == by_formula["CH4"]


@given(st.lists(st.tuples(st.integers(0, 4), energies, energies), min_size=1, max_size=40))
def test_groups_together_are_the_whole(values: list[tuple[int, float, float]]) -> None:
    chain = [[6] + [1] * k for k in range(5)]
    data = conformers(
        [chain[k] for k, _, _ in values],
        [e for _, e, _ in values],
        [k for k, _, _ in values],
        tuple("abcde"),
    )
    found = Evaluation.of(data, np.array([p for *_, p in values]), np.zeros(len(values)))
    for rows in (found.by_molecule(), found.by_formula(), found.by_heavy_atoms()):
        assert sum(s.n for _, s in rows) == found.energy.n
        total = sum(s.n * s.mae for _, s in rows)
        assert total / len(values) == pytest.approx(found.energy.mae)
        assert max(s.max for _, s in rows) == found.energy.max


def test_worst(evaluation: Evaluation) -> None:
    assert evaluation.worst(3).tolist() == [4, 3, 1]
    assert evaluation.worst(99).tolist() == [4, 3, 1, 0, 2]
    assert evaluation.worst(0).tolist() == []
    first = evaluation.to_dict(worst=1)["worst"]
    assert first == [
        {"conformer": 4, "molecule": "set/C", "formula": "CH4", "error": pytest.approx(4.0)}
    ]


def test_dict_is_json(evaluation: Evaluation) -> None:
    data = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert data["unit"] == "kcal/mol"
    assert (data["n_conformers"], data["n_groups"], data["grouped_by"]) == (5, 2, "molecule")
    assert data["energy"]["mae"] == pytest.approx(2.0)
    assert [row["label"] for row in data["by_formula"]] == ["H2O", "CH4"]
    assert data["by_molecule"][0]["n"] == 3


def test_summary_gives_each_error_with_unit_and_n(evaluation: Evaluation) -> None:
    assert str(evaluation) == evaluation.summary()
    first, energy, per_atom, relative = evaluation.summary("validation").splitlines()
    assert first == "validation: 5 conformers of 2 molecules"
    expected = "energy MAE 2.00 RMSE 2.45 max 4.00 kcal/mol R2 0.91891 N 5"
    assert energy.split() == expected.split()
    assert "kcal/mol/atom" in per_atom
    assert all(line.endswith("N 5") for line in (energy, per_atom, relative))
    assert energy.index("R2") == per_atom.index("R2") == relative.index("R2")


def test_r2_is_shown_as_1_only_when_it_is() -> None:
    data = conformers([WATER, WATER], [0.0, 1.0], [0, 0], ("O",))
    almost = Evaluation.of(data, np.array([0.0, 1.001]), np.zeros(2))
    assert 0.999995 < almost.energy.r2 < 1
    assert "R2 0.99999" in almost.summary()
    assert "R2 1.00000" in Evaluation.of(data, np.array([0.0, 1.0]), np.zeros(2)).summary()


def test_data_grouped_by_formula_says_so() -> None:
    data = conformers([WATER, METHANE], [1.0, 2.0])
    found = Evaluation.of(data, np.array([1.0, 2.0]), np.zeros(2))
    assert found.summary().startswith("2 conformers of 2 formulas\n")


def test_table_is_aligned(evaluation: Evaluation) -> None:
    title, head, water, methane = evaluation.table(
        evaluation.by_formula(), "By composition"
    ).splitlines()
    assert title == "By composition (kcal/mol)"
    assert head.split() == ["N", "MAE", "RMSE", "max", "R2"]
    # Water: errors 1, -2, 3; reference 10, 20, 30 has squared deviations of 200.
    assert water.split() == ["H2O", "3", "2.000", "2.160", "3.000", "0.93000"]
    assert methane.split()[:5] == ["CH4", "2", "2.000", "2.828", "4.000"]
    assert len(head) == len(water) == len(methane)


def test_the_same_of_a_store_as_of_memory(tmp_path, monkeypatch) -> None:
    """Piece by piece, with conformers without an energy among them."""
    rng = np.random.default_rng(0)
    molecules = [[WATER, METHANE, HELIUM_HYDRIDE][k] for k in rng.integers(0, 3, 200)]
    groups = [int(g) for g in rng.integers(0, 4, 200)]
    has = rng.random(200) > 0.2
    energies = np.where(has, rng.normal(size=200), np.nan)
    data = conformers(molecules, list(energies), groups, tuple("abcd"), masks={"energies": has})
    data.save(tmp_path / "data.npz")
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)
    monkeypatch.setattr(metrics_module, "ROWS", 7)
    store = load_dataset(pack([tmp_path / "data.npz"], tmp_path / "store", progress=False))
    predicted, sae = energies + rng.normal(size=200), rng.normal(size=200)
    index = rng.permutation(200)[:150]
    a = Evaluation.of(data.take(index), predicted[index], sae[index])
    b = Evaluation.of(store.take(index), predicted[index], sae[index])
    assert isinstance(store.take(index), ConformersView)
    assert a.to_dict() == b.to_dict()
    # Relative errors, from their definition.
    keys = [f"{m} {f}" for m, f in zip(a.molecule, a.formula, strict=True)]
    errors = {k: a.errors[[key == k for key in keys]] for k in set(keys)}
    centred = np.concatenate([e - e.mean() for e in errors.values() if len(e) > 1])
    assert a.relative is not None
    assert a.relative.mae == pytest.approx(np.abs(centred).mean(), rel=1e-9)
    assert a.relative.n == len(centred)
