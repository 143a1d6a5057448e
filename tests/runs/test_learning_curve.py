"""Learning curve: nested parts, fair trainings, and nothing done twice."""

import csv
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import anipot
from anipot.config import RunSettings
from anipot.data.division import Division, read_data
from anipot.data.published.bundled import load_bundled
from anipot.errors import SettingsError
from anipot.report.figures import plots
from anipot.runs import learning_curve
from anipot.runs.learning_curve import add_learning_curve
from anipot.runs.run import Run, resume_run, start_run
from anipot.system.options import checked, with_words
from anipot.training.trainer import ANITrainer, evaluate

WORDS = ["heavy_atoms=2", "per_molecule=12", "hidden=8", "epochs=2", "batch_size=16", "patience=2"]


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> Path:
    """A file that every element has several molecules in, so that small parts have them too."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    load_bundled().select(elements="HCO", heavy_atoms=2, per_molecule=16).save(path)
    return path


@pytest.fixture
def run(small_file, tmp_path, monkeypatch) -> Run:
    def touch(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".svg").touch()

    monkeypatch.setattr(plots, "save_figure", touch)
    settings = checked(RunSettings, with_words({}, [*WORDS, f"files={small_file}"]))
    return start_run(settings, tmp_path / "run")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "learning_curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def count_trainings(monkeypatch) -> list[tuple[int, int, int | None]]:
    """(conformers, epochs, patience) of each training from now on."""
    calls = []
    train = ANITrainer.train

    def counted(self, part, *args, **kwargs):
        calls.append((len(part), self.settings.epochs, self.settings.patience))
        return train(self, part, *args, **kwargs)

    monkeypatch.setattr(ANITrainer, "train", counted)
    return calls


def test_the_table(run, monkeypatch, capsys):
    calls = count_trainings(monkeypatch)
    points = add_learning_curve(run.folder)
    n = len(Division.load(run.folder / "split.npz").train)
    sizes = [round(n / 16), round(n / 8), round(n / 4), round(n / 2), n]
    assert [p[0] for p in points] == sizes
    # About as many updates each: half the data, twice the epochs and the patience.
    assert calls == [(s, round(2 * n / s), round(2 * n / s)) for s in sizes[:4]]
    rows = table(run.folder)
    assert [(int(r["conformers"]), float(r["mae"]), float(r["rmse"])) for r in rows] == points
    assert points[-1][1:] == (run.test.energy.mae, run.test.energy.rmse)
    assert (run.folder / "plots" / "learning_curve.svg").exists()
    assert not (run.folder / "learning_curve").exists()
    out = capsys.readouterr().out
    assert f"{points[0][0]:,}  {points[0][1]:8.3f}" in out
    # Once more: nothing is trained, nothing changes.
    del calls[:]
    assert add_learning_curve(run.folder) == points
    assert calls == []


def test_a_point_is_a_training_on_that_part(run):
    """The smallest point again by hand."""
    points = add_learning_curve(run.folder)
    settings = read_settings(run)
    train, val, test = Division.load(run.folder / "split.npz").take(read_data(settings.data))
    part = learning_curve._part(train, 1 / 16, "conformer", settings.data.seed)
    assert len(part) == points[0][0]
    model = anipot.ANIModel.create(train.elements, hidden=[8], seed=0)
    epochs = round(2 * len(train) / len(part))
    trainer = ANITrainer(model, epochs=epochs, patience=epochs, batch_size=16, seed=0)
    trainer.train(part, val, quiet=True)
    assert evaluate(trainer.model, test).energy.mae == points[0][1]


def read_settings(run: Run) -> RunSettings:
    from anipot.system.options import read_yaml

    return checked(RunSettings, read_yaml(run.folder / "options.yaml"))


@pytest.mark.parametrize("by", ["conformer", "molecule", "formula"])
def test_parts_are_nested_and_of_whole_groups(by):
    data = load_bundled().select(heavy_atoms=3, per_molecule=5)
    data.coordinates[:, 0] = np.repeat(np.arange(len(data)), data.n_atoms)  # tells them apart
    parts = [learning_curve._part(data, f, by, 0) for f in learning_curve.FRACTIONS]
    members = [set(p.coordinates[:, 0].astype(int).tolist()) for p in parts]
    assert members[0] < members[1] < members[2] < members[3]
    group = data.groups(by)
    n = len(data) if group is None else len(np.unique(group))
    for fraction, chosen in zip(learning_curve.FRACTIONS, members, strict=True):
        if group is None:
            assert len(chosen) == round(n * fraction)
        else:
            inside = set(group[sorted(chosen)].tolist())
            assert len(inside) == max(1, round(n * fraction))
            assert len(chosen) == int(np.isin(group, list(inside)).sum())
    other = learning_curve._part(data, 1 / 16, by, 1)
    assert set(other.coordinates[:, 0].astype(int).tolist()) != members[0]


def test_interrupted_it_goes_on_to_the_same_numbers(run, tmp_path, monkeypatch, capsys):
    whole = add_learning_curve(run.folder)
    (run.folder / "learning_curve.csv").unlink()
    step = torch.optim.AdamW.step
    updates = 0

    def counted(self, *args, **kwargs):
        nonlocal updates
        updates += 1
        if updates == 33:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        some = add_learning_curve(run.folder)
    assert updates == 33
    assert len(some) < len(whole)
    assert set(some) < set(whole)
    assert f"anipot train --resume {run.folder} --learning-curve" in capsys.readouterr().out
    calls = count_trainings(monkeypatch)
    assert add_learning_curve(run.folder) == whole
    assert len(calls) == len(whole) - len(some)


def test_only_of_a_finished_run(small_file, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="holds no finished run"):
        add_learning_curve(tmp_path)
    monkeypatch.setattr(plots, "save_figure", lambda *a: None)
    step = torch.optim.AdamW.step

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    settings = checked(RunSettings, with_words({}, [*WORDS, f"files={small_file}"]))
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        run = start_run(settings, tmp_path / "run")
    assert run.history.stopped == "interrupted"
    with pytest.raises(SettingsError, match=r"finish it first: anipot train --resume"):
        add_learning_curve(run.folder)
    resume_run(run.folder)
    assert len(add_learning_curve(run.folder)) == 5


def test_a_part_that_lacks_an_element_is_left_out(tmp_path, monkeypatch, capsys):
    """By molecule, a sixteenth of nine molecules is one, without an oxygen or a nitrogen."""
    monkeypatch.setattr(plots, "save_figure", lambda *a: None)
    path = tmp_path / "few.npz"
    load_bundled().select(heavy_atoms=2, per_molecule=4).save(path)
    words = [*WORDS, f"files={path}", "split=molecule", "train=0.6", "validation=0.2", "test=0.2"]
    run = start_run(checked(RunSettings, with_words({}, words)), tmp_path / "run")
    points = add_learning_curve(run.folder)
    out = capsys.readouterr().out
    assert "left out: " in out
    assert 1 <= len(points) < 5
    assert points[-1][0] == len(Division.load(run.folder / "split.npz").train)
