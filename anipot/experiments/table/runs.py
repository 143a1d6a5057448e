"""The runs of a table: made ready, and trained one after another or side by side."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anipot.config import DataSettings, RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division, divide, read_data
from anipot.errors import AnipotError, DataError, InUseError, SettingsError, shortly
from anipot.runs.run import resolved, resume_run, run_settings
from anipot.system.files import damage_named, only_process, read_json, write_text
from anipot.system.memory import PeakMemory
from anipot.system.options import checked, to_yaml
from anipot.system.threads import threads
from anipot.training.loop import WHAT_TO_TRY

#: What says that a run has come to its end, and how.
OUTCOME = "iteration.json"


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.lru_cache(maxsize=1)
def _read(settings: str) -> Conformers:
    return read_data(checked(DataSettings, json.loads(settings)))


def data_of(settings: DataSettings) -> Conformers:
    """The data of a run, read once by rows that follow one another and share it."""
    return _read(settings.model_dump_json())


@functools.lru_cache(maxsize=1)
def _divided(settings: str, isolated: bool) -> Division:
    checked_settings = checked(DataSettings, json.loads(settings))
    return divide(data_of(checked_settings), checked_settings, isolated)


def prepare(
    folders: Sequence[Path],
    seeds: Sequence[int],
    settings: RunSettings,
    updates: int | None,
    tested: bool = True,
) -> None:
    """Write the options and the division of a row's runs, with which ``resume_run`` trains them.

    ``updates``, where given, decides the epochs, and no run ends early unless patience is given. A
    run uses one thread unless options say otherwise, so that its last digits do not depend on how
    many runs are trained side by side. Without ``tested`` the test part is left out of their
    division, so that no run can look at it. Raises AnipotError for data or options that cannot be
    trained on.
    """
    if all((folder / "options.yaml").exists() for folder in folders):
        return
    division = _divided(
        settings.data.model_dump_json(), settings.training.self_energies == "isolated"
    )
    if not tested:
        division = replace(division, test=division.test[:0])
    training = settings.training
    if updates is not None:
        batches = math.ceil(len(division.train) / training.batch_size)
        epochs = math.ceil(updates / batches)
        patience = training.patience or epochs  # all rows make their updates
        training = training.model_copy(update={"epochs": epochs, "patience": patience})
    settings = resolved(settings.model_copy(update={"training": training}), division)
    for folder, seed in zip(folders, seeds, strict=True):
        own = {"seed": seed, "threads": training.threads or 1}
        training_of_seed = settings.training.model_copy(update=own)
        division.save(folder / "split.npz")
        # Last: without it the folder is no run.
        write_text(
            folder / "options.yaml",
            to_yaml(settings.model_copy(update={"training": training_of_seed})),
        )


def ended(folder: Path) -> bool:
    """Whether a run came to its end; one that failed for want of memory is tried again."""
    found = read_outcome(folder)
    return found is not None and not found["again"]


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """Return how a run ended; None if it has not.

    Raises SettingsError for a file that does not say so.
    """
    path = folder / OUTCOME
    if not path.exists():
        return None
    way_out = "remove it, and the run is trained to its end again"
    with damage_named(path, way_out=way_out):
        return outcome(read_json(path))


def outcome(found: dict[str, Any]) -> dict[str, Any]:
    """Parse the outcome that ``train`` wrote. Raises ValueError or KeyError for anything else."""
    kinds = {"status": str, "reason": str, "again": bool}
    for key, kind in kinds.items():
        if not isinstance(found[key], kind):
            raise ValueError(f"{key!r} is {shortly(found[key])}")
    for key in ("peak_memory", "peak_device_memory"):
        if not isinstance(found[key], int | None):
            raise ValueError(f"{key!r} is {shortly(found[key])}")
    return found


def train(folder: Path) -> bool:
    """Train one run, or go on with it; False where it was interrupted.

    It prints into its log alone. A failure is its outcome, and no error. Raises DataError when the
    data is no longer that of the table.
    """
    # A lock of its own, held until the outcome is written: the run's ends before.
    with only_process(folder / "options.yaml"):
        return ended(folder) or _train(folder)


def _train(folder: Path) -> bool:
    settings = run_settings(folder)
    data = data_of(settings.data)
    if Division.load(folder / "split.npz").data_hash != data.content_hash():
        raise DataError(
            f"{folder}: the data is not that with which the table was begun: a file has changed"
        )
    memory = PeakMemory()
    status, reason, again = "failed", "", False
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        try:
            with threads(settings.training.threads or 1):
                run = resume_run(folder, data)
            status = run.history.stopped
        except InUseError:  # whoever trains it will say how it ended
            raise
        except AnipotError as e:
            reason = str(e)
            status = "diverged" if reason.endswith(WHAT_TO_TRY) else "failed"
        except (RuntimeError, MemoryError) as e:  # torch's, as when a GPU's memory is full
            reason, again = f"{type(e).__name__}: {e}", True
    if status == "interrupted":
        return False
    ending = {
        "status": status,
        "reason": reason,
        "again": again,
        "peak_memory": memory.resident,
        "peak_device_memory": memory.device,
    }
    write_text(folder / OUTCOME, json.dumps(ending, indent=1) + "\n")
    return True


def checked_workers(workers: int, runs: Sequence[Path]) -> int:
    """As many workers as there are runs for, without more threads than cores.

    Raises SettingsError where ``threads`` of the runs would need more cores than there are.
    """
    wanted = max((run_settings(run).training.threads or 1 for run in runs), default=1)
    workers = max(1, min(workers, len(runs), cores()))
    if workers > 1 and workers * wanted > cores():
        raise SettingsError(
            f"threads={wanted} for each of {workers} workers is more than the {cores()} cores "
            "there are: leave out threads, or have fewer workers"
        )
    return workers


def train_quietly(folder: Path) -> bool:
    """As ``train``, in a process of its own, whose complaints would mix with the parent's lines."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nothing,
        contextlib.redirect_stderr(nothing),
    ):
        return train(folder)
