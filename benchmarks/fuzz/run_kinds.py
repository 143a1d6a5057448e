"""Settings, folders of runs, tables and searches, and what molecular dynamics goes on from."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import anipot
from anipot import cli
from anipot.config import RunSettings
from anipot.data.division import Division
from anipot.errors import DataError, SettingsError, SimulationError, TrainingError
from anipot.evaluation.trained_on import part_of
from anipot.experiments.report import write_report
from anipot.experiments.search import storage
from anipot.experiments.search.results import collect, write_search
from anipot.experiments.search.search import ABOUT, JOURNAL, _about, _as_json
from anipot.experiments.search.settings import search_settings
from anipot.experiments.search.trial import read_parts as parts_of
from anipot.experiments.shared_studies import failures, open_study
from anipot.experiments.table.collecting import OPTIONS, load_table, run_folders, seed_numbers
from anipot.experiments.table.runs import OUTCOME
from anipot.experiments.table.settings import row_settings, table_settings
from anipot.runs.learning_curve import _finished, _read
from anipot.runs.members import _finished as member_finished
from anipot.runs.run import reopened_run, run_settings, start_run
from anipot.simulation import run_md
from anipot.simulation.recording import RestartPoint, RunFiles, read_log
from anipot.studies.common import _read as read_study
from anipot.system.files import damage_named, write_text
from anipot.system.options import checked, with_words
from benchmarks.fuzz.data_kinds import _dataset, _frames
from benchmarks.fuzz.kinds import HERE, Kind, always, potential_digest

_WORDS = [
    "epochs=2",
    "hidden=2",
    "batch_size=2",
    "threads=1",
    "split=conformer",
    "model.elements=HCO",
]

#: What differs from one making of a seed to the next, and what stands for it.
_VOLATILE = (
    (rb'"(seconds|seconds_per_epoch|peak_memory|hours)": ?[0-9.e+-]+', rb'"\1": 1.5'),
    (rb'"(finished_at|datetime\w*)": ?"[^"]*"', rb'"\1": "2026-01-01T00:00:00.000000"'),
    (rb'"(worker_id|where|seen)": ?("[^"]*"|[0-9.]+)', rb'"\1": "made-1"'),
)


@functools.cache
def _made() -> dict[str, bytes]:
    """The files of a finished training run, with its data beside it."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        here = Path(place)
        _dataset(8, complete=True).save(here / "made.npz")
        values = with_words({"data": {"files": [str(here / "made.npz")]}}, _WORDS)
        run = start_run(checked(RunSettings, values), here / "run")
        shutil.rmtree(run.folder / "plots")
        found = {}
        for path in sorted(here.rglob("*")):
            if path.is_file() and path.suffix != ".html":
                name = path.relative_to(here).as_posix()
                found[name] = path.read_bytes().replace(place.encode(), HERE.encode())
    for name in ("run/run.json", "run/metrics.csv"):
        for pattern, new in _VOLATILE:
            found[name] = re.sub(pattern, new, found[name])
    lines = found["run/metrics.csv"].decode().splitlines()
    column = lines[0].split(",").index("seconds")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = "0.5"
    found["run/metrics.csv"] = "\n".join([lines[0], *map(",".join, rows), ""]).encode()
    return found


def _write_run(folder: Path, leave_out: tuple[str, ...] = ("log.txt",)) -> None:
    """The run's files in a folder; the data beside the folder of all."""
    for name, content in _made().items():
        name = name.removeprefix("run/")
        if name not in ("made.npz", *leave_out):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


# ---- settings ------------------------------------------------------------------------------------

_TRAIN = {
    "data": {"files": ["made.npz"], "elements": "HCNO", "per_molecule": 10, "split": "molecule"},
    "model": {"hidden": {"H": [4, 3], "C": [4], "N": [4], "O": [4]}, "activation": "gelu"},
    "training": {"epochs": 3, "learning_rate": 1e-3, "batch_size": 32, "force_weight": 0.1},
    "ensemble": {"members": 2},
}
_TABLE = {
    "title": "A table",
    "base": {"data": {"files": ["made.npz"]}, "training": {"epochs": 3}},
    "rows": [
        {},
        {"name": "wider", "hidden": [8, 4]},
        {"activation": "gelu", "reported": {"mae": 3}},
    ],
    "claims": [{"claim": "wider is better", "lower": "wider", "higher": "base"}],
    "seeds": 2,
    "tune": {"option": "learning_rate", "values": [1e-4, 1e-3], "updates": 10},
}
_SPACE = {
    "base": {"training": {"epochs": 4, "force_weight": 0.1}},
    "space": {
        "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
        "batch_size": [32, 64],
        "force_weight": {"values": [0], "low": 0.03, "high": 1, "log": True},
    },
    "objective": "rmse",
    "minutes": 30,
    "trials": 5,
}


