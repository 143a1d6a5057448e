"""Comparison of rows: differences held against the spread between seeds."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from typing import Any

from scipy import stats

from anipot.experiments.table.settings import value_in_words
from anipot.experiments.table.table import Claim, IterationRow, IterationTable, Spread

#: Chance with which seeds alone make a difference pass for one.
LEVEL = 0.05

RULE = (
    "Rule: a difference of mean {part} MAE exceeds the spread between seeds where Welch's t test "
    "over the seeds (two-sided, variances not taken as equal) gives p < 0.05. The spreads are "
    "sample standard deviations; seeds vary weights, order of batches and dropout, while the split "
    "stays the same. With one seed nothing can be said, and of twenty differences that are none "
    "one passes by chance."
)


@dataclass(frozen=True)
class Comparison:
    """A row against another: ``difference`` of mean MAE (row - other) and ``p`` (Welch).

    ``difference`` is None where one of them has no error, or they have different test sets; ``p``
    where one has a single seed.
    """

    row: IterationRow
    other: IterationRow
    difference: float | None
    p: float | None
    reason: str = ""

    @property
    def exceeds(self) -> bool | None:
        """Whether the difference exceeds the spread between seeds; None: nothing can be said."""
        return None if self.p is None else self.p < LEVEL

    def sentence(self, unit: str) -> str:
        """The difference, and whether seeds explain it, in words."""
        if self.difference is None:
            return self.reason
        size = number(abs(self.difference))
        amount = "equal to" if not self.difference else (
            f"{size} {unit} {'below' if self.difference < 0 else 'above'}"
        )  # fmt: skip
        head = f"{amount} {self.other.name}"
        if self.p is None:
            return f"{head}; from one seed nothing can be said of whether seeds explain it"
        p = f"p = {self.p:.2g}" if self.p >= 1e-3 else "p < 0.001"
        verdict = "exceeds" if self.exceeds else "does not exceed"
        return f"{head}; {verdict} the spread between seeds ({p})"


def compare(row: IterationRow, other: IterationRow, part: str = "test") -> Comparison:
    """``row`` against ``other`` by the errors of a part."""
    a, b = row.error(part), other.error(part)
    if a is None or b is None:
        lacking = row if a is None else other
        return Comparison(row, other, None, None, f"no run of {lacking.name} came to its end")
    if row.test_set != other.test_set:
        reason = f"not compared with {other.name}, which is tested on other conformers"
        return Comparison(row, other, None, None, reason)
    return Comparison(row, other, a.mean - b.mean, welch(a, b))


def welch(a: Spread, b: Spread) -> float | None:
    """Two-sided p of Welch's t test; None where one of them has a single number."""
    if min(a.n, b.n) < 2:
        return None
    if a.std == 0 == b.std:
        return 1.0 if a.mean == b.mean else 0.0
    test = stats.ttest_ind_from_stats(a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=False)
    return float(test.pvalue)


def number(value: float) -> str:
    """Three digits that count, without an exponent where people need none."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}" if -3 <= decimals <= 5 else f"{value:.3g}"


def verdict(table: IterationTable, claim: Claim) -> str:
    """Whether a conclusion survives, and why, in words."""
    lower, higher = table[claim.lower], table[claim.higher]
    found = compare(lower, higher, table.judged)
    if found.difference is None or found.exceeds is None:
        word = "cannot be decided"
    elif not found.exceeds:
        word = "is not decided by these seeds"
    else:
        word = "survives" if found.difference < 0 else "does not survive"
    said = found.reason or f"row {claim.lower} is {found.sentence(table.unit)}"
    late = [row.name for row in (lower, higher) if any(run.still_improving for run in row.runs)]
    if late:
        said += f"; {' and '.join(late)} still improved when training ended"
    differ = [
        option.split(".")[1].replace("_", " ")
        for option in {**lower.changes, **higher.changes}
        if lower.changes.get(option) != higher.changes.get(option)
    ]
    if len(differ) > 1:
        said += f"; these rows differ in {', '.join(differ[:-1])} and {differ[-1]} at once"
    return f"{word}: {said}"


# ---- what a setting does by itself ---------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """Effect of changing one option from ``before`` to ``after``, all else being equal.

    ``pairs`` are of rows (after, before) that differ in that option alone.
    """

    option: str
    before: Any
    after: Any
    pairs: tuple[Comparison, ...]

    @property
    def differences(self) -> list[float]:
        return [pair.difference for pair in self.pairs if pair.difference is not None]

    def sentence(self, unit: str) -> str:
        found = self.differences
        change = " to ".join(value_in_words(self.option, v) for v in (self.before, self.after))
        if len(found) == 1:
            return f"{change}: {self.pairs[0].row.name} is {self.pairs[0].sentence(unit)}"
        mean = statistics.fmean(found)
        clear = sum(pair.exceeds is True for pair in self.pairs)
        return (
            f"{change}: {mean:+.3g} {unit} on average over {len(found)} pairs of rows, from "
            f"{min(found):+.3g} to {max(found):+.3g}; {clear} of them exceed the spread between "
            "seeds"
        )


def varied(table: IterationTable) -> list[str]:
    """The options that rows change, in the order in which they come up."""
    return list(dict.fromkeys(option for row in table.rows for option in row.changes))


def value_of(table: IterationTable, row: IterationRow, option: str) -> Any:
    """Return an option as it was given for a row (epochs that updates decide are not given)."""
    section, key = option.split(".")
    return row.changes.get(option, table.base[section][key])


def alike(table: IterationTable, option: str) -> list[list[IterationRow]]:
    """Rows that have errors and differ in ``option`` alone, in groups of two or more."""
    groups: dict[str, list[IterationRow]] = {}
    for row in table.rows:
        if row.error(table.judged) is None:
            continue
        others = {k: v for k, v in row.changes.items() if k != option}
        key = json.dumps([row.test_set, others], sort_keys=True)
        groups.setdefault(key, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def effects(table: IterationTable) -> dict[str, list[Effect]]:
    """For each option that varies what it did by itself; nothing where no two rows show it.

    Rows are paired with the one that has the base's value, or else with the first.
    """
    found: dict[str, list[Effect]] = {}
    for option in varied(table):
        section, key = option.split(".")
        base = table.base[section][key]
        pairs: dict[str, list[tuple[Any, Any, Comparison]]] = {}
        for group in alike(table, option):
            before = next((r for r in group if value_of(table, r, option) == base), group[0])
            for row in group:
                if row is not before:
                    change = value_of(table, before, option), value_of(table, row, option)
                    comparison = compare(row, before, table.judged)
                    pairs.setdefault(json.dumps(change), []).append((*change, comparison))
        found[option] = [
            Effect(option, those[0][0], those[0][1], tuple(c for _, _, c in those))
            for those in pairs.values()
        ]
    return found
