"""Results of tuning an option before the runs of a table, as text."""

from __future__ import annotations

from typing import NamedTuple

from anipot.experiments.table.comparison import number
from anipot.experiments.table.settings import value_in_words
from anipot.experiments.table.table import IterationTable, Tuning
from anipot.report.markup import Row


class Tried(NamedTuple):
    """Values tried: headings, and a row of validation MAE with the index of the chosen one."""

    title: str
    heads: list[tuple[str, str]]
    rows: list[Row]


def tried(table: IterationTable) -> Tried | None:
    """The validation MAE of every value of every row; None where nothing is tuned."""
    found = [(row.name, row.tuning) for row in table.rows if row.tuning is not None]
    if not found:
        return None
    first = found[0][1]
    return Tried(
        f"Validation MAE ({table.unit}) by {_name(first)}",
        [("iteration", ""), *((value_in_words(first.option, v), "") for v in first.values)],
        [
            ([name, *_cells(tuning)], None if tuning.chosen is None else tuning.chosen + 1)
            for name, tuning in found
        ],
    )


def tuning_notes(table: IterationTable) -> list[str]:
    """Describe the tuning, with a sentence for each row whose best value is the last tried."""
    found = [(row.name, row.tuning) for row in table.rows if row.tuning is not None]
    if not found:
        return []
    first = found[0][1]
    updates = {run.updates for _, tuning in found for run in tuning.runs if run.ended}
    made = f" with {_range(updates)}" if updates else ""
    how = (
        f"The {_name(first)} of each row was chosen before its runs: that with the lowest "
        f"validation MAE after one run{made}, seed {first.runs[0].seed}. The runs that chose "
        "it had no test part."
    )
    edges = [
        f"{name}: {value_in_words(first.option, tuning.values[tuning.chosen])} is at the edge of "
        f"the range; a {_name(first)} beyond it may be better."
        for name, tuning in found
        if tuning.chosen is not None and tuning.at_edge
    ]
    compared = f"Rows are compared with each other, each at its own {_name(first)}."
    return [how, compared, *edges]


def _name(tuning: Tuning) -> str:
    return tuning.option.split(".")[1].replace("_", " ")


def _cells(tuning: Tuning) -> list[str]:
    return [
        ("not run yet" if run.status == "missing" else run.status)
        if error is None
        else number(error)
        for run, error in zip(tuning.runs, tuning.errors, strict=True)
    ]


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    some = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{some} update{'' if high == 1 else 's'}"
