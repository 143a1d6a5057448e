"""A table read back from its folder, as far as its runs have come."""

from __future__ import annotations

import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from anipot.config import RunSettings
from anipot.data.division import Division
from anipot.data.provenance import index_hash
from anipot.errors import SettingsError, shortly
from anipot.evaluation.history import EpochRecord, History
from anipot.experiments.table.runs import read_outcome
from anipot.experiments.table.settings import (
    RowSettings,
    TableSettings,
    TuneSettings,
    folder_name,
    options_of,
    row_settings,
    table_settings,
    words,
)
from anipot.experiments.table.table import Claim, IterationRow, IterationTable, SeedResult, Tuning
from anipot.runs.run import run_settings
from anipot.system.files import damage_named, read_json, read_table, read_text
from anipot.system.options import checked
from anipot.training.losses import loss_unit

#: The options of a table, in its folder.
OPTIONS = "table.json"

#: Why a row has no runs, in its folder.
REASON = "reason.txt"


def load_table(folder: str | Path) -> IterationTable:
    """The table in a folder, complete or not.

    Raises SettingsError for a folder that holds none.
    """
    folder = Path(folder)
    settings = stored_settings(folder)
    seeds = seed_numbers(settings)
    rows = tuple(_row(folder, row, seeds, settings.tune) for row in row_settings(settings))
    reports = [r for row in rows for run in row.runs if (r := _json(run.folder / "run.json"))]
    with damage_named(f"{folder}: run.json of a run", way_out="remove that run's folder"):
        about, unit = _about(rows, reports), _unit(reports[0]) if reports else "kcal/mol"
    return IterationTable(
        folder=folder,
        title=settings.title,
        rows=rows,
        seeds=seeds,
        base=settings.base.model_dump(),
        about=(*about, *settings.notes),
        claims=tuple(Claim(**claim.model_dump()) for claim in settings.claims),
        unit=unit,
        further=tuple(load_table(below) for below in further_folders(folder)),
    )


def further_folders(folder: Path) -> list[Path]:
    """Folders of the tables that are run after the one in a folder."""
    return sorted(path.parent for path in folder.glob(f"*/{OPTIONS}"))


def stored_settings(folder: Path) -> TableSettings:
    """Return the settings with which the table in a folder was begun."""
    path = folder / OPTIONS
    if not path.exists():
        raise SettingsError(f"{folder} is not the folder of a table: it has no {OPTIONS}")
    with damage_named(path, way_out="the table cannot go on without it: begin it anew"):
        return table_settings(read_json(path))


def seed_numbers(settings: TableSettings) -> tuple[int, ...]:
    """Seeds of the trainings: that of the base, and the next ones."""
    first = settings.base.training.seed
    return tuple(range(first, first + settings.seeds))


def run_folders(folder: Path, row: RowSettings, seeds: tuple[int, ...]) -> list[Path]:
    return [folder / folder_name(row.name) / f"seed-{seed}" for seed in seeds]


def tuning_folders(folder: Path, row: RowSettings, tune: TuneSettings) -> list[Path]:
    """Of the runs that tune an option of a row, a value each."""
    name = tune.option.split(".")[1]
    within = folder / folder_name(row.name)
    return [within / folder_name(f"{name}={words(value)}") for value in tune.values]


def row_tuning(
    folder: Path, row: RowSettings, seeds: tuple[int, ...], tune: TuneSettings | None
) -> Tuning | None:
    """Return the results of the runs that tune a row."""
    if tune is None or row.settings is None:
        return None
    unit = loss_unit(row.settings.training)
    folders = tuning_folders(folder, row, tune)
    found = tuple(seed_result(below, seeds[0], unit) for below in folders)
    return Tuning(tune.option, tuple(tune.values), found)


