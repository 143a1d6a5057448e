"""report.html of a training run, from what is in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anipot.data.conformers import Conformers
from anipot.data.mapping import log
from anipot.report.rendering import figures, render_results
from anipot.runs.folder import RunFolder, files_in
from anipot.runs.option_table import command, options
from anipot.system.files import write_text

#: Figures of a run: name, what one sees, caption.
FIGURES = (
    (
        "loss",
        "Losses, validation errors and learning rate against the epoch",
        "Training: losses, errors of the validation part, learning rate. The dashed line is the "
        "epoch whose weights were kept.",
    ),
    (
        "parity",
        "Predicted against reference energies, and a histogram of the errors",
        "Energies above the self energies, predicted against reference, and their errors.",
    ),
    (
        "force_parity",
        "Predicted against reference force components",
        "Components of the forces, predicted against reference.",
    ),
    (
        "calibration",
        "Errors against the disagreement of the members",
        "What error a disagreement of the members means.",
    ),
    (
        "learning_curve",
        "Test errors against the number of training conformers",
        "Test errors of trainings on parts of the training part, with about as many updates each.",
    ),
)

#: What a split of each kind asks, for whoever reads the result; {group} is molecule or formula.
_ASKS = {
    "conformer": "The split is by conformer: other conformers of the same {group}s were trained "
    "on, so this is how well the potential interpolates. For a new {group} errors are larger; "
    "split={group} measures that.",
    "molecule": "The split is by molecule: no conformer of these molecules was trained on.",
    "formula": "The split is by formula, all that the file knows of molecules: nothing of these "
    "compositions was trained on.",
}


def asks(found: RunFolder) -> str:
    """The question that the result of a run answers."""
    group = "molecule" if found.results is None else found.results["grouped_by"]
    return _ASKS[found.run["data"]["split"]["by"]].format(group=group)


def write_run_page(
    folder: str | Path, evaluated: Conformers | None = None, out: str | Path | None = None
) -> Path:
    """Write the page of the run in ``folder``, of one potential or an ensemble; returns its path.

    ``evaluated`` are the conformers of the part that the page is about (test, or else validation),
    whose structures are shown; None: they are read again, and the page says so where that fails.
    ``out``: another file than ``report.html`` in the folder. Raises SettingsError for a folder
    without the results of a run.
    """
    folder = Path(folder)
    found = RunFolder.read(folder)
    page = render_results(
        "run.html", lambda: _values(found, evaluated), folder / "run.json", found.way_out(folder)
    )
    path = folder / "report.html" if out is None else Path(out)
    write_text(path, page)
    return path


def try_run_page(folder: Path, evaluated: Conformers | None = None) -> None:
    """``write_run_page`` at the end of a run, whose results are written: a warning if it fails."""
    with page_or_warning(folder):
        write_run_page(folder, evaluated)


@contextmanager
def page_or_warning(folder: Path) -> Iterator[None]:
    """Turn errors of a report into a warning that names the command to write it again."""
    try:
        yield
    except Exception as e:  # whatever it is, hours of training must not end in it
        log.warning(
            "WARNING, report.html could not be written (%s: %s); to write it again: "
            "anipot report %s",
            type(e).__name__, e, folder,
        )  # fmt: skip


def _values(found: RunFolder, evaluated: Conformers | None) -> dict[str, Any]:
    run, settings, results = found.run, found.settings, found.results
    data = run["data"]
    # The part that the page is about comes first.
    parts = sorted(run["results"], key=lambda part: part != found.part)
    return {
        **found.shown(evaluated),
        "name": _name(found.folder),
        "run": run,
        "members": run.get("results_of_members", []),
        "machine": found.machine,
        "data": data,
        "bundled": not settings.data.files,
        "headline": None if results is None else headline(results),
        "errors": [row for part in parts for row in _errors(part, run["results"][part])],
        "asks": asks(found),
        "figures": figures(found.folder / "plots", FIGURES),
        "settings": settings,
        "options": options(settings, found.n_train),
        "command": command(settings, found.n_train),
        "files": files_in(found.folder),
    }


def _name(folder: Path) -> str:
    """The folder's name; of a member also its ensemble's, for its own is a number."""
    path = folder.resolve()
    return "/".join(path.parts[-3:]) if path.parent.name == "members" else path.name


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The number that the page begins with: of crystals, energies per atom."""
    crystals = results["unit"] == "eV"
    stats = results["per_atom" if crystals else "energy"]
    return {**stats, "unit": results["per_atom_unit"] if crystals else results["unit"]}


def _errors(part: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for kind, label in (
        ("energy", "energy"),
        ("per_atom", "energy per atom"),
        ("relative", f"relative energy within a {results['grouped_by']}"),
        ("forces", "force components"),
        ("stress", "stress components"),
    ):
        stats = results[kind]
        if stats is None:
            continue
        unit = results["per_atom_unit"] if kind == "per_atom" else results["unit"]
        rows.append({"part": part, "label": label, "unit": unit, **stats})
    return rows
