"""Where the trials of a search are kept: one storage for all its processes and machines."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.errors import DataError
from anipot.experiments import shared_studies
from anipot.experiments.search.settings import SearchSettings, search_settings
from anipot.experiments.shared_studies import dead, need_optuna
from anipot.experiments.table.settings import check_same
from anipot.system.files import damage_named

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Trials before the first that others are judged by, and of which all are drawn at random.
_FIRST_TRIALS = 10

#: Tenths of a training before which no trial is pruned: with a schedule that rises and falls, what
#: will end well can be behind while its learning rate is high.
_NOT_BEFORE = 4

#: How often a trial that was killed is tried again.
_TRIES = 2

#: Attributes of trials and studies.
INTERRUPTED, REPEATS, TRY = "interrupted", "repeats", "try"
_SEARCH = "anipot"


def open_study(
    storage: str, name: str, settings: SearchSettings, draws: int = 0
) -> optuna.study.Study:
    """The study of that name, begun where it is not there yet.

    ``storage`` is as in ``shared_studies.open_study``. ``draws`` tells processes of one search
    apart, which draw different trials. Raises SettingsError for a storage that cannot be opened.
    """
    pruners = need_optuna().pruners
    pruner = pruners.NopPruner()
    if settings.pruning:
        pruner = pruners.MedianPruner(
            n_startup_trials=_FIRST_TRIALS // 2, n_warmup_steps=_NOT_BEFORE
        )
    return shared_studies.open_study(storage, name, sampler=sampler(settings, draws), pruner=pruner)


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


# ---- what a search is ----------------------------------------------------------------------------


def identity(settings: SearchSettings) -> dict[str, Any]:
    """Settings that two commands must share to join one search: no paths, no time limits."""
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
    name = f"search {study.study_name!r} of this storage"
    with damage_named(name, way_out="give another --name"):
        before = identity(search_settings(json.loads(about["settings"])))
        begun_with = about["data"]
    check_same(identity(settings), before, name)
    if begun_with != data:
        raise DataError(
            f"search {study.study_name!r} of this storage was begun with other data, or another "
            "division of it: give the same files, or another --name"
        )


# ---- trials --------------------------------------------------------------------------------------


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those asked for: not one set aside, or waiting."""
    return trial.state.name != "WAITING" and not (
        INTERRUPTED in trial.user_attrs or REPEATS in trial.user_attrs
    )


def ask(study: optuna.study.Study) -> optuna.Trial:
    """The next trial, signed before it begins: whoever is killed in between leaves none that nobody
    can tell from a living one.
    """
    states = need_optuna().trial.TrialState
    waiting = study.get_trials(deepcopy=False, states=(states.WAITING,))
    if waiting:
        with shared_studies.already_ended():  # by others, who were quicker
            for key, value in shared_studies.signature().items():
                study._storage.set_trial_user_attr(waiting[0]._trial_id, key, value)
    else:
        study.enqueue_trial({}, user_attrs=shared_studies.signature())
    return study.ask()


def set_aside(
    study: optuna.study.Study, trial: optuna.Trial | FrozenTrial, why: str, tries: int = 0
) -> None:
    """End a trial that was interrupted, to be tried again by whoever asks next."""
    optuna = need_optuna()
    try:
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, why)
        # One that was to be tried again itself may not have come to draw its parameters.
        given = study._storage.get_trial(trial._trial_id).system_attrs.get("fixed_params", {})
        parameters = {**given, **trial.params}
        if parameters and tries < _TRIES:
            # Before it ends: whoever is killed between the two leaves it to be set aside again,
            # and of trials with the same options one alone is trained.
            study.enqueue_trial(parameters, user_attrs={TRY: tries})
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # the latter from tell
        return


def bury(study: optuna.study.Study) -> int:
    """Set aside the trials whose process was killed; how many."""
    optuna = need_optuna()
    killed = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        if dead(trial)
    ]
    for trial in killed:
        set_aside(study, trial, "killed", trial.user_attrs.get(TRY, 0) + 1)
    return len(killed)