def _row(
    folder: Path, row: RowSettings, seeds: tuple[int, ...], tune: TuneSettings | None
) -> IterationRow:
    why = folder / folder_name(row.name) / REASON
    tuning = row_tuning(folder, row, seeds, tune)
    if row.settings is None or why.exists():
        reason = row.reason or read_text(why).strip()
        return IterationRow(
            row.name, row.changes, {}, reason=reason, reported=row.reported, tuning=tuning
        )
    folders = run_folders(folder, row, seeds)
    settings = row.settings
    test_set = ""
    prepared = (folders[0] / "options.yaml").exists()
    if prepared:
        settings = run_settings(folders[0])
        division = Division.load(folders[0] / "split.npz")
        test_set = f"{division.data_hash}/{index_hash(division.test)}"
    unit = loss_unit(settings.training)
    runs = tuple(seed_result(f, seed, unit) for f, seed in zip(folders, seeds, strict=True))
    options = options_of(settings)
    if tune is not None and not prepared:
        del options[tune.option]  # not known yet
    return IterationRow(
        row.name,
        row.changes,
        options,
        runs,
        test_set=test_set,
        reported=row.reported,
        tuning=tuning,
    )


def seed_result(folder: Path, seed: int, unit: str) -> SeedResult:
    """Return the results of one run, from its files; ``unit`` is that of its losses."""
    outcome = read_outcome(folder)
    history = History(_epochs(folder / "metrics.csv"), loss_unit=unit)
    if outcome is None:
        return SeedResult(seed, folder, history=history)
    history.stopped = outcome["status"]
    with damage_named(folder / "run.json", way_out=_AGAIN.format(folder)):
        report = _json(folder / "run.json")
        results = report.get("results", {})
        validation, test = (_errors(results.get(p)) for p in ("validation", "test"))
        for key in ("parameters", "seconds"):
            if not isinstance(report.get(key), int | float | None):
                raise ValueError(f"{key!r} is {shortly(report[key])}")
    return SeedResult(
        seed,
        folder,
        outcome["status"],
        outcome["reason"],
        history,
        validation,
        test,
        report.get("parameters"),
        report.get("seconds"),
        outcome["peak_memory"],
        outcome["peak_device_memory"],
    )


#: What can be done about a damaged file of a run.
_AGAIN = "remove the folder {}, and the run is trained again"


def _errors(result: Any) -> dict[str, Any] | None:
    """The errors of energies on a part, if there is one, whose numbers are numbers."""
    if result is None:
        return None
    found: dict[str, Any] = result["energy"]
    str(result["unit"])
    return found | {key: float(found[key]) for key in ("mae", "rmse")}


def run_unit(folder: Path) -> str:
    """The unit of a finished run's errors."""
    return _unit(_json(folder / "run.json"))


def _unit(report: dict[str, Any]) -> str:
    return str(next(iter(report["results"].values()))["unit"])


def _epochs(path: Path) -> list[EpochRecord]:
    """The epochs in a metrics.csv."""
    kinds = typing.get_type_hints(EpochRecord)

    def value(name: str, text: str) -> Any:
        if kinds[name] is bool:
            return text == "True"
        return int(text) if kinds[name] is int else float(text) if text else None

    def record(line: dict[str, str]) -> EpochRecord:
        return EpochRecord(**{f.name: value(f.name, line[f.name]) for f in fields(EpochRecord)})

    if not path.exists():
        return []
    return read_table(path, record, way_out=_AGAIN.format(path.parent))


def _about(rows: tuple[IterationRow, ...], reports: list[dict[str, Any]]) -> list[str]:
    """Describe what the rows share, in sentences."""
    if not reports:
        return []
    report = reports[0]
    data, machine = report["data"], report["machine"]
    files = ", ".join(data["files"])
    level = f", {data['level_of_theory']}" if data["level_of_theory"] else ""
    divided = [
        Division.load(row.runs[0].folder / "split.npz").describe()
        for row in rows
        if row.runs and row.test_set
    ]
    shared = len({row.test_set for row in rows if row.test_set}) == 1
    options = checked(RunSettings, report["options"])
    machines = {tuple(sorted(r["machine"].items())) for r in reports}
    several = (
        f"Runs were trained on {len(machines)} kinds of machines, of which this is the first: "
        "their times and memory are not to be compared."
    )
    return [
        f"{data['conformers']:,} conformers of {files}{level}.",
        f"{divided[0].capitalize()}, the same for every row and seed."
        if shared
        else "Rows have data or divisions of their own; only rows of one test set are compared.",
        f"anipot {report['anipot']}, torch {machine['torch']}, Python {machine['python']}, "
        f"{machine['device']}, {options.training.threads} thread a run, {machine['platform']}.",
        *([several] if len(machines) > 1 else []),
    ]


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_json(path, way_out=_AGAIN.format(path.parent))
