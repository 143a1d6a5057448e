"""anipot search: files, words, folders, and what they say."""

import json

import pytest

from anipot.system.yaml_files import load_yaml

SPACE = """
base:
  data: {heavy_atoms: 1, per_molecule: 16}
  model: {hidden: [4]}
  training: {epochs: 9, batch_size: 16}
space:
  learning_rate: {low: 1e-3, high: 1e-2, log: true}
trials: 7
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_a_search_its_best_and_its_confirmation(anipot, file, tmp_path, quick_figures):
    folder = tmp_path / "s"
    result = anipot("search", file, "epochs=2", "--trials", 2, "--out", folder)
    assert result.code == 0
    assert "the test part is not looked at" in result.out
    assert "trial   0" in result.out
    assert "2 trials: 2 finished" in result.out
    assert f"Train with it: anipot train --config {folder / 'best.yaml'}" in result.out
    best = load_yaml(folder / "best.yaml")
    assert best["training"]["epochs"] == 2
    line = next(x for x in result.out.splitlines() if x.startswith("Best: trial"))
    assert f"learning_rate={best['training']['learning_rate']:.3g}" in line
    # The commands that it names do what they say.
    trained = anipot("train", "--config", folder / "best.yaml", "-o", tmp_path / "t")
    assert trained.code == 0
    error = float(line.split(" kcal/mol")[0].split()[-1])
    results = json.loads((tmp_path / "t" / "run.json").read_text())["results"]
    assert results["validation"]["energy"]["mae"] == pytest.approx(error, abs=6e-5)
    confirmed = anipot("iterate", folder / "confirm.yaml", "-s", 1, "-o", tmp_path / "c")
    assert confirmed.code == 0
    assert "rows 2, seeds 1, runs 2" in confirmed.out
    # With no more than is there, nothing is trained.
    again = anipot("search", "--resume", folder)
    assert again.code == 0
    assert "2 trials are there" in again.out
    assert "trial   2" not in again.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a YAML file with the space"),
        (["FILE", "epochz=3"], "unknown option 'epochz'; did you mean training.epochs?"),
        (["FILE", "--resume", "nowhere"], "--resume goes on with the search as it was begun"),
        (["--resume", "nowhere"], "nowhere is not the folder of a search"),
        (["none.yaml"], "none.yaml: cannot be read"),
        (["FILE", "--storage", "nosuch://x"], "storage nosuch://x: cannot be opened"),
        (["FILE", "-w", 99], "99 workers of 1 thread are more than the"),
    ],
)
def test_what_is_refused(anipot, file, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = anipot("search", *(file if a == "FILE" else a for a in arguments))
    assert result.code == 2
    assert message in result.err
    # A command that is refused leaves no folder behind.
    assert not list(tmp_path.glob("runs/*"))


def test_a_file_that_is_no_space(anipot, file):
    file.write_text("- 3\n")
    assert "must hold 'space:' with options" in anipot("search", file).err
    file.write_text("space: {learning_rat: [1]}\ntrials: 1\n")
    assert "did you mean training.learning_rate?" in anipot("search", file).err
