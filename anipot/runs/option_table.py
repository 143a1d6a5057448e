"""The options of a run: which differ from the defaults, and the command that gives them again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anipot.aev.computer import load_engine
from anipot.config import RunSettings, TrainingSettings

#: Options that name files: a page tells their names, and not in which folder of whose machine.
_PATHS = ("files", "validation_molecules", "test_molecules")


@dataclass(frozen=True)
class Option:
    """An option of a run. ``changed``: it is not what it would be had nobody given it."""

    section: str
    name: str
    value: str
    default: str
    meaning: str
    changed: bool


def options(settings: RunSettings, n_train: int) -> list[Option]:
    """All options in their order; ``n_train`` conformers decide the default number of epochs.

    ``settings`` may be resolved, as those of a run are, or not, as those of a table's base.
    """
    defaults, unresolved = _defaults(settings, n_train), RunSettings()
    found = []
    for section in RunSettings.model_fields:
        given, default = getattr(settings, section), getattr(defaults, section)
        for name, info in type(given).model_fields.items():
            value, usual = getattr(given, name), getattr(default, name)
            found.append(
                Option(
                    section,
                    name,
                    _shown(name, value),
                    _shown(name, usual),
                    info.description or "",
                    value not in (usual, getattr(getattr(unresolved, section), name)),
                )
            )
    return found


def command(settings: RunSettings, n_train: int) -> str:
    """``anipot train`` with the files and the options that differ from the defaults, for a shell.

    Files are named without folders: it is meant for where they are.
    """
    fields = {name: type(getattr(settings, name)) for name in RunSettings.model_fields}
    sections = Counter(key for kind in fields.values() for key in kind.model_fields)
    words = [Path(file).name for file in settings.data.files]
    for option in options(settings, n_train):
        if not option.changed or option.name == "files":
            continue
        key = option.name if sections[option.name] == 1 else f"{option.section}.{option.name}"
        words.append(f"{key}={option.value}")
    return " ".join(["anipot train", *map(shlex.quote, words)])


def _defaults(settings: RunSettings, n_train: int) -> RunSettings:
    """Options of a run without any given: some defaults are found out on the way."""
    usual = RunSettings()
    size = settings.training.batch_size
    epochs = TrainingSettings(batch_size=size).resolved(n_train).epochs
    engine = load_engine(usual.model.engine)[0]
    return usual.model_copy(
        update={
            "model": usual.model.model_copy(update={"engine": engine}),
            "training": usual.training.model_copy(update={"epochs": epochs}),
        }
    )


def _shown(name: str, value: Any) -> str:
    """A value as it is given on the command line."""
    if name in _PATHS and value is not None:
        value = [Path(v).name for v in value] if isinstance(value, list) else Path(value).name
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return str(value).lower() if isinstance(value, bool) else str(value)
