"""Means, spreads, Welch's test, and what a setting does by itself."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anipot.config import RunSettings
from anipot.evaluation.history import EpochRecord, History
from anipot.experiments.table.comparison import compare, effects, verdict, welch
from anipot.experiments.table.figures import pareto
from anipot.experiments.table.pages import effect_lines
from anipot.experiments.table.table import Claim, IterationRow, IterationTable, SeedResult, Spread


def history(errors: list[float]) -> History:
    best, epochs = np.inf, []
    for k, error in enumerate(errors):
        epochs.append(
            EpochRecord(
                k + 1, 10 * (k + 1), 1e-3, 2 * error, error, error, error, 1.0, error < best
            )
        )
        best = min(best, error)
    return History(epochs, "finished")


def row(name, changes, maes, status="finished", test_set="t") -> IterationRow:
    runs = tuple(
        SeedResult(k, Path(f"s{k}"), status, "", history([2 * m, m]), {"mae": m}, {"mae": m})
        for k, m in enumerate(maes)
    )
    return IterationRow(name, changes, {}, runs, test_set=test_set)


def table(*rows: IterationRow) -> IterationTable:
    base = RunSettings().model_dump(include={"data", "model", "training"})
    return IterationTable(Path("t"), "t", rows, (0, 1, 2), base)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4)])
def test_welch_is_that_of_scipy_on_the_numbers_themselves(n, m):
    rng = np.random.default_rng(n)
    a, b = rng.normal(1.0, 0.1, n), rng.normal(1.2, 0.4, m)
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert welch(Spread.of(a), Spread.of(b)) == pytest.approx(expected, rel=1e-10)


def test_a_difference_and_whether_seeds_explain_it():
    low = row("low", {}, [1.00, 1.01, 0.99])
    high = row("high", {"model.dropout": 0.1}, [2.00, 2.02, 1.98])
    close = row("close", {"model.dropout": 0.2}, [1.005, 1.03, 0.98])
    assert compare(high, low).exceeds is True
    assert compare(high, low).difference == pytest.approx(1.0)
    assert "1.00 kcal/mol above low; exceeds" in compare(high, low).sentence("kcal/mol")
    assert "1.00 kcal/mol below high; exceeds" in compare(low, high).sentence("kcal/mol")
    assert compare(close, low).exceeds is False
    assert "does not exceed" in compare(close, low).sentence("kcal/mol")


def test_of_one_seed_nothing_can_be_said():
    found = compare(row("a", {}, [1.0]), row("b", {"model.dropout": 0.1}, [9.0, 9.1]))
    assert found.exceeds is None
    assert "nothing can be said" in found.sentence("kcal/mol")


def test_equal_numbers_without_spread():
    same = compare(row("a", {}, [1.0, 1.0]), row("b", {}, [1.0, 1.0]))
    assert same.exceeds is False
    assert compare(row("a", {}, [1.0, 1.0]), row("b", {}, [1.1, 1.1])).exceeds is True


def test_rows_without_errors_or_with_another_test_set_are_not_compared():
    a = row("a", {}, [1.0, 1.1])
    failed = row("f", {}, [1.0, 1.1], status="diverged")
    assert "no run of f came to its end" in compare(failed, a).sentence("kcal/mol")
    other = row("o", {}, [1.0, 1.1], test_set="u")
    assert "other conformers" in compare(other, a).sentence("kcal/mol")


def test_a_setting_by_itself_is_of_rows_that_differ_in_nothing_else():
    hidden, dropout = "model.hidden", "model.dropout"
    found = effects(
        table(
            row("base", {}, [4.0, 4.1]),
            row("drop", {dropout: 0.1}, [5.0, 5.1]),
            row("wide", {hidden: [9]}, [3.0, 3.1]),
            row("wide drop", {hidden: [9], dropout: 0.1}, [3.5, 3.6]),
            row("deep L2", {hidden: [9, 9], "training.l2": 0.1}, [1.0, 1.1]),
            row("failed", {hidden: [7]}, [1.0, 1.0], status="failed"),
        )
    )
    (by_dropout,) = found[dropout]
    assert (by_dropout.before, by_dropout.after) == (0.0, 0.1)
    assert by_dropout.differences == pytest.approx([1.0, 0.5])
    (by_hidden,) = found[hidden]
    assert by_hidden.differences == pytest.approx([-1.0, -1.5])
    assert [(p.row.name, p.other.name) for p in by_hidden.pairs] == [
        ("wide", "base"),
        ("wide drop", "drop"),
    ]
    assert found["training.l2"] == []


def test_it_is_said_where_no_pair_exists():
    lines = effect_lines(
        table(row("a", {}, [1.0]), row("b", {"training.l2": 1, "model.dropout": 0.1}, [2.0]))
    )
    assert set(lines) == {"l2", "dropout"}
    assert all("no two rows differ in it alone" in text for (text,) in lines.values())


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_pareto_front_is_what_nothing_dominates(points):
    def dominated(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    front = [points[k] for k in pareto([(float(x), float(y)) for x, y in points])]
    assert set(front) == {p for p in points if not dominated(p)}
    assert front == sorted(front)


def test_best_row_is_chosen_on_validation_and_base_changes_nothing():
    a = row("a", {"model.dropout": 0.1}, [1.0, 1.0])
    b = row("b", {}, [2.0, 2.0])
    object.__setattr__(b.runs[0], "validation", {"mae": 0.1})
    object.__setattr__(b.runs[1], "validation", {"mae": 0.1})
    found = table(a, b)
    assert found.best_row is b  # though its test error is the larger one
    assert found.base_row is b


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([10 - 0.1 * k for k in range(40)], True),  # falls to the end
        ([10.0 / (k + 1) for k in range(20)] + [0.5] * 20, False),  # flat since the middle
        ([10 - 0.1 * k for k in range(30)] + [9.0] * 10, False),  # best epoch long ago
        ([5.0] * 36 + [4.99, 4.98, 4.97, 4.96], False),  # falls by less than two per cent
        ([3.0], False),  # one epoch says nothing
    ],
)
def test_still_improving(errors, expected):
    assert SeedResult(0, Path("s"), "finished", history=history(errors)).still_improving is expected


def test_spread_is_the_sample_standard_deviation():
    spread = Spread.of([1.0, 2.0, 4.0])
    assert (spread.mean, spread.std, spread.n) == pytest.approx(
        (7 / 3, np.std([1, 2, 4], ddof=1), 3)
    )
    assert np.isnan(Spread.of([1.0]).std)
    assert Spread.of([]) is None


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        ([1.0, 1.01], [2.0, 2.01], "survives: row low is 1.00 kcal/mol below high; exceeds"),
        ([2.0, 2.01], [1.0, 1.01], "does not survive: row low is 1.00 kcal/mol above high"),
        ([1.0, 2.0], [1.1, 2.2], "is not decided by these seeds: "),
        ([1.0], [2.0], "cannot be decided: "),
    ],
)
def test_conclusions_survive_or_not(low, high, word):
    found = table(row("low", {}, low), row("high", {"model.dropout": 0.1}, high))
    said = verdict(found, Claim("low is better", "low", "high"))
    assert said.startswith(word)
    # Of two epochs each, the second halves the error.
    assert said.endswith("; low and high still improved when training ended")


def test_a_conclusion_of_rows_that_differ_in_more_than_one_option_says_so():
    more = {"model.dropout": 0.1, "model.output_dropout": True}
    found = table(row("low", {}, [1.0, 1.01]), row("high", more, [2.0, 2.01]))
    said = verdict(found, Claim("dropout does not help", "low", "high"))
    assert said.endswith("; these rows differ in dropout and output dropout at once")
