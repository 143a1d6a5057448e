"""Results of a search: trials, the best options, and files for the next steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.config import RunSettings
from anipot.experiments.search import storage
from anipot.experiments.search.settings import SearchSettings, final_options
from anipot.experiments.search.space import options_in
from anipot.experiments.table.settings import options_of, value_in_words
from anipot.runs.run import absolute_paths
from anipot.system.files import write_text
from anipot.system.options import to_yaml
from anipot.system.yaml_files import dump_yaml

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class Trial:
    """A trial: what was changed, how it ended, its error.

    ``error`` is None unless it finished. ``seconds`` are of processor time. ``reported``:
    errors by tenths of the training.
    """

    number: int
    changes: Mapping[str, Any]
    state: str
    error: float | None = None
    reason: str = ""
    seconds: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    reported: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A search as far as it has come. Errors are of the validation part, in kcal/mol (forces: per
    angstrom).
    """

    folder: Path
    settings: SearchSettings
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The finished trial with the lowest error."""
        known = [(t.error, t.number, t) for t in self.trials if t.error is not None]
        return min(known)[2] if known else None

    @property
    def best_options(self) -> RunSettings | None:
        """The options of the best trial, with all epochs: what to train with."""
        best = self.best
        return None if best is None else final_options(self.settings, best.changes)


def collect(study: optuna.study.Study, folder: Path, settings: SearchSettings) -> Search:
    """The trials of a study, of all processes; not those that were set aside."""
    found = [t for t in study.get_trials(deepcopy=False) if storage.counts(t)]
    return Search(folder, settings, tuple(_trial(t, settings) for t in found))


def _trial(found: FrozenTrial, settings: SearchSettings) -> Trial:
    about = found.user_attrs
    return Trial(
        number=found.number,
        changes=options_in(found.params, settings.space),
        state=_STATES[found.state.name],
        error=found.value if found.state.name == "COMPLETE" else None,
        reason=about.get("reason", ""),
        seconds=about.get("seconds"),
        epochs=about.get("epochs"),
        best_epoch=about.get("best_epoch"),
        parameters=about.get("parameters"),
        reported=dict(found.intermediate_values),
    )


# ---- words ---------------------------------------------------------------------------------------


def unit(settings: SearchSettings) -> str:
    return "kcal/mol/angstrom" if settings.objective.startswith("force") else "kcal/mol"


def name(settings: SearchSettings) -> str:
    """The objective in words: ``MAE``, ``RMSE of forces``."""
    kind, of = settings.objective.split("_")[-1].upper(), settings.objective.startswith("force")
    return kind + (" of forces" if of else "")


def told(changes: Mapping[str, Any]) -> str:
    """Options and values, in a line."""
    return " ".join(f"{k.split('.')[1]}={_short(k, v)}" for k, v in changes.items())


def _short(option: str, value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value_in_words(option, value)


# ---- files ---------------------------------------------------------------------------------------


def write_search(search: Search) -> None:
    """Write trials.csv, and best.yaml and confirm.yaml where a trial has finished."""
    write_text(search.folder / "trials.csv", _csv(search))
    best, options = search.best, search.best_options
    if best is None or options is None:
        return
    data = absolute_paths(options.data)
    write_text(search.folder / "best.yaml", to_yaml(options.model_copy(update={"data": data})))
    write_text(search.folder / "confirm.yaml", _confirm(search, best))


def _csv(search: Search) -> str:
    text = io.StringIO()
    options = list(search.settings.space)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", *options, "state", f"validation_{search.settings.objective}", "processor_seconds",
         "epochs", "best_epoch", "parameters", "reason"]
    )  # fmt: skip
    for t in search.trials:
        values = [value_in_words(o, t.changes[o]) if isinstance(t.changes.get(o), list | dict)
                  else t.changes.get(o) for o in options]  # fmt: skip
        writer.writerow(
            [t.number, *values, t.state, t.error, t.seconds, t.epochs, t.best_epoch, t.parameters,
             t.reason]
        )  # fmt: skip
    return text.getvalue()


def _confirm(search: Search, best: Trial) -> str:
    """A table of two rows for ``anipot iterate``: the base, and the best options."""
    base = search.settings.base
    data = absolute_paths(base.data)
    default = options_of(RunSettings())
    given = options_of(RunSettings(**{**dict(base), "data": data}))
    sections: dict[str, dict[str, Any]] = {}
    for option, value in given.items():
        if value != default[option]:
            section, key = option.split(".")
            sections.setdefault(section, {})[key] = value
    if base.training.seed:
        sections.setdefault("training", {})["seed"] = base.training.seed
    table = {
        "title": "The best options of a search",
        "notes": [
            f"'best' is the best of {len(search.trials)} trials, chosen on the validation part: "
            "errors of the test part say how good it is."
        ],
        "base": sections,
        "rows": [{"name": "base"}, {"name": "best", **best.changes}],
        "seeds": 3,
    }
    return dump_yaml(table)
