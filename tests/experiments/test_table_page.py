"""The page of a table: the table as it is, links to its runs, and how to make it again."""

import json
import re
import shutil
import statistics

import pytest
from report_page import Elements

from anipot.errors import SettingsError
from anipot.experiments.report import write_report
from anipot.experiments.table.collecting import stored_settings
from anipot.experiments.table.iterate import iterate
from anipot.experiments.table.pages import claim_lines
from anipot.experiments.table.settings import read_parts, table_settings
from anipot.report.figures import plots

BASE = {"data": {"heavy_atoms": 1}, "training": {"epochs": 2}}
ROWS = [
    {"name": "<small> & plain", "hidden": [4]},
    {"name": "wider", "hidden": [16]},
    {"name": "impossible", "hidden": "no"},
]
CLAIMS = [{"claim": "wider <is> better", "lower": "wider", "higher": "<small> & plain"}]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables") / "widths"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", lambda *_: None)
        return iterate(
            BASE, rows=ROWS, seeds=2, folder=folder, title="<Widths> & more", claims=CLAIMS
        )


@pytest.fixture(scope="module")
def page(table) -> str:
    return (table.folder / "report.html").read_text(encoding="utf-8")


def test_the_best_row_on_validation_comes_first_with_its_spread(table, page):
    def results(name):
        files = sorted((table.folder / name).glob("seed-*/run.json"))
        return [json.loads(file.read_text())["results"] for file in files]

    errors = {
        name: [
            [run[part]["energy"]["mae"] for run in results(folder)]
            for part in ("validation", "test")
        ]
        for name, folder in (("<small> & plain", "small-plain"), ("wider", "wider"))
    }
    best = min(errors, key=lambda name: statistics.fmean(errors[name][0]))
    mean, spread = (float(x) for x in re.search(r'"value">([\d.]+) ± ([\d.]+)<', page).groups())
    assert mean == pytest.approx(statistics.fmean(errors[best][1]), rel=6e-3)
    assert spread == pytest.approx(statistics.stdev(errors[best][1]), abs=0.06, rel=0.5)
    html = Elements(page)
    assert f"test MAE of {best}, the best row on validation" in html.text
    assert html.text.index("test MAE of") < html.text.index("The table")


def test_every_row_is_there_with_its_runs_and_reasons(table, page):
    html = Elements(page)
    for row in ROWS:
        assert row["name"] in html.text
    assert "must be widths" in table["impossible"].reason
    assert " ".join(table["impossible"].reason.split()) in html.text
    links = {a["href"] for tag, a in html.elements if tag == "a"}
    runs = {p.relative_to(table.folder).as_posix() for p in table.folder.glob("*/*/report.html")}
    assert len(runs) == 4
    assert runs <= links
    assert all((table.folder / link).exists() for link in links)


def test_names_are_text_and_nothing_is_loaded(page):
    html = Elements(page)
    assert "<Widths> & more" in "".join(html.texts)
    assert {tag for tag, _ in html.elements}.isdisjoint({"small>", "widths", "iframe", "base"})
    assert all(a.get("src", "data:").startswith("data:") for _, a in html.elements)
    structures = next(t for a, t in html.scripts if a.get("id") == "structures")
    assert json.loads(structures)


def test_conclusions_stand_below_the_comparisons(table, page):
    (line,) = claim_lines(table)
    assert line.startswith("Wider <is> better: ")
    assert " ".join(line.split()) in Elements(page).text


def test_the_command_makes_the_same_table(table, page):
    assert "anipot iterate table.json --out NEW" in Elements(page).text
    again = table_settings(read_parts(table.folder / "table.json"))
    assert again == stored_settings(table.folder)


def test_settings_of_the_base_that_nobody_gave_are_not_marked(page):
    marked = page.split("Differ from the defaults")[1].split("</table>")[0]
    assert set(re.findall(r"<code>(\S+)</code>", marked)) == {
        "data.heavy_atoms",
        "training.epochs",
    }


def test_an_unfinished_table_says_so(table, page, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(table.folder, folder)
    shutil.rmtree(folder / "wider" / "seed-1")
    text = Elements(write_report(folder).read_text(encoding="utf-8")).text
    assert "The table is not complete" in text
    assert "The table is not complete" not in page
    for path in folder.glob("*/seed-*"):
        shutil.rmtree(path)
    with pytest.raises(SettingsError, match="anipot iterate --resume"):
        write_report(folder)
