"""Several processes train one table in one folder: each run is trained once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from anipot.experiments.table import queues, runs
from anipot.experiments.table.collecting import load_table
from anipot.experiments.table.iterate import iterate
from anipot.experiments.table.queues import Queue, train_all
from anipot.report.figures import plots
from anipot.system.files import only_process
from tests.experiments.test_iteration_tables import TINY, numbers

ROWS = [{}, {"name": "wider", "hidden": [6]}]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Neither figures nor pages are what these tests are about."""
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: None)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    monkeypatch.setattr("anipot.experiments.table.iterate.try_table_page", lambda table: None)
    monkeypatch.setattr("anipot.system.memory._give_back", lambda: None)
    monkeypatch.setattr(queues, "LOOK_EVERY", 0.05)


def interrupted(folder):
    raise KeyboardInterrupt


def begun(folder, monkeypatch):
    """The folders of the runs of a table that nobody has trained yet."""
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        assert not iterate(TINY, ROWS, seeds=1, folder=folder).complete
    return [folder / "base" / "seed-0", folder / "wider" / "seed-0"]


def commands(tmp_path, n, workers=1, **base):
    """Processes that begin one table at the same moment."""
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"base": {**TINY, **base}, "rows": [{}], "seeds": 2}))
    words = ["iterate", str(file), "-o", str(tmp_path / "t"), "--workers", str(workers)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "anipot", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(n)
    ]


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, monkeypatch, capsys):
    """It is in the table, without being trained here."""
    first, second = begun(tmp_path / "t", monkeypatch)
    alone = iterate(TINY, ROWS, seeds=1, folder=tmp_path / "alone")
    train, trained, sleeps = runs.train, [], []

    def recorded(folder):
        trained.append(folder)
        return train(folder)

    with only_process(first), monkeypatch.context() as patch:

        def sleep(seconds):  # the other process comes to its end
            sleeps.append(seconds)
            for file in (tmp_path / "alone" / "base" / "seed-0").iterdir():
                if file.is_file():
                    shutil.copy(file, first / file.name)

        patch.setattr(queues.time, "sleep", sleep)
        patch.setattr(runs, "train", recorded)
        assert list(train_all(Queue([first, second]), 1)) == [second, first]
    assert trained == [first, second]  # the first was tried, and found to be in use
    assert sleeps == [queues.LOOK_EVERY]
    assert numbers(load_table(tmp_path / "t")) == numbers(alone)
    assert "waiting for runs of other processes: 1" in capsys.readouterr().out


def test_what_is_interrupted_is_for_the_others(tmp_path, monkeypatch):
    begun(tmp_path / "t", monkeypatch)
    assert iterate(TINY, ROWS, seeds=1, folder=tmp_path / "t").complete


@pytest.mark.slow
def test_two_processes_share_a_table(tmp_path):
    # Long enough for both processes to begin before the other has done all.
    both = commands(tmp_path, 2, epochs=60, patience=60)
    texts = [command.communicate(timeout=500)[0] for command in both]
    assert [command.returncode for command in both] == [0, 0], texts
    table = load_table(tmp_path / "t")
    assert table.complete
    alone = iterate({**TINY, "epochs": 60, "patience": 60}, [{}], seeds=2, folder=tmp_path / "a")
    assert numbers(table) == numbers(alone)
    assert [len(re.findall(r"\[\d of 2\] .*", text)) for text in texts] == [2, 2]
    for run in (tmp_path / "t" / "base").iterdir():  # begun and ended once
        assert (run / "log.txt").read_text().count("parameters, networks for") == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="asks after processes as POSIX has them")
def test_processes_of_a_killed_table_end_and_others_train_their_runs(tmp_path):
    (command,) = commands(tmp_path, 1, workers=2, epochs=100_000, patience=100_000)
    logs = [tmp_path / "t" / "base" / f"seed-{k}" / "log.txt" for k in (0, 1)]
    try:
        until = time.monotonic() + 60
        while not all(log.exists() and "epoch" in log.read_text() for log in logs):
            assert command.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
        command.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until:  # their processes end with the one that began them
        try:
            for log in logs:
                with only_process(log.parent):
                    pass
            break
        except Exception:
            time.sleep(0.1)
    for log in logs:
        with only_process(log.parent):
            pass