def _command(*words: str, instead_of: str | None = None) -> Callable[[Path], None]:
    """As a command of ``anipot`` reads a file "@", without the work that would follow."""

    def read(path: Path) -> None:
        argv = ["anipot", *(str(path) if word == "@" else word for word in words)]
        said = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(sys, "argv", argv))
            stack.enter_context(contextlib.redirect_stderr(said))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if instead_of is not None:
                stack.enter_context(mock.patch(instead_of, side_effect=SystemExit(0)))
            try:
                cli.main()
            except SystemExit as e:
                if e.code not in (None, 0):
                    raise SettingsError(said.getvalue()) from e

    return read


def _yaml(values: Any, target: str) -> Callable[[Path], None]:
    import yaml

    return lambda folder: (folder / target).write_text(yaml.safe_dump(values, sort_keys=False))


# ---- runs ----------------------------------------------------------------------------------------


def _run(folder: Path) -> None:
    _write_run(folder / "fuzzed_run")
    (folder / "fuzzed_run" / "learning_curve.csv").write_text("conformers,mae,rmse\n2,1.5,2.5\n")


def _with_data(folder: Path) -> None:
    """Where what is told of ``HERE`` lies."""
    (folder / "made.npz").write_bytes(_made()["made.npz"])


def _read_run(path: Path) -> Any:
    """What commands read of a run before they train: settings, division, whether it is finished."""
    run_settings(path)
    Division.load(path / "split.npz")
    _read(path / "learning_curve.csv")
    _finished(path), member_finished(path)
    with contextlib.redirect_stdout(io.StringIO()), reopened_run(path) as run:
        run.division.take(run.data)
        data = run.data
    potential = anipot.load(path)
    with damage_named(path / "potential.safetensors", DataError):  # as the commands do
        for part in ("all", "test"):
            part_of(potential, data, part)
    return potential_digest(potential)


def _report(path: Path) -> Any:
    return write_report(path, path.parent / "out.html").read_text(encoding="utf-8") and None


def _table(folder: Path) -> None:
    root = folder / "fuzzed_table"
    base = with_words({"data": {"files": [f"{HERE}/made.npz"]}}, _WORDS)
    rows = [{}, {"name": "wider", "hidden": [4]}]
    claims = [{"claim": "wider is better", "lower": "wider", "higher": "base"}]
    given = {"base": base, "rows": rows, "claims": claims, "seeds": 1}
    settings = table_settings(given)
    root.mkdir()
    (root / OPTIONS).write_text(settings.model_dump_json(indent=1) + "\n")
    outcome = {"status": "finished", "reason": "", "peak_memory": 10**8, "peak_device_memory": None,
               "again": False}  # fmt: skip
    for row in row_settings(settings):
        for run in run_folders(root, row, seed_numbers(settings)):
            _write_run(run, ("log.txt", "checkpoint.pt", "potential.safetensors"))
            (run / OUTCOME).write_text(json.dumps(outcome, indent=1))


def _settle(journal: Path) -> None:
    """A journal that is the same whenever and wherever it is made."""
    content = journal.read_bytes()
    for pattern, new in _VOLATILE:
        content = re.sub(pattern, new, content)
    journal.write_bytes(content)


# ---- searches ------------------------------------------------------------------------------------


