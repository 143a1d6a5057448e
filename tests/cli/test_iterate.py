"""anipot iterate and anipot bench: files, words, folders, and what they say."""

import json

import pytest

from anipot.experiments.table import presets
from anipot.experiments.table.collecting import load_table

TABLE = """
base:
  data: {heavy_atoms: 1, per_molecule: 16}
  model: {hidden: [4]}
  training: {epochs: 9, batch_size: 16}
rows:
  - {}
  - {name: wider, hidden: [6]}
  - {name: cannot, activation: step}
seeds: 2
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE)
    return path


def test_a_table_with_words_and_seeds(anipot, file, tmp_path, quick_figures):
    folder = tmp_path / "t"
    result = anipot("iterate", file, "epochs=2", "--seeds", 1, "--out", folder)
    assert result.code == 0
    assert "rows 2, seeds 1, runs 2" in result.out
    assert "row 'cannot' cannot be run: option 'model.activation'" in result.out
    table = load_table(folder)
    assert [len(run.history) for row in table.rows for run in row.runs] == [2, 2]
    mae = table["wider"].runs[0].test["mae"]
    assert f"wider, seed 0: test MAE {mae:.3f}, RMSE " in result.out
    assert "from one seed nothing can be said" in result.out
    for name in ("table.md", "table.html", "table.csv", "runs.csv", "plots/table.png"):
        assert (folder / name).exists()
    # The same command again, and --resume, run nothing.
    before = (folder / "runs.csv").read_bytes()
    for again in ((file, "epochs=2", "-s", 1, "-o", folder), ("--resume", folder)):
        result = anipot("iterate", *again)
        assert result.code == 0
        assert "runs 2, 2 of them done" in result.out
        assert (folder / "runs.csv").read_bytes() == before
    # A run of a table is a run like any other.
    result = anipot("train", "--resume", folder / "wider" / "seed-0")
    assert result.code == 0
    assert f"test MAE {mae:.3f}" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a YAML file with the table"),
        (["FILE", "epochz=3"], "unknown option 'epochz'; did you mean training.epochs?"),
        (["FILE", "members=3"], "ensemble"),
        (["FILE", "epochs"], "'epochs' is neither a file nor an option"),
        (["--resume", "nowhere"], "nowhere is not the folder of a table"),
        (["FILE", "--resume", "nowhere"], "--resume goes on with the table as it was begun"),
        (["none.yaml"], "none.yaml: cannot be read"),
        (["--preset", "sorce"], "there is no preset 'sorce'; known: source"),
        (
            ["--preset", "source", "--protocol", "x"],
            "protocol must be controlled, as-described or as-written, not",
        ),
        (["FILE", "--protocol", "controlled"], "--protocol and --data go with --preset"),
    ],
)
def test_what_is_refused(anipot, file, arguments, message):
    result = anipot("iterate", *(file if a == "FILE" else a for a in arguments))
    assert result.code == 2
    assert message in result.err


def test_a_file_whose_base_is_none(anipot, file):
    file.write_text("base: 3\nrows: [{}]\n")
    result = anipot("iterate", file, "epochs=3")
    assert result.code == 2
    assert "base must hold sections" in result.err


@pytest.mark.slow
def test_the_source_rows(anipot, tmp_path, quick_figures, monkeypatch):
    monkeypatch.setattr(presets, "RATES", (1e-4, 1e-3))  # fewer than there are, for time
    words = ("heavy_atoms=1", "per_molecule=16", "batch_size=40")
    folder = tmp_path / "s"
    options = ("--preset", "source", "--updates", 2, "-s", 1, "-o", folder)
    result = anipot("iterate", *words, *options)
    assert result.code == 0
    table = load_table(folder)
    assert [row.runs[0].updates for row in table.rows] == [2] * 7
    (tuned,) = table.further
    assert tuned.complete
    assert [row.runs[0].updates for row in tuned.rows] == [1] * 6
    assert all(row.tuning.chosen is not None for row in tuned.rows)
    assert "Validation MAE (kcal/mol) by learning rate; *: the chosen one" in result.out
    assert f"In the folder tuned: {tuned.title}." in (folder / "table.md").read_text()
    assert {row.loss_unit for row in table.rows} == {"(hartree)^2"}
    text = (folder / "table.md").read_text()
    assert "## Which conclusions survive" in text
    assert "reported MAE (kcal/mol)" in text
    assert "- Sigmoid is worse than ReLU: cannot be decided: row 1 is " in text


@pytest.mark.slow
def test_the_source_as_written(anipot, tmp_path, quick_figures):
    words = ("heavy_atoms=1", "per_molecule=16", "batch_size=20")
    options = ("--preset", "source", "--protocol", "as-written", "--updates", 3)
    result = anipot("iterate", *words, *options, "-o", tmp_path / "w")
    assert result.code == 0
    assert "Its validation MAE minus its test MAE is exactly 0 kcal/mol" in result.out
    assert "4 updates" in result.out  # two batches, so two epochs
    assert "## Defects, by numbers" in (tmp_path / "w" / "table.md").read_text()
    for refused in (("--seeds", 2), ("--workers", 2)):
        result = anipot("iterate", *options, *refused)
        assert result.code == 2
        assert "as-written has one run a row" in result.err


@pytest.mark.slow
def test_bench_architectures(anipot, tmp_path, quick_figures):
    words = ("heavy_atoms=1", "per_molecule=16", "batch_size=48")
    result = anipot("bench", "architectures", *words, "-e", 1, "-s", 1, "-o", tmp_path / "b")
    assert result.code == 0
    table = load_table(tmp_path / "b")
    assert all(row.runs[0].status == "finished" for row in table.rows)
    by_name = {row.name: row.runs[0].parameters for row in table.rows}
    # 384 columns, four elements: weights and biases of both layers.
    assert by_name["128 ReLU"] == 4 * (384 * 128 + 128 + 128 + 1) == 197_636
    assert by_name["200 ReLU"] == 308_804
    assert by_name["128-64 ReLU"] == 230_404
    assert by_name["wider"] > by_name["ANI-1x"]
    options = json.loads((tmp_path / "b" / "table.json").read_text())
    assert options["base"]["data"]["per_molecule"] == 16
    # Every setting that varies is shown by itself.
    for setting in ("hidden", "activation", "dropout", "l2"):
        block = result.out.split(f"\n{setting} by itself:\n")[1].split("\n\n")[0]
        assert "no two rows" not in block
