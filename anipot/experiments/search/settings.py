"""Settings of a search: a base, the space of options, when to end; checked."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from anipot.config import RunSettings, Settings
from anipot.errors import SettingsError, shortly
from anipot.experiments.table.settings import (
    BaseOptions,
    base_sections,
    full_name,
    options_of,
    with_option,
)
from anipot.system.options import checked

#: The column of a training's history that each objective is.
OBJECTIVES = {
    "mae": "val_mae",
    "rmse": "val_rmse",
    "force_mae": "val_force_mae",
    "force_rmse": "val_force_rmse",
}


class Range(Settings):
    """The values that one option may take: some values, all between two numbers, or both."""

    low: int | float | None = Field(None, description="the lowest number")
    high: int | float | None = Field(None, description="the highest number")
    log: bool = Field(False, description="whether factors count, and not differences")
    values: list[Any] | None = Field(None, min_length=1, description="these values")

    @property
    def between(self) -> bool:
        """Whether it has all numbers between ``low`` and ``high``."""
        return self.low is not None


class SearchSettings(Settings):
    """All that decides what a search finds."""

    base: BaseOptions = Field(default_factory=lambda: BaseOptions())
    space: dict[str, Range] = Field(
        min_length=1, description="{option: {low, high, log} or {values: [...]} or both}"
    )
    objective: Literal["mae", "rmse", "force_mae", "force_rmse"] = Field(
        "mae", description="validation error to lower, of energies or forces"
    )
    minutes: float | None = Field(None, gt=0, description="when to end")
    trials: int | None = Field(None, ge=1, description="trials, those of all processes together")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of what is tried")
    shorten: int = Field(
        1, ge=1, description="trials train for epochs / shorten; the best is trained for all"
    )
    max_seconds: float | None = Field(
        None, gt=0, description="trials that would take more seconds of processor time are pruned"
    )
    pruning: bool = Field(True, description="end trials that are worse than the median")


def search_settings(values: Mapping[str, Any]) -> SearchSettings:
    """Check the parts of a search: the fields of ``SearchSettings``.

    ``base`` is sections, options by name, or ``RunSettings``; a list in the space is its values.
    Raises SettingsError for unknown keys and options (naming the nearest), values that an option
    cannot have, options that would make trials incomparable, and where nothing says when to end.
    """
    values = {key: value for key, value in values.items() if value is not None}
    base = checked(BaseOptions, base_sections(values.get("base", {})))
    given = values.get("space")
    if not isinstance(given, Mapping) or not given:
        raise SettingsError(
            "a search needs a space, such as {learning_rate: {low: 3e-4, high: 1e-2, log: true}, "
            "batch_size: [32, 64, 128]}"
        )
    bases = _bases(RunSettings(**dict(base)), given)
    space: dict[str, Range] = {}
    for name, found in given.items():
        option = full_name(str(name))
        if option in space:
            raise SettingsError(f"space: {option} is there twice")
        try:
            space[option] = _range(bases, option, found)
        except SettingsError as e:
            raise SettingsError(f"space, {name}: {e}") from None
    settings = checked(SearchSettings, {**values, "base": base, "space": space})
    if settings.minutes is None and settings.trials is None:
        raise SettingsError("say when the search is to end: minutes, trials, or both")
    forces = {"training.force_weight", "training.stress_weight"}
    weights = (base.training.force_weight, base.training.stress_weight)
    if settings.objective.startswith("force") and not any(weights) and not forces & set(space):
        raise SettingsError(
            f"objective {settings.objective}: errors of forces are known where they are trained "
            "on: give the base a force_weight, such as 0.1"
        )
    return settings


def _bases(base: RunSettings, space: Mapping[str, Any]) -> list[RunSettings]:
    """The base, and the base with each value of each option: what an option cannot be with the
    base, it may be with one of these.
    """
    bases = [base]
    for name, given in space.items():
        values = given.get("values") if isinstance(given, Mapping) else given
        for value in values if isinstance(values, list) else []:
            with suppress(SettingsError):
                bases.append(with_option(base, full_name(str(name)), value))
    return bases


def _value(bases: Sequence[RunSettings], option: str, value: Any) -> Any:
    """A value as it is after checking. Raises SettingsError where no base can have it."""
    for base in bases[1:]:
        with suppress(SettingsError):
            return options_of(with_option(base, option, value))[option]
    return options_of(with_option(bases[0], option, value))[option]


def _range(bases: Sequence[RunSettings], option: str, given: Any) -> Range:
    """A range, checked against its option; values as they are after checking."""
    if option.startswith("data."):
        raise SettingsError("trials on other data cannot be compared: put it into the base")
    if option == "training.seed":
        raise SettingsError("a lucky seed is no better option: all trials have that of the base")
    if isinstance(given, Mapping):
        found = checked(Range, given)
    elif isinstance(given, list):
        found = checked(Range, {"values": given})
    else:
        raise SettingsError(
            f"must be {{low, high, log}} or {{values: [...]}}; found {shortly(given)}"
        )
    if (found.low is None) != (found.high is None) or (found.low is None and not found.values):
        raise SettingsError("needs values, or low and high")
    if found.low is None or found.high is None:
        if found.log:
            raise SettingsError("log is for what is between low and high")
    else:
        if not found.low < found.high:
            raise SettingsError(f"low={found.low:g} must be below high={found.high:g}")
        if found.log and found.low <= 0:
            raise SettingsError(f"low={found.low:g} must be above 0 where log is true")
        for end in (found.low, found.high):
            _value(bases, option, end)
    if found.values is None:
        return found
    values = [_value(bases, option, v) for v in found.values]
    if len({repr(v) for v in values}) < len(values):
        raise SettingsError("a value is there twice")
    return found.model_copy(update={"values": values})


def whole(option: str) -> bool:
    """Whether an option is a whole number."""
    section, key = option.split(".")
    kind = BaseOptions.model_fields[section].annotation
    assert kind is not None
    annotation = kind.model_fields[key].annotation
    kinds = typing.get_args(annotation) or (annotation,)
    return int in kinds and float not in kinds


def final_options(settings: SearchSettings, changes: Mapping[str, Any]) -> RunSettings:
    """The options that a trial stands for: the base, changed, with all its epochs.

    Raises SettingsError where they contradict each other.
    """
    sections = settings.base.model_dump()
    for option, value in changes.items():
        section, key = option.split(".")
        sections[section][key] = value
    return checked(RunSettings, sections)


def trial_options(
    settings: SearchSettings, changes: Mapping[str, Any], conformers: int
) -> RunSettings:
    """The options with which a trial trains on so many conformers, ``shorten`` taken into account.

    A trial uses one thread unless options say otherwise, so that it does not depend on how many
    are trained side by side.
    """
    options = final_options(settings, changes)
    training = options.training.resolved(conformers)
    assert training.epochs is not None
    own: dict[str, Any] = {
        "epochs": max(1, round(training.epochs / settings.shorten)),
        "threads": training.threads or 1,
    }
    if training.patience is not None:
        own["patience"] = math.ceil(training.patience / settings.shorten)
    return options.model_copy(update={"training": training.model_copy(update=own)})
