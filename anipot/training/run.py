"""A training run: options in, a folder out that holds everything the run was and found."""

from __future__ import annotations

import csv
import io
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from anipot import plots
from anipot.config import MACHINE_OPTIONS, DataSettings, RunSettings, checked, read_yaml, to_yaml
from anipot.conformers import Conformers
from anipot.datasets.division import Division, divide, provenance, read_data
from anipot.elements import parse_elements
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.files import write_text
from anipot.model import ANIModel
from anipot.training.history import History
from anipot.training.metrics import Evaluation
from anipot.training.trainer import ANITrainer
from anipot.version import __version__

#: What a finished run holds, in the order in which it comes to be.
CONTENTS = {
    "options.yaml": "every option, resolved",
    "split.npz": "which conformers were for training, validation, test",
    "log.txt": "what was printed",
    "checkpoint.pt": "to go on with: anipot train --resume",
    "metrics.csv": "a line an epoch",
    "potential.safetensors": "the trained potential",
    "test_predictions.csv": "a line a test conformer",
    "run.json": "results, data, versions",
    "plots/": "loss, parity, error by composition: PNG and SVG",
}


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: its folder, model, history and errors.

    ``test`` is None where the split has no test part.
    """

    folder: Path
    model: ANIModel
    history: History
    validation: Evaluation
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


def start_run(settings: RunSettings, folder: str | Path | None = None) -> Run:
    """Train in a new folder (default: the next of runs/train-001, ...).

    Raises SettingsError when ``folder`` exists and is not empty. Options or data that cannot be
    trained on leave no folder behind.
    """
    if folder is None:
        folder = new_folder()
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(
            f"{folder} exists and is never overwritten; name another folder, or go on with that "
            f"run: anipot train --resume {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _logged(folder):
            print(_tree(folder))
            data = read_data(settings.data)
            division = divide(data, settings.data)
            training = settings.training.resolved(len(division.train))
            settings = RunSettings(
                data=_absolute(settings.data), model=settings.model, training=training
            )
            write_text(folder / "options.yaml", to_yaml(settings))
            division.save(folder / "split.npz")
            return _train(settings, folder, data, division)
    except (DataError, SettingsError):
        # Found before there was anything to keep: the folder's name is free for the next attempt.
        if not (folder / "checkpoint.pt").exists():
            for name in ("options.yaml", "split.npz", "log.txt"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
        raise


def _absolute(settings: DataSettings) -> DataSettings:
    """With paths that mean the same in every folder, so that a run is resumed from anywhere."""
    lists = {
        name: str(Path(path).resolve())
        for name in ("validation_molecules", "test_molecules")
        if (path := getattr(settings, name)) is not None
    }
    files = [str(Path(file).resolve()) for file in settings.files]
    return settings.model_copy(update={"files": files, **lists})


def resume_run(folder: str | Path) -> Run:
    """Go on with a run that was interrupted or killed; it ends as if it had never stopped.

    Raises SettingsError for a folder that is no run, DataError when its data files have changed.
    """
    folder = Path(folder)
    if not (folder / "options.yaml").exists():
        raise SettingsError(f"{folder} is not the folder of a run: it has no options.yaml")
    settings = checked(RunSettings, read_yaml(folder / "options.yaml"))
    with _logged(folder):
        data = read_data(settings.data)
        if (folder / "split.npz").exists():
            division = Division.load(folder / "split.npz")
        else:  # killed between the two files
            division = divide(data, settings.data)
            division.save(folder / "split.npz")
        return _train(settings, folder, data, division)


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
    model = make_model(settings, train)
    print(f"{model.n_parameters:,} parameters, networks for {', '.join(model.elements)}")
    trainer = ANITrainer(model, settings.training)
    checkpoint = folder / "checkpoint.pt"
    resume = checkpoint.exists()
    if resume:
        print(f"going on from {checkpoint}")
    began = time.monotonic()

    def after_epoch(history: History) -> None:
        write_text(folder / "metrics.csv", history.to_csv())

    try:
        trainer.train(train, validation, checkpoint=checkpoint, resume=resume, on_epoch=after_epoch)
    except TrainingError as e:
        if trainer.history.best is not None:  # the best weights so far are worth keeping
            _write_results(
                settings, folder, data, division, trainer, time.monotonic() - began, str(e)
            )
            print(
                f"The best weights before that, of epoch {trainer.history.best.epoch}, are saved."
            )
        raise
    if trainer.history.best is None and len(trainer.history):
        raise TrainingError(
            "no epoch ended with a validation error that is a finite number, so there is nothing "
            "to save; try a smaller learning_rate, clip=10 or loss=huber"
        )
    run = _write_results(settings, folder, data, division, trainer, time.monotonic() - began, "")
    if trainer.history.stopped == "interrupted":
        print(
            "Interrupted; the best weights so far are saved. To go on: "
            f"anipot train --resume {folder}"
        )
    return run


def _write_results(
    settings: RunSettings,
    folder: Path,
    data: Conformers,
    division: Division,
    trainer: ANITrainer,
    seconds: float,
    failure: str,
) -> Run:
    model, history = trainer.model, trainer.history
    seconds = max(seconds, sum(history["seconds"]))  # a resumed run began before this process
    _, validation, test = division.take(data)
    results = {"validation": trainer.evaluate(validation)}
    if len(test):
        results["test"] = trainer.evaluate(test)
    best = history.best
    model.about = {
        "level_of_theory": data.level_of_theory,
        "data": provenance(data, division, settings.data),
        "training": settings.training.model_dump(exclude=MACHINE_OPTIONS),
        "best_epoch": best.epoch if best else None,
        "updates": best.updates if best else 0,
        "errors_kcalmol": {name: e.to_dict()["energy"] for name, e in results.items()},
    }
    model.save(folder / "potential.safetensors")
    write_text(folder / "metrics.csv", history.to_csv())
    shown = results.get("test", results["validation"])
    if len(test):
        _write_predictions(folder / "test_predictions.csv", shown, division.test)
    plots_folder = folder / "plots"
    if len(history):
        plots.save_figure(plots.loss_curve(history), plots_folder / "loss")
    name = "test" if len(test) else "validation"
    plots.save_figure(plots.parity(shown, f"{name} set"), plots_folder / "parity")
    by_group = shown.by_molecule() if division.by == "molecule" else shown.by_formula()
    what = "molecule" if division.by == "molecule" else "composition"
    plots.save_figure(
        plots.error_by_group(by_group, f"{name} error by {what}", "kcal/mol"),
        plots_folder / f"error_by_{what}",
    )
    report = {
        "anipot": __version__,
        "status": "failed" if failure else history.stopped,
        "failure": failure,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "seconds_per_epoch": _median([e.seconds for e in history]),
        "epochs": len(history),
        "best_epoch": best.epoch if best else None,
        "updates": best.updates if best else 0,
        "parameters": model.n_parameters,
        "results": {n: e.to_dict() for n, e in results.items()},
        "data": provenance(data, division, settings.data) | {"paths": list(data.sources)},
        "options": settings.model_dump(),
        "machine": _machine(trainer),
    }
    write_text(folder / "run.json", json.dumps(report, indent=1) + "\n")

    if division.by != "conformer" and len(test):
        print(Evaluation.table(by_group, f"test error by {division.by}"))
    print(Evaluation.table(shown.by_heavy_atoms(), f"{name} error by number of heavy atoms"))
    for part, evaluation in results.items():
        print(evaluation.summary(part))
    print(f"best epoch {best.epoch if best else '-'} of {len(history)}, {seconds:.0f} s; {folder}")
    print(
        f"{name} MAE {shown.energy.mae:.3f}, RMSE {shown.energy.rmse:.3f} kcal/mol on "
        f"{len(shown):,} conformers ({division.describe()})"
    )
    return Run(folder, model, history, results["validation"], results.get("test"))


def _write_predictions(path: Path, evaluation: Evaluation, index: np.ndarray) -> None:
    """A line a conformer; conformers are numbered as in the data selected, as in split.npz."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["conformer", "molecule", "reference_hartree", "predicted_hartree", "error_kcalmol"]
    )
    for k in range(len(evaluation)):
        writer.writerow(
            [
                int(index[evaluation.conformer[k]]),
                evaluation.molecule_names[evaluation.molecule[k]],
                repr(float(evaluation.reference[k])),
                repr(float(evaluation.predicted[k])),
                f"{evaluation.errors[k]:.4f}",
            ]
        )
    write_text(path, text.getvalue())


def _machine(trainer: ANITrainer) -> dict[str, Any]:
    names = ("torch", "torchani", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "aev_engine": trainer.model.aev.engine_name,
        **{name: version(name) for name in names},
    }


def _median(values: list[float]) -> float | None:
    return round(sorted(values)[len(values) // 2], 4) if values else None


def _tree(folder: Path) -> str:
    width = max(map(len, CONTENTS))
    return "\n".join([f"{folder}/", *(f"  {n:<{width}}  {what}" for n, what in CONTENTS.items())])


class _Tee(io.TextIOBase):
    """Writes to the terminal and to the log. Asks the terminal whether it is one."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        self.log.write(text)
        self.log.flush()
        return self.terminal.write(text)

    def flush(self) -> None:
        self.terminal.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        try:
            with redirect_stdout(_Tee(sys.stdout, log)):
                yield
        except BaseException as e:
            log.write(f"{type(e).__name__}: {e}\n")
            raise
