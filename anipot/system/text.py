"""Numbers and tables as text: for the terminal, Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any


def number(value: float | None, none: str = "-") -> str:
    """Three significant digits, without an exponent between 1e-3 and 1e5; ``none`` for no value."""
    if value is None or math.isnan(value):
        return none
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}" if -3 <= decimals <= 5 else f"{value:.3g}"


def count(n: int, noun: str) -> str:
    """ "1 run", "1,200 runs"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Lines with the cells of each column aligned: to the left in ``left``, else to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]


def markdown(text: str) -> str:
    """Escape text for one line of Markdown."""
    text = re.sub(r"[\\`*\[\]|~]", r"\\\g<0>", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # within a word it means nothing
    return html.escape(text, quote=False)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV with a header. ``columns``: by default all keys, in order of appearance."""
    rows = list(rows)
    names = columns if columns is not None else list(dict.fromkeys(k for row in rows for k in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
