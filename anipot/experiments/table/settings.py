"""Settings of a table: a base, rows (or a grid) that change it, seeds; checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from anipot.config import DataSettings, ModelSettings, RunSettings, Settings, TrainingSettings
from anipot.errors import SettingsError, shortly
from anipot.system.options import checked, section_of
from anipot.system.yaml_files import load_yaml

#: Keys of a row that are no options.
_RESERVED = ("name", "reported")

#: What a table has in its folder beside those of its rows.
_OWN_NAMES = (
    "table.json", "storage.json", "table.md", "table.html", "table.csv", "runs.csv", "report.html",
    "plots", "tuned",
)  # fmt: skip

#: Letters of the longest name that a row's folder may have.
_LONGEST = 200

#: What a row cannot change, and why.
_FIXED = {"training.seed": "the seeds of the table are the same for all rows"}


class BaseOptions(Settings):
    """The options that rows change: sections as those of ``anipot train``."""

    data: DataSettings = Field(default_factory=lambda: DataSettings())
    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings())


class Reported(Settings):
    """Published numbers of a row."""

    mae: float | None = Field(None, description="MAE, kcal/mol")
    loss: float | None = Field(None, description="smallest loss, in the unit of the loss")


class ClaimSettings(Settings):
    """A conclusion that the table is to test: one row has lower errors than another."""

    claim: str = Field(description="what is claimed, in words")
    lower: str = Field(description="name of the row that should have the lower errors")
    higher: str = Field(description="name of the row that should have the higher ones")


class TuneSettings(Settings):
    """An option whose value is chosen for each row, on validation, before the row is run."""

    option: str = Field(description="the option that is tuned, such as learning_rate")
    values: list[Any] = Field(min_length=2, description="what is tried, one run each")
    updates: int = Field(ge=1, description="updates of each of these runs")


class TableSettings(Settings):
    """All that decides what a table says."""

    title: str = Field("Iterations", description="what stands above the table")
    notes: list[str] = Field(default_factory=list, description="sentences that stand below it")
    base: BaseOptions = Field(default_factory=lambda: BaseOptions())
    rows: list[dict[str, Any]] = Field(
        default_factory=list, description="rows: {name: ..., option: value, ...}"
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="{option: [values]}: a row for every combination"
    )
    claims: list[ClaimSettings] = Field(
        default_factory=list,
        description="conclusions to test: {claim: ..., lower: ROW, higher: ROW}",
    )
    seeds: int = Field(3, ge=1, le=1000, description="runs of each row")
    updates: int | None = Field(
        None, ge=1, description="updates of each run, which decide its epochs; none: epochs do"
    )
    tune: TuneSettings | None = Field(
        None,
        description="an option chosen for each row first: {option: ..., values: [...], updates: N}",
    )


class RowSettings(NamedTuple):
    """A row before it is run; ``settings`` is None where ``reason`` says why it cannot be."""

    name: str
    changes: dict[str, Any]
    settings: RunSettings | None
    reason: str
    reported: dict[str, float]


def table_settings(values: Mapping[str, Any]) -> TableSettings:
    """Check the parts of a table: the fields of ``TableSettings``.

    ``base`` is sections, options by name, or ``RunSettings``. Raises SettingsError for unknown keys
    and options (naming the nearest), rows beside a grid or neither, two rows of one name, and where
    no row can be run. A value that a row cannot have is that row's failure alone.
    """
    values = {key: value for key, value in values.items() if value is not None}
    table = checked(TableSettings, {**values, "base": base_sections(values.get("base", {}))})
    if bool(table.rows) == bool(table.grid):
        raise SettingsError(
            "a table needs either rows, such as [{name: wider, hidden: [256, 192]}, ...], or a "
            "grid, such as {hidden: [[128], [256]], dropout: [0, 0.1]}"
        )
    if table.updates is not None and table.base.training.epochs is not None:
        raise SettingsError("updates and epochs decide the same: leave out one of them")
    if table.updates is not None and table.base.training.updates is not None:
        raise SettingsError(
            "updates are given twice, for the table and by training.updates of the base: leave "
            "out the latter (the command's --updates are the table's)"
        )
    if table.tune is not None:
        table = table.model_copy(update={"tune": _tune(table, table.tune)})
    rows = row_settings(table)
    names = [row.name for row in rows]
    for claim in table.claims:
        for name in (claim.lower, claim.higher):
            if name not in names:
                raise SettingsError(
                    f"claim {claim.claim!r}: there is no row {name!r}; rows: {', '.join(names)}"
                )
    if all(row.settings is None for row in rows):
        raise SettingsError(
            "no row can be run: " + "; ".join(f"{row.name}: {row.reason}" for row in rows)
        )
    return table


def read_parts(path: str | Path, kind: str = "iterate") -> dict[str, Any]:
    """The parts of a table in a YAML file, for ``table_settings``; or of a ``search``.

    Raises SettingsError for a file that is none.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        holds = {
            "iterate": "'base:' with options, and 'rows:' or 'grid:'",
            "search": "'space:' with options, and perhaps 'base:'",
        }[kind]
        raise SettingsError(f"{path}: must hold {holds}; see 'anipot {kind} --help'")
    return {str(key): value for key, value in values.items()}


