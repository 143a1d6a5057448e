"""Files and output at the end of the training of an ensemble."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from anipot.config import MACHINE_OPTIONS, RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division
from anipot.data.provenance import provenance
from anipot.errors import DataError
from anipot.evaluation.calibration import Calibration, calibrate
from anipot.evaluation.metrics import Evaluation
from anipot.potential.ensemble import ANIEnsemble
from anipot.report.figures import plots
from anipot.report.figures.calibration import calibration_plot
from anipot.report.figures.forces import force_parity
from anipot.runs.page import try_run_page
from anipot.runs.results import errors_kcalmol
from anipot.system.files import damage_named, read_json, write_text
from anipot.training.trainer import evaluate
from anipot.units import HARTREE_TO_KCALMOL
from anipot.version import __version__

Found = tuple[Evaluation | None, Evaluation | None, Calibration | None]


def write_member_results(
    settings: RunSettings,
    folder: Path,
    data: Conformers,
    division: Division,
    ensemble: ANIEnsemble,
    members: list[Path],
) -> Found:
    """Evaluate and calibrate the ensemble, write potential, table, plots and run.json, print.

    The deviation is calibrated on the validation part; on the test part where members validated on
    different folds, of which each knows those of the others. Returns the errors on validation and
    test part and the calibration, None for what there is not.
    """
    parts = dict(zip(("train", "validation", "test"), division.take(data), strict=True))
    del parts["train"]
    if settings.ensemble.by_folds:
        del parts["validation"]  # seen in the training of all members but one
    parts = {name: part for name, part in parts.items() if len(part)}
    found = {name: evaluate(ensemble, part) for name, part in parts.items()}
    by_member = [_results(path) for path in members]
    calibration = _calibration(ensemble, parts, data)
    ensemble.about = {
        "level_of_theory": data.level_of_theory,
        "data": provenance(data, division, settings.data)
        | {"members_by_fold": settings.ensemble.by_folds},
        "training": settings.training.model_dump(exclude=MACHINE_OPTIONS),
        "errors_kcalmol": {name: errors_kcalmol(e) for name, e in found.items()},
        "errors_of_the_mean_member_kcalmol": {
            name: {
                key: _mean(by_member, name, key) * (HARTREE_TO_KCALMOL / evaluation.scale)
                for key in ("mae", "rmse")
            }
            for name, evaluation in found.items()
        },
    }
    if calibration is not None:
        ensemble.about["calibrated"] = calibration.about()
    ensemble.save(folder / "potential.safetensors")
    _write(settings, folder, data, division, ensemble, found, by_member, calibration)
    if "test" in parts:
        _write_predictions(folder / "test_predictions.csv", ensemble, parts["test"], division.test)
    try_run_page(folder, parts.get("test", parts.get("validation")))
    if calibration is not None:
        print(f"calibration on {calibration.data}:\n{calibration}")
    for name, evaluation in found.items():
        print(evaluation.summary(name))
    for name, evaluation in found.items():
        stats = evaluation.energy
        print(
            f"{name} MAE {stats.mae:.3f}, RMSE {stats.rmse:.3f} {evaluation.unit} of the "
            f"{len(members)} members together; {_mean(by_member, name, 'mae'):.3f}, "
            f"{_mean(by_member, name, 'rmse'):.3f} of one alone, on average "
            f"({len(evaluation):,} conformers)"
        )
    return found.get("validation"), found.get("test"), calibration


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    with damage_named(path, way_out=f"remove {folder}, and the member is trained again"):
        found: dict[str, Any] = read_json(path)["results"]
        for result in found.values():
            for key in ("mae", "rmse"):
                float(result["energy"][key])
    return found


def _mean(by_member: list[dict[str, Any]], part: str, key: str) -> float:
    """The members' mean error of energies, in the unit that they and the ensemble have for it."""
    return float(np.mean([results[part]["energy"][key] for results in by_member]))


def _calibration(
    ensemble: ANIEnsemble, parts: dict[str, Conformers], data: Conformers
) -> Calibration | None:
    name = next(iter(parts), None)
    if name is None:
        return None
    files = ", ".join(dict.fromkeys(Path(s).name for s in data.sources))
    try:
        return calibrate(ensemble, parts[name], f"the {name} part of {files}")
    except DataError as e:
        print(f"not calibrated: {e}")
        return None


def _write(
    settings: RunSettings,
    folder: Path,
    data: Conformers,
    division: Division,
    ensemble: ANIEnsemble,
    found: dict[str, Evaluation],
    by_member: list[dict[str, Any]],
    calibration: Calibration | None,
) -> None:
    """run.json and the figures."""
    report = {
        "anipot": __version__,
        "status": "finished",
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "parameters": ensemble.n_parameters,
        "results": {name: e.to_dict() for name, e in found.items()},
        "results_of_members": [
            {part: results[part]["energy"] for part in results} for results in by_member
        ],
        "calibration": None if calibration is None else calibration.to_dict(),
        "data": provenance(data, division, settings.data),
        "options": settings.model_dump(),
    }
    write_text(folder / "run.json", json.dumps(report, indent=1) + "\n")
    if calibration is not None:
        plots.save_figure(calibration_plot(calibration), folder / "plots" / "calibration")
    if not found:
        return
    name, shown = list(found.items())[-1]
    plots.save_figure(plots.parity(shown, f"{name} set"), folder / "plots" / "parity")
    if shown.forces is not None:
        figure = force_parity(shown.forces, shown.scale, f"{shown.unit}/angstrom", f"{name} set")
        plots.save_figure(figure, folder / "plots" / "force_parity")
    what = "molecule" if division.by == "molecule" else "composition"
    rows = shown.by_molecule() if what == "molecule" else shown.by_formula()
    figure = plots.error_by_group(rows, f"{name} error by {what}", shown.unit)
    plots.save_figure(figure, folder / "plots" / f"error_by_{what}")


def _write_predictions(
    path: Path, ensemble: ANIEnsemble, test: Conformers, index: np.ndarray
) -> None:
    """A line a test conformer, numbered as in the data selected, as in split.npz."""
    found = ensemble.predict(test)
    spread = found.disagreement(test) * HARTREE_TO_KCALMOL
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "conformer molecule reference_hartree predicted_hartree error_kcalmol"
    writer.writerow([*names.split(), "disagreement_kcalmol"])
    for k in np.flatnonzero(test.has("energies")):
        assert test.energies is not None
        reference, predicted = float(test.energies[k]), float(found.energies[k])
        error = (predicted - reference) * HARTREE_TO_KCALMOL
        name = test.molecule_names[test.molecule[k]]
        writer.writerow(
            [index[k], name, repr(reference), repr(predicted), f"{error:.4f}", f"{spread[k]:.4f}"]
        )
    write_text(path, text.getvalue())
