"""IterationTable: what the runs of a table found, a row a setting, a run a seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anipot.evaluation.history import History

#: A run was still improving when its best epoch is among this last fraction of its epochs ...
LAST_EPOCHS = 0.05

#: ... and its validation MAE fell by more than this fraction over the last tenth of its epochs.
STILL_FALLING = 0.02

#: That rule in words, for the notes below a table.
IMPROVING_RULE = (
    "still improving: the best epoch is among the last 5 % of the epochs, and the lowest "
    "validation MAE fell by more than 2 % over the last tenth of them; more updates would help"
)

ENDED = ("finished", "patience")


@dataclass(frozen=True)
class Spread:
    """Mean of ``n`` numbers, and their sample standard deviation (NaN for a single one)."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None for no values."""
        given = [float(v) for v in values]
        if not given:
            return None
        std = statistics.stdev(given) if len(given) > 1 else math.nan
        return cls(statistics.fmean(given), std, len(given))


@dataclass(frozen=True)
class SeedResult:
    """One run of a row: the training from one seed.

    ``status`` is ``"finished"``, ``"patience"`` (it ended early, as patience has it),
    ``"diverged"``, ``"failed"`` (of both ``reason`` says why; they may have errors of the best
    weights before), or ``"missing"`` (not run to its end yet). ``validation`` and ``test`` are the
    errors of energies with the best weights: ``n``, ``mae``, ``rmse``, ``max``, ``r2``.
    ``seconds`` are those of the training; ``peak_memory`` (bytes) is the most resident memory of
    the process that trained and evaluated it, ``peak_device_memory`` (bytes) what torch held on a
    GPU; None: not measured.
    """

    seed: int
    folder: Path
    status: str = "missing"
    reason: str = ""
    history: History = field(default_factory=History)
    validation: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    parameters: int | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    peak_device_memory: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it came to its end as planned: what means and spreads are taken over."""
        return self.status in ENDED

    @property
    def updates(self) -> int:
        return self.history.epochs[-1].updates if len(self.history) else 0

    @property
    def best_epoch(self) -> int | None:
        return None if self.history.best is None else self.history.best.epoch

    @property
    def smallest_loss(self) -> float | None:
        """The smallest mean training loss of an epoch, in ``history.loss_unit``."""
        return min(self.history["train_loss"], default=None)

    @property
    def seconds_per_epoch(self) -> float | None:
        """The median."""
        return statistics.median(self.history["seconds"]) if len(self.history) else None

    @property
    def still_improving(self) -> bool:
        """See ``IMPROVING_RULE``. A single epoch says nothing of it."""
        errors, best = self.history["val_mae"], self.history.best
        n = len(errors)
        if best is None or n < 2 or self.status != "finished":
            return False
        before = errors[: n - max(1, n // 10)]
        late = best.epoch > n - max(1, round(LAST_EPOCHS * n))
        return late and min(errors) < (1 - STILL_FALLING) * min(before)


@dataclass(frozen=True)
class Tuning:
    """Choice of an option for a row: one run for each of ``values``, with one seed.

    None of the runs was tested.
    """

    option: str
    values: tuple[Any, ...]
    runs: tuple[SeedResult, ...]

    @property
    def errors(self) -> list[float | None]:
        """The validation MAE of each value; None where its run did not end as planned."""
        return [(run.validation or {}).get("mae") if run.ended else None for run in self.runs]

    @property
    def chosen(self) -> int | None:
        """Place of the value with the lowest validation MAE, of equal ones the first.

        None while runs are missing, and where none ended as planned.
        """
        known = [(error, k) for k, error in enumerate(self.errors) if error is not None]
        if not known or any(run.status == "missing" for run in self.runs):
            return None
        return min(known)[1]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen number is the lowest or highest of those tried; 0 is no edge, since
        options are not negative.
        """
        if self.chosen is None or not all(isinstance(v, int | float) for v in self.values):
            return False
        value = self.values[self.chosen]
        return value != 0 and value in (min(self.values), max(self.values))


