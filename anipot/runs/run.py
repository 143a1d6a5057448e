"""A training run: options in, a folder out that holds everything the run was and found."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from anipot.aev.computer import load_engine
from anipot.config import DataSettings, RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division, divide, read_data
from anipot.elements import parse_elements
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.evaluation.history import History
from anipot.evaluation.metrics import Evaluation
from anipot.potential.model import ANIModel
from anipot.runs.log import logged
from anipot.runs.results import write_results
from anipot.system.files import damage_named, kept, only_process, write_first, write_text
from anipot.system.options import checked, read_yaml, to_yaml
from anipot.training.ranks import ranks
from anipot.training.targets import with_isolated_atoms
from anipot.training.trainer import ANITrainer

#: What a finished run holds, in the order in which it comes to be.
CONTENTS = {
    "options.yaml": "every option, resolved",
    "split.npz": "which conformers were for training, validation, test",
    "log.txt": "what was printed",
    "checkpoint.pt": "for anipot train --resume",
    "metrics.csv": "one line per epoch",
    "potential.safetensors": "the trained potential",
    "test_predictions.csv": "one line per test conformer",
    "run.json": "results, data, versions",
    "plots/": "loss, parity, error by composition: PNG and SVG",
    "report.html": "all of that on one page",
}


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: its folder, model, history and errors.

    ``test`` is None where the split has no test part; ``validation`` too where the run was
    interrupted before the first epoch ended.
    """

    folder: Path
    model: ANIModel
    history: History
    validation: Evaluation | None
    test: Evaluation | None


def new_folder(parent: str | Path = "runs", name: str = "train") -> Path:
    """Make and return the first folder ``parent/name-001``, ``-002`` ... that does not exist."""
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        folder = parent / f"{name}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise SettingsError(f"{parent} is full of runs; name another folder")


class Prepared(NamedTuple):
    """A run about to be trained: resolved options, folder, data and its division."""

    settings: RunSettings
    folder: Path
    data: Conformers
    division: Division


def start_run(settings: RunSettings, folder: str | Path | None = None) -> Run:
    """Train in a new folder (default: the next of runs/train-001, ...).

    Raises SettingsError when ``folder`` exists and is not empty, and for options of an ensemble
    (``anipot.runs.members.start_members``). Options or data that cannot be trained on leave no
    folder behind.
    """
    _check_single(settings)
    with _on_all_ranks(new_run(settings, folder, CONTENTS)) as prepared:
        return _train(*prepared)


@contextmanager
def new_run(
    settings: RunSettings, folder: str | Path | None, contents: Mapping[str, str]
) -> Iterator[Prepared]:
    """A new folder with the options and the division in it; what is printed goes to its log too.

    The folder is made when the data has been read. ``contents`` is what it will hold; it is printed
    then.
    """
    if folder is not None:
        _check_free(Path(folder))
    with logged() as log:
        data = read_data(settings.data)
        division = divide(data, settings.data, settings.training.self_energies == "isolated")
        settings = resolved(settings, division)
        folder = new_folder() if folder is None else Path(folder)
        _check_free(folder)
        # The options come first and whole: with them it is a run that can be resumed.
        try:
            if not write_first(folder / "options.yaml", to_yaml(settings)):
                raise _taken(folder)
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            raise
        with only_process(folder), _resumable(folder):
            try:
                log.begin(folder, new=True)
                division.save(folder / "split.npz")
                print(_tree(folder, contents))
                yield Prepared(settings, folder, data, division)
            except (DataError, SettingsError):
                # Found before there was anything to keep: the name is free for the next attempt.
                if not any(folder.rglob("checkpoint.pt")):
                    _remove(folder)
                raise


#: What new_run writes into its folder; a log alone was left by an older version.
_OWN = ("options.yaml", "split.npz", "log.txt")


def _check_free(folder: Path) -> None:
    """Raise SettingsError for a folder with anything in it but what an attempt left that was killed
    before there was a run.
    """
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name != "log.txt" and not path.name.startswith(tuple(f".{n}." for n in _OWN)):
            raise _taken(folder)


def _taken(folder: Path) -> SettingsError:
    then = "; name another folder"
    if (folder / "options.yaml").exists():
        then += f", or go on with that run: anipot train --resume {folder}"
    return SettingsError(f"{folder} exists and is never overwritten{then}")


