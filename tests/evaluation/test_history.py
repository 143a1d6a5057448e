"""History: the table of a training's epochs, out and back."""

import csv
import io
import json
from dataclasses import replace

import pytest

from anipot.evaluation.history import EpochRecord, History


@pytest.fixture
def history() -> History:
    first = EpochRecord(1, 10, 1e-3, 0.1 + 0.2, 5.0, 3.0, 4.0, 0.5, best=True)
    second = replace(first, epoch=2, updates=20, val_mae=1.0 / 3.0)
    third = replace(first, epoch=3, updates=30, val_mae=2.0, best=False)
    return History([first, second, third], "patience", "hartree^2")


def test_columns_and_records(history: History) -> None:
    assert len(history) == 3
    assert history["epoch"] == [1, 2, 3]
    assert history["val_mae"] == [3.0, 1.0 / 3.0, 2.0]
    assert [record.updates for record in history] == [10, 20, 30]
    with pytest.raises(AttributeError):
        history["no such column"]


def test_best_is_the_last_that_improved(history: History) -> None:
    assert history.best is not None
    assert history.best.epoch == 2
    assert History().best is None
    assert History([replace(history.epochs[0], best=False)]).best is None


def test_csv_keeps_every_digit(history: History) -> None:
    rows = list(csv.DictReader(io.StringIO(history.to_csv())))
    assert [int(row["epoch"]) for row in rows] == history["epoch"]
    assert [float(row["val_mae"]) for row in rows] == history["val_mae"]
    assert [float(row["train_loss"]) for row in rows] == history["train_loss"]
    assert [row["best"] for row in rows] == ["True", "True", "False"]
    assert "\r" not in history.to_csv()


def test_csv_of_no_epoch_has_the_header() -> None:
    assert History().to_csv().startswith("epoch,updates,learning_rate,")


def test_dict_round_trip_through_json(history: History) -> None:
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_histories_do_not_share_their_epochs(history: History) -> None:
    one, other = History(), History()
    one.epochs.append(history.epochs[0])
    assert len(other) == 0