@dataclass(frozen=True)
class IterationRow:
    """One setting of a table.

    ``changes`` are the options that it changes, by full name (``{"model.hidden": [128]}``);
    ``options`` all options of its runs by full name, resolved (without the seed). ``reason`` is why
    it has no runs (an option that cannot be); ``test_set`` identifies the conformers that its runs
    are tested on: rows of different test sets are not compared. ``reported`` are numbers published
    for it, ``mae`` (kcal/mol) and ``loss``. ``tuning``: how an option was chosen for it first.
    """

    name: str
    changes: dict[str, Any]
    options: dict[str, Any]
    runs: tuple[SeedResult, ...] = ()
    reason: str = ""
    test_set: str = ""
    reported: dict[str, float] = field(default_factory=dict)
    tuning: Tuning | None = None

    @property
    def ended(self) -> list[SeedResult]:
        """The runs that came to their end as planned."""
        return [run for run in self.runs if run.ended]

    def over_seeds(self, value: Callable[[SeedResult], float | None]) -> Spread | None:
        """Mean and spread of a number over the runs that ended; None where there is none."""
        found = [value(run) for run in self.ended]
        return Spread.of(v for v in found if v is not None)

    def error(self, part: str, key: str = "mae") -> Spread | None:
        """Over seeds: ``"mae"`` or ``"rmse"`` of ``"test"`` or ``"validation"``."""
        return self.over_seeds(lambda run: (getattr(run, part) or {}).get(key))

    @property
    def loss_unit(self) -> str:
        return next((run.history.loss_unit for run in self.runs if len(run.history)), "")

    @property
    def marks(self) -> list[str]:
        """Notes on the row: diverged, failed, not run yet, still improving."""
        if self.reason:
            return ["failed"]
        found = {
            "diverged": [run.status == "diverged" for run in self.runs],
            "failed": [run.status == "failed" for run in self.runs],
            "not run yet": [run.status == "missing" for run in self.runs],
            "still improving": [run.still_improving for run in self.runs],
        }
        return [
            what if all(those) else f"{what} ({sum(those)} of {len(those)} seeds)"
            for what, those in found.items()
            if any(those)
        ]

    @property
    def failure(self) -> str:
        """Why the row, or the first run of it that did, failed; nothing where none did."""
        by_seed = [f"seed {run.seed}: {run.reason}" for run in self.runs if run.reason]
        return self.reason or next(iter(by_seed), "")


@dataclass(frozen=True)
class Claim:
    """A conclusion that a table can test: the row ``lower`` has lower errors than ``higher``."""

    claim: str
    lower: str
    higher: str


@dataclass(frozen=True)
class IterationTable:
    """All rows of a table, in the order in which they were given.

    ``seeds`` are those of the trainings, ``base`` the options that the rows change (sections data,
    model, training), ``unit`` that of all errors. ``about`` says in sentences what the rows share:
    data, split, version, machine. ``claims`` are conclusions that it is to test. ``further`` are
    the tables in folders below its own, which are run after it.
    """

    folder: Path
    title: str
    rows: tuple[IterationRow, ...]
    seeds: tuple[int, ...]
    base: dict[str, Any]
    about: tuple[str, ...] = ()
    unit: str = "kcal/mol"
    claims: tuple[Claim, ...] = ()
    further: tuple[IterationTable, ...] = ()

    def __getitem__(self, name: str) -> IterationRow:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def base_row(self) -> IterationRow:
        """The row others are compared to: the first that changes nothing, else the first."""
        return next((row for row in self.rows if not row.changes and not row.reason), self.rows[0])

    @property
    def best_row(self) -> IterationRow | None:
        """The row with the lowest mean validation MAE: the test part chooses nothing."""
        known = [(e.mean, row) for row in self.rows if (e := row.error("validation"))]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    @property
    def judged(self) -> str:
        """The part whose errors are compared: the test part, or validation where there is none."""
        return "test" if any(row.error("test") for row in self.rows) else "validation"

    @property
    def complete(self) -> bool:
        """Whether every run came to an end, be it a failure, here and in further tables."""
        here = all(run.status != "missing" for row in self.rows for run in row.runs)
        return here and all(table.complete for table in self.further)
