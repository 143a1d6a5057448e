"""Training the members of an ensemble: one run each, and one potential of them all."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anipot.config import EnsembleSettings, RunSettings
from anipot.data import splits
from anipot.data.conformers import Conformers
from anipot.data.division import Division
from anipot.errors import SettingsError, TrainingError
from anipot.evaluation.calibration import Calibration
from anipot.evaluation.metrics import Evaluation
from anipot.formats.anipot_format import read_anipot
from anipot.potential.ensemble import ANIEnsemble
from anipot.runs.member_results import write_member_results
from anipot.runs.run import Prepared, new_run, reopened_run, resume_run, run_settings
from anipot.system.files import damage_named, kept, read_json, write_text
from anipot.system.options import to_yaml

#: What a finished ensemble's folder holds.
CONTENTS = {
    "options.yaml": "every option, resolved",
    "split.npz": "which conformers were for training, validation, test",
    "log.txt": "what was printed",
    "members/1/ ...": "the run of each member, as anipot train writes it",
    "potential.safetensors": "the ensemble",
    "test_predictions.csv": "a line a test conformer",
    "run.json": "results of the ensemble and of its members, calibration",
    "plots/": "parity, error by composition, calibration: PNG and SVG",
    "report.html": "all of that on one page",
}


@dataclass(frozen=True)
class MembersRun:
    """A finished ensemble; ``ensemble`` and what follows are None where it was interrupted."""

    folder: Path
    ensemble: ANIEnsemble | None = None
    validation: Evaluation | None = None
    test: Evaluation | None = None
    calibration: Calibration | None = None


def start_members(settings: RunSettings, folder: str | Path | None = None) -> MembersRun:
    """Train ``settings.ensemble.members`` potentials in a new folder, and save them as one.

    Their seeds (weights, order, dropout) are ``training.seed``, + 1, + 2 ...; the test part is the
    same for all. With ``ensemble.by_folds`` member k validates on the k-th fold of the rest and
    trains on the other folds. Raises as ``start_run`` does.
    """
    if settings.ensemble.members < 2:
        raise SettingsError("an ensemble needs members=2 or more")
    with new_run(settings, folder, CONTENTS) as prepared:
        return _train_members(prepared)


def resume_members(folder: str | Path) -> MembersRun:
    """Go on with an ensemble that was interrupted or killed; finished members are kept as they are.

    Raises as ``resume_run`` does.
    """
    if run_settings(folder).ensemble.members < 2:
        raise SettingsError(f"{folder} is the run of a single potential, not of an ensemble")
    with reopened_run(folder) as prepared:
        return _train_members(prepared)


def member_division(division: Division, k: int, members: int, data: Conformers) -> Division:
    """Division for member ``k`` of ``members``, where each validates on its own fold.

    Molecules stay together where they do in ``division``; its test part is in no fold. Raises
    DataError when the other folds lack an element.
    """
    rest = np.sort(np.concatenate([division.train, division.validation]))
    group = division.groups_of(data)
    group = None if group is None else group[rest]
    folds = list(splits.folds(len(rest), members, division.seed, group))
    train, validation = (rest[part] for part in folds[k])
    data.check_elements(train, validation, division.test)
    return replace(division, train=train, validation=validation, listed=(), fold=None)


def _train_members(run: Prepared) -> MembersRun:
    settings, folder, data, division = run
    many = settings.ensemble
    print(division.describe())
    folders = [folder / "members" / str(k + 1) for k in range(many.members)]
    for k, member in enumerate(folders):
        _prepare(member, run, k)
    left = [k for k, member in enumerate(folders) if not _finished(member)]
    if len(left) < len(folders):
        print(f"{len(folders) - len(left)} of {len(folders)} members are there already")
    workers = min(many.workers, len(left))
    train = _side_by_side(folders, left, workers) if workers > 1 else _in_turn(folders, left, data)
    for k, finished in train:
        if not finished:
            print(f"Interrupted. To go on: anipot train --resume {folder}")
            return MembersRun(folder)
        with damage_named(folders[k] / "run.json"):
            errors = read_json(folders[k] / "run.json")["results"]
            told = [
                f"{part} MAE {e['energy']['mae']:.3f} {e['unit']}" for part, e in errors.items()
            ]
        print(f"member {k + 1} of {len(folders)}: {', '.join(told)}")
    members = [read_anipot(member / "potential.safetensors") for member in folders]
    ensemble = ANIEnsemble(m.models[0] for m in members).eval()
    found = write_member_results(settings, folder, data, division, ensemble, folders)
    return MembersRun(folder, ensemble, *found)


def _prepare(folder: Path, run: Prepared, k: int) -> None:
    """Write a member's options and division, with which ``resume_run`` trains it."""
    settings, division = run.settings, run.division
    if (folder / "options.yaml").exists():
        return
    if settings.ensemble.by_folds:
        division = member_division(division, k, settings.ensemble.members, run.data)
    training = {"seed": settings.training.seed + k}
    if settings.ensemble.workers > 1:
        training["threads"] = 1
    own = settings.model_copy(
        update={
            "training": settings.training.model_copy(update=training),
            "ensemble": EnsembleSettings(),
        }
    )
    division.save(folder / "split.npz")
    write_text(folder / "options.yaml", to_yaml(own))  # last: without it the folder is no run


def _finished(folder: Path) -> bool:
    if not all((folder / n).exists() for n in ("potential.safetensors", "run.json", "report.html")):
        return False  # killed while its results were written: they are written again
    report = read_json(folder / "run.json", way_out=f"remove {folder}: it is trained again")
    return report.get("status") in ("finished", "patience")


def _in_turn(folders: list[Path], left: list[int], data: Conformers) -> Iterator[tuple[int, bool]]:
    """(member, whether it was trained to its end), one after another."""
    for k in left:
        print(f"---- member {k + 1} of {len(folders)}: {folders[k]}")
        with _naming(k, folders[k]):
            run = resume_run(folders[k], data)
        yield k, run.history.stopped != "interrupted"


def _side_by_side(folders: list[Path], left: list[int], workers: int) -> Iterator[tuple[int, bool]]:
    """The same in processes of their own, in the order in which the members are ready.

    Ctrl-C reaches the processes too, each of which writes its checkpoint and ends.
    """
    print(f"{len(left)} members, {workers} at a time; what each prints is in its log.txt")
    # A fork would copy locks that the parent's threads hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {pool.submit(_train_quietly, folders[k]): k for k in left}
        try:
            for done in as_completed(waiting):
                k = waiting[done]
                with _naming(k, folders[k]):
                    yield k, done.result()
        except KeyboardInterrupt:
            yield left[0], False
        except TrainingError as e:
            print(f"{e}\nWaiting for the members that are being trained to end.", flush=True)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _train_quietly(folder: Path) -> bool:
    """Train a member in a process of its own: it prints into its log alone."""
    torch.set_num_threads(1)
    with (
        open(os.devnull, "w", encoding="utf-8") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        return resume_run(folder).history.stopped != "interrupted"


@contextmanager
def _naming(k: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except TrainingError as e:
        raise TrainingError(f"member {k + 1} ({folder}): {e}") from None
    except OSError as e:
        raise kept(e, f"anipot train --resume {folder.parent.parent}") from e
    except BrokenProcessPool:  # of all members of the pool, whichever was killed
        raise TrainingError(
            f"member {k + 1} ({folder}), or one beside it: its process was killed, as happens when "
            f"memory is short; to go on: anipot train --resume {folder.parent.parent}"
        ) from None
