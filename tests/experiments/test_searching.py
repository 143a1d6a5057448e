"""Searches on a handful of real conformers: what is kept, pruned, shared, and gone on with."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import optuna
import pytest

import anipot
from anipot.config import RunSettings
from anipot.data import division
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError, SettingsError
from anipot.experiments import shared_studies
from anipot.experiments.search import search as searching
from anipot.experiments.search import storage
from anipot.experiments.search.search import resume_search, run_search
from anipot.experiments.search.settings import search_settings
from anipot.experiments.search.trial import read_parts
from anipot.experiments.table.settings import table_settings
from anipot.report.figures import plots
from anipot.runs.run import make_model
from anipot.system.options import checked, read_yaml
from anipot.system.yaml_files import load_yaml
from anipot.training.trainer import ANITrainer

BASE = {
    "data": {"heavy_atoms": 1, "per_molecule": 16},
    "model": {"hidden": [4]},
    "training": {"epochs": 3, "batch_size": 16, "threads": 1},
}
SPACE = {"learning_rate": {"low": 3e-4, "high": 3e-2, "log": True}, "batch_size": [8, 16]}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch, request):
    if "figures" not in request.node.name:
        monkeypatch.setattr(plots, "save_figure", lambda figure, path: None)


def search(folder, space=SPACE, base=BASE, **more):
    return anipot.search(base, space, folder=folder, **{"trials": 4, **more})


def outcome(found):
    return [(t.changes, t.state, t.error) for t in found.trials]


def test_what_is_found_is_what_its_files_train(tmp_path):
    found = search(
        tmp_path / "s", shorten=2, base={**BASE, "training": {**BASE["training"], "epochs": 6}}
    )
    assert [t.state for t in found.trials] == ["finished"] * 4
    assert found.trials[0].changes["training.learning_rate"] == 2e-3  # the base, tried first
    assert found.best.error == min(t.error for t in found.trials)
    options = checked(RunSettings, read_yaml(tmp_path / "s" / "best.yaml"))
    assert options.training.epochs == 6
    assert options.training.learning_rate == found.best.changes["training.learning_rate"]
    # The best options, trained for the epochs of a trial, give its error.
    training = options.training.model_copy(update={"epochs": 3, "threads": 1})
    data = division.read_data(options.data)
    train, validation, _ = division.divide(data, options.data).take(data)
    trainer = ANITrainer(make_model(options, train), training)
    history = trainer.train(train, validation, quiet=True)
    assert history.best.val_mae == found.best.error
    table = table_settings(load_yaml(tmp_path / "s" / "confirm.yaml"))
    assert [row["name"] for row in table.rows] == ["base", "best"]
    assert table.base.training.epochs == 6
    with (tmp_path / "s" / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["validation_mae"]) for line in lines] == [t.error for t in found.trials]
    assert {line["epochs"] for line in lines} == {"3"}


def test_the_test_part_is_never_read(tmp_path):
    data = load_bundled().select(heavy_atoms=1, per_molecule=16)
    options = search_settings({"space": SPACE, "trials": 1}).base.data
    test = division.divide(data, options).test
    assert len(test)
    energies, coordinates = data.energies.copy(), data.coordinates.copy()
    energies[test] += np.linspace(5, 50, len(test))
    for m in test:
        coordinates[data.offsets[m] : data.offsets[m + 1]] *= 1.7
    found = []
    for name, e, x in (
        ("as it is", data.energies, data.coordinates),
        ("other", energies, coordinates),
    ):
        path = tmp_path / f"{name}.npz"
        replace(data, energies=e, coordinates=x, forces=None).save(path)
        base = {**BASE, "data": {"files": [str(path)]}}
        found.append(outcome(search(tmp_path / name, base=base, trials=3)))
    assert found[0] == found[1]


def test_the_same_seed_tries_the_same(tmp_path):
    first = search(tmp_path / "a", trials=3)
    assert outcome(first) == outcome(search(tmp_path / "b", trials=3))
    assert outcome(first) != outcome(search(tmp_path / "c", trials=3, seed=1))


def test_pruning_ends_trials_early(tmp_path):
    # Rates far too small learn nothing: they are behind at every tenth.
    own = {"epochs": 10, "patience": 10, "batch_size": 8, "learning_rate": 0.02}
    base = {**BASE, "training": own}
    rates = [0.02, 0.03, 0.025, 0.022, 0.028, 1e-9, 2e-9, 3e-9]
    found = search(tmp_path / "s", {"learning_rate": rates}, base, trials=8)
    pruned = [t for t in found.trials if t.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.changes["training.learning_rate"] < 1e-8
        assert "worse than the median after" in trial.reason
        assert 4 <= max(trial.reported) < 10  # never before 40 % of the schedule
        assert trial.error is None
    finished = [t for t in found.trials if t.state == "finished"]
    assert all(set(t.reported) == set(range(1, 11)) for t in finished)
    without = search(tmp_path / "n", {"learning_rate": rates}, base, trials=8, pruning=False)
    assert {t.state for t in without.trials} == {"finished"}


def test_trials_that_would_take_too_long(tmp_path):
    base = {**BASE, "training": {"epochs": 1000, "batch_size": 16}}
    found = search(tmp_path / "s", base=base, trials=2, max_seconds=0.05)
    assert [t.state for t in found.trials] == ["pruned"] * 2
    assert all("more than max_seconds=0.05" in t.reason for t in found.trials)
    assert found.best is None
    assert not (tmp_path / "s" / "best.yaml").exists()


def test_what_diverges_or_contradicts_itself_is_a_trial_with_its_reason(tmp_path):
    space = {"learning_rate": [1e25, 2e-3], "aev": ["ani1x", "cover"], "zeta": [None, 32.0]}
    found = search(tmp_path / "s", space, trials=8, pruning=False)
    by = {tuple(t.changes.values()): t for t in found.trials}
    assert len(by) == len(found.trials) == 8
    assert by[2e-3, "ani1x", None].state == "finished"
    assert by[2e-3, "ani1x", 32.0].state == "failed"
    assert "option 'model.zeta'" in by[2e-3, "ani1x", 32.0].reason
    assert by[1e25, "ani1x", None].state == "pruned"
    assert by[1e25, "ani1x", None].reason.startswith("diverged: the ")


def test_a_space_with_nothing_left_ends(tmp_path):
    found = search(tmp_path / "s", {"batch_size": [8, 16]}, trials=None, minutes=60)
    assert sorted(t.changes["training.batch_size"] for t in found.trials) == [8, 16]


def test_going_on_keeps_what_is_there(tmp_path):
    first = search(tmp_path / "s", trials=2)
    more = search(tmp_path / "s", trials=5)
    assert outcome(more)[:2] == outcome(first)
    assert len(more.trials) == 5
    again, finished = resume_search(tmp_path / "s")
    assert finished
    assert outcome(again) == outcome(more)
    with pytest.raises(SettingsError, match=r"other seed, training\.epochs=3; give the same"):
        search(tmp_path / "s", base={**BASE, "training": {**BASE["training"], "epochs": 4}}, seed=5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(SettingsError, match="exists and holds no search"):
        search(tmp_path / "other")


def test_no_time_is_not_time_without_end(tmp_path):
    search(tmp_path / "s", trials=1)
    with pytest.raises(SettingsError, match="minutes"):
        resume_search(tmp_path / "s", minutes=0)


def test_one_storage_is_one_search(tmp_path):
    shared = f"sqlite:///{tmp_path / 'x.db'}"
    search(tmp_path / "a", trials=2, storage=shared, name="n")
    joined = search(tmp_path / "b", trials=3, storage=shared, name="n")
    assert len(joined.trials) == 3
    with pytest.raises(SettingsError, match="'n' of this storage was begun with other space"):
        search(tmp_path / "c", {"batch_size": [8, 16]}, storage=shared, name="n")
    other = {**BASE["data"], "seed": 1}
    with pytest.raises(SettingsError, match=r"data\.seed=0"):
        search(tmp_path / "d", base={**BASE, "data": other}, storage=shared, name="n")
    # Other spaces have other names, unless one is given.
    assert len(search(tmp_path / "e", {"l2": [0, 0.1]}, trials=1, storage=shared).trials) == 1
    with pytest.raises(SettingsError, match="cannot be opened"):
        search(tmp_path / "f", storage="nosuch://x")


def test_other_data_of_the_same_name(tmp_path):
    data = load_bundled().select(heavy_atoms=1, per_molecule=16)
    shared = str(tmp_path / "shared.journal")
    for k, part in enumerate((data, data.take(np.arange(len(data) - 1)))):
        (tmp_path / str(k)).mkdir()
        part.save(tmp_path / str(k) / "x.npz")
    base = {**BASE, "data": {"files": str(tmp_path / "0" / "x.npz")}}
    search(tmp_path / "a", base=base, trials=1, storage=shared)
    base = {**BASE, "data": {"files": str(tmp_path / "1" / "x.npz")}}
    with pytest.raises(DataError, match="was begun with other data"):
        search(tmp_path / "b", base=base, trials=1, storage=shared)


def test_an_interrupted_trial_is_tried_again(tmp_path, monkeypatch):
    settings = search_settings({"base": BASE, "space": SPACE, "trials": 3})
    train, calls = ANITrainer.train, []
    # Processes in the background may have been started with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self, *args, **kwargs):
        calls.append(self.settings)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(ANITrainer, "train", interrupted)
    try:
        found, finished = run_search(settings, tmp_path / "s")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not finished
    assert [t.state for t in found.trials] == ["finished"]
    assert (tmp_path / "s" / "best.yaml").exists()
    found, finished = resume_search(tmp_path / "s")
    assert finished
    assert len(found.trials) == 3
    assert calls[2] == calls[1]  # the same options again


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install 'anipot\[search\]'"):
        search("nowhere")


def test_figures(tmp_path):
    space = {**SPACE, "force_weight": {"values": [0], "low": 0.1, "high": 1, "log": True}}
    search(tmp_path / "s", space, trials=3)
    for name in ("history.png", "options.png", "options.svg"):
        assert (tmp_path / "s" / "plots" / name).stat().st_size > 1000


def _command(folder, file, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "anipot", "search", str(file), "-o", str(folder), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def _study(folder):
    about = json.loads((folder / "search.json").read_text())
    backend = shared_studies.backend(about["storage"] or str(folder / "trials.journal"))
    return optuna.load_study(study_name=about["name"], storage=backend)


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    file, folder = tmp_path / "space.yaml", tmp_path / "s"
    # Long enough to be killed in the middle.
    file.write_text(json.dumps({
        "base": {**BASE, "training": {"epochs": 100_000, "batch_size": 16}},
        "space": {"learning_rate": [1e-3, 2e-3]},
    }))  # fmt: skip
    process = _command(folder, file, "--trials", "1")
    try:
        for _ in range(600):
            time.sleep(0.1)
            if (folder / "search.json").exists() and any(
                t.params and (t.intermediate_values or shared_studies.SEEN in t.user_attrs)
                for t in _study(folder).trials
            ):
                break
        else:
            pytest.fail("no trial began")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    (trial,) = _study(folder).trials
    assert trial.state.name == "RUNNING"
    params = trial.params
    study = storage.open_study(
        str(folder / "trials.journal"), _study(folder).study_name, search_settings(
            json.loads((folder / "search.json").read_text())["settings"])
    )  # fmt: skip
    assert storage.bury(study) == 1
    assert storage.bury(study) == 0
    killed, waiting = study.trials
    assert (killed.state.name, waiting.state.name) == ("FAIL", "WAITING")
    assert not storage.counts(killed)
    assert study.ask().suggest_categorical("training.learning_rate", [1e-3, 2e-3]) in (
        params.values()
    )


def _workers(folder):
    """The numbers of the processes that have taken trials, once for each."""
    trials = _study(folder).trials if (folder / "search.json").exists() else []
    where = shared_studies.WHERE
    return [t.user_attrs[where][1] for t in trials if where in t.user_attrs]


@contextlib.contextmanager
def _two_processes(folder):
    """A search by two processes, which would go on for ever; it is killed at the end."""
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps({
        "base": {**BASE, "training": {"epochs": 100_000, "batch_size": 16}},
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-3}},
    }))  # fmt: skip
    process = _command(folder, file, "--trials", "50", "-w", "2")
    try:
        _wait(lambda: len(set(_workers(folder))) == 2, "both processes train")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="asks after processes as POSIX has them")
def test_processes_of_a_killed_search_end(tmp_path):
    folder = tmp_path / "s"
    with _two_processes(folder):
        pass
    _wait(lambda: not any(map(shared_studies.alive, _workers(folder))), "both processes end")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="asks after processes as POSIX has them")
def test_the_trial_of_a_killed_process_is_tried_again_by_the_others(tmp_path):
    folder = tmp_path / "s"

    def killed():
        return [t for t in _study(folder).trials if storage.INTERRUPTED in t.user_attrs]

    with _two_processes(folder) as process:
        os.kill(_workers(folder)[0], signal.SIGKILL)
        _wait(killed, "its trial is set aside")
        _wait(lambda: "ended with -9" in process.stdout.readline(), "it is told")
        (trial,) = killed()  # before the rest is killed, too
    assert trial.user_attrs[storage.INTERRUPTED] == "killed"
    waiting = [t for t in _study(folder).trials if t.state.name == "WAITING"]
    assert [t.system_attrs["fixed_params"] for t in waiting] == [trial.params]


def test_a_death_is_told_with_those_that_still_work(monkeypatch, tmp_path):
    class Process:
        """Ends after so many looks, with a code."""

        def __init__(self, looks, code):
            self.looks, self.code = looks, code

        @property
        def exitcode(self):
            return self.code if watched[0] >= self.looks else None

        def is_alive(self):
            return self.exitcode is None

        def start(self):
            pass

        def join(self):
            pass

    class Watcher:
        def look(self):
            watched[0] += 1

        def tell_of_death(self, exitcode, left):
            told.append((exitcode, left))

    class Context:
        def Process(self, **given):
            return ended.pop()

    watched, told = [0], []
    ended = [Process(1, 0), Process(2, -9), Process(3, 0), Process(4, -9)]
    monkeypatch.setattr(searching, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(searching.multiprocessing, "get_context", lambda how: Context())
    searching._side_by_side(tmp_path, len(ended), 0, 0.0, Watcher())
    assert told == [(-9, 2), (-9, 0)]


def _wait(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f"it never came to this: {what}")


@pytest.mark.slow
def test_two_processes_share_a_storage_and_another_command_joins(tmp_path):
    file = tmp_path / "space.yaml"
    # Long enough for both processes to begin before the other has done all.
    base = {**BASE, "training": {**BASE["training"], "epochs": 150, "patience": 150}}
    file.write_text(json.dumps({"base": base, "space": SPACE, "pruning": False}))
    shared = str(tmp_path / "shared" / "trials")
    command = _command(tmp_path / "a", file, "--storage", shared, "--trials", "6", "-w", "2")
    text = command.communicate(timeout=500)[0]
    assert command.returncode == 0
    study = _study(tmp_path / "a")
    trials = [t for t in study.trials if storage.counts(t)]
    assert len(trials) == 6
    assert len({str(t.params) for t in trials}) == 6
    assert all(t.state.name == "COMPLETE" for t in trials)
    assert len({tuple(t.user_attrs[shared_studies.WHERE]) for t in trials}) == 2
    assert all(f"\ntrial {t.number:3d}  {t.value:8.4f}" in text for t in trials)
    joined = search(tmp_path / "b", base=base, trials=6, storage=shared, pruning=False)
    assert [t.error for t in joined.trials] == [t.value for t in trials]
    for name in ("best.yaml", "confirm.yaml", "trials.csv"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_parts_hold_no_test():
    base = search_settings({"space": SPACE, "trials": 1, "base": BASE}).base
    parts = read_parts(base.data, base.training)
    assert (len(parts.train), len(parts.validation)) == (38, 5)


def test_a_trial_killed_before_its_options_are_known_is_not_lost(tmp_path, monkeypatch):
    space = {"learning_rate": [1e-3, 2e-3]}
    settings = search_settings({"base": BASE, "space": space, "trials": 2})
    study = storage.open_study(str(tmp_path / "t.journal"), "x", settings)
    chosen = {"training.learning_rate": 2e-3}
    study.enqueue_trial(chosen)
    monkeypatch.setattr(shared_studies, "alive", lambda process: False)
    first = storage.ask(study)
    assert shared_studies.killed_here(study.trials[0])  # though nothing was done with it yet
    assert first.params == {}
    assert storage.bury(study) == 1
    assert storage.bury(study) == 0
    again = storage.ask(study)
    assert again.suggest_categorical("training.learning_rate", [1e-3, 2e-3]) == 2e-3
    # A new one, which nobody asked for again, is known to be ours from its first moment, too.
    assert storage.ask(study).number == 2
    assert all(map(shared_studies.killed_here, study.trials[1:]))
    assert [storage.counts(t) for t in study.trials] == [False, True, True]
