"""The page of a run: its numbers are those of the run's files, and nothing on it can do harm."""

import csv
import errno
import json
import logging
import re
import shlex
import shutil

import numpy as np
import pytest
from report_page import HOSTILE, WORDS, Elements

from anipot.config import RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division
from anipot.errors import SettingsError
from anipot.experiments.report import write_report
from anipot.report.figures import plots
from anipot.runs import page as run_page
from anipot.runs.option_table import command
from anipot.runs.run import start_run
from anipot.system.options import checked, read_yaml, with_words


def predictions(folder) -> list[dict[str, str]]:
    with (folder / "test_predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def again(reported, tmp_path, **changes):
    """The page of a copy of the run, whose run.json is changed."""
    folder = tmp_path / "copy"
    shutil.copytree(reported.run.folder, folder)
    report = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**report, **changes}))
    return Elements(write_report(folder).read_text(encoding="utf-8"))


# ---- what it says --------------------------------------------------------------------------------


def test_the_result_comes_first_and_is_that_of_the_test_predictions(reported):
    errors = np.array([float(row["error_kcalmol"]) for row in predictions(reported.run.folder)])
    html = reported.html
    shown = float(re.search(r'class="value">([\d.]+)<', reported.page)[1])
    assert shown == pytest.approx(np.abs(errors).mean(), rel=6e-3)
    molecules = {row["molecule"] for row in predictions(reported.run.folder)}
    said = f"test part, N = {len(errors)} conformers of {len(molecules)} molecules"
    assert said in html.text
    assert "split by conformer" in html.text
    assert html.text.index(said) < html.text.index("Data and split")


def test_the_worst_conformers_are_shown_as_they_are(reported):
    """Errors from the table of predictions, structures from the data file."""
    rows = sorted(predictions(reported.run.folder), key=lambda r: -abs(float(r["error_kcalmol"])))
    structures = next(t for a, t in reported.html.scripts if a.get("id") == "structures")
    shown = json.loads(structures)
    assert len(shown) == min(10, len(rows))
    data = Conformers.load(reported.data)
    for row, xyz in zip(rows, shown, strict=False):
        k = int(row["conformer"])
        first, last = data.offsets[k], data.offsets[k + 1]
        lines = xyz.splitlines()
        assert int(lines[0]) == last - first == len(lines) - 2
        found = np.array([line.split()[1:] for line in lines[2:]], dtype=float)
        assert found == pytest.approx(data.coordinates[first:last], abs=6e-5)
        numbers = [{"H": 1, "C": 6, "N": 7, "O": 8}[line.split()[0]] for line in lines[2:]]
        assert numbers == data.atomic_numbers[first:last].tolist()
    assert [row["conformer"] for row in rows[:10]] == re.findall(
        r'<td class="n">(\d+)</td></tr>', reported.page.split('id="worst"')[1].split("</table>")[0]
    )


def test_figures_are_those_of_the_run(reported):
    images = [a["src"] for tag, a in reported.html.elements if tag == "img"]
    assert len(images) == 3  # loss, parity, parity of forces
    assert all(src.startswith(("data:image/svg+xml;base64,", "data:image/png")) for src in images)


def test_errors_by_group_are_all_there_and_the_worst_where_they_are_many(reported, tmp_path):
    results = json.loads((reported.run.folder / "run.json").read_text())["results"]
    html = reported.html
    for row in results["test"]["by_formula"]:
        assert re.sub(r"(\d+)", r"<sub>\1</sub>", row["label"]) in reported.page
    many = [
        {"label": f"made-up {k}", "n": 1, "mae": k * 1.0, "rmse": k * 1.0, "max": 1.0, "r2": None}
        for k in range(50)
    ]
    results["test"]["by_formula"] = many
    html = again(reported, tmp_path, results=results)
    shown = {int(k) for k in re.findall(r"made-up (\d+)", " ".join(html.texts))}
    assert shown == set(range(30, 50))
    assert "the 20 of 50 with the largest MAE" in html.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "failed", "failure": "loss is <nan>"}, "failed after epoch 3: loss is <nan>."),
        ({"status": "interrupted"}, "interrupted after epoch 3 of 3."),
    ],
)
def test_a_run_that_did_not_come_to_its_end_says_so(reported, tmp_path, changes, said):
    assert said in again(reported, tmp_path, **changes).text
    assert said not in reported.html.text


def test_groups_that_are_formulas_are_named_once_and_as_such(reported, tmp_path):
    results = json.loads((reported.run.folder / "run.json").read_text())["results"]
    results["test"]["grouped_by"] = "formula"
    html = again(reported, tmp_path, results=results)
    assert "For a new formula errors are larger; split=formula measures that" in html.text
    assert HOSTILE not in html.text
    assert "For a new molecule errors are larger" in reported.html.text


