"""Running a table: begun, gone on with, and written."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anipot.config import RunSettings
from anipot.errors import AnipotError, SettingsError
from anipot.files import write_text
from anipot.iterations import runs
from anipot.iterations.collecting import (
    OPTIONS,
    REASON,
    load_table,
    run_folders,
    run_unit,
    seed_numbers,
    seed_result,
    stored_settings,
)
from anipot.iterations.settings import (
    RowSettings,
    TableSettings,
    folder_name,
    row_settings,
    table_settings,
)
from anipot.iterations.table import IterationTable
from anipot.iterations.writing import in_terminal, write_table
from anipot.report.table_page import try_table_page
from anipot.training.run import absolute_paths, new_folder


def iterate(
    base: RunSettings | Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    folder: str | Path | None = None,
    workers: int = 1,
    **more: Any,
) -> IterationTable:
    """Compare settings: train every row from every seed on one split, and write the table.

        anipot.iterate({"epochs": 20}, rows=[{}, {"hidden": [256, 192]}, {"activation": "gelu"}])

    ``base``: options of a run, by section (``{"training": {"epochs": 20}}``) or by name. ``rows``
    change it: ``{"name": ..., option: value, ...}``; or ``grid`` ``{option: [values]}``: a row for
    every combination. ``seeds`` runs a row, from ``training.seed`` of the base on. ``folder``:
    default the next of runs/iterate-001 ...; where it holds the same table already, finished runs
    are kept, and the others go on. ``workers`` runs are trained side by side (with more than one,
    call it below ``if __name__ == "__main__":``). ``more``: ``title``, ``notes``, ``updates`` (of
    each run, which then decide its epochs).

    A row that cannot be run, or diverges, is a row with its reason. Raises SettingsError for
    unknown options and a folder that holds something else, DataError for data that cannot be read.
    """
    values = {"base": base, "rows": rows, "grid": grid, "seeds": seeds, **more}
    return run_table(table_settings(values), folder, workers)


def run_table(
    settings: TableSettings, folder: str | Path | None = None, workers: int = 1
) -> IterationTable:
    """Begin a table in a folder, or go on with it where the folder holds the same one."""
    data = absolute_paths(settings.base.data)
    base = settings.base.model_copy(update={"data": data})
    text = settings.model_copy(update={"base": base}).model_dump_json(indent=1)
    folder = new_folder(name="iterate") if folder is None else Path(folder)
    if (folder / OPTIONS).exists():
        _check_same(table_settings(json.loads(text)), folder)
    elif folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} exists and holds no table; name another folder")
    else:
        write_text(folder / OPTIONS, text + "\n")
        try:
            _prepare(folder)
        except AnipotError:  # nothing can be run: the folder's name is free for the next attempt
            shutil.rmtree(folder)
            raise
    return resume_table(folder, workers)


def resume_table(folder: str | Path, workers: int = 1) -> IterationTable:
    """Go on with a table that was interrupted or killed; it ends as if it had never stopped.

    Raises SettingsError for a folder that holds none, DataError when its data have changed.
    """
    folder = Path(folder)
    rows, seeds, failed = _prepare(folder)
    # Seed by seed, so that a table that is not complete has something of every row.
    by_seed = zip(*(run_folders(folder, row, seeds) for row in rows), strict=True)
    everything = [run for of_seed in by_seed for run in of_seed]
    left = [run for run in everything if not runs.ended(run)]
    workers = runs.checked_workers(workers, left)
    done, total = len(everything) - len(left), len(everything)
    print(
        f"{folder}: rows {len(rows)}, seeds {len(seeds)}, runs {total}"
        + (f", {done} of them done" if done else "")
        + (f", {workers} side by side" if workers > 1 else ""),
        flush=True,
    )
    print("".join(f"{line}\n" for line in failed), end="", flush=True)
    began = time.monotonic()
    for run, finished in runs.train_all(left, workers):
        if not finished:
            print(f"Interrupted. To go on: anipot iterate --resume {folder}", flush=True)
            break
        done += 1
        passed = time.monotonic() - began
        remaining = passed / (done - total + len(left)) * (total - done)
        print(f"[{done} of {total}] {_told(run)}{_minutes(remaining)}", flush=True)
    table = load_table(folder)
    write_table(table)
    try_table_page(table)
    print(
        f"\n{in_terminal(table)}\n\n{folder}: report.html, "
        "table.md, .html, .csv, runs.csv and plots/",
        flush=True,
    )
    return table


def _prepare(folder: Path) -> tuple[list[RowSettings], tuple[int, ...], list[str]]:
    """Make the runs of all rows ready; the rows that have some, the seeds, and
    what cannot be run, in sentences.

    What a row cannot be run for is written into its folder. Raises SettingsError where no row can.
    """
    settings = stored_settings(folder)
    seeds = seed_numbers(settings)
    ready, failed = [], []
    for row in row_settings(settings):
        why = folder / folder_name(row.name) / REASON
        reason = why.read_text(encoding="utf-8").strip() if why.exists() else row.reason
        if row.settings is not None and not reason:
            try:
                folders = run_folders(folder, row, seeds)
                runs.prepare(folders, seeds, row.settings, settings.updates)
            except AnipotError as e:
                reason = str(e)
        if not reason:
            ready.append(row)
            continue
        write_text(why, reason + "\n")
        failed.append(f"row {row.name!r} cannot be run: {reason}")
    if not ready:
        raise SettingsError("; ".join(failed))
    return ready, seeds, failed


def _check_same(settings: TableSettings, folder: Path) -> None:
    now, before = settings.model_dump(), stored_settings(folder).model_dump()
    other = [name for name in now if now[name] != before[name]]
    if "base" in other:
        base, stored = now["base"], before["base"]
        other.remove("base")
        other += [
            f"{section}.{key}={stored[section][key]}"
            for section, options in base.items()
            for key in options
            if options[key] != stored[section][key]
        ]
    if other:
        raise SettingsError(
            f"{folder} holds a table that was begun with other {', '.join(other)}; go on with that "
            f"one (anipot iterate --resume {folder}), or name another folder"
        )


def _told(folder: Path) -> str:
    """How a run ended, in a line."""
    found = seed_result(folder, 0, "")
    name = f"{folder.parent.name}, {folder.name.replace('-', ' ')}"
    if found.status in ("failed", "diverged"):
        return f"{name}: {found.status}: {found.reason}"
    errors = found.test or found.validation or {}
    unit = run_unit(folder)
    part = "test" if found.test else "validation"
    return f"{name}: {part} MAE {errors['mae']:.3f}, RMSE {errors['rmse']:.3f} {unit}"


def _minutes(seconds: float) -> str:
    return f"; about {seconds / 60:.0f} min left" if seconds >= 60 else ""