def check_same(now: Mapping[str, Any], before: Mapping[str, Any], what: str) -> None:
    """Raises SettingsError that names what differs between two tables (or searches), as ``what``
    is to go on with the first.
    """
    other = [key for key in now if key != "base" and now[key] != before.get(key)]
    other += [
        f"{section}.{key}={before['base'][section].get(key)}"  # none: of another version
        for section, options in now["base"].items()
        for key in options
        if options[key] != before["base"][section].get(key)
    ]
    if other:
        raise SettingsError(
            f"{what} was begun with other {', '.join(other)}; give the same, or name another"
        )


def row_settings(table: TableSettings) -> list[RowSettings]:
    """The rows of a table, each with its options checked."""
    given = table.rows or [
        dict(zip(table.grid, combination, strict=True))
        for combination in itertools.product(*table.grid.values())
    ]
    rows = [_row(table, row) for row in given]
    taken: dict[str, str] = {}
    for row in rows:
        folder = folder_name(row.name).lower()
        if folder in _OWN_NAMES or len(folder) > _LONGEST:
            raise SettingsError(
                f"row {shortly(row.name)} needs another name: it is that of a folder, and has at "
                f"most {_LONGEST} letters and is none of {', '.join(_OWN_NAMES)}"
            )
        if folder in taken:
            raise SettingsError(
                f"rows need names that differ in letters or digits: {taken[folder]!r} and "
                f"{row.name!r}"
            )
        taken[folder] = row.name
    return rows


