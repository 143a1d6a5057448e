"""Studies that several processes share."""

import multiprocessing

import optuna
import pytest

from anipot.errors import SettingsError
from anipot.experiments import shared_studies
from anipot.experiments.search import storage as search_storage
from anipot.experiments.search.settings import search_settings
from anipot.experiments.search.trial import read_parts, run_trial
from tests.experiments.test_iteration_tables import TINY


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "shared" / "journal")


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
