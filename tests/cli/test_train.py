"""anipot train: words, files and folders, and what it says at the end."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import anipot as package
from anipot.cli.output import Lasting
from anipot.config import RunSettings
from anipot.data.published.bundled import load_bundled
from anipot.system.options import checked, read_yaml


def test_a_run_with_words_and_a_file(anipot, tmp_path, quick_figures, small_words):
    load_bundled().select(heavy_atoms=2, per_molecule=10).save(tmp_path / "few.npz")
    folder = tmp_path / "run"
    config = tmp_path / "options.yaml"
    config.write_text("training:\n  ema: 0.5\n  epochs: 99\nmodel:\n")
    words = [w for w in small_words if "per_molecule" not in w]
    result = anipot("train", tmp_path / "few.npz", *words, "-c", config, "--out", folder)
    assert result.code == 0
    settings = checked(RunSettings, read_yaml(folder / "options.yaml"))
    assert settings.data.files == [str(tmp_path / "few.npz")]
    assert settings.training.ema == 0.5  # of the file
    assert settings.training.epochs == 3  # of the words, which win
    lines = result.out.rstrip().splitlines()
    assert lines[0] == f"{folder}/"
    report = json.loads((folder / "run.json").read_text())
    mae = report["results"]["test"]["energy"]["mae"]
    n = report["results"]["test"]["energy"]["n"]
    assert lines[-1].startswith(f"test MAE {mae:.3f}, RMSE ")
    assert f"kcal/mol on {n} conformers (split by conformer (seed 0): " in lines[-1]
    assert package.load(folder / "potential.safetensors").elements == ("H", "C", "N", "O")


def test_the_default_folder_is_a_new_one(anipot, tmp_path, monkeypatch, quick_figures, small_words):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = anipot("train", *small_words, "epochs=1")
        assert result.code == 0
        assert (tmp_path / "runs" / f"train-00{number}" / "run.json").exists()
    again = anipot("train", *small_words, "-o", "runs/train-001")
    assert again.code == 2
    assert "runs/train-001 exists and is never overwritten" in again.err
    assert "anipot train --resume runs/train-001" in again.err


def test_options_are_printed_and_nothing_else_happens(anipot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = anipot("train", "--options", "epochs=7", "model.elements=NO")
    assert result.code == 0
    (tmp_path / "o.yaml").write_text(result.out)
    settings = checked(RunSettings, read_yaml("o.yaml"))
    assert settings.training.epochs == 7
    assert settings.model.elements == "NO"
    assert [p.name for p in tmp_path.iterdir()] == ["o.yaml"]


def test_a_file_with_an_equals_sign_is_a_file(anipot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "basis=dz.npz").touch()
    result = anipot("train", "--options", "basis=dz.npz")
    assert "files: [basis=dz.npz]" in result.out


def test_resume_and_learning_curve(anipot, tmp_path, quick_figures, small_words, trained):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "options.yaml").write_bytes((trained / "options.yaml").read_bytes())
    result = anipot("train", "--resume", folder, "--learning-curve")
    assert result.code == 0
    # Killed right after its beginning, it is the run that was never killed.
    name = "potential.safetensors"
    assert (folder / name).read_bytes() == (trained / name).read_bytes()
    table = (folder / "learning_curve.csv").read_text().splitlines()
    assert table[0] == "conformers,mae,rmse"
    assert [int(line.split(",")[0]) for line in table[1:]] == [10, 20, 41, 82, 164]
    assert "training conformers  test MAE  test RMSE / kcal/mol" in result.out


def test_a_failing_training_is_a_message(anipot, tmp_path, small_words):
    result = anipot("train", *small_words, "learning_rate=1e30", "-o", tmp_path / "a")
    assert result.code == 2
    assert result.err.startswith("anipot: the loss is ")
    for part in ("epoch 1, batch 2 of 6", "conformer", "smaller learning_rate"):
        assert part in result.err


@pytest.mark.parametrize("name", ["-o", "--resume"])
def test_a_file_in_place_of_a_folder(anipot, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    result = anipot("train", name, tmp_path / "file")
    assert result.code == 2
    assert str(tmp_path / "file") in result.err
    assert (tmp_path / "file").read_text() == "mine"


def test_warnings_about_the_data_are_in_the_log(anipot, tmp_path, small_words, quick_figures):
    data = load_bundled().select(heavy_atoms=2, per_molecule=12)
    path = tmp_path / "ev.npz"
    replace(data, energies=data.energies * 27.211386024367243).save(path)
    result = anipot("train", path, *small_words, "epochs=1", "-o", tmp_path / "run")
    assert result.code == 0
    assert result.err.count("they look like eV; if so, give energy_unit='eV'") == 1
    assert (tmp_path / "run" / "log.txt").read_text().count("they look like eV") == 1


def test_folds_and_lists_from_the_command_line(anipot, tmp_path, small_words, quick_figures):
    words = [*small_words, "epochs=1", "split=molecule"]
    result = anipot("train", *words, "folds=4", "fold=2", "-o", tmp_path / "fold")
    assert result.code == 0
    assert "(split by molecule (fold 2 of 4, seed 0): " in result.out
    again = anipot("evaluate", tmp_path / "fold", "--part", "test", "-o", tmp_path / "e")
    assert again.code == 0
    report = json.loads((tmp_path / "fold" / "run.json").read_text())
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert found["energy"] == report["results"]["test"]["energy"]
    result = anipot("train", *words, "-o", tmp_path / "listed")
    assert "split by molecule (listed): " in result.out
    assert "the test part is smaller than its list" in result.err
    assert "is smaller than its list" in (tmp_path / "listed" / "log.txt").read_text()
    refused = anipot("train", *words, "train=0.3", "-o", tmp_path / "third")
    assert refused.code == 2
    assert "train=0.3 would change nothing" in refused.err
    assert not (tmp_path / "third").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_its_output_ends_no_training(
    anipot, tmp_path, small_words, quick_figures, monkeypatch
):
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        result = anipot("train", *small_words, "-o", tmp_path / "a")
        assert sys.stdout is full
        full.write("more")
        full.close()  # nothing is left in it that could not be written
    assert result.code == 0
    assert (tmp_path / "a" / "run.json").exists()
    assert "test MAE" in (tmp_path / "a" / "log.txt").read_text().splitlines()[-1]
    assert result.err.count("output cannot be printed any more ([Errno 28]") == 1


def test_streams_that_are_closed_are_opened_on_nothing(tmp_path):
    """Else the next file that is opened gets the number 1, and all that is printed."""
    code = (
        "import os, sys; from anipot.cli.output import open_closed; open_closed()\n"
        "file = open(sys.argv[1], 'w'); print('printed'); print('said', file=sys.stderr)\n"
        "os.write(1, b'by others'); file.write(str(file.fileno() > 2))"
    )
    path = tmp_path / "x"
    command = 'exec "$0" -c "$1" "$2" >&- 2>&- <&-'
    assert subprocess.run(["sh", "-c", command, sys.executable, code, str(path)]).returncode == 0
    assert path.read_text() == "True"


def test_a_reader_that_leaves_and_letters_that_a_terminal_lacks(capfd):
    reading, writing = os.pipe()
    stream = Lasting(open(writing, "w", encoding="ascii"))  # noqa: SIM115
    stream.write("± 1\n")
    stream.flush()
    assert os.read(reading, 99) == b"\\xb1 1\n"
    os.close(reading)
    stream.write("more\n")
    stream.flush()
    stream.stream.close()
    assert capfd.readouterr().err == ""


def test_errors_in_a_file_of_options_name_it(anipot, tmp_path):
    path = tmp_path / "o.yaml"
    path.write_text("training: {epoch: 3}\n")
    result = anipot("train", "--config", path, "-o", tmp_path / "a")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"anipot: {path}: unknown option 'training.epoch'; did you mean epochs?\n"
    )
    assert not (tmp_path / "a").exists()
