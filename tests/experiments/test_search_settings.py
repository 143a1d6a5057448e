"""The space of a search: what it may hold, what trials are made of it, and what is refused."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anipot.errors import SettingsError
from anipot.experiments.search.settings import final_options, search_settings, trial_options
from anipot.experiments.search.space import options_in, parameters, suggest

SPACE = {
    "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
    "training.batch_size": [32, 64, 128],
    "hidden": {"values": [None, 128, [160, 128, 96]]},
    "normalize_aevs": {"values": [False, True]},
    "force_weight": {"values": [0], "low": 0.03, "high": 1, "log": True},
    "epochs": {"low": 40, "high": 300, "log": True},
}


def search(space=SPACE, **more):
    return search_settings({"space": space, "trials": 3, **more})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": [1e-3]}, "unknown option 'learning_rat'; did you mean training.learning"),
        ({"training.epoch": [3]}, "unknown option 'training.epoch'; did you mean epochs?"),
        ({"learning_rate": {"lo": 1e-4, "high": 1}}, "space, learning_rate: unknown option 'lo'"),
        ({"learning_rate": {"low": 1e-4}}, "learning_rate: needs values, or low and high"),
        ({"learning_rate": {"low": 1, "high": 0.1}}, "low=1 must be below high=0.1"),
        ({"learning_rate": {"low": -1, "high": 0.1}}, "option 'training.learning_rate'"),
        ({"l2": {"low": 0, "high": 0.1, "log": True}}, "low=0 must be above 0 where log is true"),
        ({"l2": {"values": [0], "log": True}}, "log is for what is between low and high"),
        ({"activation": ["celu", "step"]}, "option 'model.activation'"),
        ({"batch_size": {"low": 1.5, "high": 64}}, "option 'training.batch_size'"),
        ({"hidden": [128, [128]]}, "space, hidden: a value is there twice"),
        ({"dropout": 0.1}, "must be {low, high, log} or {values: [...]}; found 0.1"),
        ({"training.seed": [0, 1]}, "a lucky seed is no better option"),
        ({"per_molecule": [5, 10]}, "trials on other data cannot be compared"),
        ({"members": [2]}, "option 'members': here are options of data, model, training alone"),
        ({"l2": [0], "training.l2": [1]}, "training.l2 is there twice"),
        ({}, "a search needs a space, such as"),
    ],
)
def test_spaces_that_are_refused(space, message):
    with pytest.raises(SettingsError) as e:
        search(space)
    assert message in str(e.value)


def test_searches_that_are_refused():
    with pytest.raises(SettingsError, match="unknown option 'trial'; did you mean trials"):
        search(trial=3)
    with pytest.raises(SettingsError, match="say when the search is to end: minutes, trials"):
        search_settings({"space": SPACE})
    with pytest.raises(SettingsError, match="give the base a force_weight"):
        search({"l2": [0, 1e-5]}, objective="force_mae")
    search({"l2": [0, 1e-5]}, objective="force_mae", base={"force_weight": 0.1})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_suggested_lies_in_the_space_and_reads_back(seed):
    found = search()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    options = suggest(trial, found.space)
    assert 3e-4 <= options["training.learning_rate"] <= 1e-2
    assert options["training.batch_size"] in (32, 64, 128)
    assert options["model.hidden"] in (None, [128], [160, 128, 96])
    assert options["training.force_weight"] == 0 or 0.03 <= options["training.force_weight"] <= 1
    assert isinstance(options["training.epochs"], int)
    # What is trained is what is stored, to the digits that are shown.
    assert options_in(trial.params, found.space) == options
    again = parameters(options, found.space)
    assert again is not None
    assert options_in(again, found.space) == options
    run = final_options(found, options)
    assert run.training.learning_rate == float(f"{run.training.learning_rate:.3g}")
    assert run.model.hidden == options["model.hidden"]


def test_a_base_outside_the_space_has_no_parameters():
    found = search({"batch_size": [32], "l2": {"low": 1e-6, "high": 1e-4}})
    assert parameters({"training.batch_size": 64, "training.l2": 1e-5}, found.space) is None
    assert parameters({"training.batch_size": 32, "training.l2": 0.0}, found.space) is None
    inside = parameters({"training.batch_size": 32, "training.l2": 1e-5}, found.space)
    assert inside == {"training.batch_size": 32, "training.l2": 1e-5}


def test_short_trials_of_a_long_training():
    found = search(shorten=3, base={"epochs": 90, "patience": 40})
    changes = {"training.epochs": 120}
    short, full = trial_options(found, changes, 1000), final_options(found, changes)
    assert (short.training.epochs, short.training.patience, short.training.threads) == (40, 14, 1)
    assert (full.training.epochs, full.training.patience, full.training.threads) == (120, 40, None)
    # Without epochs, the size of the data decides, and then a third of that.
    found = search(shorten=3)
    epochs = found.base.training.resolved(5935).epochs
    assert trial_options(found, {}, 5935).training.epochs == round(epochs / 3)
