"""Tables whose runs are shared through a storage: each run is trained once, and all have it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import anipot
from anipot import plots, shared_studies
from anipot.errors import DataError, SettingsError
from anipot.iterations import runs, sharing
from anipot.iterations.collecting import load_table
from anipot.iterations.iterate import iterate, resume_table
from tests.iterations.test_iteration_tables import TINY, numbers

ROWS = [{}, {"name": "wider", "hidden": [6]}]

#: A process that was, and is no more.
GONE = 2**22 + 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: None)
    monkeypatch.setattr(sharing.SharedQueue, "look_every", 0.05)


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "shared" / "journal")


def shared(folder, storage, rows=ROWS, base=TINY, seeds=2, **more):
    return iterate(base, rows, seeds=seeds, folder=folder, storage=storage, **more)


def never(folder):
    raise AssertionError(f"{folder} is trained again")


def study_of(folder):
    about = json.loads((folder / "storage.json").read_text())
    return shared_studies.open_study(about["storage"], about["name"])


def states(folder):
    return [trial.state.name for trial in study_of(folder).trials]


def test_another_machine_has_the_whole_table_without_training(tmp_path, storage, monkeypatch):
    first = shared(tmp_path / "a", storage)
    assert first.complete
    assert states(first.folder) == ["COMPLETE"] * 4
    monkeypatch.setattr(runs, "train", never)
    second = shared(tmp_path / "b", storage)
    assert numbers(second) == numbers(first)
    assert second.about == first.about
    assert (tmp_path / "b" / "table.md").read_text() == (tmp_path / "a" / "table.md").read_text()
    # The weights stay where they were trained.
    assert (tmp_path / "a" / "base" / "seed-0" / "potential.safetensors").exists()
    assert not (tmp_path / "b" / "base" / "seed-0" / "potential.safetensors").exists()


def test_it_is_the_table_that_is_not_shared(tmp_path, storage):
    alone = iterate(TINY, ROWS, seeds=2, folder=tmp_path / "alone")
    assert numbers(shared(tmp_path / "a", storage)) == numbers(alone)


def test_a_data_base_is_a_storage(tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path / 'x.db'}"
    first = shared(tmp_path / "a", storage, seeds=1)
    monkeypatch.setattr(runs, "train", never)
    assert numbers(shared(tmp_path / "b", storage, seeds=1)) == numbers(first)


def test_what_is_interrupted_is_for_the_others(tmp_path, storage, monkeypatch, capsys):
    train, trained = runs.train, []

    def interrupted(folder):
        if trained:
            raise KeyboardInterrupt
        trained.append(folder)
        return train(folder)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        table = shared(tmp_path / "a", storage)
    assert not table.complete
    assert f"anipot iterate --resume {tmp_path / 'a'}" in capsys.readouterr().out
    assert states(table.folder).count("RUNNING") == 0
    other = shared(tmp_path / "b", storage)
    assert other.complete
    assert "runs 4, 0 of them" not in capsys.readouterr().out
    monkeypatch.setattr(runs, "train", never)
    assert numbers(resume_table(tmp_path / "a")) == numbers(other)


def test_runs_of_processes_that_were_killed_are_trained_by_others(tmp_path, storage, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        shared(tmp_path / "a", storage, seeds=1)
    study = study_of(tmp_path / "a")
    trial = study.ask()
    trial.set_user_attr(shared_studies.WHERE, [socket.gethostname(), GONE])
    assert shared(tmp_path / "b", storage, seeds=1).complete
    assert study.trials[trial.number].state.name == "FAIL"


def test_it_waits_for_what_others_train(tmp_path, storage, monkeypatch, capsys):
    whole = shared(tmp_path / "whole", str(tmp_path / "another"), seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        shared(tmp_path / "a", storage, seeds=1)
    study = study_of(tmp_path / "a")
    trial = study.ask()
    trial.set_user_attr(shared_studies.WHERE, ["another-machine", 1])
    trial.set_user_attr(shared_studies.SEEN, time.time())
    name = trial.user_attrs["run"]

    def end():
        time.sleep(1)
        trial.set_user_attr("files", sharing._files(whole.folder / name))
        study.tell(trial, 0.0)

    ending = threading.Thread(target=end)
    ending.start()
    train, trained = runs.train, []
    monkeypatch.setattr(runs, "train", lambda f: trained.append(f) or train(f))
    table = shared(tmp_path / "b", storage, seeds=1)
    ending.join()
    assert table.complete
    assert len(trained) == 1
    assert tmp_path / "b" / name not in trained
    assert numbers(table) == numbers(whole)
    text = capsys.readouterr().out
    assert "waiting for runs that others train: 1" in text
    assert "[2 of 2]" in text


def test_runs_that_had_ended_before_are_shared(tmp_path, storage, monkeypatch):
    alone = iterate(TINY, ROWS, seeds=1, folder=tmp_path / "a")
    monkeypatch.setattr(runs, "train", never)
    shared(tmp_path / "a", storage, seeds=1)
    assert numbers(shared(tmp_path / "b", storage, seeds=1)) == numbers(alone)


def test_a_want_of_memory_is_left_to_machines_with_more(tmp_path, storage, monkeypatch):
    def full(folder, data):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "resume_run", full)
        table = shared(tmp_path / "a", storage, seeds=1)
    assert "OutOfMemoryError: no memory" in table.rows[0].failure
    assert states(table.folder).count("FAIL") == 2  # each tried once
    other = shared(tmp_path / "b", storage, seeds=1)
    assert other.complete
    assert not other.rows[0].failure
    assert numbers(resume_table(tmp_path / "a")) == numbers(other)


def test_tuned_rows_choose_the_same_everywhere(tmp_path, storage, monkeypatch):
    tune = {"option": "learning_rate", "values": [1e-4, 1e-2], "updates": 4}
    first = shared(tmp_path / "a", storage, seeds=1, tune=tune)
    assert states(first.folder) == ["COMPLETE"] * 6
    monkeypatch.setattr(runs, "train", never)
    second = shared(tmp_path / "b", storage, seeds=1, tune=tune)
    assert numbers(second) == numbers(first)
    assert [row.tuning.chosen for row in second.rows] == [row.tuning.chosen for row in first.rows]


def test_other_data_is_refused(tmp_path, storage):
    data = anipot.load_bundled().select(heavy_atoms=1, per_molecule=16)
    base = {k: v for k, v in TINY.items() if k not in ("heavy_atoms", "per_molecule")}
    for name, part in (("a", data), ("b", data.take(slice(0, 40)))):
        (tmp_path / name).mkdir()
        part.save(tmp_path / name / "d.npz")
    files = [{**base, "files": str(tmp_path / name / "d.npz")} for name in "ab"]
    shared(tmp_path / "one", storage, [{}], files[0], seeds=1)
    # The same in another place is the same.
    shutil.copy(tmp_path / "a" / "d.npz", tmp_path / "d.npz")
    again = {**base, "files": str(tmp_path / "d.npz")}
    assert shared(tmp_path / "two", storage, [{}], again, seeds=1).complete
    with pytest.raises(DataError, match="shared by machines that have other data"):
        shared(tmp_path / "three", storage, [{}], files[1], seeds=1)


def test_another_table_of_that_name_is_refused(tmp_path, storage):
    shared(tmp_path / "a", storage, seeds=1, name="mine")
    with pytest.raises(SettingsError, match=r"'mine' of this storage was begun with other rows"):
        shared(tmp_path / "b", storage, ROWS[:1], seeds=1, name="mine")
    assert not (tmp_path / "b").exists()
    with pytest.raises(SettingsError, match="holds table 'mine' of storage"):
        shared(tmp_path / "a", str(tmp_path / "other"), seeds=1, name="mine")
    with pytest.raises(SettingsError, match="give both"):
        iterate(TINY, ROWS, name="mine")
    shared_studies.open_study(storage, "a search")
    with pytest.raises(SettingsError, match="cannot be opened"):
        shared(tmp_path / "c", "nosuch://host/base", seeds=1)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_two_processes_share_a_table(tmp_path, storage):
    file = tmp_path / "table.json"
    # Long enough for both processes to begin before the other has done all.
    base = {**TINY, "epochs": 150, "patience": 150}
    file.write_text(json.dumps({"base": base, "rows": ROWS, "seeds": 3}))
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "anipot", "iterate", str(file), "-o", str(tmp_path / name),
             "--storage", storage],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in "ab"
    ]  # fmt: skip
    texts = [command.communicate(timeout=500)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], texts
    first, second = (load_table(tmp_path / name) for name in "ab")
    assert first.complete
    assert numbers(first) == numbers(second)
    done = [t for t in study_of(tmp_path / "a").trials if t.state.name == "COMPLETE"]
    assert len({t.user_attrs["run"] for t in done}) == len(done) == 6
    weights = [list((tmp_path / name).rglob("potential.safetensors")) for name in "ab"]
    assert len(weights[0]) + len(weights[1]) == 6
    assert weights[0]
    assert weights[1]