def test_without_a_test_part_it_speaks_of_validation(reported, tmp_path):
    results = json.loads((reported.run.folder / "run.json").read_text())["results"]
    del results["test"]
    text = again(reported, tmp_path, results=results).text
    assert "validation part, N = " in text
    assert "there was no test part" in text


# ---- how to run it again -------------------------------------------------------------------------


def test_the_command_gives_the_options_of_the_run_again(reported, monkeypatch):
    found = re.search(r"<pre><code>(.*?)</code></pre>", reported.page, re.DOTALL)[1]
    text = Elements(f"<p>{found}</p>").text
    words = shlex.split(text)
    assert words[:3] == ["anipot", "train", reported.data.name]
    assert set(words[3:]) == {w.replace("1e-3", "0.001") for w in WORDS}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["hidden={H: [8, 4], C: [16]}", "activation=relu", "elements=NO"],
        ["split=molecule", "seed=1", "training.seed=2", "force_weight=0.1", "normalize_aevs=true"],
        ["epochs=7", "batch_size=32", "warmup=0", "members=3", "engine=reference", "clip=1.5"],
    ],
)
def test_any_options_come_back_from_the_command(words):
    words = ["data.elements=NO" if w == "elements=NO" else w for w in words]
    words = ["data.seed=1" if w == "seed=1" else w for w in words]
    settings = checked(RunSettings, with_words({}, words))
    given = shlex.split(command(settings, 1000))[2:]
    assert checked(RunSettings, with_words({}, given)) == settings


def test_defaults_found_on_the_way_are_defaults(reported):
    """The engine at hand and the number of epochs that the data asks for were given by nobody."""
    settings = checked(RunSettings, read_yaml(reported.run.folder / "options.yaml"))
    usual = settings.training.model_copy(update={"epochs": None}).resolved(5000)
    settings = settings.model_copy(update={"training": usual})
    text = command(settings, 5000)
    assert "epochs" not in text
    assert "engine" not in text
    assert "epochs" in command(settings, 6000)


# ---- nothing from outside, nothing to the outside ------------------------------------------------


def test_nothing_is_loaded(reported):
    html = reported.html
    for tag, attributes in html.elements:
        for name in ("src", "srcset", "data", "poster", "action", "background", "formaction"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        if tag == "link":
            assert attributes["href"] == "data:,"
        assert tag not in ("iframe", "object", "embed", "base", "form")
    policy = next(a["content"] for t, a in html.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|//", policy)
    styles = reported.page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_names_are_text(reported):
    html = reported.html
    assert HOSTILE in "".join(html.texts)
    assert reported.data.name in "".join(html.texts)
    assert not [a for _, a in html.elements if any(name.startswith("on") for name in a)]
    assert html.count("img") == 3
    assert html.count("script") == 4  # licence, viewer, structures, the page's own
    assert "run-<1>" in "".join(html.texts)


def test_no_folder_of_the_machine_is_told(reported):
    assert str(reported.data.parent) not in reported.page
    assert "somebody" not in reported.page


def test_links_lead_to_files_of_the_run(reported):
    links = [a["href"] for tag, a in reported.html.elements if tag == "a"]
    assert {"run.json", "potential.safetensors", "plots/"} <= set(links)
    assert all((reported.run.folder / link).exists() for link in links)


# ---- what can go wrong ---------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_takes_no_result_away(monkeypatch, tmp_path, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_page, "write_text", full)
    monkeypatch.setattr(plots, "save_figure", lambda *_: None)
    words = ["heavy_atoms=2", "per_molecule=12", "epochs=1", "hidden=8"]
    with caplog.at_level(logging.WARNING, "anipot"):
        run = start_run(checked(RunSettings, with_words({}, words)), tmp_path / "run")
    assert run.test is not None
    assert (run.folder / "run.json").exists()
    assert not (run.folder / "report.html").exists()
    assert f"anipot report {run.folder}" in caplog.text
    assert "No space left" in caplog.text
    assert "report.html could not be written" in (run.folder / "log.txt").read_text()


def test_without_the_data_all_but_the_structures_is_there(reported, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(reported.run.folder, folder)
    options = (folder / "options.yaml").read_text()
    (folder / "options.yaml").write_text(options.replace(reported.data.name, "gone.npz"))
    html = Elements(write_report(folder).read_text(encoding="utf-8"))
    assert "The data could not be read" in html.text
    assert html.count("script") == 1
    assert f"{len(predictions(folder))} conformers" in html.text


def test_written_again_it_is_the_same(reported, tmp_path):
    out = write_report(reported.run.folder, tmp_path / "again.html")
    assert out.read_text(encoding="utf-8") == reported.page


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(SettingsError, match="anipot train --resume"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SettingsError, match=r"run\.json: damaged"):
        write_report(tmp_path)


def test_numbers_of_conformers_are_those_of_the_split(reported):
    division = Division.load(reported.run.folder / "split.npz")
    assert {int(r["conformer"]) for r in predictions(reported.run.folder)} == set(division.test)
