"""Whatever the files of a run, a table or a search have become: a message that names the file."""

import json
import shutil
from pathlib import Path

import pytest

from anipot.config import RunSettings
from anipot.errors import AnipotError
from anipot.experiments.search.settings import search_settings
from anipot.experiments.table.collecting import load_table, stored_settings
from anipot.experiments.table.report_page import write_table_page
from anipot.experiments.table.runs import read_outcome
from anipot.experiments.table.settings import read_parts, table_settings
from anipot.runs.page import write_run_page
from anipot.runs.run import run_settings, start_run
from anipot.system.files import damage_named
from anipot.system.options import checked, read_yaml
from tests.damaged import bytes_of, json_of

TABLE = {
    "title": "t", "notes": ["n"],
    "base": {"epochs": 2, "model": {"hidden": [8]}},
    "rows": [{"name": "a", "hidden": {"H": [4]}, "reported": {"mae": 1.0}}, {"dropout": 0.1}],
    "claims": [{"claim": "x", "lower": "a", "higher": "dropout=0.1"}],
    "tune": {"option": "learning_rate", "values": [1e-3, 1e-4], "updates": 5},
    "seeds": 2,
}  # fmt: skip
SEARCH = {
    "base": {"training": {"epochs": 3}},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [8, 16]},
    "minutes": 1, "trials": 2, "objective": "mae", "seed": 1,
}  # fmt: skip
RUN = {
    "data": {"heavy_atoms": 1, "split": "conformer", "elements": "HC", "files": ["a.h5"]},
    "model": {"hidden": {"H": [4, 4], "C": [4]}, "activation": "gelu", "elements": "HC"},
    "training": {"epochs": 2, "self_energies": {"H": -0.5}, "learning_rate": 1e-3},
    "ensemble": {"members": 2, "by_folds": True},
}


def _of_table(path):
    with damage_named(path):
        table_settings(read_parts(path))


def _of_search(path):
    with damage_named(path):
        search_settings(read_parts(path, "search"))


def _of_run(path):
    with damage_named(path):
        checked(RunSettings, read_yaml(path))


SETTINGS = {"table.yaml": (TABLE, _of_table), "space.yaml": (SEARCH, _of_search),
            "config.yaml": (RUN, _of_run)}  # fmt: skip


def read(path: Path, how) -> bool:
    """Whether a file could be read; else the error must be anipot's own and name it."""
    said = None
    try:
        how(path)
    except AnipotError as e:
        said = str(e)
    assert said is None or (path.name in said and len(said) < 4000)
    return said is None


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, tmp_path):
    values, how = SETTINGS[name]
    whole, path = json.dumps(values, indent=1).encode(), tmp_path / name
    path.write_bytes(whole)
    assert read(path, how)
    found = []
    for seed in range(60):
        path.write_bytes(json_of(whole, seed))
        found.append(read(path, how))
    assert found.count(False) > 20


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run, without its figures."""
    words = {"data": {"heavy_atoms": 1, "per_molecule": 8}, "model": {"hidden": [4]},
             "training": {"epochs": 1, "threads": 1}}  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anipot.report.figures.plots.save_figure", lambda figure, stem: None)
        start_run(checked(RunSettings, words), folder)
    return folder


def test_the_options_of_a_run(run, tmp_path):
    whole, path = (run / "options.yaml").read_bytes(), tmp_path / "options.yaml"
    for seed in range(60):
        path.write_bytes(bytes_of(whole, seed))
        read(path, lambda path: run_settings(path.parent))


def test_the_results_of_a_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr("anipot.runs.folder.read_data", lambda settings: nothing())
    monkeypatch.setattr("anipot.report.rendering.included", lambda name: "")
    for name in ("options.yaml", "split.npz"):
        shutil.copy(run / name, tmp_path)
    whole, path = (run / "run.json").read_bytes(), tmp_path / "run.json"
    path.write_bytes(whole)
    assert read(path, lambda path: write_run_page(path.parent))
    for seed in range(60):
        path.write_bytes(json_of(whole, seed))
        read(path, lambda path: write_run_page(path.parent))


def nothing():
    raise AnipotError("no data")


@pytest.fixture(scope="module")
def table(run, tmp_path_factory) -> Path:
    """The folder of a finished table of one run."""
    folder = tmp_path_factory.mktemp("tables") / "t"
    values = {"base": {"per_molecule": 8, "heavy_atoms": 1, "epochs": 1, "hidden": [4]},
              "rows": [{"name": "a"}], "seeds": 1}  # fmt: skip
    below = folder / "a" / "seed-0"
    shutil.copytree(run, below)
    (folder / "table.json").write_text(table_settings(values).model_dump_json())
    ending = {"status": "finished", "reason": "", "again": False, "peak_memory": 1,
              "peak_device_memory": None}  # fmt: skip
    (below / "iteration.json").write_text(json.dumps(ending))
    (folder / "storage.json").write_text(json.dumps({"storage": "x.log", "name": "n"}))
    assert load_table(folder).complete
    return folder


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("table.json", lambda path: stored_settings(path.parent)),
        ("a/seed-0/iteration.json", lambda path: read_outcome(path.parent)),
        ("a/seed-0/metrics.csv", lambda path: load_table(path.parents[2])),
        ("a/seed-0/run.json", lambda path: write_table_page(path.parents[2])),
    ],
)
def test_the_files_of_a_table(table, tmp_path, monkeypatch, name, how):
    monkeypatch.setattr("anipot.runs.folder.read_data", lambda settings: nothing())
    monkeypatch.setattr("anipot.report.rendering.included", lambda name: "")
    folder = tmp_path / "t"
    shutil.copytree(table, folder)
    path = folder / name
    whole = path.read_bytes()
    for seed in range(30):
        changed = json_of(whole, seed) if path.suffix == ".json" else bytes_of(whole, seed)
        path.write_bytes(changed)
        read(path, how)
