"""Running a table: begun, gone on with, and written."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from anipot.config import RunSettings
from anipot.errors import AnipotError, SettingsError
from anipot.experiments.table import runs
from anipot.experiments.table.collecting import (
    OPTIONS,
    REASON,
    further_folders,
    load_table,
    row_tuning,
    run_folders,
    run_unit,
    seed_numbers,
    seed_result,
    stored_settings,
    tuning_folders,
)
from anipot.experiments.table.queues import Queue, train_all
from anipot.experiments.table.report_page import try_table_page
from anipot.experiments.table.settings import (
    RowSettings,
    TableSettings,
    check_same,
    folder_name,
    row_settings,
    table_settings,
    with_option,
)
from anipot.experiments.table.sharing import STORAGE, begin_sharing, sharing_of
from anipot.experiments.table.table import IterationTable
from anipot.experiments.table.writing import in_terminal, write_table
from anipot.runs.run import absolute_paths, new_folder
from anipot.system.files import kept, only_process, read_text, write_first, write_text


def iterate(
    base: RunSettings | Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    folder: str | Path | None = None,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    **more: Any,
) -> IterationTable:
    """Compare settings: train every row from every seed on one split, and write the table.

        anipot.iterate({"epochs": 20}, rows=[{}, {"hidden": [256, 192]}, {"activation": "gelu"}])

    ``base``: options of a run, by section (``{"training": {"epochs": 20}}``) or by name. ``rows``
    change it: ``{"name": ..., option: value, ...}``; or ``grid`` ``{option: [values]}``: a row for
    every combination. ``seeds`` runs a row, from ``training.seed`` of the base on. ``folder``:
    default the next of runs/iterate-001 ...; where it holds the same table already, finished runs
    are kept, and the others go on. ``workers`` runs are trained side by side (with more than one,
    call it below ``if __name__ == "__main__":``). ``storage``: an address of a data base, or a
    file, through which several machines share the runs, each with the same call; ``name`` is what
    the table is called there. ``more``: ``title``, ``notes``, ``updates`` (of
    each run, which then decide its epochs), ``claims``, ``tune`` (``{"option": "learning_rate",
    "values": [1e-4, 1e-3, 1e-2], "updates": 300}``: chosen for each row on validation first).

    A row that cannot be run, or diverges, is a row with its reason. Raises SettingsError for
    unknown options and a folder that holds something else, DataError for data that cannot be read.
    """
    values = {"base": base, "rows": rows, "grid": grid, "seeds": seeds, **more}
    return run_table(table_settings(values), folder, workers, storage=storage, name=name)


def run_table(
    settings: TableSettings,
    folder: str | Path | None = None,
    workers: int = 1,
    then: Mapping[str, TableSettings] | None = None,
    storage: str | None = None,
    name: str | None = None,
) -> IterationTable:
    """Begin a table in a folder, or go on with it where the folder holds the same one.

    ``then``: tables that are run after it, by the names of their folders below its own.
    """
    if name is not None and storage is None:
        raise SettingsError("a name is what a table is called in its storage: give both")
    folder = new_folder(name="iterate") if folder is None else Path(folder)
    tables = {"": settings, **(then or {})}
    fresh = not (folder / OPTIONS).exists()
    for below, table in tables.items():
        _begin(table, folder / below)
    if storage is not None:
        try:
            begin_sharing(folder, tables, storage, name)
        except AnipotError:
            if fresh:  # its name is free for the next attempt
                shutil.rmtree(folder)
            raise
    return resume_table(folder, workers)


def _begin(settings: TableSettings, folder: Path) -> None:
    """Write the table's options and the folders of its runs, unless it was begun before."""
    data = absolute_paths(settings.base.data)
    base = settings.base.model_copy(update={"data": data})
    text = settings.model_copy(update={"base": base}).model_dump_json(indent=1)
    if not (folder / OPTIONS).exists():
        # Hidden: what another process that begins the table at this moment is writing.
        own = f".{OPTIONS}."
        if folder.exists() and not all(p.name.startswith(own) for p in folder.iterdir()):
            raise SettingsError(f"{folder} exists and holds no table; name another folder")
        if write_first(folder / OPTIONS, text + "\n"):
            try:
                _prepare(folder)
            except AnipotError:  # nothing can be run: the name is free for the next attempt
                shutil.rmtree(folder)
                raise
            return
    now, before = table_settings(json.loads(text)), stored_settings(folder)
    check_same(now.model_dump(), before.model_dump(), f"{folder}: the table")


def resume_table(folder: str | Path, workers: int = 1) -> IterationTable:
    """Go on with a table that was interrupted or killed; it ends as if it had never stopped.

    So do, after it, the tables in folders below it. Raises SettingsError for a folder that holds
    none, DataError when its data have changed.
    """
    folder = Path(folder)
    below = (folder.parent / STORAGE).exists() and not (folder / STORAGE).exists()
    first = folder.parent if below else folder
    # Processes that share a table may share its folder: they take its runs through the storage.
    shared = (first / STORAGE).exists()
    try:
        with nullcontext() if shared else only_process(folder):
            return _resume(folder, workers, first)
    except OSError as e:
        raise kept(e, f"anipot iterate --resume {first}") from e


