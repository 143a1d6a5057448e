"""Where the trials of a search are kept: one storage for all its processes and machines."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.errors import DataError, SettingsError
from anipot.searches.settings import SearchSettings, search_settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Trials before the first that others are judged by, and of which all are drawn at random.
_FIRST_TRIALS = 10

#: Tenths of a training before which no trial is pruned: with a schedule that rises and falls, what
#: will end well can be behind while its learning rate is high.
_NOT_BEFORE = 4

#: Seconds in which a trial that is being trained gives a sign of life; after an hour without one
#: it is one that was killed.
SIGN_OF_LIFE = 60.0
_DEAD_AFTER = 3600.0

#: How often a trial that was killed is tried again.
_TRIES = 2

#: Attributes of trials and studies.
INTERRUPTED, REPEATS, SEEN, WHERE, TRY = "interrupted", "repeats", "seen", "where", "try"
_SEARCH = "anipot"


def need_optuna() -> Any:
    """Optuna, without its chatter. Raises SettingsError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise SettingsError(
            "anipot search needs Optuna, which is not installed: pip install 'anipot[search]'"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna


def open_study(
    storage: str, name: str, settings: SearchSettings, draws: int = 0
) -> optuna.study.Study:
    """The study of that name, begun where it is not there yet.

    ``storage``: an address such as ``sqlite:///x.db`` or ``postgresql://...``, or a file, which
    becomes an Optuna journal. ``draws`` tells processes of one search apart, which draw different
    trials. Raises SettingsError for a storage that cannot be opened.
    """
    optuna = need_optuna()
    pruner = optuna.pruners.NopPruner()
    if settings.pruning:
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=_FIRST_TRIALS // 2, n_warmup_steps=_NOT_BEFORE
        )
    try:
        return optuna.create_study(
            storage=_backend(storage),
            study_name=name,
            sampler=sampler(settings, draws),
            pruner=pruner,
            direction="minimize",
            load_if_exists=True,
        )
    except ImportError as e:
        raise SettingsError(
            f"storage {storage}: its driver is not installed: pip install {e.name}"
        ) from None
    except Exception as e:  # whatever the driver of a data base raises
        reason = str(e).strip().split("\n")[0]
        raise SettingsError(f"storage {storage}: cannot be opened: {reason}") from None


def sampler(settings: SearchSettings, draws: int) -> optuna.samplers.BaseSampler:
    """Draws at random first, then where errors were low (tree-structured Parzen estimator)."""
    optuna = need_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that may change
        return optuna.samplers.TPESampler(
            seed=(settings.seed + 7919 * draws) % 2**32,
            n_startup_trials=_FIRST_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def _backend(storage: str) -> Any:
    optuna = need_optuna()
    if "://" in storage:
        more: dict[str, Any] = {}
        if storage.startswith("sqlite"):  # where several processes wait for each other
            more["connect_args"] = {"timeout": 60}
        return optuna.storages.RDBStorage(storage, engine_kwargs=more)
    journal = optuna.storages.journal
    path = str(Path(storage).resolve())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The other kind of lock needs symbolic links, and waits for ever for one left by a dead process
    # whose path was relative.
    return optuna.storages.JournalStorage(
        journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
    )


# ---- what a search is ----------------------------------------------------------------------------


def identity(settings: SearchSettings) -> dict[str, Any]:
    """What two commands must share to be one search: not paths, and not when they end."""
    found = settings.model_dump(mode="json", exclude={"minutes", "trials"})
    found["base"]["data"]["files"] = [Path(f).name for f in settings.base.data.files]
    return found


def join(study: optuna.study.Study, settings: SearchSettings, data: str) -> None:
    """Sign a new study, or see that it is the same search on the same data.

    Raises SettingsError or DataError where it is another.
    """
    about = study.user_attrs.get(_SEARCH)
    if about is None:
        about = {"settings": settings.model_dump_json(), "data": data}
        study.set_user_attr(_SEARCH, about)
    before = identity(search_settings(json.loads(about["settings"])))
    check_same(identity(settings), before, f"search {study.study_name!r} of this storage")
    if about["data"] != data:
        raise DataError(
            f"search {study.study_name!r} of this storage was begun with other data, or another "
            "division of it: give the same files, or another --name"
        )


def check_same(now: Mapping[str, Any], before: Mapping[str, Any], what: str) -> None:
    """Raises SettingsError that names what differs."""
    other = [key for key in now if key != "base" and now[key] != before[key]]
    other += [
        f"{section}.{key}={before['base'][section][key]}"
        for section, options in now["base"].items()
        for key in options
        if options[key] != before["base"][section][key]
    ]
    if other:
        raise SettingsError(
            f"{what} was begun with other {', '.join(other)}; give the same, or name another"
        )


# ---- trials --------------------------------------------------------------------------------------


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those asked for: not one set aside, or waiting."""
    return trial.state.name != "WAITING" and not (
        INTERRUPTED in trial.user_attrs or REPEATS in trial.user_attrs
    )


def sign(trial: optuna.Trial) -> None:
    """Say who trains a trial."""
    trial.set_user_attr(WHERE, [socket.gethostname(), os.getpid()])
    trial.set_user_attr(SEEN, time.time())


def set_aside(
    study: optuna.study.Study, trial: optuna.Trial | FrozenTrial, why: str, tries: int = 0
) -> None:
    """End a trial that was interrupted, to be tried again by whoever asks next."""
    optuna = need_optuna()
    number = trial.number
    try:
        # The first who ends it is the one who has it tried again.
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, why)
        study.tell(number, state=optuna.trial.TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError, RuntimeError):
        return
    if trial.params and tries < _TRIES:
        study.enqueue_trial(dict(trial.params), user_attrs={TRY: tries})


def bury(study: optuna.study.Study) -> int:
    """Set aside the trials whose process was killed; how many."""
    optuna = need_optuna()
    dead = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        if _dead(trial)
    ]
    for trial in dead:
        set_aside(study, trial, "killed", trial.user_attrs.get(TRY, 0) + 1)
    return len(dead)


def _dead(trial: FrozenTrial) -> bool:
    host, process = trial.user_attrs.get(WHERE, ("", 0))
    if host == socket.gethostname() and not _alive(process):
        return True
    assert trial.datetime_start is not None
    seen = trial.user_attrs.get(SEEN, trial.datetime_start.timestamp())
    return bool(time.time() - seen > _DEAD_AFTER)


def _alive(process: int) -> bool:
    """Whether a process of this machine lives; this one trains nothing yet."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
