"""One trial: a training whose validation error is reported as it goes, and which may be pruned."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from anipot.config import DataSettings, TrainingSettings
from anipot.data.conformers import Conformers
from anipot.data.division import divide, read_data
from anipot.errors import AnipotError, SettingsError, TrainingError
from anipot.evaluation.history import History
from anipot.experiments.search import storage
from anipot.experiments.search.settings import OBJECTIVES, SearchSettings, trial_options
from anipot.experiments.search.space import options_in, suggest
from anipot.experiments.shared_studies import SIGN_OF_LIFE, already_ended, need_optuna, sign
from anipot.runs.run import make_model
from anipot.training.loop import WHAT_TO_TRY
from anipot.training.targets import with_isolated_atoms
from anipot.training.trainer import ANITrainer

if TYPE_CHECKING:
    import optuna

#: Errors are reported so many times in a training: at equal fractions of it, because under a
#: schedule that rises and falls errors can be compared at no other places.
TENTHS = 10

#: Epochs after which it is known how long a training will take; the first has what is done once.
_KNOWN_AFTER = 4


class Parts(NamedTuple):
    """The data of a search: training and validation part, but not the test part."""

    train: Conformers
    validation: Conformers
    #: What identifies both, and a sentence about them.
    fingerprint: str
    about: str


def read_parts(settings: DataSettings, training: TrainingSettings) -> Parts:
    """The training and the validation part; the test part is never taken."""
    data = read_data(settings)
    division = divide(data, settings, training.self_energies == "isolated")
    train, validation = data.take(division.train), data.take(division.validation)
    fingerprint = f"{train.content_hash()} {validation.content_hash()}"
    return Parts(train, validation, fingerprint, division.describe())


class _Pruned(Exception):
    """The trial is not worth more time."""


class _Interrupted(Exception):
    """The trial ends because the search does."""


def orphaned() -> bool:
    """Whether the process that began this one has ended: nobody asks for more."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def run_trial(
    study: optuna.study.Study,
    trial: optuna.Trial,
    settings: SearchSettings,
    parts: Parts,
    deadline: float = math.inf,
) -> None:
    """Train with what the study suggests, and tell it what came out.

    Divergence is a pruned trial, so that others stay away from there; options that contradict each
    other are a failed one. At the ``deadline`` (``time.time()``), or when the process that began
    this one has ended, the trial is set aside. Raises KeyboardInterrupt when interrupted.
    """
    with already_ended():  # by others, who took this process for a dead one and try it again
        _run_trial(study, trial, settings, parts, deadline)


def _run_trial(
    study: optuna.study.Study,
    trial: optuna.Trial,
    settings: SearchSettings,
    parts: Parts,
    deadline: float,
) -> None:
    states = need_optuna().trial.TrialState
    sign(trial)
    changes = suggest(trial, settings.space)
    twin = _twin(study, trial, settings, changes)
    if twin is not None:
        trial.set_user_attr(storage.REPEATS, twin)
        study.tell(trial, state=states.FAIL)
        return

    began = time.process_time()
    interrupted = ""

    def end(state: Any, reason: str = "", value: float | None = None) -> None:
        trial.set_user_attr("seconds", round(time.process_time() - began, 1))
        if reason:
            trial.set_user_attr("reason", reason)
        study.tell(trial, value, state)

    trainer = None
    try:
        options = trial_options(settings, changes, len(parts.train))
        training, train, validation = with_isolated_atoms(
            options.training, parts.train, parts.validation, options.model.elements
        )
        model = make_model(options, train)
        trial.set_user_attr("parameters", model.n_parameters)
        trial.set_user_attr("epochs", options.training.epochs)
        trainer = ANITrainer(model, training)
        watch = _watch(trial, settings, options.training.epochs or 1, deadline)
        trainer.train(train, validation, on_epoch=watch, quiet=True)
        best = trainer.history.best
        if trainer.history.stopped == "interrupted" or best is None:
            interrupted = "interrupted"
        else:
            trial.set_user_attr("best_epoch", best.epoch)
            end(states.COMPLETE, value=_error(settings, trainer.history, best=True))
    except _Pruned as e:
        end(states.PRUNED, str(e))
    except _Interrupted as e:
        storage.set_aside(study, trial, str(e), trial.user_attrs.get(storage.TRY, 0))
    except AnipotError as e:
        if isinstance(e, TrainingError) and str(e).endswith(WHAT_TO_TRY):
            end(states.PRUNED, "diverged: " + str(e).removesuffix(WHAT_TO_TRY).strip())
        else:
            end(states.FAIL, str(e))
    except (RuntimeError, MemoryError) as e:  # torch's, as when a GPU's memory is full
        end(states.FAIL, f"{type(e).__name__}: {e}")
    except KeyboardInterrupt:
        interrupted = "interrupted"
    if interrupted:
        storage.set_aside(study, trial, interrupted, trial.user_attrs.get(storage.TRY, 0))
        raise KeyboardInterrupt


def _twin(
    study: optuna.study.Study,
    trial: optuna.Trial,
    settings: SearchSettings,
    changes: dict[str, Any],
) -> int | None:
    """An earlier trial with the same options, whose result is that of this one."""
    for other in study.get_trials(deepcopy=False):
        if (
            other.number < trial.number
            and storage.counts(other)
            and options_in(other.params, settings.space) == changes
        ):
            return other.number
    return None


def _watch(
    trial: optuna.Trial, settings: SearchSettings, epochs: int, deadline: float
) -> Callable[[History], None]:
    """Report to Optuna after each epoch; raises if the training is to end."""
    # Processor time is the same whatever else the machine does.
    first, signed = 0.0, time.monotonic()
    reported = 0

    def watch(history: History) -> None:
        nonlocal first, signed, reported
        now, epoch = time.monotonic(), len(history)
        if orphaned():
            raise _Interrupted("killed")
        if epoch < epochs and time.time() > deadline:
            raise _Interrupted("the time was over")
        if now - signed > SIGN_OF_LIFE:
            sign(trial)
            signed = now
        tenth = TENTHS * epoch // epochs
        if tenth > reported:
            reported = tenth
            trial.report(_error(settings, history), tenth)
            if epoch < epochs and trial.should_prune():
                raise _Pruned(f"worse than the median after {epoch} of {epochs} epochs")
        if epoch == 1:
            first = time.process_time()
        if settings.max_seconds is not None and _KNOWN_AFTER <= epoch < epochs:
            takes = (time.process_time() - first) / (epoch - 1) * epochs
            if takes > settings.max_seconds:
                raise _Pruned(
                    f"would take {takes:.0f} s, more than max_seconds={settings.max_seconds:g}"
                )

    return watch


def _error(settings: SearchSettings, history: History, best: bool = False) -> float:
    """The objective after the last epoch, or with the weights that are kept."""
    record = history.best if best else history.epochs[-1]
    value = getattr(record, OBJECTIVES[settings.objective])
    if value is None:
        raise SettingsError(
            f"objective {settings.objective} needs a force_weight above 0: errors of forces are "
            "known where they are trained on"
        )
    return float(value)