def folder_name(name: str) -> str:
    """The folder of a row: its name, in letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.=,+]+", "-", name).strip("-.") or "row"


def words(value: Any) -> str:
    """A value as a person reads it in a table: ``128-64``, ``0.001``, ``no``."""
    if isinstance(value, dict):
        return " ".join(f"{key}:{words(v)}" for key, v in value.items())
    if isinstance(value, list | tuple):
        return "-".join(words(v) for v in value)
    if value is None or value is False:
        return "no"
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def value_in_words(option: str, value: Any) -> str:
    """A value of an option, by its full name, as it stands in a table."""
    if option == "model.hidden" and value is None:
        return "ANI-1x"
    if value == 0 and value is not False:
        return "no"
    return words(value)


def with_option(settings: RunSettings, option: str, value: Any) -> RunSettings:
    """The same options but one, by full name. Raises SettingsError for a value it cannot have."""
    section, key = option.split(".")
    sections = settings.model_dump()
    sections[section][key] = value
    return checked(RunSettings, sections)


def options_of(settings: RunSettings) -> dict[str, Any]:
    """All options of a run by full name, without the seed."""
    sections = settings.model_dump(include=set(BaseOptions.model_fields))
    options = {f"{s}.{key}": value for s, inner in sections.items() for key, value in inner.items()}
    return {name: value for name, value in options.items() if name not in _FIXED}


def base_sections(given: Any) -> dict[str, Any]:
    """Sections of options, from sections or options by name (or ``RunSettings``), not checked.

    Raises SettingsError for what is neither, and for options that a base cannot have.
    """
    if isinstance(given, RunSettings):
        if given.ensemble.members > 1:
            raise SettingsError("base: single potentials are compared; leave out members")
        return given.model_dump(include=set(BaseOptions.model_fields))
    if not isinstance(given, Mapping):
        raise SettingsError(
            "base must hold sections such as 'training:' with options below them; found "
            f"{shortly(given)}"
        )
    sections: dict[str, Any] = {}
    for key, value in given.items():
        if key in BaseOptions.model_fields and (value is None or isinstance(value, Mapping)):
            sections.setdefault(key, {}).update(value or {})
        else:
            section, option = full_name(str(key)).split(".")
            sections.setdefault(section, {})[option] = value
    return sections


def full_name(key: str) -> str:
    """``section.option``. Raises SettingsError for what no row (or base) can have."""
    path = section_of(key)
    if path[0] not in BaseOptions.model_fields:
        raise SettingsError(
            f"option {key!r}: here are options of {', '.join(BaseOptions.model_fields)} alone"
        )
    kind = BaseOptions.model_fields[path[0]].annotation
    assert kind is not None
    if len(path) != 2 or path[1] not in kind.model_fields:
        checked(BaseOptions, {path[0]: {".".join(path[1:]): None}})  # names the nearest
    return ".".join(path)


def _tune(table: TableSettings, tune: TuneSettings) -> TuneSettings:
    """With the option by its full name, and values as they are after checking."""
    option = full_name(tune.option)
    if option in (*_FIXED, "training.epochs"):
        why = _FIXED.get(option, "updates decide the epochs of the runs that tune")
        raise SettingsError(f"tune: {option} cannot be tuned: {why}")
    base = RunSettings(**dict(table.base))
    try:
        values = [options_of(with_option(base, option, v))[option] for v in tune.values]
    except SettingsError as e:
        raise SettingsError(f"tune: {e}") from None
    if len({folder_name(words(v)) for v in values}) < len(values):
        raise SettingsError(f"tune: a value is given twice: {', '.join(map(words, values))}")
    return tune.model_copy(update={"option": option, "values": values})


def _row(table: TableSettings, given: Mapping[str, Any]) -> RowSettings:
    changes = {full_name(str(k)): v for k, v in given.items() if k not in _RESERVED}
    named = given.get("name")
    name = _called(changes) if named is None else words(named)
    for option, why in _FIXED.items():
        if option in changes:
            raise SettingsError(f"row {name!r}: {option} cannot be changed: {why}")
    if table.tune is not None and table.tune.option in changes:
        raise SettingsError(f"row {name!r}: {table.tune.option} is tuned: leave it out of the row")
    if table.updates is not None and "training.epochs" in changes:
        raise SettingsError(f"row {name!r}: updates and epochs decide the same: leave out one")
    if table.updates is not None and "training.updates" in changes:
        raise SettingsError(f"row {name!r}: the table has updates for all rows: leave out one")
    try:
        found = checked(Reported, given.get("reported") or {})
    except SettingsError as e:
        raise SettingsError(f"row {name!r}: reported: {e}") from None
    reported = found.model_dump(exclude_none=True)
    sections = table.base.model_dump()
    for key, value in changes.items():
        section, option = key.split(".")
        sections[section][option] = value
    try:
        settings = checked(RunSettings, sections)
    except SettingsError as e:
        return RowSettings(name, changes, None, str(e), reported)
    # As they are after checking, so that 128 and [128] are the same value.
    changes = {key: options_of(settings)[key] for key in changes}
    same = options_of(RunSettings(**dict(table.base)))
    changes = {key: value for key, value in changes.items() if value != same[key]}
    return RowSettings(name, changes, settings, "", reported)


def _called(changes: Mapping[str, Any]) -> str:
    parts = (f"{key.split('.')[1]}={words(value)}" for key, value in changes.items())
    return " ".join(parts) or "base"
