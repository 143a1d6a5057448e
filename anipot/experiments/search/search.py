"""Running a search: begun, gone on with, joined by other processes and machines."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from anipot.config import RunSettings
from anipot.errors import AnipotError, SettingsError, TrainingError
from anipot.experiments import shared_studies
from anipot.experiments.search import results, storage
from anipot.experiments.search.figures import write_figures
from anipot.experiments.search.printing import Watcher, print_results
from anipot.experiments.search.results import Search
from anipot.experiments.search.settings import SearchSettings, search_settings
from anipot.experiments.search.space import parameters
from anipot.experiments.search.trial import Parts, orphaned, read_parts, run_trial
from anipot.experiments.table.runs import cores
from anipot.experiments.table.settings import check_same, options_of
from anipot.runs.run import absolute_paths, new_folder
from anipot.system.files import damage_named, kept, read_json, write_first, write_text
from anipot.version import __version__

if TYPE_CHECKING:
    import optuna

#: What a search is, in its folder; and its trials, unless another storage is given.
ABOUT, JOURNAL = "search.json", "trials.journal"

#: So many suggestions in a row that have been tried already: there is nothing left to try.
_REPEATS = 50

#: Seconds between looks at what other processes have found.
_LOOK_EVERY = 1.0


def search(
    base: RunSettings | Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    trials: int | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    **more: Any,
) -> Search:
    """Search for the options with the lowest validation error; the test part is never looked at.

        anipot.search({"epochs": 20}, {"learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
                                       "batch_size": [32, 64, 128]}, minutes=30)

    ``base``: options of a run, by section or by name. ``space``: options of the model or training,
    each with ``{"low": ..., "high": ..., "log": ...}``, ``{"values": [...]}`` or both. Ends after
    ``minutes`` or ``trials``, those of all processes together. ``folder``: default the next of
    runs/search-001 ...; where it holds the same search, that one goes on. ``workers`` processes
    train side by side (with more than one, call it below ``if __name__ == "__main__":``).
    ``storage``: an address of a data base or a journal file that several machines share, ``name``
    what the search is called there. ``more``: other fields of ``SearchSettings`` (objective, seed,
    shorten, max_seconds, pruning).

    Raises SettingsError for unknown options, a folder or storage that holds something else, and
    without Optuna; DataError for data that cannot be read.
    """
    values = {"base": base, "space": space, "minutes": minutes, "trials": trials, **more}
    found, _ = run_search(search_settings(values), folder, workers, storage, name)
    return found


def run_search(
    settings: SearchSettings,
    folder: str | Path | None = None,
    workers: int = 1,
    where: str | None = None,
    name: str | None = None,
) -> tuple[Search, bool]:
    """Begin a search, or go on with it; with False where it was interrupted."""
    shared_studies.need_optuna()
    threads = settings.base.training.threads or 1
    if workers > 1 and workers * threads > cores():
        raise SettingsError(
            f"{workers} workers of {threads} thread{'s' * (threads > 1)} are more than the "
            f"{cores()} cores there are: have fewer workers"
        )
    data = absolute_paths(settings.base.data)
    base = settings.base.model_copy(update={"data": data})
    settings = settings.model_copy(update={"base": base})
    parts = read_parts(settings.base.data, settings.base.training)
    folder = new_folder(name="search") if folder is None else Path(folder)
    where = None if where is None else shared_studies.absolute_storage(where)
    if (folder / ABOUT).exists():
        where, name = _same(folder, settings, where, name)
    elif folder.exists():
        # A search that was killed before it was described has left a journal alone.
        own = (JOURNAL, f".{ABOUT}.")
        if not all(path.name.startswith(own) for path in folder.iterdir()):
            raise SettingsError(f"{folder} exists and holds no search; name another folder")
    name = name or shared_studies.default_name("search", storage.identity(settings))
    try:
        study = storage.open_study(where or str(folder / JOURNAL), name, settings)
        storage.join(study, settings, parts.fingerprint)
    except AnipotError:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()  # its name is free for the next attempt
        raise
    text = _as_json(settings, where, name, parts)
    if not write_first(folder / ABOUT, text):
        _same(folder, settings, where, name)  # of a process that began another at this moment
        write_text(folder / ABOUT, text)
    try:
        return _go_on(study, folder, settings, parts, workers)
    except AnipotError:
        raise
    except OSError as e:
        raise kept(e, f"anipot search --resume {folder}") from e
    except shared_studies.failures() as e:
        raise TrainingError(
            f"storage {where or folder / JOURNAL}: cannot be used any more: "
            f"{shared_studies.reason(e)}; trials that have ended are kept; to go on: anipot search "
            f"--resume {folder}"
        ) from e


def _same(
    folder: Path, settings: SearchSettings, where: str | None, name: str | None
) -> tuple[str | None, str]:
    """Storage and name of the search in a folder. Raises SettingsError where it is another."""
    before = _about(folder)
    check_same(
        storage.identity(settings), storage.identity(before.settings), f"{folder}: the search"
    )
    if where not in (None, before.storage) or name not in (None, before.name):
        raise SettingsError(
            f"{folder} holds search {before.name!r} of storage {before.storage or JOURNAL}; "
            "for another one, name another folder"
        )
    return before.storage, before.name


def resume_search(
    folder: str | Path, workers: int = 1, minutes: float | None = None, trials: int | None = None
) -> tuple[Search, bool]:
    """Go on with the search in a folder, for so many minutes more, or up to so many trials.

    Raises SettingsError for a folder that holds none.
    """
    settings = _about(Path(folder)).settings
    if minutes is not None or trials is not None:
        given = settings.model_dump(mode="json") | {"minutes": minutes, "trials": trials}
        settings = search_settings(given)
    return run_search(settings, folder, workers)


class _About(NamedTuple):
    settings: SearchSettings
    storage: str | None
    name: str


def _about(folder: Path) -> _About:
    path = folder / ABOUT
    if not path.exists():
        raise SettingsError(f"{folder} is not the folder of a search: it has no {ABOUT}")
    way_out = (
        "to go on, remove it and give the command with which the search was begun again: its "
        "trials are kept"
    )
    with damage_named(path, way_out=way_out):
        found = read_json(path)
        about = _About(search_settings(found["settings"]), found["storage"], found["name"])
        if not (isinstance(about.name, str) and isinstance(about.storage, str | None)):
            raise ValueError("name and storage are no text")
    return about


def _as_json(settings: SearchSettings, where: str | None, name: str, parts: Parts) -> str:
    import optuna

    about = {
        "name": name,
        "storage": where,
        "settings": settings.model_dump(mode="json"),
        "division": parts.about,
        "data": parts.fingerprint,
        "versions": {
            "anipot": __version__,
            "optuna": optuna.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return json.dumps(about, indent=1) + "\n"


# ---- running -------------------------------------------------------------------------------------


def _go_on(
    study: optuna.study.Study, folder: Path, settings: SearchSettings, parts: Parts, workers: int
) -> tuple[Search, bool]:
    print(f"{folder}: search {study.study_name!r}, objective validation {results.name(settings)}")
    print(f"{parts.about}; the test part is not looked at")
    killed = storage.bury(study)
    known = sum(storage.counts(t) for t in study.get_trials(deepcopy=False))
    if known or killed:
        again = f", and {killed} that were killed and are tried again" if killed else ""
        print(f"{known} trials are there{again}")
    else:
        _try_base_first(study, settings, len(parts.train))
    # Other draws than those of whoever was here before.
    draws = 100 * len(study.get_trials(deepcopy=False))
    study.sampler = storage.sampler(settings, draws)
    deadline = time.time() + (settings.minutes or math.inf) * 60
    watcher = Watcher(study, folder, settings, deadline)
    finished = True
    try:
        if workers == 1:
            work(study, settings, parts, deadline, watcher)
        else:
            _side_by_side(folder, workers, draws, deadline, watcher)
    except KeyboardInterrupt:
        finished = False
    found = watcher.look()
    results.write_search(found)
    if found.best is not None:
        write_figures(found)
    print_results(found, finished)
    return found, finished


def _try_base_first(study: optuna.study.Study, settings: SearchSettings, conformers: int) -> None:
    """Nothing that a search finds is then worse than what it began with."""
    base = RunSettings(**dict(settings.base))
    training = base.training.resolved(conformers)
    options = options_of(base.model_copy(update={"training": training}))
    params = parameters(options, settings.space)
    if params is None:
        print("the space does not contain the base, which is not tried")
    else:
        study.enqueue_trial(params, skip_if_exists=True)


def work(
    study: optuna.study.Study,
    settings: SearchSettings,
    parts: Parts,
    deadline: float,
    watcher: Watcher | None = None,
) -> None:
    """Trial after trial, until the time is over or there are as many as asked for."""
    repeats = 0
    while (
        time.time() < deadline
        and repeats < _REPEATS
        and not _enough(study, settings)
        and not orphaned()
    ):
        trial = storage.ask(study)
        if settings.trials is not None and _rank(study, trial.number) >= settings.trials:
            # Another process was quicker.
            storage.set_aside(study, trial, "one too many")
            break
        run_trial(study, trial, settings, parts, deadline)
        repeated = storage.REPEATS in trial.user_attrs
        repeats = repeats + 1 if repeated else 0
        if watcher is not None:
            watcher.look()


def _enough(study: optuna.study.Study, settings: SearchSettings) -> bool:
    there = sum(storage.counts(t) for t in study.get_trials(deepcopy=False))
    return settings.trials is not None and there >= settings.trials


def _rank(study: optuna.study.Study, number: int) -> int:
    trials = study.get_trials(deepcopy=False)
    return sum(storage.counts(t) for t in trials if t.number < number)


def _side_by_side(
    folder: Path, workers: int, draws: int, deadline: float, watcher: Watcher
) -> None:
    """Ctrl-C reaches the processes too, each of which sets its trial aside and ends."""
    # A fork would copy locks that the parent's threads hold.
    context = multiprocessing.get_context("spawn")
    running = [
        context.Process(target=_work_quietly, args=(str(folder), draws + k, deadline))
        for k in range(workers)
    ]
    for process in running:
        process.start()
    left = list(running)
    try:
        while any(process.is_alive() for process in running):
            time.sleep(_LOOK_EVERY)
            watcher.look()
            for process in [p for p in left if p.exitcode not in (None, 0, 130)]:
                left.remove(process)
                going = sum(p.exitcode is None for p in running)  # others have ended well
                watcher.tell_of_death(process.exitcode, going)
    finally:
        for process in running:
            process.join()
    if any(process.exitcode == 130 for process in running):
        raise KeyboardInterrupt
    if all(process.exitcode for process in running):
        raise TrainingError(
            f"the processes of the search ended with {running[0].exitcode}: see what they said "
            f"above; the trials so far are kept in {folder}"
        )


def _work_quietly(folder: str, draws: int, deadline: float) -> None:
    """A process of its own: one thread, nothing printed."""
    torch.set_num_threads(1)
    about = _about(Path(folder))
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        try:
            base = about.settings.base
            parts = read_parts(base.data, base.training)
            where = about.storage or str(Path(folder) / JOURNAL)
            study = storage.open_study(where, about.name, about.settings, draws)
            work(study, about.settings, parts, deadline)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
