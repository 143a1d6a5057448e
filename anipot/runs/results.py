"""Files and output at the end of a training run."""

from __future__ import annotations

import csv
import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anipot.config import RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division
from anipot.data.provenance import provenance
from anipot.evaluation.metrics import Evaluation
from anipot.report.figures import plots
from anipot.report.figures.forces import force_parity
from anipot.runs.page import try_run_page
from anipot.system.files import atomic_write, write_text
from anipot.training.trainer import ANITrainer
from anipot.version import __version__

#: Of validation or test parts of millions, so many conformers are scored and listed: errors then
#: are known to a few tenths of a percent. ``anipot evaluate`` scores all.
MOST_SCORED = 1 << 19


def write_results(
    settings: RunSettings,
    folder: Path,
    data: Conformers,
    division: Division,
    trainer: ANITrainer,
    seconds: float,
    failure: str = "",
) -> tuple[Evaluation, Evaluation | None]:
    """Evaluate the best weights, write potential, tables, plots and run.json, print the errors.

    ``failure`` is the reason why the training ended early, if it failed after an epoch with finite
    errors. Returns the errors of the validation and the test part (None where there is none).
    """
    model, history = trainer.model, trainer.history
    best = history.best
    assert best is not None
    seconds = max(seconds, sum(history["seconds"]))  # a resumed run began before this process
    _, validation, test = division.take(data)
    results = {"validation": _scored(trainer, validation)}
    if len(test):
        results["test"] = _scored(trainer, test)
    model.about["data"] |= provenance(data, division, settings.data)
    model.about["errors_kcalmol"] = {n: errors_kcalmol(e) for n, e in results.items()}
    model.save(folder / "potential.safetensors")
    write_text(folder / "metrics.csv", history.to_csv())
    shown = results.get("test", results["validation"])
    if len(test):
        _write_predictions(folder / "test_predictions.csv", shown, division.test)
    plots_folder = folder / "plots"
    plots.save_figure(plots.loss_curve(history), plots_folder / "loss")
    name = "test" if len(test) else "validation"
    plots.save_figure(plots.parity(shown, f"{name} set"), plots_folder / "parity")
    if shown.forces is not None:
        figure = force_parity(shown.forces, shown.scale, f"{shown.unit}/angstrom", f"{name} set")
        plots.save_figure(figure, plots_folder / "force_parity")
    by_group = shown.by_molecule() if division.by == "molecule" else shown.by_formula()
    what = "molecule" if division.by == "molecule" else "composition"
    plots.save_figure(
        plots.error_by_group(by_group, f"{name} error by {what}", shown.unit),
        plots_folder / f"error_by_{what}",
    )
    report = {
        "anipot": __version__,
        "status": "failed" if failure else history.stopped,
        "failure": failure,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "seconds_per_epoch": _median([e.seconds for e in history]),
        "epochs": len(history),
        "best_epoch": best.epoch,
        "best_updates": best.updates,
        "updates": history.epochs[-1].updates,
        "parameters": model.n_parameters,
        "results": {n: e.to_dict() for n, e in results.items()},
        "data": provenance(data, division, settings.data),
        "options": settings.model_dump(),
        "machine": _machine(trainer),
    }
    if division.by != "conformer" and len(test):
        print(Evaluation.table(by_group, f"test error by {division.by}", shown.unit))
    by_size = shown.by_heavy_atoms()
    print(Evaluation.table(by_size, f"{name} error by number of heavy atoms", shown.unit))
    for part, evaluation in results.items():
        print(evaluation.summary(part))
    print(f"best epoch {best.epoch} of {len(history)}, {seconds:.0f} s; {folder}")
    crystals = shown.unit == "eV"
    errors = shown.per_atom if crystals else shown.energy
    unit = shown.per_atom_unit[0] if crystals else shown.unit
    print(
        f"{name} MAE {errors.mae:.3f}, RMSE {errors.rmse:.3f} {unit} on "
        f"{len(shown):,} conformers ({division.describe()})"
    )
    # Last, for they say that the run has ended.
    write_text(folder / "run.json", json.dumps(report, indent=1) + "\n")
    try_run_page(folder, test if len(test) else validation)
    return results["validation"], results.get("test")


def _scored(trainer: ANITrainer, part: Conformers) -> Evaluation:
    """Errors on a part of the data, or on ``MOST_SCORED`` conformers spread evenly over it."""
    if len(part) <= MOST_SCORED:
        return trainer.evaluate(part)
    chosen = np.linspace(0, len(part) - 1, MOST_SCORED).astype(np.int64)
    evaluation = trainer.evaluate(part.take(chosen))
    return replace(evaluation, conformer=chosen[evaluation.conformer])


def errors_kcalmol(evaluation: Evaluation) -> dict[str, Any]:
    """Errors for the potential's ``about``: energies in kcal/mol, forces per angstrom."""
    values = evaluation.in_unit("kcal/mol").to_dict()
    return {**values["energy"], "forces": values["forces"]}


def _write_predictions(path: Path, evaluation: Evaluation, index: np.ndarray) -> None:
    """A line a conformer; conformers are numbered as in the data selected, as in split.npz."""
    evaluation = evaluation.in_unit("kcal/mol")
    names, molecule = evaluation.molecule_names, evaluation.molecule
    columns = (index[evaluation.conformer], evaluation.reference, evaluation.predicted)
    errors = evaluation.errors  # of all conformers: worked out once, not for each line
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["conformer", "molecule", "reference_hartree", "predicted_hartree", "error_kcalmol"]
        )
        for k, (number, reference, predicted) in enumerate(zip(*columns, strict=True)):
            writer.writerow(
                [
                    int(number),
                    names[molecule[k]],
                    repr(float(reference)),
                    repr(float(predicted)),
                    f"{errors[k]:.4f}",
                ]
            )


def _machine(trainer: ANITrainer) -> dict[str, Any]:
    names = ("torch", "torchani", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "aev_engine": trainer.model.aev.engine_on(trainer.device),
        **{name: version(name) for name in names},
    }


def _median(values: list[float]) -> float | None:
    return round(sorted(values)[len(values) // 2], 4) if values else None