def _resume(folder: Path, workers: int, first: Path) -> IterationTable:
    """Go on with the table in a folder; ``first`` is that of the table after which it is run, or
    its own.
    """
    rows, seeds, failed = _prepare(folder)
    print("".join(f"{line}\n" for line in failed), end="", flush=True)
    tune = stored_settings(folder).tune
    finished = True
    if tune is not None:
        tried = [run for row in rows for run in tuning_folders(folder, row, tune)]
        what = f"values of {tune.option} {len(tune.values)}"
        finished = _train_all(first, f"{folder}: rows {len(rows)}, {what}", tried, workers)
        rows = _choose(folder, rows, seeds, first) if finished else []
    if finished:
        # Seed by seed, so that a table that is not complete has something of every row.
        by_seed = zip(*(run_folders(folder, row, seeds) for row in rows), strict=True)
        everything = [run for of_seed in by_seed for run in of_seed]
        head = f"{folder}: rows {len(rows)}, seeds {len(seeds)}"
        finished = _train_all(first, head, everything, workers)
    table = load_table(folder)
    write_table(table)
    try_table_page(table)
    print(
        f"\n{in_terminal(table)}\n\n{folder}: report.html, "
        "table.md, .html, .csv, runs.csv and plots/",
        flush=True,
    )
    for below in further_folders(folder) if finished else ():
        print(flush=True)
        _resume(below, workers, first)
    return load_table(folder)


def _train_all(first: Path, head: str, everything: list[Path], workers: int) -> bool:
    """Train the runs that have not come to their end; whether they all did."""
    sharing = sharing_of(first)
    queue = Queue(everything) if sharing is None else sharing.queue(everything)
    left = len(queue.left)
    workers = runs.checked_workers(workers, queue.left)
    done, total = len(everything) - left, len(everything)
    print(
        f"{head}, runs {total}"
        + (f", {done} of them done" if done else "")
        + (f", {workers} side by side" if workers > 1 else ""),
        flush=True,
    )
    began = time.monotonic()
    for run in train_all(queue, workers):
        if run is None:
            print(f"Interrupted. To go on: anipot iterate --resume {first}", flush=True)
            return False
        done += 1
        passed = time.monotonic() - began
        remaining = passed / (done - total + left) * (total - done)
        print(f"[{done} of {total}] {_told(run)}{_minutes(remaining)}", flush=True)
    return True


def _choose(
    folder: Path, rows: list[RowSettings], seeds: tuple[int, ...], first: Path
) -> list[RowSettings]:
    """Make the runs ready of the rows for which the tuning found a value; these rows.

    Why it found none for a row is written into its folder. ``first`` is as in ``_resume``.
    """
    settings = stored_settings(folder)
    tune = settings.tune
    assert tune is not None
    ready = []
    for row in rows:
        tuning = row_tuning(folder, row, seeds, tune)
        assert tuning is not None
        assert row.settings is not None
        if not all(map(runs.ended, tuning_folders(folder, row, tune))):
            print(
                f"row {row.name!r}: {tune.option} is not chosen yet, since a run that tunes it "
                "failed for want of memory; it is tried again by: anipot iterate --resume "
                f"{first}",
                flush=True,
            )
            continue
        if tuning.chosen is None:
            reason = f"no value of {tune.option} that was tried can be trained with: "
            reason += next((run.reason for run in tuning.runs if run.reason), "")
            write_text(folder / folder_name(row.name) / REASON, reason + "\n")
            print(f"row {row.name!r} cannot be run: {reason}", flush=True)
            continue
        chosen = with_option(row.settings, tune.option, tune.values[tuning.chosen])
        runs.prepare(run_folders(folder, row, seeds), seeds, chosen, settings.updates)
        ready.append(row)
    return ready


def _prepare(folder: Path) -> tuple[list[RowSettings], tuple[int, ...], list[str]]:
    """Make the runs of all rows ready (those that tune, where they come first); the rows that have
    some, the seeds, and what cannot be run, in sentences.

    What a row cannot be run for is written into its folder. Raises SettingsError where no row can.
    """
    settings = stored_settings(folder)
    seeds, tune = seed_numbers(settings), settings.tune
    ready, failed = [], []
    for row in row_settings(settings):
        why = folder / folder_name(row.name) / REASON
        reason = read_text(why).strip() if why.exists() else row.reason
        if row.settings is not None and not reason:
            try:
                if tune is None:
                    folders = run_folders(folder, row, seeds)
                    runs.prepare(folders, seeds, row.settings, settings.updates)
                else:
                    tried = tuning_folders(folder, row, tune)
                    for below, value in zip(tried, tune.values, strict=True):
                        own = with_option(row.settings, tune.option, value)
                        runs.prepare([below], seeds[:1], own, tune.updates, tested=False)
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


def _told(folder: Path) -> str:
    """Describe how a run ended, in a line."""
    found = seed_result(folder, 0, "")
    name = f"{folder.parent.name}, {re.sub('^seed-', 'seed ', folder.name)}"
    if found.status in ("failed", "diverged"):
        return f"{name}: {found.status}: {found.reason}"
    errors = found.test or found.validation or {}
    unit = run_unit(folder)
    part = "test" if found.test else "validation"
    return f"{name}: {part} MAE {errors['mae']:.3f}, RMSE {errors['rmse']:.3f} {unit}"


def _minutes(seconds: float) -> str:
    return f"; about {seconds / 60:.0f} min left" if seconds >= 60 else ""
