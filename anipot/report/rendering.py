"""From a template and values to a page: text is escaped, figures and scripts are put in."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup, escape

from anipot.errors import AnipotError
from anipot.evaluation.metrics import r2_text
from anipot.report.figures.style import short
from anipot.system.files import damage_named
from anipot.version import __version__

#: An SVG larger than this (a parity plot of thousands of points) is put in as its PNG.
_LARGEST_SVG = 250_000

_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*)+")


def render(template: str, **values: Any) -> str:
    """The page that ``anipot/report/templates/<template>`` makes of ``values``.

    All text is escaped; a value that a template asks for and does not get is an error.
    """
    environment = Environment(
        loader=PackageLoader("anipot.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "formula": formula, "percent": percent, "r2": r2_text}
    environment.globals |= {"included": included, "version": __version__}
    return environment.get_template(template).render(**values)


def render_results(
    template: str, values: Callable[[], dict[str, Any]], source: Path, way_out: str
) -> str:
    """As ``render``, of what was read from the file ``source``.

    Raises SettingsError that names it, and the ``way_out``, where it is damaged.
    """
    try:
        return render(template, **values())
    except AnipotError:
        raise
    except Exception as e:
        with damage_named(source, way_out=way_out):
            if isinstance(e, UndefinedError):
                raise ValueError(e.message) from None
            raise


def included(name: str) -> Markup:
    """A file of this package as it is: style, script, or licence (the latter escaped by nobody)."""
    return Markup(files("anipot.report").joinpath(name).read_text(encoding="utf-8"))


# ---- text ----------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits that count, with commas from a thousand on; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else "0" if value == 0 else short(value)
    return text.replace("-", "\N{MINUS SIGN}")


def percent(value: float, largest: float) -> str:
    """Width of a bar, in CSS."""
    return f"{100 * value / largest:.1f}%" if largest > 0 else "0%"


def formula(text: str) -> Markup:
    """A chemical formula with its numbers as subscripts; anything else as it is."""
    if not _FORMULA.fullmatch(text):
        return escape(text)
    return Markup(re.sub(r"(\d+)", r"<sub>\1</sub>", text))


# ---- figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A figure as a data URI, what it shows (for those who do not see it), and its caption."""

    source: str
    shows: str
    caption: str


def figures(folder: Path, wanted: Iterable[tuple[str, str, str]]) -> list[Figure]:
    """Those of ``wanted`` (name without ending, what it shows, caption) that are in ``folder``."""
    found = []
    for name, shows, caption in wanted:
        source = _data_uri(folder / name)
        if source is not None:
            found.append(Figure(source, shows, caption))
    return found


def _data_uri(stem: Path) -> str | None:
    # As images and not as part of the page: identifiers of two inline SVGs would collide.
    kinds = {"svg": "image/svg+xml", "png": "image/png"}
    for ending, kind in kinds.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        if not path.is_file() or not (size := path.stat().st_size):
            continue
        if ending == "svg" and size > _LARGEST_SVG and stem.with_name(f"{stem.name}.png").is_file():
            continue
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return None