def _search(folder: Path, database: bool = False) -> None:
    import optuna

    kinds = optuna.distributions
    root = folder / "fuzzed_search"
    root.mkdir()
    (folder / "made.npz").write_bytes(_made()["made.npz"])
    given = {"base": {"data": {"files": [str(folder / "made.npz")]}, "training": {"epochs": 2}},
             "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                       "batch_size": [2, 4]}, "trials": 3}  # fmt: skip
    settings = search_settings(given)
    name = "trials.db" if database else JOURNAL
    where = f"sqlite:///{root / name}" if database else str(root / name)
    study = storage.open_study(where, "search", settings)
    parts = parts_of(settings.base.data, settings.base.training)
    storage.join(study, settings, parts.fingerprint)
    for k, state in enumerate((optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)):
        study.add_trial(optuna.create_trial(
            state=state, value=None if k else 1.5,
            params={"training.learning_rate": 1e-3, "training.batch_size": 2},
            distributions={
                "training.learning_rate": kinds.FloatDistribution(1e-4, 1e-2, log=True),
                "training.batch_size": kinds.CategoricalDistribution([2, 4]),
            },
            user_attrs={"seconds": 1.5, "epochs": 2, "best_epoch": 1, "parameters": 10},
            intermediate_values={10: 1.5},
        ))  # fmt: skip
    if not database:
        _settle(root / name)
    about = _as_json(settings, where if database else None, "search", parts)
    (root / ABOUT).write_text(about.replace(str(folder), HERE))
    (folder / "made.npz").unlink()


def _read_search(path: Path) -> Any:
    """As ``anipot search --resume`` of a search that has all its trials."""
    about = _about(path)
    study = storage.open_study(about.storage or str(path / JOURNAL), about.name, about.settings)
    found = collect(study, path, about.settings)
    write_search(found)
    storage.bury(study)


def _read_database(path: Path) -> Any:
    """As a search does, which turns whatever its storage raises into one error."""
    study = open_study(f"sqlite:///{path}", "search")
    try:
        return len(study.get_trials(deepcopy=False))
    except failures() as e:
        raise TrainingError(f"storage {path}: cannot be used any more: {e}") from e


def _database(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        _search(Path(place), database=True)
        content = (Path(place) / "fuzzed_search" / "trials.db").read_bytes()
    (folder / "fuzzed.db").write_bytes(content)


# ---- molecular dynamics --------------------------------------------------------------------------

_MD = {"ensemble": "nvt", "every": 1, "save_every": 2}


@functools.cache
def _calculator() -> Any:
    return anipot.ANIModel.create("HO", hidden=[2], seed=0).calculator()


def _md(ending: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        atoms = _frames(labels=False)[0]
        run_md(atoms, _calculator(), folder / f"fuzzed.{ending}", time=2.0, **_MD)

    return make


def _resume_md(path: Path) -> Any:
    files = RunFiles.of(path)
    atoms = _frames(labels=False)[0]
    result = run_md(atoms, _calculator(), path, time=3.0, resume=True, **_MD)
    return repr(result.rows), files.restart.name


def _read_restart(path: Path) -> Any:
    point = RestartPoint.read(path)
    with damage_named(path, SimulationError):  # as run_md does
        point.put(_frames(labels=False)[0])
    return repr({**vars(point), "arrays": {k: v.tolist() for k, v in point.arrays.items()}})


def _division(path: Path) -> None:
    path.write_bytes(_made()["run/split.npz"])


def _read_division(path: Path) -> Any:
    found = Division.load(path)
    return [part.tolist() for part in found], found.describe()


# ---- kinds ---------------------------------------------------------------------------------------


def kinds() -> list[Kind]:
    table_files = ("table.json", "iteration.json", "run.json", ".csv", "options.yaml")
    run_files = ("run.json", "options.yaml", ".csv", "split.npz", "potential.safetensors")
    return [
        Kind("train.yaml", "fuzzed.yaml", _yaml(_TRAIN, "fuzzed.yaml"),
             _command("train", "--config", "@", "--options"), weight=2),
        Kind("table.yaml", "fuzzed.yaml", _yaml(_TABLE, "fuzzed.yaml"),
             _command("iterate", "@", instead_of="anipot.experiments.table.iterate.run_table"),
             weight=2),
        Kind("search.yaml", "fuzzed.yaml", _yaml(_SPACE, "fuzzed.yaml"),
             _command("search", "@", instead_of="anipot.experiments.search.search.run_search"),
             weight=2),
        Kind("run", "fuzzed_run", lambda folder: (_run(folder), _with_data(folder)), _read_run,
             changed=run_files, weight=0.5, costly=True),
        Kind("report of a run", "fuzzed_run", _run, _report, weight=0.2,
             changed=("run.json", "options.yaml", "split.npz"), commands=("report @",),
             costly=True),
        Kind("split.npz", "fuzzed.npz", lambda folder: _division(folder / "fuzzed.npz"),
             _read_division, summed=always, costly=True),
        Kind("table", "fuzzed_table", _table, lambda path: load_table(path) and None, weight=0.7,
             changed=table_files, costly=True),
        Kind("report of a table", "fuzzed_table", _table, _report, weight=0.15,
             changed=table_files, commands=("report @",), costly=True),
        Kind("search", "fuzzed_search", _search, _read_search, weight=0.7,
             changed=(".journal", "search.json"), costly=True),
        Kind("search.db", "fuzzed.db", _database, _read_database, weight=0.05, costly=True),
        Kind("study.json", "fuzzed.json",
             lambda folder: write_text(folder / "fuzzed.json", '{"a": [1, 2.5], "b": "c"}'),
             lambda path: read_study(path) and None, weight=0.3),
        Kind("restart.npz", "fuzzed.restart.npz",
             lambda folder: _md("extxyz")(folder), _read_restart, summed=always,
             changed=(".restart.npz",)),
        Kind("md.extxyz", "fuzzed.extxyz", _md("extxyz"), _resume_md, weight=0.7),
        Kind("md.traj", "fuzzed.traj", _md("traj"), _resume_md, weight=0.5),
        Kind("md.csv", "fuzzed.csv", _md("extxyz"), lambda path: read_log(path) and None,
             changed=(".csv",), weight=0.7),
    ]  # fmt: skip