def _remove(folder: Path) -> None:
    """Remove what new_run wrote, and the folders in which nothing is left."""
    for name in _OWN:
        for file in folder.rglob(name):
            file.unlink()
    below = sorted((f for f in folder.rglob("*") if f.is_dir()), reverse=True)
    for empty in (*below, folder):
        with suppress(OSError):
            empty.rmdir()


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Errors such as of a full disk say how to go on."""
    try:
        yield
    except OSError as e:
        raise kept(e, f"anipot train --resume {folder}") from e


def resolved(settings: RunSettings, division: Division) -> RunSettings:
    """Options with which the run can be resumed: the number of epochs, the engine, full paths."""
    training = settings.training.resolved(len(division.train))
    # The engine as found, not as asked for: a resumed run must use the same one.
    model = settings.model.model_copy(update={"engine": load_engine(settings.model.engine)[0]})
    return settings.model_copy(
        update={"data": absolute_paths(settings.data), "model": model, "training": training}
    )


def absolute_paths(settings: DataSettings) -> DataSettings:
    """With paths that mean the same in every folder, so that a run is resumed from anywhere."""
    lists = {
        name: str(Path(path).resolve())
        for name in ("validation_molecules", "test_molecules")
        if (path := getattr(settings, name)) is not None
    }
    files = [str(Path(file).resolve()) for file in settings.files]
    return settings.model_copy(update={"files": files, **lists})


def resume_run(folder: str | Path, data: Conformers | None = None) -> Run:
    """Go on with a run that was interrupted or killed; it ends as if it had never stopped.

    ``data``: the conformers that the run's options select, where they have been read already.
    Raises SettingsError for a folder that is no run, or that of an ensemble
    (``anipot.runs.members.resume_members``), DataError when its data files have changed.
    """
    _check_single(run_settings(folder))
    with _on_all_ranks(reopened_run(folder, data)) as prepared:
        return _train(*prepared)


def run_settings(folder: str | Path) -> RunSettings:
    """The options of the run in a folder. Raises SettingsError for a folder that is none."""
    folder = Path(folder)
    path = folder / "options.yaml"
    if not path.exists():
        then = ""
        if (folder / "log.txt").exists():
            then = f"; where a run was stopped before it began, start it again with --out {folder}"
        raise SettingsError(f"{folder} is not the folder of a run: it has no options.yaml{then}")
    with damage_named(path, way_out="a run cannot be told without its options"):
        return checked(RunSettings, read_yaml(path))


@contextmanager
def reopened_run(folder: str | Path, data: Conformers | None = None) -> Iterator[Prepared]:
    """The run in a folder, as it was prepared; what is printed goes to its log too."""
    folder = Path(folder)
    settings = run_settings(folder)
    with only_process(folder), _resumable(folder), logged() as log:
        log.begin(folder)
        if data is None:
            try:
                data = read_data(settings.data)
            except DataError as e:
                raise DataError(f"{e} (data of {folder / 'options.yaml'})") from None
        if (folder / "split.npz").exists():
            division = Division.load(folder / "split.npz")
        else:  # killed between the two files
            division = divide(data, settings.data, settings.training.self_energies == "isolated")
            division.save(folder / "split.npz")
        yield Prepared(settings, folder, data, division)


@contextmanager
def _on_all_ranks(prepared: AbstractContextManager[Prepared]) -> Iterator[Prepared]:
    """Prepare a run on the first rank and share it; the others print and write nothing."""
    if ranks().first:
        with prepared as first:
            ranks().tell((first.settings, first.folder, first.division))
            yield first
        return
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing):
        settings, folder, division = ranks().tell(cast(tuple[RunSettings, Path, Division], None))
        yield Prepared(settings, folder, read_data(settings.data), division)


def _check_single(settings: RunSettings) -> None:
    if settings.ensemble.members > 1:
        raise SettingsError(
            f"members={settings.ensemble.members} is an ensemble, which start_members and "
            "resume_members of anipot.runs.members train"
        )


def make_model(settings: RunSettings, train: Conformers) -> ANIModel:
    """The untrained model that the options describe, for a training part."""
    elements = settings.model.elements
    return ANIModel.create(
        parse_elements(elements) if elements is not None else train.elements,
        seed=settings.training.seed,
        **settings.model.model_dump(exclude={"elements"}),
    )


def _train(settings: RunSettings, folder: Path, data: Conformers, division: Division) -> Run:
    train, validation, _ = division.take(data)
    print(f"{data!r}" + (f", {data.level_of_theory}" if data.level_of_theory else ""))
    print(division.describe())
    training, train, validation = with_isolated_atoms(
        settings.training, train, validation, settings.model.elements
    )
    model = make_model(settings, train)
    print(f"{model.n_parameters:,} parameters, networks for {', '.join(model.elements)}")
    trainer = ANITrainer(model, training)
    checkpoint = folder / "checkpoint.pt"
    resume = ranks().tell(checkpoint.exists())
    if resume:
        print(f"going on from {checkpoint}")
    began = time.monotonic()

    def after_epoch(history: History) -> None:
        # A full disk is no reason to stop; it is written again at the end.
        with suppress(OSError):
            write_text(folder / "metrics.csv", history.to_csv())

    failure = ""
    try:
        on_epoch = after_epoch if ranks().first else None
        trainer.train(train, validation, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch)
    except TrainingError as e:
        failure = str(e)
        if trainer.history.best is None and ranks().first:
            raise
    if not ranks().first:  # without an error: torchrun would stop the first while it writes
        return Run(folder, model, trainer.history, None, None)
    seconds = time.monotonic() - began
    best = trainer.history.best
    if best is None:  # interrupted before the first epoch ended
        print("Interrupted before an epoch was finished: there are no errors or weights to save.")
        print(f"To go on: anipot train --resume {folder}")
        return Run(folder, model, trainer.history, None, None)
    validation_errors, test_errors = write_results(
        settings, folder, data, division, trainer, seconds, failure
    )
    if failure:
        print(f"The best weights before the failure, of epoch {best.epoch}, are saved.")
        raise TrainingError(failure)
    if trainer.history.stopped == "interrupted":
        print(
            f"Interrupted after epoch {len(trainer.history)}; the best weights so far are saved. "
            f"To go on: anipot train --resume {folder}"
        )
    return Run(folder, model, trainer.history, validation_errors, test_errors)


def _tree(folder: Path, contents: Mapping[str, str]) -> str:
    width = max(map(len, contents))
    return "\n".join([f"{folder}/", *(f"  {n:<{width}}  {what}" for n, what in contents.items())])
