"""Tables that are run: what is in them, in their folder, and after an interruption."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import anipot
from anipot.errors import DataError, SettingsError
from anipot.experiments.table import runs
from anipot.experiments.table.collecting import load_table
from anipot.experiments.table.columns import rows_csv, runs_csv
from anipot.experiments.table.iterate import iterate, resume_table
from anipot.report.figures import plots
from anipot.runs.run import run_settings, start_run
from anipot.system.memory import PeakMemory

#: The table of most tests.
BASE = {"heavy_atoms": 2, "per_molecule": 12, "epochs": 3, "batch_size": 32, "hidden": [8]}
ROWS = [
    {},
    {"name": "wider", "hidden": [16], "reported": {"mae": 1.25}},
    {"name": "diverges", "learning_rate": 1e30},
    {"name": "cannot", "dropout": 1.5},
]

#: Numbers that may differ between two runs of the same.
MEASURED = ("seconds", "seconds_per_epoch", "peak_memory_bytes", "peak_device_memory_bytes")

TINY = {"heavy_atoms": 1, "per_molecule": 16, "epochs": 2, "batch_size": 16, "hidden": [4]}


@pytest.fixture(scope="module")
def small_table(tmp_path_factory):
    """Rows that train, one that diverges and one that cannot be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", touch)
        return iterate(BASE, ROWS, seeds=2, folder=tmp_path_factory.mktemp("tables") / "small")


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but not rendered, where a test is not about them."""
    monkeypatch.setattr(plots, "save_figure", touch)


def touch(figure, stem):
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.png").touch()


def numbers(table):
    """All that a table says of its runs, without what was measured."""
    lines = csv.DictReader(io.StringIO(runs_csv(table)))
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def test_every_row_and_seed_has_fresh_weights_and_the_same_split(small_table):
    table = small_table
    assert [row.name for row in table.rows] == ["base", "wider", "diverges", "cannot"]
    assert table.seeds == (0, 1)
    assert table.complete
    splits = {(run.folder / "split.npz").read_bytes() for row in table.rows for run in row.runs}
    assert len(splits) == 1
    assert len({row.test_set for row in table.rows[:3]}) == 1
    for row in table.rows[:2]:
        assert [run.status for run in row.runs] == ["finished", "finished"]
        assert row.runs[0].test["mae"] != row.runs[1].test["mae"]
        assert all(len(run.history) == 3 for run in row.runs)
        for run in row.runs:
            settings = run_settings(run.folder)
            assert settings.training.seed == run.seed
            assert settings.data.seed == 0


def test_a_run_is_what_anipot_train_makes_of_its_options(small_table, tmp_path, quick_figures):
    run = small_table["wider"].runs[1]
    alone = start_run(run_settings(run.folder), tmp_path / "alone")
    assert alone.test.energy.mae == run.test["mae"]
    whole = (tmp_path / "alone" / "potential.safetensors").read_bytes()
    assert (run.folder / "potential.safetensors").read_bytes() == whole


def test_rows_that_fail_are_rows_with_their_reason(small_table):
    diverges, cannot = small_table["diverges"], small_table["cannot"]
    assert diverges.marks == ["diverged"]
    assert "the loss is" in diverges.failure
    assert diverges.error("test") is None
    assert cannot.marks == ["failed"]
    assert "less than 1" in cannot.failure
    assert cannot.runs == ()
    text = (small_table.folder / "table.md").read_text()
    assert "- diverges: seed 0: the loss is" in text
    assert "- cannot: option 'model.dropout'" in text


def test_csv_holds_the_numbers_of_the_runs(small_table):
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(rows_csv(small_table)))}
    reports = [
        json.loads((run.folder / "run.json").read_text()) for run in small_table["wider"].runs
    ]
    maes = [report["results"]["test"]["energy"]["mae"] for report in reports]
    mean = sum(maes) / 2
    assert float(lines["wider"]["test_mae"]) == pytest.approx(mean, rel=1e-12)
    spread = abs(maes[0] - maes[1]) / 2**0.5
    assert float(lines["wider"]["test_mae_std"]) == pytest.approx(spread, rel=1e-9)
    assert float(lines["wider"]["parameters"]) == reports[0]["parameters"]
    assert float(lines["wider"]["updates"]) == reports[0]["updates"]
    assert float(lines["wider"]["reported_mae"]) == 1.25
    losses = [min(run.history["train_loss"]) for run in small_table["wider"].runs]
    assert float(lines["wider"]["smallest_loss"]) == pytest.approx(sum(losses) / 2)
    assert lines["cannot"]["test_mae"] == ""


def test_the_table_is_read_back_from_its_folder(small_table):
    again = load_table(small_table.folder)
    assert again == small_table
    assert any("204 conformers" in line for line in again.about)
    with pytest.raises(SettingsError, match="is not the folder of a table"):
        load_table(small_table.folder / "wider")


def test_nothing_is_run_twice(small_table, quick_figures, monkeypatch, capsys):
    def never(folder):
        raise AssertionError(folder)

    monkeypatch.setattr(runs, "train", never)
    again = iterate(BASE, ROWS, seeds=2, folder=small_table.folder)
    assert numbers(again) == numbers(small_table)
    assert "6 of them done" in capsys.readouterr().out


def test_a_folder_of_another_table_is_refused(small_table, tmp_path):
    with pytest.raises(
        SettingsError, match=r"small: the table was begun with other training\.epochs=3; give"
    ):
        iterate({**BASE, "epochs": 4}, ROWS, seeds=2, folder=small_table.folder)
    with pytest.raises(SettingsError, match="begun with other seeds"):
        iterate(BASE, ROWS, seeds=3, folder=small_table.folder)
    (tmp_path / "x").touch()
    with pytest.raises(SettingsError, match="holds no table"):
        iterate(BASE, ROWS, folder=tmp_path)


def test_data_that_cannot_be_used_leaves_no_folder(tmp_path):
    with pytest.raises(SettingsError, match=r"base.*cannot be run.*nothing\.h5"):
        iterate({"files": "nothing.h5"}, [{}], folder=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_changed_data_ends_the_table(tmp_path, quick_figures):
    data = anipot.load_bundled().select(heavy_atoms=1, per_molecule=16)
    data.save(tmp_path / "d.npz")
    base = {k: v for k, v in TINY.items() if k not in ("heavy_atoms", "per_molecule")}
    base["files"] = str(tmp_path / "d.npz")
    iterate(base, [{}], seeds=1, folder=tmp_path / "t")
    data.take(slice(0, 40)).save(tmp_path / "d.npz")
    runs._read.cache_clear()
    (tmp_path / "t" / "base" / "seed-0" / runs.OUTCOME).unlink()
    with pytest.raises(DataError, match="the data is not that with which the table was begun"):
        resume_table(tmp_path / "t")


def test_updates_decide_the_epochs_of_each_row(tmp_path, quick_figures):
    base = {k: v for k, v in TINY.items() if k != "epochs"}
    table = iterate(base, grid={"batch_size": [8, 64]}, updates=9, seeds=1, folder=tmp_path / "t")
    for row, size in zip(table.rows, (8, 64), strict=True):
        run = row.runs[0]
        per_epoch = -(-len_train(run) // size)
        assert run.updates == len(run.history) * per_epoch
        assert 9 <= run.updates < 9 + per_epoch


def len_train(run) -> int:
    return json.loads((run.folder / "run.json").read_text())["data"]["split"]["train"]


def test_rows_may_have_other_data_and_are_then_not_compared(tmp_path, quick_figures):
    table = iterate(
        TINY, rows=[{}, {"name": "fewer", "per_molecule": 12}], seeds=1, folder=tmp_path / "t"
    )
    assert table.rows[0].test_set != table.rows[1].test_set
    assert "not compared with" in (tmp_path / "t" / "table.md").read_text()


def test_a_want_of_memory_is_tried_again(tmp_path, quick_figures, monkeypatch):
    def full(folder, data):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "resume_run", full)
        table = iterate(TINY, [{}], seeds=1, folder=tmp_path / "t")
    assert "OutOfMemoryError: no memory" in table.rows[0].failure
    assert resume_table(tmp_path / "t").rows[0].runs[0].status == "finished"


def test_peak_memory_is_of_its_own_time():
    if PeakMemory().resident is None:
        pytest.skip("only Linux tells it")
    size = 200_000_000
    before = PeakMemory()
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    with_block = before.resident
    del held
    after = PeakMemory().resident
    assert with_block - after == pytest.approx(size, rel=0.1)


@pytest.mark.slow
def test_workers_change_nothing_but_the_time(tmp_path, quick_figures, monkeypatch):
    monkeypatch.setattr(runs, "cores", lambda: 2)
    tables = [
        iterate(
            TINY,
            [{}, {"hidden": [6]}, {"name": "diverges", "learning_rate": 1e30}],
            seeds=2,
            folder=tmp_path / str(workers),
            workers=workers,
        )
        for workers in (1, 2)
    ]
    assert numbers(tables[0]) == numbers(tables[1])
    for name in ("base/seed-1", "hidden=6/seed-0"):
        one, two = (tmp_path / w / name / "potential.safetensors" for w in "12")
        assert one.read_bytes() == two.read_bytes()


def test_more_threads_than_cores_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "cores", lambda: 2)
    with pytest.raises(SettingsError, match="threads=2 for each of 2 workers is more than the 2"):
        iterate({**TINY, "threads": 2}, [{}], seeds=2, folder=tmp_path / "t", workers=2)


SCRIPT = """
from anipot.report.figures import plots
plots.save_figure = lambda figure, stem: None
from anipot.experiments.table.iterate import iterate
iterate({base}, {rows}, seeds=2, folder={folder!r})
"""


def start(folder: Path, base: dict, rows: list) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(base=base, rows=rows, folder=str(folder))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_killed_and_started_again_it_is_the_same_table(tmp_path, quick_figures):
    base = {**TINY, "epochs": 30, "checkpoint_minutes": 0.0005, "dropout": 0.1}
    rows = [{}, {"hidden": [6, 4]}]
    expected = iterate(base, rows, seeds=2, folder=tmp_path / "whole")

    folder, kills = tmp_path / "killed", 0
    # In the middle of the first run, and when that is done in the middle of the next.
    for waited in ("base/seed-0/checkpoint.pt", "hidden=6-4/seed-0/checkpoint.pt"):
        process = start(folder, base, rows)
        deadline = time.monotonic() + 120
        while not (folder / waited).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kills == 2, "a run was over before it could be killed: make it longer"
    half = load_table(folder)
    assert not half.complete
    assert half["base"].marks == ["not run yet (1 of 2 seeds)"]
    last = start(folder, base, rows)
    output = last.communicate(timeout=300)[0]
    assert last.returncode == 0, output
    assert "1 of them done" in output
    assert numbers(load_table(folder)) == numbers(expected)
    for path in expected.folder.rglob("potential.safetensors"):
        assert (folder / path.relative_to(expected.folder)).read_bytes() == path.read_bytes()


def test_an_interruption_keeps_what_is_there(tmp_path, quick_figures, monkeypatch, capsys):
    train = runs.train

    def interrupted(folder):
        if folder.name == "seed-1":
            raise KeyboardInterrupt
        return train(folder)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        table = iterate(TINY, [{}], seeds=2, folder=tmp_path / "t")
    assert not table.complete
    assert table.rows[0].marks == ["not run yet (1 of 2 seeds)"]
    assert f"anipot iterate --resume {tmp_path / 't'}" in capsys.readouterr().out
    assert "not run yet" in (tmp_path / "t" / "table.md").read_text()
    assert resume_table(tmp_path / "t").complete
