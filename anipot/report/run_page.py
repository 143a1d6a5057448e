"""report.html of a training run, from what is in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anipot.config import RunSettings, checked, read_yaml
from anipot.conformers import Conformers
from anipot.datasets.division import PARTS, Division, read_data
from anipot.datasets.mapping import log
from anipot.errors import AnipotError, SettingsError
from anipot.files import write_text
from anipot.report.options import command, options
from anipot.report.rendering import figures, render
from anipot.report.structures import with_structures

#: More groups than this are a list that nobody reads: those with the largest errors are shown.
_MOST_GROUPS = 20

_FIGURES = (
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

#: What a split of each kind asks, for whoever reads the result.
_ASKS = {
    "conformer": "The split is by conformer: other conformers of the same molecules were trained "
    "on, so this is how well the potential interpolates. For new molecules errors are larger; "
    "split=molecule measures that.",
    "molecule": "The split is by molecule: no conformer of these molecules was trained on.",
    "formula": "The split is by formula, all that the file knows of molecules: nothing of these "
    "compositions was trained on.",
}


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
    run, settings = _read(folder)
    part = "test" if "test" in run["results"] else next(iter(run["results"]), None)
    missing = ""
    if evaluated is None and part is not None:
        try:
            evaluated = _evaluated(folder, settings, part)
        except (AnipotError, OSError) as e:
            log.warning("WARNING, the page shows no structures: %s", e)
            missing = "The data could not be read when this page was written."
    path = folder / "report.html" if out is None else Path(out)
    write_text(path, render("run.html", **_values(folder, run, settings, part, evaluated, missing)))
    return path


def try_run_page(folder: Path, evaluated: Conformers | None = None) -> None:
    """``write_run_page`` at the end of a run, whose results are written: a warning if it fails."""
    try:
        write_run_page(folder, evaluated)
    except Exception as e:  # whatever it is, hours of training must not end in it
        log.warning(
            "WARNING, report.html could not be written (%s: %s); to write it again: "
            "anipot report %s",
            type(e).__name__, e, folder,
        )  # fmt: skip


def _read(folder: Path) -> tuple[dict[str, Any], RunSettings]:
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        settings = checked(RunSettings, read_yaml(folder / "options.yaml"))
    except FileNotFoundError as e:
        raise SettingsError(
            f"{folder} holds no results of a run ({Path(e.filename).name} is missing); if the run "
            f"was interrupted, finish it first: anipot train --resume {folder}"
        ) from None
    except ValueError as e:
        raise SettingsError(f"{folder / 'run.json'} is damaged: {e}") from None
    return run, settings


def _evaluated(folder: Path, settings: RunSettings, part: str) -> Conformers:
    division = Division.load(folder / "split.npz")
    return division.take(read_data(settings.data))[PARTS.index(part)]


def _values(
    folder: Path,
    run: Mapping[str, Any],
    settings: RunSettings,
    part: str | None,
    evaluated: Conformers | None,
    missing: str,
) -> dict[str, Any]:
    results = run["results"].get(part) if part is not None else None
    data = run["data"]
    n_train = data["split"]["train"]
    worst = [] if results is None else with_structures(results["worst"], evaluated)
    if worst and part is not None:  # counted in the part there, and in all the data here
        places = getattr(Division.load(folder / "split.npz"), part)
        worst = [{**row, "conformer": int(places[row["conformer"]])} for row in worst]
    return {
        "name": _name(folder),
        "run": run,
        "members": run.get("results_of_members", []),
        "machine": _machine(folder, run),
        "data": data,
        "bundled": not settings.data.files,
        "part": part,
        "results": results,
        "headline": None if results is None else _headline(results),
        "errors": [
            row for name in reversed(run["results"]) for row in _errors(name, run["results"][name])
        ],
        "asks": _ASKS[data["split"]["by"]],
        "groups": [] if results is None else _groups(results, data["split"]["by"]),
        "worst": worst,
        "structures": [row["xyz"] for row in worst],
        "missing": missing,
        "figures": figures(folder / "plots", _FIGURES),
        "settings": settings,
        "options": options(settings, n_train),
        "command": command(settings, n_train),
        "files": _files(folder),
    }


def _name(folder: Path) -> str:
    """The folder's name; of a member also its ensemble's, for its own is a number."""
    path = folder.resolve()
    return "/".join(path.parts[-3:]) if path.parent.name == "members" else path.name


def _machine(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and machine; of an ensemble those that its first member was trained with."""
    if "machine" not in run:
        with suppress(OSError, ValueError):
            run = json.loads((folder / "members" / "1" / "run.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = run.get("machine", {})
    return found


def _headline(results: Mapping[str, Any]) -> dict[str, Any]:
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


def _groups(results: Mapping[str, Any], by: str) -> list[dict[str, Any]]:
    """Tables of errors by group: title, rows, how many there are, and whether rows are formulas."""
    kinds = [("by_formula", "composition"), ("by_heavy_atoms", "heavy atoms")]
    if by == "molecule":
        kinds.insert(0, ("by_molecule", "molecule"))
    found = []
    for key, title in kinds:
        rows = results[key]
        shown = rows
        if len(rows) > _MOST_GROUPS:
            shown = sorted(rows, key=lambda row: -row["mae"])[:_MOST_GROUPS]
        largest = max((row["rmse"] for row in shown), default=0.0)
        found.append(
            {"title": title, "rows": shown, "of": len(rows), "largest": largest, "key": key}
        )
    return found


def _files(folder: Path) -> list[str]:
    """What else is in the folder, folders with a slash."""
    paths = [p for p in sorted(folder.iterdir()) if p.name != "report.html" and p.name[0] != "."]
    return [f"{p.name}/" if p.is_dir() else p.name for p in paths]
