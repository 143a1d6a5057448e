"""The space of a search as Optuna knows it: parameters of a trial, and the options they stand for.

An option with values and a range is two parameters: one of the values or "between", and where it is
that, the number. Optuna's choices are plain values, so lists are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anipot.experiments.search.settings import Range, whole

if TYPE_CHECKING:
    import optuna

_BETWEEN = "between"


def suggest(trial: optuna.Trial, space: Mapping[str, Range]) -> dict[str, Any]:
    """Draw the options of a trial, by full name."""
    for option, found in space.items():
        if found.values is not None:
            choices = [_plain(v) for v in found.values] + [_BETWEEN] * found.between
            if trial.suggest_categorical(option, choices) != _BETWEEN:
                continue
        assert found.low is not None
        assert found.high is not None
        if whole(option):
            trial.suggest_int(_number(option, found), int(found.low), int(found.high),
                              log=found.log)  # fmt: skip
        else:
            trial.suggest_float(_number(option, found), found.low, found.high, log=found.log)
    return options_in(trial.params, space)


def options_in(params: Mapping[str, Any], space: Mapping[str, Range]) -> dict[str, Any]:
    """The options that the parameters of a trial stand for, as far as it has them."""
    options: dict[str, Any] = {}
    for option, found in space.items():
        by_choice = {_plain(v): v for v in found.values or []}
        if option in params and params[option] in by_choice:
            options[option] = by_choice[params[option]]
        elif _number(option, found) in params:
            options[option] = _rounded(params[_number(option, found)], found)
    return options


def parameters(options: Mapping[str, Any], space: Mapping[str, Range]) -> dict[str, Any] | None:
    """Parameters that stand for the options, or None where the space has no such place."""
    params: dict[str, Any] = {}
    for option, found in space.items():
        value = options[option]
        if found.values is not None and value in found.values:
            params[option] = _plain(value)
        elif (
            found.low is not None
            and found.high is not None
            and isinstance(value, int | float)
            and found.low <= value <= found.high
        ):
            if found.values is not None:
                params[option] = _BETWEEN
            params[_number(option, found)] = value
        else:
            return None
    return params


def _rounded(value: int | float, found: Range) -> int | float:
    """Three digits, which is as far as any search can tell, within the range."""
    assert found.low is not None
    assert found.high is not None
    if isinstance(value, int):
        return value
    return min(max(float(f"{value:.3g}"), float(found.low)), float(found.high))


def _number(option: str, found: Range) -> str:
    """The name of the parameter that is a number between two."""
    return option if found.values is None else f"{option} {_BETWEEN}"


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
