"""A run's folder: complete, never overwritten, resumed to the same bytes, honest when it fails."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import anipot
from anipot.config import RunSettings
from anipot.data.division import Division, divide, read_data
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError, InUseError, SettingsError, TrainingError
from anipot.evaluation.metrics import Evaluation
from anipot.networks.atomic import AtomicNetworks
from anipot.report.figures import plots
from anipot.runs import log as log_module
from anipot.runs import results
from anipot.runs.run import CONTENTS, Run, new_folder, resume_run, start_run
from anipot.system.files import only_process
from anipot.system.options import checked, read_yaml, with_words
from anipot.training.step import TrainingStep
from anipot.training.trainer import ANITrainer, evaluate

KCAL = 627.5094738898777  # written again here: CODATA 2014

SMALL = ["heavy_atoms=2", "per_molecule=12", "hidden=8", "epochs=4", "batch_size=32", "dropout=0.1"]


def options(*words: str) -> RunSettings:
    return checked(RunSettings, with_words({}, [*SMALL, *words]))


def potential(folder: Path) -> bytes:
    return (folder / "potential.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    return start_run(options(), tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(autouse=True)
def quick_figures(finished, monkeypatch):
    """Figures are drawn in every run, but in the finished one alone (made before) in earnest."""

    def touch(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending in (".png", ".svg"):
            path.with_suffix(ending).touch()

    monkeypatch.setattr(plots, "save_figure", touch)


# ---- what a finished run is --------------------------------------------------------------------


def test_everything_that_was_announced_is_there(finished):
    for name in CONTENTS:
        assert (finished.folder / name).exists(), name
    assert {p.name for p in finished.folder.iterdir()} == {n.rstrip("/") for n in CONTENTS}
    figures = {p.name for p in (finished.folder / "plots").iterdir()}
    for name in ("loss", "parity", "error_by_composition"):
        assert {f"{name}.png", f"{name}.svg"} <= figures
    log = (finished.folder / "log.txt").read_text()
    assert log.startswith(f"{finished.folder}/\n")
    for name in CONTENTS:
        assert name in log
    last = log.rstrip().splitlines()[-1]
    assert f"test MAE {finished.test.energy.mae:.3f}" in last
    assert f"on {len(finished.test)} conformers (split by conformer (seed 0)" in last


def test_errors_are_those_of_the_saved_potential_on_the_part_kept_apart(finished):
    """Everything again from the files alone, by other code than the run's."""
    report = json.loads((finished.folder / "run.json").read_text())
    data = read_data(checked(RunSettings, read_yaml(finished.folder / "options.yaml")).data)
    with np.load(finished.folder / "split.npz") as split:
        parts = {name: split[name] for name in ("train", "validation", "test")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(data)))
    model = anipot.load(finished.folder / "potential.safetensors")
    test = data.take(parts["test"])
    error = (model.predict(test).energies - test.energies) * KCAL
    stored = report["results"]["test"]["energy"]
    assert stored["n"] == len(test) == 20
    assert stored["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-9)
    assert stored["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert stored["max"] == pytest.approx(np.abs(error).max(), rel=1e-9)
    assert model.about["errors_kcalmol"]["test"]["mae"] == stored["mae"]
    # Self energies are of the training part alone.
    train = data.take(parts["train"])
    counts = train.composition("HCNO").astype(float)
    fit = np.linalg.lstsq(counts, train.energies, rcond=None)[0]
    np.testing.assert_allclose(model.self_energies.values, fit, rtol=1e-9)


def test_predictions_are_those_of_the_report(finished):
    report = json.loads((finished.folder / "run.json").read_text())
    with (finished.folder / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = read_data(options().data)
    numbers = [int(r["conformer"]) for r in rows]
    division = Division.load(finished.folder / "split.npz")
    assert numbers == division.test.tolist()
    assert [float(r["reference_hartree"]) for r in rows] == data.energies[numbers].tolist()
    assert [r["molecule"] for r in rows] == [data.molecule_names[data.molecule[i]] for i in numbers]
    error = [(float(r["predicted_hartree"]) - float(r["reference_hartree"])) * KCAL for r in rows]
    np.testing.assert_allclose([float(r["error_kcalmol"]) for r in rows], error, atol=6e-5)
    mae = report["results"]["test"]["energy"]["mae"]
    assert np.abs(error).mean() == pytest.approx(mae, rel=1e-9)


def test_writing_predictions_takes_time_in_proportion(tmp_path, monkeypatch):
    """The errors of all conformers are worked out once, and not again for every line."""
    n, asked = 50, []
    errors = Evaluation.errors.fget
    monkeypatch.setattr(Evaluation, "errors", property(lambda e: asked.append(1) or errors(e)))
    ones = np.ones(n, dtype=np.int64)
    evaluation = Evaluation(
        np.arange(n), np.arange(n) - 40.0, np.arange(n) - 40.5, -40.0 * ones, 5 * ones, ones,
        0 * ones, ("C",), 0 * ones, ("CH4",),
    )  # fmt: skip
    results._write_predictions(tmp_path / "lines.csv", evaluation, 2 * np.arange(n))
    assert len(asked) == 1
    lines = (tmp_path / "lines.csv").read_text().splitlines()
    assert len(lines) == n + 1
    assert lines[4] == f"6,C,-37.0,-37.5,{-0.5 * KCAL:.4f}"


def test_the_report_and_the_table_of_epochs(finished):
    report = json.loads((finished.folder / "run.json").read_text())
    with (finished.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report["epochs"] == 4
    best = min(rows, key=lambda r: float(r["val_mae"]))
    assert report["best_epoch"] == int(best["epoch"])
    assert report["best_updates"] == int(best["updates"]) == 6 * int(best["epoch"])
    validation = report["results"]["validation"]["energy"]["mae"]
    assert validation == pytest.approx(float(best["val_mae"]), rel=1e-5)
    assert report["status"] == "finished"
    assert report["failure"] == ""
    assert report["data"]["split"]["train"] == 164
    assert report["options"]["training"]["epochs"] == 4
    assert report["seconds"] >= sum(float(r["seconds"]) for r in rows) - 0.06
    assert {"torch", "python", "threads", "aev_engine"} <= set(report["machine"])


def test_the_potential_knows_its_origin(finished):
    about = anipot.load(finished.folder / "potential.safetensors").about
    assert about["level_of_theory"].startswith("RKS wB97X")
    assert about["data"]["sha256"] == read_data(options().data).content_hash()
    assert about["data"]["split"]["by"] == "conformer"
    assert about["training"]["batch_size"] == 32
    assert str(finished.folder.parent) not in json.dumps(about)


def test_resolved_options_make_the_same_potential_again(finished, tmp_path):
    """Bytes: so nothing of the time, the place or the machine's names is in a potential."""
    settings = checked(RunSettings, read_yaml(finished.folder / "options.yaml"))
    again = start_run(settings, tmp_path / "again")
    assert potential(again.folder) == potential(finished.folder)
    assert again.history["val_mae"] == finished.history["val_mae"]
    other = start_run(options("training.seed=1"), tmp_path / "other")
    assert potential(other.folder) != potential(finished.folder)


def test_default_epochs_are_resolved_in_the_options(tmp_path, monkeypatch):
    """The folder says what was done, not what would be the default for some other data."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ANITrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        start_run(options("epochs=none"), tmp_path / "a")
    assert read_yaml(tmp_path / "a" / "options.yaml")["training"]["epochs"] == 500
    assert "KeyboardInterrupt" in (tmp_path / "a" / "log.txt").read_text()


def test_a_run_without_a_test_part_says_validation(tmp_path, capsys):
    run = start_run(options("train=0.9", "test=0", "epochs=1"), tmp_path / "a")
    assert run.test is None
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.startswith("validation MAE ")
    assert not (run.folder / "test_predictions.csv").exists()
    assert list(json.loads((run.folder / "run.json").read_text())["results"]) == ["validation"]


def test_by_molecule_errors_are_told_by_molecule(tmp_path, capsys):
    files = tmp_path / "small.npz"
    load_bundled().select(heavy_atoms=2, per_molecule=6).save(files)
    words = [f"files=[{files}]", "split=molecule", "train=0.6", "validation=0.2", "test=0.2"]
    run = start_run(options(*words, "epochs=1", "data.seed=3"), tmp_path / "a")
    out = capsys.readouterr().out
    table = out.split("test error by molecule (kcal/mol)\n")[1]
    molecules = {run.test.molecule_names[m] for m in run.test.molecule}
    for molecule in molecules:
        assert f"\n  {molecule} " in table
    assert (run.folder / "plots" / "error_by_molecule.svg").exists()
    split = json.loads((run.folder / "run.json").read_text())["data"]["split"]
    assert set(split["test_molecules"]) == molecules
    train, _, test = run_parts(run)
    assert not {*train.molecule[:].tolist()} & {*test.molecule.tolist()}


def run_parts(run: Run) -> list:
    settings = checked(RunSettings, read_yaml(run.folder / "options.yaml"))
    return Division.load(run.folder / "split.npz").take(read_data(settings.data))


# ---- folders -----------------------------------------------------------------------------------


def test_a_folder_is_never_overwritten(finished, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")}
    with pytest.raises(SettingsError, match=r"never overwritten.*anipot train --resume"):
        start_run(options(), finished.folder)
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*")} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "my.txt").write_text("mine")
    with pytest.raises(SettingsError, match="never overwritten"):
        start_run(options(), tmp_path / "notes")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["my.txt"]


def test_default_folders_are_numbered(tmp_path):
    names = [new_folder(tmp_path / "runs").name for _ in range(3)]
    assert names == ["train-001", "train-002", "train-003"]
    (tmp_path / "runs" / "train-002").rmdir()
    assert new_folder(tmp_path / "runs").name == "train-002"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["files=none.h5"], DataError),
        (["per_molecule=1", "heavy_atoms=0"], DataError),
        (["train=0.9"], SettingsError),
        (["model.elements=HC"], DataError),
        (["hidden={H: [3]}"], SettingsError),
        (["engine=abacus"], SettingsError),
        (["device=abacus"], SettingsError),
        (["freeze_layers=2"], SettingsError),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(words, error, tmp_path):
    with pytest.raises(error):
        start_run(options(*words), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_data_is_read_leaves_no_folder(tmp_path, monkeypatch, capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("anipot.runs.run.read_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_run(options(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert "Interrupted. To go on" not in capsys.readouterr().out


# ---- resuming ----------------------------------------------------------------------------------


def test_a_finished_run_is_not_trained_again(finished, tmp_path, monkeypatch):
    folder = copy_of(finished.folder, tmp_path / "copy")

    def never(*args, **kwargs):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(TrainingStep, "__call__", never)
    run = resume_run(folder)
    assert potential(folder) == potential(finished.folder)
    assert run.history.stopped == "finished"
    report = json.loads((folder / "run.json").read_text())
    assert report["seconds"] >= sum(e.seconds for e in run.history) - 0.06


@pytest.mark.parametrize("left", [["options.yaml"], ["options.yaml", "split.npz", "log.txt"]])
def test_killed_before_the_first_checkpoint(finished, tmp_path, left):
    folder = copy_of(finished.folder, tmp_path / "copy", left)
    resume_run(folder)
    assert potential(folder) == potential(finished.folder)
    assert all((folder / name).exists() for name in CONTENTS)


def copy_of(folder: Path, to: Path, names: list[str] | None = None) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file() and (names is None or path.name in names):
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_what_cannot_be_resumed(finished, tmp_path):
    with pytest.raises(SettingsError, match="not the folder of a run"):
        resume_run(tmp_path)
    with pytest.raises(SettingsError, match="not the folder of a run"):
        resume_run(tmp_path / "none")
    folder = copy_of(finished.folder, tmp_path / "a")
    text = (folder / "options.yaml").read_text()
    assert "  seed: 0  # seed of weights" in text
    changed = text.replace("  seed: 0  # seed of weights", "  seed: 1  # seed of weights")
    (folder / "options.yaml").write_text(changed)
    with pytest.raises(TrainingError, match="belongs to other options"):
        resume_run(folder)


def test_a_run_whose_data_changed_is_not_resumed(tmp_path, monkeypatch):
    """From another folder, too: options.yaml holds paths that mean the same everywhere."""
    files = tmp_path / "small.npz"
    data = load_bundled().select(heavy_atoms=2, per_molecule=8)
    data.save(files)
    monkeypatch.chdir(tmp_path)
    run = start_run(options("files=small.npz", "epochs=1"), "a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = potential(tmp_path / "a")
    resume_run(tmp_path / "a")
    assert potential(tmp_path / "a") == before
    data.take(np.arange(len(data))[::-1]).save(files)
    with pytest.raises(DataError, match="a file has changed"):
        resume_run(tmp_path / "a")
    assert run.folder.name == "a"


def interrupt_after(monkeypatch, updates: int) -> None:
    """Ctrl-C during a given update of a training in this process."""
    step = torch.optim.AdamW.step
    done = 0

    def counted(self, *args, **kwargs):
        nonlocal done
        done += 1
        if done == updates:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)


def test_ctrl_c_before_the_first_epoch_ends_saves_no_untrained_weights(
    finished, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        run = start_run(options(), folder)
    assert (run.history.stopped, run.validation, run.test) == ("interrupted", None, None)
    assert not (folder / "potential.safetensors").exists()
    assert "Interrupted before an epoch was finished" in capsys.readouterr().out
    resume_run(folder)
    assert potential(folder) == potential(finished.folder)


@pytest.mark.parametrize("updates", [6, 9])
def test_ctrl_c_keeps_everything_and_resumes_to_the_same_bytes(
    updates, finished, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        interrupt_after(patch, updates)
        run = start_run(options(), folder)
    assert run.history.stopped == "interrupted"
    assert len(run.history) == updates // 6
    for name in CONTENTS:
        assert (folder / name).exists(), name
    report = json.loads((folder / "run.json").read_text())
    assert report["status"] == "interrupted"
    out = capsys.readouterr().out
    assert f"To go on: anipot train --resume {folder}" in out
    # What was saved is usable, and the run's errors are its errors.
    model = anipot.load(folder / "potential.safetensors")
    mae = evaluate(model, run_parts(run)[2]).energy.mae
    assert mae == pytest.approx(report["results"]["test"]["energy"]["mae"], rel=1e-12)
    resume_run(folder)
    assert f"going on from {folder / 'checkpoint.pt'}" in capsys.readouterr().out
    assert potential(folder) == potential(finished.folder)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert resume_run(folder).history["val_mae"] == finished.history["val_mae"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process there")
def test_ctrl_c_to_the_command(tmp_path):
    words = [*SMALL[:3], "batch_size=8", "epochs=60"]
    command = [sys.executable, "-m", "anipot", "train", *words, "-o"]

    def start(*more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command[:4], *more],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    folder = tmp_path / "stopped"
    process = start(*words, "-o", str(folder))
    deadline = time.monotonic() + 120
    while not (folder / "metrics.csv").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "the best weights so far are saved" in output
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    for name in CONTENTS:
        assert (folder / name).exists(), name
    for arguments in (["--resume", str(folder)], [*words, "-o", str(tmp_path / "whole")]):
        process = start(*arguments)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert potential(folder) == potential(tmp_path / "whole")


# ---- failing -----------------------------------------------------------------------------------


def break_after(monkeypatch, updates: int) -> None:
    """Network energies that are not finite after so many training batches."""
    energies = AtomicNetworks.forward
    done = 0

    def broken(self, *args):
        nonlocal done
        done += self.training
        return energies(self, *args) * (float("nan") if done > updates else 1.0)

    monkeypatch.setattr(AtomicNetworks, "forward", broken)


def test_a_loss_that_is_not_finite_keeps_the_best_weights(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a"
    expected = start_run(options("epochs=4"), tmp_path / "whole")
    with monkeypatch.context() as patch:
        break_after(patch, 2 * 6 + 3)
        with pytest.raises(TrainingError) as e:
            start_run(options("epochs=4"), folder)
    message = str(e.value)
    for part in ("loss is nan", "epoch 3", "batch 4 of 6", "conformer", "learning_rate", "clip"):
        assert part in message
    report = json.loads((folder / "run.json").read_text())
    assert report["status"] == "failed"
    assert report["failure"] == message
    assert report["epochs"] == 2
    assert report["best_epoch"] in (1, 2)
    assert "The best weights before the failure, of epoch" in capsys.readouterr().out
    assert message in (folder / "log.txt").read_text()
    assert expected.history["val_mae"][:2] == [
        float(line.split(",")[5]) for line in (folder / "metrics.csv").read_text().split()[1:]
    ]
    model = anipot.load(folder / "potential.safetensors")
    settings = checked(RunSettings, read_yaml(folder / "options.yaml"))
    data = read_data(settings.data)
    validation = divide(data, settings.data).take(data)[1]
    best = min(expected.history["val_mae"][:2])
    assert evaluate(model, validation).energy.mae == pytest.approx(best, rel=1e-5)


def test_a_learning_rate_far_too_high(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(TrainingError, match=r"epoch 1, batch 2 of 6.*smaller learning_rate"):
        start_run(options("learning_rate=1e30"), folder)
    assert not (folder / "potential.safetensors").exists()  # there is nothing worth saving
    assert "TrainingError: the loss is" in (folder / "log.txt").read_text()
    with pytest.raises(TrainingError, match=r"validation error is nan.*smaller learning_rate"):
        start_run(options("learning_rate=1e30", "epochs=1", "batch_size=1000"), tmp_path / "b")
    assert not (tmp_path / "b" / "potential.safetensors").exists()


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        start_run(options(), tmp_path / "a")
    assert "OSError: [Errno 28] No space left" in (tmp_path / "a" / "log.txt").read_text()
    monkeypatch.undo()
    assert resume_run(tmp_path / "a").history.stopped == "finished"


# ---- taking a folder, and what is said of it -----------------------------------------------------


def test_nothing_is_promised_before_there_is_a_run(tmp_path, capsys):
    with pytest.raises(DataError):
        start_run(options("files=none.h5"), tmp_path / "a")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("left", ["log.txt", ".options.yaml.x1.yaml", None])
def test_what_was_killed_before_it_was_a_run_can_be_started_again(tmp_path, left, finished):
    folder = tmp_path / "a"
    folder.mkdir()
    if left is not None:
        (folder / left).write_text("of before\n")
    told = "start it again with --out" if left == "log.txt" else "no options.yaml"
    with pytest.raises(SettingsError, match=told):
        resume_run(folder)
    start_run(options(), folder)
    assert potential(folder) == potential(finished.folder)
    assert "of before" not in (folder / "log.txt").read_text()


def test_one_of_two_runs_has_the_folder(tmp_path, monkeypatch):
    """The second begins while the first reads its data, as two that were started together."""
    read, folder = read_data, tmp_path / "a"

    def slowly(settings):
        monkeypatch.setattr("anipot.runs.run.read_data", read)
        start_run(options("epochs=1", "training.seed=7"), folder)
        return read(settings)

    monkeypatch.setattr("anipot.runs.run.read_data", slowly)
    with pytest.raises(SettingsError, match=r"never overwritten.*anipot train --resume"):
        start_run(options("epochs=2"), folder)
    assert read_yaml(folder / "options.yaml")["training"]["seed"] == 7
    assert (folder / "run.json").exists()


def test_of_many_processes_one_has_the_folder(tmp_path):
    """Also of a folder that is there and empty."""
    code = (
        "import sys, pathlib; from anipot.system.files import write_first\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print(sum(write_first(folder / str(k) / 'options.yaml', 'x' * 99) for k in range(50)))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    taken = [int(process.communicate()[0]) for process in running]
    assert sum(taken) == 50
    assert {p.read_text() for p in tmp_path.rglob("options.yaml")} == {"x" * 99}
    assert len(list(tmp_path.rglob("*"))) == 100


def test_two_processes_do_not_go_on_with_one_run(finished, tmp_path):
    folder = copy_of(finished.folder, tmp_path / "a")
    with only_process(folder), pytest.raises(InUseError, match="another process works in"):
        resume_run(folder)
    resume_run(folder)


@pytest.mark.parametrize("name", ["potential.safetensors", "split.npz"])
def test_a_full_disk_names_the_way_to_go_on(tmp_path, monkeypatch, name, finished):
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=f"No space left.*anipot train --resume {folder}") as e:
            start_run(options(), folder)
        assert e.value.filename == str(folder / name)
        with pytest.raises(OSError, match=f"No space left.*anipot train --resume {folder}") as e:
            resume_run(folder)
        assert str(e.value).count("anipot train --resume") == 1
    resume_run(folder)
    assert potential(folder) == potential(finished.folder)


def test_a_disk_too_full_for_the_options_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as e:
        start_run(options(), tmp_path / "a")
    assert "--resume" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


class Closed(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        self.write("")


@pytest.mark.parametrize("terminal", [Closed(), None])
def test_a_run_does_not_need_its_terminal(tmp_path, monkeypatch, terminal, finished):
    monkeypatch.setattr(sys, "stdout", terminal)
    run = start_run(options(), tmp_path / "a")
    assert potential(run.folder) == potential(finished.folder)
    here, there = ((f / "log.txt").read_text().splitlines() for f in (run.folder, finished.folder))
    assert len(here) == len(there)


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    class Full(log_module.RunLog):
        def write(self, text):
            if self._file is not None and not self._file.closed:
                self._file.close()
                self._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
            return super().write(text)

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(log_module, "RunLog", Full)
    assert start_run(options("epochs=1"), tmp_path / "a").test is not None
