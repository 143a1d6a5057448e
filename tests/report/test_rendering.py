"""Text, numbers and files as they come to stand on a page."""

import hashlib
import re
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from report_page import Elements

from anipot.report.rendering import figures, formula, number, render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.61951, "0.620"), (12.349, "12.3"), (1234.5, "1,234"), (0, "0"), (-51.88, "−51.9"),
        (None, "–"), (float("nan"), "–"), (2.5e-5, "2.5e−05"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


@given(st.text())
def test_a_formula_is_the_same_text_whatever_it_is(text):
    """Numbers become subscripts; nothing else of it is ever an element."""
    html = Elements(str(formula(text)))
    assert {tag for tag, _ in html.elements} <= {"sub"}
    assert "".join(html.texts) == re.sub(r"\r\n?", "\n", text) or "\r" in text or "\0" in text


def test_formulas_have_subscripts():
    assert formula("C12H2O") == "C<sub>12</sub>H<sub>2</sub>O"
    assert formula("&#39;") == "&amp;#39;"


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        render("run.html")


def test_figures_are_svg_but_large_ones_and_empty_ones_are_none(tmp_path):
    for name, size in (("small", 1000), ("large", 400_000), ("empty", 0)):
        (tmp_path / f"{name}.svg").write_bytes(b"s" * size)
        (tmp_path / f"{name}.png").write_bytes(b"p" * min(size, 10))
    wanted = [(name, "what", "caption") for name in ("small", "large", "empty", "lacking")]
    found = figures(tmp_path, wanted)
    kinds = [f.source.split(";")[0] for f in found]
    assert kinds == ["data:image/svg+xml", "data:image/png"]


def test_the_viewer_can_stand_in_a_page():
    """It is the one that is told, and it does not end the script that it stands in."""
    vendor = files("anipot.report").joinpath("vendor")
    script = vendor.joinpath("3Dmol-min.js").read_text(encoding="utf-8")
    told = vendor.joinpath("README.md").read_text(encoding="utf-8")
    assert f"{hashlib.sha256(script.encode()).hexdigest()}  3Dmol-min.js" in told
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert "BSD-3-Clause" in vendor.joinpath("LICENSE").read_text()
