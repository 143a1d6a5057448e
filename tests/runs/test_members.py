"""Ensembles: members that differ, a test part none has seen, resumed to the same bytes."""

import csv
import json
import re
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import anipot
from anipot.config import RunSettings
from anipot.data.division import Division, divide, read_data
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.evaluation.calibration import Calibrated, calibrate
from anipot.evaluation.trained_on import part_of
from anipot.report.figures import plots
from anipot.runs import members as members_module
from anipot.runs.members import CONTENTS, MembersRun, member_division, resume_members, start_members
from anipot.runs.run import resume_run, start_run
from anipot.system.options import checked, with_words
from anipot.units import HARTREE_TO_EV, HARTREE_TO_KCALMOL

SMALL = ["heavy_atoms=2", "per_molecule=12", "hidden=8", "epochs=3", "batch_size=32", "members=3"]


def options(*words: str) -> RunSettings:
    return checked(RunSettings, with_words({}, [*SMALL, *words]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> MembersRun:
    return start_members(options(), tmp_path_factory.mktemp("ensembles") / "whole")


@pytest.fixture(autouse=True)
def quick_figures(finished, monkeypatch):
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: None)


def potential(folder: Path) -> bytes:
    return (folder / "potential.safetensors").read_bytes()


def test_everything_that_was_announced_is_there(finished):
    for name in CONTENTS:
        assert (finished.folder / name.removesuffix(" ...")).exists()
    for figure in ("parity", "calibration", "error_by_composition"):
        assert (finished.folder / "plots" / f"{figure}.png").stat().st_size > 5000


def test_members_differ_by_their_seed_alone(finished):
    ensemble = anipot.load(finished.folder)
    assert len(ensemble) == 3
    weights = [next(m.networks.parameters()).detach().numpy() for m in ensemble]
    assert not np.array_equal(weights[0], weights[1])
    assert [m.about["training"]["seed"] for m in ensemble] == [0, 1, 2]
    splits = [Division.load(finished.folder / f"members/{k}/split.npz") for k in (1, 2, 3)]
    for split in splits:
        assert np.array_equal(split.test, splits[0].test)
        assert np.array_equal(split.train, splits[0].train)


def test_a_member_is_what_a_run_with_its_seed_is(finished, tmp_path):
    alone = start_run(options("members=1", "training.seed=1"), tmp_path / "alone")
    assert potential(alone.folder) == potential(finished.folder / "members" / "2")


def test_results_are_those_of_the_saved_ensemble(finished):
    data = read_data(options().data)
    division = divide(data, options().data)
    ensemble = anipot.load(finished.folder)
    test = data.take(division.test)
    each = np.stack([m.predict(test).energies for m in ensemble])
    errors = (each.mean(0) - test.energies) * HARTREE_TO_KCALMOL
    report = json.loads((finished.folder / "run.json").read_text())
    told = report["results"]["test"]["energy"]
    assert told["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    alone = np.abs(each - test.energies).mean() * HARTREE_TO_KCALMOL
    about = ensemble.about
    assert about["errors_of_the_mean_member_kcalmol"]["test"]["mae"] == pytest.approx(alone)
    assert about["errors_kcalmol"]["test"]["mae"] == pytest.approx(told["mae"])
    with (finished.folder / "test_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["conformer"]) for row in rows] == division.test.tolist()
    std = each.std(0, ddof=1) / np.sqrt(test.n_atoms) * HARTREE_TO_KCALMOL
    found = [float(row["disagreement_kcalmol"]) for row in rows]
    np.testing.assert_allclose(found, std, atol=6e-5)
    # Calibrated on the validation part.
    expected = calibrate(ensemble, data.take(division.validation)).about()
    assert about["calibrated"]["scale"] == pytest.approx(expected["scale"])
    assert about["calibrated"]["data"].startswith("the validation part of ")
    Calibrated.model_validate(about["calibrated"])


def test_an_interrupted_ensemble_goes_on_to_the_same_bytes(finished, tmp_path, monkeypatch):
    """Stopped in the second member, after the first: the first is not trained again."""
    real, calls = resume_run, []

    def stopping(folder, data=None):
        calls.append(Path(folder).name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(folder, data)

    monkeypatch.setattr(members_module, "resume_run", stopping)
    with pytest.raises(KeyboardInterrupt):
        start_members(options(), tmp_path / "run")
    assert not (tmp_path / "run" / "potential.safetensors").exists()
    again = resume_members(tmp_path / "run")
    assert calls == ["1", "2", "2", "3"]
    assert again.test.energy == finished.test.energy
    assert potential(tmp_path / "run") == potential(finished.folder)


def test_a_training_stopped_by_hand_stops_the_ensemble(tmp_path, monkeypatch, capsys):
    real = members_module.resume_run

    def interrupted(folder, data=None):
        run = real(folder, data)
        run.history.stopped = "interrupted"
        return run

    monkeypatch.setattr(members_module, "resume_run", interrupted)
    run = start_members(options(), tmp_path / "run")
    assert run.ensemble is None
    assert f"To go on: anipot train --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert not (tmp_path / "run" / "members" / "2" / "log.txt").exists()


@pytest.mark.parametrize("lost", ["potential.safetensors", "run.json", "report.html"])
def test_one_of_a_finished_ensemble_can_be_lost(lost, finished, tmp_path):
    """As by a process that is killed while it writes the results of a member."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    (folder / "members" / "2" / lost).unlink()
    resume_members(folder)
    assert (folder / "members" / "2" / lost).exists()
    assert potential(folder) == potential(finished.folder)


@pytest.mark.slow
def test_side_by_side_is_one_after_another(finished, tmp_path):
    run = start_members(options("workers=2"), tmp_path / "run")
    before, after = (anipot.load(f) for f in (finished.folder, run.folder))
    data = read_data(options().data)
    assert np.array_equal(before.predict(data).energies, after.predict(data).energies)
    assert "val MAE" in (tmp_path / "run" / "members" / "3" / "log.txt").read_text()


@pytest.mark.parametrize("split", ["conformer", "molecule"])
def test_folds_of_the_members(split):
    settings = options(f"split={split}")
    data = read_data(settings.data)
    division = divide(data, settings.data)
    rest = np.sort(np.concatenate([division.train, division.validation]))
    own = [member_division(division, k, 3, data) for k in range(3)]
    held_out = np.concatenate([d.validation for d in own])
    assert np.array_equal(np.sort(held_out), rest)  # each conformer validates one member
    for d in own:
        assert np.array_equal(np.sort(np.concatenate([d.train, d.validation])), rest)
        assert np.array_equal(d.test, division.test)
        if split == "molecule":
            assert not set(data.molecule[d.train]) & set(data.molecule[d.validation])


def test_an_ensemble_of_folds(tmp_path, capsys):
    run = start_members(options("by_folds=true", "members=2"), tmp_path / "run")
    ensemble = anipot.load(tmp_path / "run")
    assert run.validation is None  # each conformer of it was trained on by a member
    assert ensemble.about["calibrated"]["data"].startswith("the test part of ")
    first, second = (m.self_energies.values for m in ensemble)
    assert not np.array_equal(first, second)  # other training parts, other fits
    data = read_data(options().data)
    test, _ = part_of(ensemble, data, "test")
    assert test.content_hash() == data.take(divide(data, options().data).test).content_hash()
    with pytest.raises(DataError, match="only the test part is unknown to all"):
        part_of(ensemble, data, "validation")
    _, note = part_of(ensemble, data)
    assert f"trained on {len(data) - len(test):,} of these {len(data):,}" in note


def test_what_is_no_ensemble(finished, tmp_path):
    with pytest.raises(SettingsError, match="members=2 or more"):
        start_members(options("members=1"), tmp_path / "run")
    with pytest.raises(SettingsError, match="start_members"):
        start_run(options(), tmp_path / "run")
    with pytest.raises(SettingsError, match="resume_members"):
        resume_run(finished.folder)
    with pytest.raises(SettingsError, match="single potential"):
        resume_members(finished.folder / "members" / "1")
    with pytest.raises(SettingsError, match=r"by_folds.*needs members"):
        options("members=1", "by_folds=true")
    with pytest.raises(DataError, match=r"no conformer|too few|empty"):
        start_members(options("per_molecule=1", "data.elements=O"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_fails_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"member 1 \(.*members/1\): the loss is"):
        start_members(options("learning_rate=1e30"), tmp_path / "run")


def test_a_member_whose_process_is_killed(tmp_path):
    folder = tmp_path / "run" / "members" / "2"
    with (
        pytest.raises(TrainingError, match=r"member 2 .* was killed.*--resume .*run$"),
        members_module._naming(1, folder),
    ):
        raise BrokenProcessPool


def test_errors_of_crystals_are_in_their_unit(tmp_path, capsys):
    rng, frames = np.random.default_rng(0), []
    for energy in rng.normal(-10, 1, 20):
        frames.append(ase.Atoms("H2", rng.uniform(0, 4, (2, 3)), cell=[4, 4, 4], pbc=True))
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=energy)
    ase.io.write(tmp_path / "cells.xyz", frames, format="extxyz")
    words = [f"data.files={tmp_path / 'cells.xyz'}", "hidden=4", "epochs=1", "members=2"]
    run = start_members(checked(RunSettings, with_words({}, words)), tmp_path / "run")
    assert run.test.unit == "eV"
    report = json.loads((run.folder / "run.json").read_text())
    mean = np.mean([member["test"]["mae"] for member in report["results_of_members"]])
    told = run.ensemble.about["errors_of_the_mean_member_kcalmol"]["test"]["mae"]
    assert told == pytest.approx(mean * HARTREE_TO_KCALMOL / HARTREE_TO_EV)
    out = capsys.readouterr().out
    assert re.search(
        rf"test MAE {run.test.energy.mae:.3f}, RMSE \S+ eV of .*; {mean:.3f}, \S+ of one", out
    )
    assert (
        len(re.findall(r"^member . of 2: validation MAE \S+ eV, test MAE \S+ eV$", out, re.M)) == 2
    )
