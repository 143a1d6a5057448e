"""Lines that a running search prints: its trials as they end, and its results."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anipot.experiments.search import results, storage
from anipot.experiments.search.results import Search
from anipot.experiments.search.settings import SearchSettings

if TYPE_CHECKING:
    import optuna


class Watcher:
    """Tells of trials as they end, whoever trained them, and keeps the folder up to date."""

    def __init__(
        self, study: optuna.study.Study, folder: Path, settings: SearchSettings, deadline: float
    ) -> None:
        self.study, self.folder, self.settings = study, folder, settings
        self.deadline = deadline
        self.told = {t.number for t in self._found().trials if t.state != "running"}

    def _found(self) -> Search:
        return results.collect(self.study, self.folder, self.settings)

    def look(self) -> Search:
        found = self._found()
        new = [t for t in found.trials if t.state != "running" and t.number not in self.told]
        for trial in new:
            self.told.add(trial.number)
            print(self._line(trial, found), flush=True)
        if new:
            results.write_search(found)
        return found

    def tell_of_death(self, exitcode: int | None, left: int) -> None:
        """A process has ended too early; the ``left`` others, if any, try its trial again."""
        storage.bury(self.study)
        then = f"{left} go on, and its trial is tried again" if left else "none is left"
        print(
            f"WARNING, a process of the search ended with {exitcode}, as happens when memory is "
            f"short (-9: it was killed); {then}",
            flush=True,
        )

    def _line(self, trial: results.Trial, found: Search) -> str:
        outcome = trial.state if trial.error is None else f"{trial.error:.4f}"
        seconds = "" if trial.seconds is None else f" {trial.seconds:4.0f} s"
        text = f"trial {trial.number:3d}  {outcome:>8}{seconds}  {results.told(trial.changes)}"
        if trial.reason:
            text += f"; {trial.reason}"
        if found.best is not None:
            text += f"; best {found.best.error:.4f} (trial {found.best.number})"
        if math.isfinite(self.deadline):
            text += f"; {max(0.0, self.deadline - time.time()) / 60:.0f} min left"
        return text


def print_results(found: Search, finished: bool) -> None:
    states = [t.state for t in found.trials]
    counts = ", ".join(
        f"{states.count(s)} {s}" for s in ("finished", "pruned", "failed") if s in states
    )
    print(f"\n{len(states)} trials: {counts or 'none ended'}")
    if found.best is not None:
        settings = found.settings
        print(
            f"Best: trial {found.best.number}, validation {results.name(settings)} "
            f"{found.best.error:.4f} {results.unit(settings)}: {results.told(found.best.changes)}"
        )
        if settings.shorten > 1:
            print(f"It trained for 1/{settings.shorten} of the epochs; best.yaml has all of them.")
        print(f"Train with it: anipot train --config {found.folder / 'best.yaml'}")
        print(
            "Confirm it on the test part, against the base: "
            f"anipot iterate {found.folder / 'confirm.yaml'} --seeds 3"
        )
        print(f"{found.folder}: best.yaml, confirm.yaml, trials.csv, plots/, search.json")
    if not finished:
        print(f"Interrupted. To go on: anipot search --resume {found.folder}", flush=True)
