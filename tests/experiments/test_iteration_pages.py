"""The pages and figures of a table, held against its numbers."""

import html
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from anipot.config import RunSettings
from anipot.evaluation.history import EpochRecord, History
from anipot.experiments.table.columns import columns, with_spread
from anipot.experiments.table.figures import draw
from anipot.experiments.table.pages import to_markdown, to_page
from anipot.experiments.table.settings import options_of
from anipot.experiments.table.table import IterationRow, IterationTable, SeedResult, Spread
from anipot.experiments.table.writing import in_terminal
from anipot.report.markup import markdown_table
from anipot.system.text import markdown


def row(name: str, changes: dict, maes: list[float], **more) -> IterationRow:
    settings = RunSettings().model_dump()
    for key, value in changes.items():
        section, option = key.split(".")
        settings[section][option] = value
    runs = tuple(
        SeedResult(
            k, Path(f"{name}/seed-{k}"), "finished", "",
            History([EpochRecord(e, 5 * e, 1e-3, 9 * m / e, m / e, 2 * m / e, m, 0.5, True)
                     for e in (1, 2)], "finished"),
            {"mae": m, "rmse": 2 * m}, {"mae": m, "rmse": 2 * m}, 1234, 60.0, 400_000_000,
        )
        for k, m in enumerate(maes)
    )  # fmt: skip
    options = options_of(RunSettings.model_validate(settings))
    return IterationRow(name, changes, options, runs, test_set="t", **more)


@pytest.fixture
def table() -> IterationTable:
    rows = (
        row("base", {}, [0.512, 0.498]),
        row("a|b <i>$x$", {"model.hidden": [128, 64]}, [0.412, 0.398], reported={"mae": 3.91}),
        row("cosine", {"training.schedule": "cosine"}, [0.6, 0.7]),
        IterationRow("cannot", {"model.dropout": 2.0}, {}, reason="option 'dropout': too <large>"),
    )
    base = RunSettings().model_dump(include={"data", "model", "training"})
    return IterationTable(Path("t"), "Some & any", rows, (0, 1), base, ("Of 10 conformers.",))


def test_the_columns_of_the_source_come_first_then_what_it_lacked(table):
    titles = [column.title for column in columns(table)]
    source = "iteration, hidden layers, learning rate, batch size, L2, dropout, validation MAE, "
    assert ", ".join(titles).startswith(source + "smallest loss, activation, ")
    assert "schedule" in titles  # it varies
    assert "reported MAE" in titles
    assert "reported loss" not in titles
    cells = {c.title: c.cell(table.rows[1]) for c in columns(table)}
    assert cells["hidden layers"] == "128-64"
    assert cells["test MAE"] == "0.405 ± 0.010"
    assert cells["test RMSE"] == "0.81 ± 0.02" or cells["test RMSE"] == "0.810 ± 0.020"
    assert cells["epochs to best"] == "2 of 2"
    assert cells["parameters"] == "1,234"
    assert cells["peak memory"] == "400"
    assert cells["reported MAE"] == "3.91"
    assert {c.title: c.cell(table.rows[0]) for c in columns(table)}["hidden layers"] == "ANI-1x"


def test_markdown_has_a_cell_for_every_column(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in lines}
    assert bars == {len(columns(table)) + 1}
    assert len(lines) == 2 + len(table.rows)


class Tags(HTMLParser):
    """The elements of a page, each opened and closed in order, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_is_well_formed_and_escaped(table):
    page = Tags()
    page.feed(to_page(table, ["curves"]))
    assert page.open == []
    assert page.seen.count("table") == 1
    assert page.seen.count("td") == len(columns(table)) * len(table.rows)
    assert "i" not in page.seen
    assert "a|b <i>$x$" in page.text
    assert "too <large>" in page.text


def test_figures_are_drawn_of_what_there_is(table):
    figures = draw(table)
    assert set(figures) == {"table", "curves", "cost", "effects"}
    texts = {text.get_text() for text in figures["table"].axes[0].texts}
    assert "0.405 ± 0.010" in texts
    assert len(figures["curves"].axes[0].get_legend_handles_labels()[0]) == 3
    nothing = IterationTable(Path("t"), "t", table.rows[3:], (0,), table.base)
    assert set(draw(nothing)) == {"table"}


def test_a_terminal_is_told_the_errors_and_why_a_row_failed(table):
    text = in_terminal(table)
    assert "cannot: option 'dropout': too <large>" in text
    assert "0.100 kcal/mol below base; exceeds the spread" in text
    assert "cosine by itself" not in text
    assert "schedule by itself:\n  one-cycle to cosine: cosine is" in text


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.5123, 0.0211, "0.512 ± 0.021"),
        (17.423, 0.0375, "17.42 ± 0.04"),
        (1244.2, 310.0, "1244 ± 310"),
        (4.13, math.nan, "4.13"),
        (0.5, 0.0, "0.500 ± 0.000"),
    ],
)
def test_numbers_have_the_digits_that_count(mean, std, text):
    assert with_spread(Spread(mean, std, 3)) == text


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=f(1)>", "a|b", "a\nb", "[x](javascript:1)", "*b* _c_", "`x`&lt;"],
)
def test_names_are_text_in_markdown(name):
    line = markdown_table([("name", ""), ("n", "")], [([name, "1"], None)])
    assert len(line) == 3
    reader = pytest.importorskip("markdown_it")  # what others make of it
    page = reader.MarkdownIt("commonmark").enable("table").render("\n".join(line))
    cell = page.split("<tbody>")[1].split("<td", 1)[1].split(">", 1)[1].split("</td>")[0]
    assert html.unescape(cell) == " ".join(name.split())
    assert "<" not in cell


def test_option_names_stay_as_they_are():
    assert markdown("learning_rate=0.001 and 128-64") == "learning_rate=0.001 and 128-64"
