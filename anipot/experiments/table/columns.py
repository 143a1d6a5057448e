"""Columns of a table, as text for people and as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from anipot.experiments.table.comparison import number, varied
from anipot.experiments.table.settings import value_in_words, words
from anipot.experiments.table.table import IterationRow, IterationTable, SeedResult, Spread
from anipot.system.text import csv_text


class Column(NamedTuple):
    """A column: heading, unit (or nothing), what stands in it for a row."""

    title: str
    unit: str
    cell: Callable[[IterationRow], str]


#: Settings that stand in every table, as the table of the source has them.
_BEFORE = {
    "hidden layers": "model.hidden",
    "learning rate": "training.learning_rate",
    "batch size": "training.batch_size",
    "L2": "training.l2",
    "dropout": "model.dropout",
}
_AFTER = {"activation": "model.activation"}


def columns(table: IterationTable) -> list[Column]:
    """The source's columns first, then other settings that vary, then what it lacked."""
    units = {row.loss_unit for row in table.rows if row.loss_unit}
    loss_unit = units.pop() if len(units) == 1 else ""
    reported = {key for row in table.rows for key in row.reported}
    others = {
        option.split(".")[1].replace("_", " "): option
        for option in varied(table)
        if option not in (*_BEFORE.values(), *_AFTER.values())
    }

    def loss(row: IterationRow) -> str:
        found = row.over_seeds(lambda run: run.smallest_loss)
        unit = "" if loss_unit or not row.loss_unit else f" {row.loss_unit}"
        return "" if found is None else f"{found.mean:.3g}{unit}"

    found = [
        Column("iteration", "", lambda row: row.name),
        *(_setting(title, option) for title, option in _BEFORE.items()),
        Column("validation MAE", table.unit, lambda row: with_spread(row.error("validation"), row)),
        Column("smallest loss", loss_unit, loss),
        *(_setting(title, option) for title, option in {**_AFTER, **others}.items()),
        Column("test MAE", table.unit, lambda row: with_spread(row.error("test"), row)),
        Column("test RMSE", table.unit, lambda row: with_spread(row.error("test", "rmse"), row)),
        Column("updates", "", _count(lambda run: run.updates)),
        Column("epochs to best", "", _to_best),
        Column("parameters", "", _count(lambda run: run.parameters)),
        Column("epoch", "s", _mean(lambda run: run.seconds_per_epoch)),
        Column("run", "s", _mean(lambda run: run.seconds)),
        Column("peak memory", "MB", _count(lambda run: (run.peak_memory or 0) / 1e6 or None)),
        Column("note", "", lambda row: "; ".join(row.marks)),
    ]
    extra = [
        Column("reported MAE", "kcal/mol", lambda row: _reported(row, "mae")),
        Column("reported loss", loss_unit, lambda row: _reported(row, "loss")),
    ]
    at = [column.title for column in found].index("test RMSE") + 1
    found[at:at] = [column for column in extra if column.title.split()[1].lower() in reported]
    return found


def with_spread(value: Spread | None, row: IterationRow | None = None) -> str:
    """``0.512 ± 0.021``; the number of seeds where it is not that of all."""
    if value is None:
        return ""
    text = number(value.mean)
    if not math.isnan(value.std) and "e" not in text:
        # Enough digits for the first that counts of the spread, too.
        least = -math.floor(math.log10(value.std)) if value.std else 0
        decimals = min(max(len(text.partition(".")[2]), least), 4)
        text = f"{value.mean:.{decimals}f} ± {value.std:.{decimals}f}"
    elif not math.isnan(value.std):
        text += f" ± {value.std:.2g}"
    partly = row is not None and 0 < value.n < len(row.runs)
    return f"{text} (n={value.n})" if partly else text


def _setting(title: str, option: str) -> Column:
    def cell(row: IterationRow) -> str:
        known = row.options or row.changes
        return value_in_words(option, known[option]) if option in known else ""

    return Column(title, "", cell)


def _mean(value: Callable[[Any], float | None]) -> Callable[[IterationRow], str]:
    def cell(row: IterationRow) -> str:
        found = row.over_seeds(value)
        return "" if found is None else number(found.mean)

    return cell


def _count(value: Callable[[Any], float | None]) -> Callable[[IterationRow], str]:
    def cell(row: IterationRow) -> str:
        found = row.over_seeds(value)
        return "" if found is None else f"{found.mean:,.0f}"

    return cell


def _to_best(row: IterationRow) -> str:
    best = row.over_seeds(lambda run: run.best_epoch)
    epochs = row.over_seeds(lambda run: len(run.history))
    return "" if best is None or epochs is None else f"{best.mean:.0f} of {epochs.mean:.0f}"


def _reported(row: IterationRow, key: str) -> str:
    return words(row.reported[key]) if key in row.reported else ""


# ---- numbers -------------------------------------------------------------------------------------

#: Numbers of a run, by their name in CSV.
_NUMBERS: dict[str, Callable[[SeedResult], float | None]] = {
    "validation_mae": lambda run: (run.validation or {}).get("mae"),
    "validation_rmse": lambda run: (run.validation or {}).get("rmse"),
    "test_mae": lambda run: (run.test or {}).get("mae"),
    "test_rmse": lambda run: (run.test or {}).get("rmse"),
    "smallest_loss": lambda run: run.smallest_loss,
    "updates": lambda run: run.updates,
    "epochs": lambda run: len(run.history),
    "best_epoch": lambda run: run.best_epoch,
    "parameters": lambda run: run.parameters,
    "seconds": lambda run: run.seconds,
    "seconds_per_epoch": lambda run: run.seconds_per_epoch,
    "peak_memory_bytes": lambda run: run.peak_memory,
    "peak_device_memory_bytes": lambda run: run.peak_device_memory,
}

_SETTINGS = (*_BEFORE.values(), *_AFTER.values())


def rows_csv(table: IterationTable) -> str:
    """A line a row: settings, and of each number the mean and the sample standard deviation."""
    return csv_text(
        {
            "row": row.name,
            **_settings(table, row),
            "seeds": len(row.ended),
            **_over_seeds(row),
            "loss_unit": row.loss_unit,
            **{f"reported_{key}": row.reported.get(key) for key in ("mae", "loss")},
            "note": "; ".join(filter(None, [*row.marks, row.failure])),
        }
        for row in table.rows
    )


def runs_csv(table: IterationTable) -> str:
    """A line a run, with its own numbers."""
    return csv_text(
        {
            "row": row.name,
            "seed": run.seed,
            **_settings(table, row),
            "status": run.status,
            **{name: _number(value(run)) for name, value in _NUMBERS.items()},
            "loss_unit": run.history.loss_unit,
            "still_improving": run.still_improving,
            "reason": run.reason,
        }
        for row in table.rows
        for run in row.runs
    )


def _over_seeds(row: IterationRow) -> dict[str, str]:
    found = {}
    for name, value in _NUMBERS.items():
        spread = row.over_seeds(value)
        found[name] = "" if spread is None else _number(spread.mean)
        found[f"{name}_std"] = "" if spread is None else _number(spread.std)
    return found


def _settings(table: IterationTable, row: IterationRow) -> dict[str, str]:
    names = dict.fromkeys([*_SETTINGS, *varied(table)])
    return {n: words(row.options.get(n, row.changes.get(n))) for n in names}


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
