"""A table as pages: Markdown and HTML, with what must be known to read it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from urllib.parse import quote

from anipot.experiments.table.columns import columns, with_spread
from anipot.experiments.table.comparison import RULE, compare, effects, verdict
from anipot.experiments.table.table import IMPROVING_RULE, IterationTable
from anipot.experiments.table.tuning import tried, tuning_notes
from anipot.report.markup import Row, html_list, html_page, html_table, markdown_table
from anipot.system.text import markdown

#: Figures of a table, and what they show.
FIGURES = {
    "table": "The table",
    "curves": "Validation MAE of every run",
    "cost": "Accuracy against cost, with the Pareto front",
    "effects": "What each setting did by itself",
}


def notes(table: IterationTable) -> list[str]:
    """Notes needed to read the table, a sentence or two each."""
    n = len(table.seeds)
    several = f"mean ± sample standard deviation over {n} seeds" if n > 1 else "one seed each"
    return [
        *table.about,
        *tuning_notes(table),
        f"Every run has fresh weights; errors are those of its best weights, chosen on validation: "
        f"{several}, of runs that ended as planned.",
        f"{IMPROVING_RULE[0].upper()}{IMPROVING_RULE[1:]}.",
        "Smallest loss: the lowest mean training loss of an epoch. Epochs to best: the epoch of "
        "the best weights, of all. Times are as measured, on a machine that may have had other "
        "work; an epoch's is the median.",
        "Peak memory: the most resident memory of the process that trained the run, with Python, "
        "torch and the data (Linux only).",
        *(f"{row.name}: {row.failure}" for row in table.rows if row.failure),
        *(f"In the folder {below.folder.name}: {below.title}." for below in table.further),
    ]


def comparisons(table: IterationTable) -> list[str]:
    """A sentence for each row: against the base row, and against the best one on validation."""
    base, best = table.base_row, table.best_row
    found = []
    for row in table.rows:
        error = row.error(table.judged)
        if error is None:
            continue
        said = [compare(row, other, table.judged).sentence(table.unit)
                for other in ([base] if best is None or best is base else [base, best])
                if other is not row]  # fmt: skip
        here = " and ".join(
            what for what, that in (("the base", base), ("the best on validation", best))
            if that is row
        )  # fmt: skip
        head = f"{row.name} ({here})" if here else row.name
        told = f"{head}: {table.judged} MAE {with_spread(error, row)} {table.unit}"
        found.append("; ".join([told, *said]))
    return found


def effect_lines(table: IterationTable) -> dict[str, list[str]]:
    """For each option that varies what it did by itself, in sentences."""
    return {
        option.split(".")[1].replace("_", " "): [e.sentence(table.unit) for e in those]
        or ["no two rows differ in it alone, so what it does by itself is not known"]
        for option, those in effects(table).items()
    }


def claim_lines(table: IterationTable) -> list[str]:
    """A sentence for each conclusion that the table tests."""
    return [f"{c.claim[:1].upper()}{c.claim[1:]}: {verdict(table, c)}" for c in table.claims]


def rule(table: IterationTable) -> str:
    return RULE.format(part=table.judged)


# ---- out -----------------------------------------------------------------------------------------


def to_markdown(table: IterationTable, figures: Sequence[str] = ()) -> str:
    """The page: table, notes, comparisons, what each setting did by itself, figures by name."""
    lines = [f"# {markdown(table.title)}", "", *markdown_table(*_cells(table))]
    lines += [
        f"\nThen: [{markdown(below.title)}]({quote(below.folder.name)}/table.md)"
        for below in table.further
    ]
    lines += ["", *(f"- {markdown(note)}" for note in notes(table))]
    found = tried(table)
    if found is not None:
        lines += ["", f"## {markdown(found.title)}", "", *markdown_table(found.heads, found.rows)]
    lines += ["", "## Comparisons", "", *(f"- {markdown(line)}" for line in comparisons(table))]
    lines += ["", markdown(rule(table))]
    by_option = effect_lines(table)
    if by_option:
        lines += ["", "## What each setting did by itself", ""]
        lines += [
            f"- {option}:" + (f" {markdown(those[0])}" if len(those) == 1 else "")
            + "".join(f"\n  - {markdown(line)}" for line in those if len(those) > 1)
            for option, those in by_option.items()
        ]  # fmt: skip
    if table.claims:
        lines += [
            "",
            "## Which conclusions survive",
            "",
            *(f"- {markdown(c)}" for c in claim_lines(table)),
        ]
    for name in figures:
        lines += ["", f"![{FIGURES[name]}](plots/{name}.png)"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def to_html(table: IterationTable) -> str:
    """A fragment: table, notes, comparisons, what each setting did by itself, conclusions."""
    text, items = html.escape, html_list
    further = "".join(
        f'<p>Then: <a href="{quote(below.folder.name)}/table.html">{text(below.title)}</a></p>\n'
        for below in table.further
    )
    by_option = "".join(
        f"<h3>{text(option)}</h3>{items(those)}" for option, those in effect_lines(table).items()
    )
    found = tried(table)
    values = "" if found is None else html_table(found.heads, found.rows)
    return (
        f"{html_table(*_cells(table))}{further}{items(notes(table))}\n"
        + ("" if found is None else f"<h2>{text(found.title)}</h2>\n{values}")
        + "<h2>Comparisons</h2>\n"
        f"{items(comparisons(table))}\n<p>{text(rule(table))}</p>\n"
        + (f"<h2>What each setting did by itself</h2>\n{by_option}\n" if by_option else "")
        + (
            f"<h2>Which conclusions survive</h2>\n{items(claim_lines(table))}\n"
            if table.claims
            else ""
        )
    )


def _cells(table: IterationTable) -> tuple[list[tuple[str, str]], list[Row]]:
    shown = columns(table)
    return [(c.title, c.unit) for c in shown], [
        ([c.cell(row) for c in shown], None) for row in table.rows
    ]


def to_page(table: IterationTable, figures: Sequence[str] = ()) -> str:
    """The same as a page, with figures from the folder beside it."""
    images = "".join(f'<p><img src="plots/{f}.png" alt="{FIGURES[f]}"></p>\n' for f in figures)
    return html_page(table.title, f"{to_html(table)}{images}")
