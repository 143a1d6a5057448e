"""Tables whose runs are shared through a storage: each run is trained once, and all have it."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
import torch
from matplotlib.figure import Figure

import anipot
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.experiments import shared_studies
from anipot.experiments.search import storage as search_storage
from anipot.experiments.search.settings import search_settings
from anipot.experiments.search.trial import read_parts, run_trial
from anipot.experiments.table import runs, sharing
from anipot.experiments.table.collecting import load_table
from anipot.experiments.table.iterate import iterate, resume_table, run_table
from anipot.experiments.table.settings import table_settings
from anipot.report.figures import plots
from tests.experiments.test_iteration_tables import TINY, numbers

ROWS = [{}, {"name": "wider", "hidden": [6]}]

#: A process that was, and is no more.
GONE = 2**22 + 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Neither figures nor pages are what these tests are about."""
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: None)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    monkeypatch.setattr("anipot.experiments.table.iterate.try_table_page", lambda table: None)
    monkeypatch.setattr("anipot.system.memory._give_back", lambda: None)
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


def interrupted(folder):
    raise KeyboardInterrupt


def taken(folder, storage, by):
    """A run of a table that nobody has trained yet, taken by a process: study and trial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        assert not shared(folder, storage, seeds=1).complete
    study = study_of(folder)
    of = {key: study.trials[0].user_attrs[key] for key in ("run", "fingerprint")}
    attributes = {"by": "another", **of, **shared_studies.signature(), shared_studies.WHERE: by}
    state = optuna.trial.TrialState.RUNNING
    study.add_trial(optuna.create_trial(state=state, user_attrs=attributes))
    return study, optuna.Trial(study, study.trials[-1]._trial_id)


def commands(tmp_path, storage, folders, workers=1, **base):
    """Processes that share a table."""
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"base": {**TINY, **base}, "rows": [{}], "seeds": 2}))
    return [
        subprocess.Popen(
            [sys.executable, "-m", "anipot", "iterate", str(file), "-o", str(tmp_path / name),
             "--storage", storage, "--workers", str(workers)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in folders
    ]  # fmt: skip


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


def test_runs_of_processes_that_were_killed_are_trained_by_others(tmp_path, storage):
    study, trial = taken(tmp_path / "a", storage, [shared_studies.machine(), GONE])
    assert shared(tmp_path / "b", storage, seeds=1).complete
    assert study.trials[trial.number].state.name == "FAIL"


def test_only_what_is_not_signed_any_more_was_killed_elsewhere(tmp_path, storage, monkeypatch):
    study, trial = taken(tmp_path / "a", storage, ["another machine", GONE])
    trial.set_user_attr(shared_studies.SEEN, 0.0)  # by a clock that is wrong
    monkeypatch.setattr(sharing.SharedQueue, "dead_after", 1.0)
    closed = threading.Event()

    def sign():
        for _ in range(15):
            time.sleep(0.2)
            assert states(tmp_path / "a")[trial.number] == "RUNNING"
            trial.set_user_attr(shared_studies.SEEN, trial.user_attrs[shared_studies.SEEN] + 1)
        closed.set()

    signing = threading.Thread(target=sign)
    signing.start()
    assert shared(tmp_path / "b", storage, seeds=1).complete
    signing.join()
    assert closed.is_set()
    assert study.trials[trial.number].state.name == "FAIL"


def test_it_waits_for_what_others_train(tmp_path, storage, monkeypatch, capsys):
    whole = shared(tmp_path / "whole", str(tmp_path / "another"), seeds=1)
    study, trial = taken(tmp_path / "a", storage, ["another machine", 1])
    name = trial.user_attrs["run"]

    def end():
        while "COMPLETE" not in states(tmp_path / "a"):
            time.sleep(0.05)
        time.sleep(0.5)
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


def test_a_run_that_another_takes_at_this_moment_is_waited_for(tmp_path, storage, monkeypatch):
    """Between the look at what is done and the taking, both of the last run."""
    take, waited = sharing.SharedQueue.take, []
    whole = shared(tmp_path / "whole", str(tmp_path / "another"), seeds=1)

    def too_late(queue):
        if waited:
            return take(queue)
        waited.append(queue)
        for folder in queue.left:
            files = sharing._files(whole.folder / queue._name(folder))
            attributes = queue._attributes(folder) | {"by": "another", "files": files}
            queue.study.add_trial(optuna.create_trial(value=0.0, user_attrs=attributes))
        return None

    monkeypatch.setattr(sharing.SharedQueue, "take", too_late)
    monkeypatch.setattr(runs, "train", never)
    assert numbers(shared(tmp_path / "a", storage, seeds=1)) == numbers(whole)


def test_of_two_who_take_a_run_the_first_has_it(tmp_path, storage):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        for name in "ab":
            shared(tmp_path / name, storage, seeds=1)
    first, second = (
        sharing.sharing_of(tmp_path / name).queue([tmp_path / name / "base" / "seed-0"])
        for name in "ab"
    )
    offered = second._trials()
    assert first.take() is not None
    with pytest.MonkeyPatch.context() as patch:
        trials = second._trials
        # As they were before the first took it.
        patch.setattr(second, "_trials", lambda: patch.undo() or offered)
        assert second.take() is None
    assert trials()["base/seed-0"].user_attrs["by"] == first._me
    assert states(tmp_path / "a").count("RUNNING") == 1
    with first:
        pass
    assert states(tmp_path / "a").count("RUNNING") == 0
    assert second.take() is not None


def test_a_storage_that_goes_away_is_named_and_nothing_is_lost(tmp_path, storage, monkeypatch):
    train, trained = runs.train, []

    def away(*given, **more):
        raise optuna.exceptions.StorageInternalError("gone")

    with pytest.MonkeyPatch.context() as patch:

        def last(folder):
            trained.append(folder)
            patch.setattr(optuna.storages.JournalStorage, "get_all_trials", away)
            patch.setattr(optuna.storages.JournalStorage, "set_trial_user_attr", away)
            return train(folder)

        patch.setattr(runs, "train", last)
        with pytest.raises(TrainingError, match=r"StorageInternalError: gone; .*--resume") as e:
            shared(tmp_path / "a", storage)
    assert storage in str(e.value)
    assert len(trained) == 1
    monkeypatch.setattr(runs, "train", lambda f: trained.append(f) or train(f))
    assert resume_table(tmp_path / "a").complete
    assert len(set(trained)) == len(trained) == 4


def test_a_failed_sign_is_followed_by_others(tmp_path, storage, monkeypatch):
    signed = threading.Event()
    calls = []

    def sign(trial):
        calls.append(trial)
        if len(calls) == 1:
            raise optuna.exceptions.StorageInternalError("away for a moment")
        signed.set()

    def wait(folder):
        assert signed.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(shared_studies, "SIGN_OF_LIFE", 0.05)
    monkeypatch.setattr(shared_studies, "sign", sign)
    monkeypatch.setattr(runs, "train", wait)
    assert not shared(tmp_path / "a", storage, seeds=1).complete


def test_a_trial_of_a_search_that_others_took_for_a_dead_ones(tmp_path, storage, monkeypatch):
    space = {"learning_rate": [1e-3, 1e-2]}
    settings = search_settings({"base": {**TINY, "epochs": 10}, "space": space, "trials": 2})
    study = search_storage.open_study(storage, "x", settings)
    study.enqueue_trial({"training.learning_rate": 1e-3})
    trial, report = study.ask(), optuna.Trial.report

    def taken_away(self, value, step):
        search_storage.set_aside(study, study.trials[0], "killed", 1)
        report(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", taken_away)
    run_trial(study, trial, settings, read_parts(settings.base.data, settings.base.training))
    assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]


def test_a_table_of_another_version_is_named(tmp_path, storage, monkeypatch):
    shared(tmp_path / "a", storage, seeds=1, name="mine")
    known = study_of(tmp_path / "a").user_attrs["anipot tables"]
    del known[""]["base"]["training"]["batch_size"], known[""]["updates"]
    monkeypatch.setattr(runs, "train", never)
    study_of(tmp_path / "a").set_user_attr("anipot tables", known)
    with pytest.raises(SettingsError, match=r"begun with other training.batch_size=None"):
        shared(tmp_path / "b", storage, seeds=1, name="mine")


def test_a_relative_data_base_is_found_from_other_folders(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    first = shared(tmp_path / "a", "sqlite:///x.db", seeds=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert numbers(resume_table(tmp_path / "a")) == numbers(first)
    assert not list((tmp_path / "elsewhere").iterdir())
    for address in ("sqlite://", "sqlite:///:memory:", "postgresql://host/x"):
        assert shared_studies.absolute_storage(address) == address


def test_a_folder_that_another_process_begins_at_this_moment(tmp_path, storage):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".table.json.x1.json").touch()
    assert shared(tmp_path / "a", storage, seeds=1).complete


def test_a_table_below_another_is_shared_by_its_storage(tmp_path, storage, monkeypatch):
    base, tune = {**TINY}, {"option": "learning_rate", "values": [1e-4, 1e-2], "updates": 4}
    parts = {"base": base, "rows": ROWS, "seeds": 1}
    first, then = table_settings(parts), table_settings({**parts, "tune": tune})

    def run(name):
        return run_table(first, tmp_path / name, then={"tuned": then}, storage=storage)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        run("a")
    assert resume_table(tmp_path / "a" / "tuned").complete
    trials = [t for t in study_of(tmp_path / "a").trials if t.state.name == "COMPLETE"]
    assert {t.user_attrs["run"].split("/")[0] for t in trials} == {"tuned"}
    whole = run("b")
    monkeypatch.setattr(runs, "train", never)
    assert numbers(run("a")) == numbers(whole)
    (below,), (of_b,) = load_table(tmp_path / "a").further, whole.further
    assert numbers(below) == numbers(of_b)


def _opened(address, begin, failed):
    begin.wait()
    try:
        shared_studies.open_study(address, "x")
    except SettingsError as e:
        failed.put(str(e))
    begin.wait()
    study = shared_studies.open_study(address, "x")
    for trial in study.get_trials():
        begin.wait()
        if study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING):
            failed.put(trial.number)


def test_processes_begin_a_data_base_and_take_its_trials_at_the_same_moment(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    address, many = f"sqlite:///{tmp_path / 'x.db'}", 30
    begin, told = spawn.Barrier(3), spawn.Queue()
    both = [spawn.Process(target=_opened, args=(address, begin, told)) for _ in range(2)]
    for process in both:
        process.start()
    begin.wait()
    study = shared_studies.open_study(address, "x")
    for _ in range(many):
        study.enqueue_trial({})
    begin.wait()
    for _ in range(many):
        begin.wait()
    found = [told.get(timeout=30) for _ in range(many)]
    for process in both:
        process.join()
    assert sorted(found) == list(range(many))
    assert told.empty()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="asks after processes as POSIX has them")
def test_processes_of_a_killed_table_end(tmp_path, storage):
    (command,) = commands(tmp_path, storage, "a", workers=2, epochs=100_000, patience=100_000)
    try:
        for _ in range(300):
            time.sleep(0.1)
            if (tmp_path / "a" / "storage.json").exists() and len(states(tmp_path / "a")) == 2:
                break
        else:
            pytest.fail("no two runs began")
        logs = [
            tmp_path / "a" / t.user_attrs["run"] / "log.txt"
            for t in study_of(tmp_path / "a").trials
        ]
        while not all(log.exists() for log in logs):
            assert command.poll() is None
            time.sleep(0.1)
        children = subprocess.run(
            ["pgrep", "-P", str(command.pid)], capture_output=True, text=True
        ).stdout.split()
        assert len(children) >= 2
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
        command.stdout.close()
    for _ in range(50):
        if not any(shared_studies.alive(int(child)) for child in children):
            break
        time.sleep(0.1)
    else:
        pytest.fail("processes outlive the one that began them")


@pytest.mark.slow
@pytest.mark.parametrize("folders", ["ab", "aa"])
def test_two_processes_share_a_table(tmp_path, storage, folders):
    """A folder each and a data base, or a folder and a journal."""
    if folders == "ab":
        storage = f"sqlite:///{tmp_path / 'x.db'}"
    # Long enough for both processes to begin before the other has done all.
    both = commands(tmp_path, storage, folders, epochs=60, patience=60)
    texts = [command.communicate(timeout=500)[0] for command in both]
    assert [command.returncode for command in both] == [0, 0], texts
    first, second = (load_table(tmp_path / name) for name in folders)
    assert first.complete
    assert numbers(first) == numbers(second)
    done = [t for t in study_of(tmp_path / "a").trials if t.state.name == "COMPLETE"]
    assert {t.user_attrs["run"] for t in done} == {"base/seed-0", "base/seed-1"}
    trained = [re.findall(r"\[\d of 2\] .*", text) for text in texts]
    assert [len(lines) for lines in trained] == [2, 2]
    weights = {
        name: len(list((tmp_path / name).rglob("potential.safetensors"))) for name in folders
    }
    assert sum(weights.values()) == 2
    assert all(weights.values())


def edited(folder, storage, name, change):
    """The storage of a table with what ``change`` makes of the files of its runs."""
    lines = []
    for line in Path(storage).read_text().splitlines():
        record = json.loads(line)
        if "files" in record.get("user_attr", {}):
            change(record["user_attr"]["files"])
        lines.append(json.dumps(record))
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("place", ["absolute", "../../../written", "notes.txt", "metrics.csv/x"])
def test_no_other_files_are_written_than_those_of_a_run(tmp_path, storage, monkeypatch, place):
    first = shared(tmp_path / "a", storage, rows=ROWS[:1], seeds=1)
    where = str(tmp_path / "written") if place == "absolute" else place
    other = edited(tmp_path, storage, "edited", lambda files: files.update({where: "mine"}))
    monkeypatch.setattr(runs, "train", never)
    name = json.loads((first.folder / "storage.json").read_text())["name"]
    with pytest.raises(DataError, match=r"no run shares.*--name of its own"):
        shared(tmp_path / "b", other, rows=ROWS[:1], seeds=1, name=name)
    assert "mine" not in [p.read_text() for p in tmp_path.rglob("*") if p.suffix in ("", ".txt")
                          and p.is_file()]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "b" / "base" / "seed-0").iterdir()) == [
        "options.yaml", "split.npz",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.pop("iteration.json"),
        lambda files: files.update({"iteration.json": "{}"}),
        lambda files: files.update({"run.json": 5}),
        lambda files: files.update({"iteration.json": "[" * 100_000}),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, storage, change):
    first = shared(tmp_path / "a", storage, rows=ROWS[:1], seeds=1)
    name = json.loads((first.folder / "storage.json").read_text())["name"]
    other = edited(tmp_path, storage, "edited", change)
    with pytest.raises(DataError, match="--name of its own"):
        shared(tmp_path / "b", other, rows=ROWS[:1], seeds=1, name=name)
    assert not (tmp_path / "b" / "base" / "seed-0" / "metrics.csv").exists()
