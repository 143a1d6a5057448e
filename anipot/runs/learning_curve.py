"""Learning curve: the error against the number of training conformers."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import numpy as np

from anipot.data.conformers import Conformers
from anipot.data.division import Division, read_data
from anipot.errors import DataError, SettingsError
from anipot.formats.load import load
from anipot.report.figures import plots
from anipot.runs.page import try_run_page
from anipot.runs.run import make_model, run_settings
from anipot.system.files import read_json, read_table, write_text
from anipot.training.targets import with_isolated_atoms
from anipot.training.trainer import ANITrainer, evaluate

#: Parts of the training set; the whole of it is the run itself.
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


def add_learning_curve(folder: str | Path) -> list[tuple[int, float, float]]:
    """Train on parts of a finished run's training set; returns (conformers, MAE, RMSE), test errors
    in kcal/mol.

    Each part contains the smaller ones and gets about as many updates as the run had, so that the
    amount of data is all that differs. Writes ``learning_curve.csv`` and a plot; parts that are
    already in the table are not trained again, and one that was interrupted goes on.
    Raises SettingsError when the run is not finished or its training set is too small.
    """
    folder = Path(folder)
    table = folder / "learning_curve.csv"
    if not _finished(folder):
        raise SettingsError(
            f"{folder} holds no finished run; finish it first: anipot train --resume {folder}"
        )
    settings = run_settings(folder)
    data = read_data(settings.data)
    division = Division.load(folder / "split.npz")
    train, validation, test = division.take(data)
    training, train, validation = with_isolated_atoms(
        settings.training, train, validation, settings.model.elements
    )
    if len(test) == 0:
        test = validation
    done = _read(table)
    if not done:
        whole = evaluate(load(folder / "potential.safetensors"), test)
        done[len(train)] = (whole.energy.mae, whole.energy.rmse)
        _write(table, done)
    for fraction in FRACTIONS:
        part = _part(train, fraction, division.by, settings.data.seed)
        n = len(part)
        if n in done or n < 2:
            continue
        longer = len(train) / n
        training = training.resolved(len(train))
        assert training.epochs is not None
        epochs = round(training.epochs * longer)
        patience = None if training.patience is None else round(training.patience * longer)
        trainer = ANITrainer(
            make_model(settings, train), training, epochs=epochs, patience=patience
        )
        print(f"learning curve: {n:,} of {len(train):,} training conformers, {epochs} epochs")
        checkpoint = folder / "learning_curve" / f"{n}.pt"
        try:
            trainer.train(part, validation, checkpoint=checkpoint, resume=checkpoint.exists())
        except DataError as e:  # a small part may lack an element
            print(f"left out: {e}")
            continue
        if trainer.history.stopped == "interrupted":
            print(f"Interrupted. To go on: anipot train --resume {folder} --learning-curve")
            break
        errors = trainer.evaluate(test).energy
        done[n] = (errors.mae, errors.rmse)
        _write(table, done)
        checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: a part is to go on
        (folder / "learning_curve").rmdir()
    points = [(n, *errors) for n, errors in sorted(done.items())]
    plots.save_figure(plots.learning_curve(points), folder / "plots" / "learning_curve")
    try_run_page(folder, test)
    print("training conformers  test MAE  test RMSE / kcal/mol")
    for n, mae, rmse in points:
        print(f"{n:>20,}  {mae:8.3f}  {rmse:9.3f}")
    return points


def _finished(folder: Path) -> bool:
    """Whether a run came to its end; one that was interrupted has a potential too."""
    path = folder / "run.json"
    if not path.exists():
        return False
    report = read_json(path, way_out=f"to write it again: anipot train --resume {folder}")
    return report.get("status") in ("finished", "patience")


def _part(train: Conformers, fraction: float, by: str, seed: int) -> Conformers:
    """A nested part: the first conformers of one random order (whole molecules by molecule)."""
    rng = np.random.default_rng([seed, 1])
    group = train.groups(by)
    if group is None:
        order = rng.permutation(len(train))
        return train.take(np.sort(order[: max(1, round(fraction * len(train)))]))
    names = np.unique(group)
    chosen = rng.permutation(names)[: max(1, round(fraction * len(names)))]
    return train.take(np.isin(group, chosen))


def _read(path: Path) -> dict[int, tuple[float, float]]:
    if not path.exists():
        return {}

    def point(line: dict[str, str]) -> tuple[int, tuple[float, float]]:
        return int(line["conformers"]), (float(line["mae"]), float(line["rmse"]))

    return dict(read_table(path, point, way_out="remove it, and its parts are trained again"))


def _write(path: Path, done: dict[int, tuple[float, float]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["conformers", "mae", "rmse"])
    writer.writerows([n, repr(mae), repr(rmse)] for n, (mae, rmse) in sorted(done.items()))
    write_text(path, text.getvalue())
