"""Tables, lists and pages in Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from anipot.system.text import markdown

#: Cells of a row, and the place of the one that is emphasized, if any.
Row = tuple[Sequence[str], int | None]


def markdown_table(heads: Sequence[tuple[str, str]], rows: Sequence[Row]) -> list[str]:
    """Lines; ``heads`` are (title, unit). The first column is to the left, others to the right."""
    titles = [
        markdown(f"{title} {unit if unit.startswith('(') or not unit else f'({unit})'}")
        for title, unit in heads
    ]
    lines = [titles, [":--"] + ["--:"] * (len(heads) - 1)]
    for cells, strong in rows:
        escaped = [markdown(cell) for cell in cells]
        lines.append([f"**{c}**" if k == strong else c for k, c in enumerate(escaped)])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def html_table(heads: Sequence[tuple[str, str]], rows: Sequence[Row]) -> str:
    """The same as a fragment that scrolls where a page is narrow."""
    text = html.escape
    head = "".join(
        f"<th>{text(title)}" + (f"<br><small>{text(unit)}</small>" if unit else "") + "</th>"
        for title, unit in heads
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td><strong>{text(cell)}</strong></td>" if k == strong else f"<td>{text(cell)}</td>"
            for k, cell in enumerate(cells)
        )
        + "</tr>\n"
        for cells, strong in rows
    )
    return (
        f'<div class="wide"><table class="iterations">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def html_list(lines: Sequence[str]) -> str:
    """Lines of text as a list."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:90em;padding:0 1em}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}"
    "th,td{padding:.3em .7em;text-align:right;white-space:nowrap;border-bottom:1px solid #8886}"
    "th:first-child,td:first-child{text-align:left}th{vertical-align:bottom}"
    "img{max-width:100%;background:#fff}"
)


def html_page(title: str, body: str) -> str:
    """A whole page of a fragment."""
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{body}</body></html>\n"
    )
