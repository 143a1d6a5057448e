"""Ensembles on the command line: trained, calibrated, and heard where they are not sure."""

import json

import numpy as np
import pytest

import anipot as package
from anipot.data.published.bundled import load_bundled
from anipot.evaluation.calibration import calibrate
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

LIMITS = {"largest_molecule_atoms": 4, "disagreement_kcalmol": 1e-6, "scale": 2.0, "data": "X"}


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    members = [ANIModel.create("HCNO", seed=k, hidden=[4]) for k in range(3)]
    folder = tmp_path_factory.mktemp("ensemble")
    return ANIEnsemble(members).save(folder / "three.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "few.npz"
    load_bundled().select(heavy_atoms=2, per_molecule=5).save(path)
    return path


def test_calibrate(anipot, potential, data, tmp_path):
    out, save = tmp_path / "out", tmp_path / "again.safetensors"
    result = anipot("calibrate", potential, data, "-o", out, "--save", save)
    assert result.code == 0
    expected = calibrate(package.load(potential), package.load_dataset(data))
    assert f"error = {expected.scale:.3g} x disagreement" in result.out
    told = json.loads((out / "calibration.json").read_text())
    assert told["scale"] == pytest.approx(expected.scale)
    assert told["data"] == "hcno_wb97x_631gd.h5"  # where the selection comes from
    assert (out / "calibration.png").stat().st_size > 5000
    before, after = package.load(potential), package.load(save)
    few = package.load_dataset(data)
    assert np.array_equal(before.predict(few).energies, after.predict(few).energies)
    assert after.about["calibrated"]["scale"] == pytest.approx(expected.scale)
    assert "expected error" in anipot("predict", save, data).out


def test_a_single_model_is_refused(anipot, trained, data):
    result = anipot("calibrate", trained, data)
    assert result.code == 2
    assert "anipot train --members 4" in result.err


def test_predict_tells_the_deviation_and_warns(anipot, potential, data, tmp_path):
    plain = anipot("predict", potential, data, "-o", tmp_path / "p.json")
    assert "disagreement, std / sqrt(atoms): median" in plain.out
    assert "not calibrated" in plain.out
    assert plain.err == ""
    small = package.load(potential).save(tmp_path / "c.safetensors", calibrated=LIMITS)
    warned = anipot("predict", small, data)
    assert warned.code == 0
    assert "(calibrated on X)" in warned.out
    assert "WARNING, the members disagree by more than the 1e-06 kcal/mol" in warned.err
    largest = int(package.load_dataset(data).n_atoms.argmax())
    formula = package.load_dataset(data).formulas()
    name = formula[1][formula[0][largest]]
    assert f"largest molecule that the errors are known for: frame {largest} {name}" in warned.err


def test_members_from_the_command_line(anipot, tmp_path, quick_figures, small_words):
    folder = tmp_path / "run"
    result = anipot("train", *small_words, "epochs=1", "--members", 2, "-o", folder)
    assert result.code == 0
    lines = result.out.rstrip().splitlines()
    assert lines[0] == f"{folder}/"
    assert "members/1/ ..." in result.out
    assert "of the 2 members together" in lines[-1]
    assert len(package.load(folder)) == 2
    again = anipot("train", "--resume", folder)
    assert again.code == 0
    assert "2 of 2 members are there already" in again.out
    refused = anipot("train", "--resume", folder, "--members", 3)
    assert refused.code == 2
    assert "--resume" in refused.err
    curve = anipot("train", *small_words, "-m", 2, "--learning-curve", "-o", tmp_path / "b")
    assert curve.code == 2
    assert "--learning-curve needs a single potential" in curve.err
    evaluated = anipot("evaluate", folder, "--part", "test")
    assert evaluated.code == 0
