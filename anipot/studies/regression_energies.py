"""The regression study on energies: self energies, and the scale in which networks learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.data.published.bundled import load_bundled
from anipot.evaluation.error_stats import ErrorStats
from anipot.networks.self_energies import SelfEnergies
from anipot.studies.common import Study
from anipot.studies.regression_figures import composition_figure, error_figure
from anipot.studies.regression_models import Targets, fit_energies
from anipot.units import HARTREE_TO_KCALMOL


def self_energies(study: Study) -> dict[str, Any]:
    """Self energies as linear regression on the composition, with the metrics of the line."""
    data = load_bundled()
    training, test = data.split(0.8, 0.2, seed=0)
    assert test.energies is not None
    own = SelfEnergies.fit(training, data.elements)
    predicted = own.of(test)
    stats = ErrorStats.of(test.energies * HARTREE_TO_KCALMOL, predicted * HARTREE_TO_KCALMOL)
    counts = training.composition(data.elements).astype(float)
    eigenvalues = np.linalg.eigvalsh(2 * counts.T @ counts / len(counts))
    study.say(
        "## Self energies: a line in four dimensions\n\nThe energy of a molecule as a sum over its "
        f"atoms of one number for each element, from {len(training):,} bundled conformers:"
    )
    study.table(
        ["element", "self energy, hartree"],
        [[e, f"{v:.5f}"] for e, v in zip(own.elements, own.values, strict=True)],
    )
    study.table(
        ["test", "N", "R2", "RMSE, kcal/mol", "MAE, kcal/mol"],
        [
            ["total energies", f"{stats.n:,}", f"{stats.r2:.7f}", f"{stats.rmse:.2f}",
             f"{stats.mae:.2f}"]
        ],
    )  # fmt: skip
    study.figure(
        composition_figure(test, predicted),
        "composition",
        "Energies of test conformers against their self energies, and what is left over.",
    )
    return {
        "self_energies": dict(zip(own.elements, own.values.tolist(), strict=True)),
        **stats.to_dict(),
        "largest_rate": 2 / float(eigenvalues[-1]),
        "condition": float(eigenvalues[-1] / eigenvalues[0]),
    }


def scaled_targets(
    study: Study, per_molecule: int, epochs: int, threads: int | None
) -> list[dict[str, Any]]:
    """Short trainings on energies in several scales, by two optimizers."""
    data = load_bundled().select(per_molecule=per_molecule)
    training, validation, test = data.split(0.8, 0.1, 0.1, seed=0)
    own = SelfEnergies.fit(training, training.elements)
    spread = _spread(training, own)
    wanted = {
        "total energies, hartree": Targets(SelfEnergies.zero(training.elements), 1.0),
        "less self energies, hartree": Targets(own, 1.0),
        "less self energies, kcal/mol": Targets(own, HARTREE_TO_KCALMOL),
        "less self energies, spread 1": Targets(own, 1 / spread),
    }
    rows = []
    for (name, targets), optimizer in (
        (w, o) for w in wanted.items() for o in (("adamw", 2e-3), ("sgd", 1e-2))
    ):
        fit = study.once(
            f"{name}-{optimizer[0]}".replace(",", "").replace(" ", "-").replace("/", "-"),
            lambda t=targets, o=optimizer: fit_energies(  # type: ignore[misc]
                t, training, validation, test, epochs, 0, threads, optimizer=o[0],
                learning_rate=o[1],
            ),
        )  # fmt: skip
        of = targets.apply(training).energies
        assert of is not None
        rows.append(
            {"targets": name, "optimizer": optimizer[0], "mean": float(of.mean()),
             "spread": float(of.std()), **fit}
        )  # fmt: skip
    study.say(
        f"## The scale of targets\n\n{len(training):,} conformers of {per_molecule} per bundled "
        f"molecule, networks 64-32, {epochs} epochs: too short to be good, long enough to tell. "
        "Test MAE in kcal/mol; the learning rate is one for all targets, 2e-3 for AdamW and 1e-2 "
        f"for SGD. Always to predict the self energies gives an RMSE of "
        f"{spread * HARTREE_TO_KCALMOL:.1f} on the training set."
    )
    by = {(row["targets"], row["optimizer"]): row for row in rows}
    study.table(
        ["networks learn", "mean", "spread", "AdamW", "SGD"],
        [
            [name, f"{by[name, 'adamw']['mean']:.3g}", f"{by[name, 'adamw']['spread']:.3g}",
             *(mae_of(by[name, o]) for o in ("adamw", "sgd"))]
            for name in wanted
        ],
    )  # fmt: skip
    study.figure(
        error_figure(
            {
                r["targets"]: np.sqrt(r["val_loss"])
                / wanted[r["targets"]].factor
                * HARTREE_TO_KCALMOL
                for r in rows
                if r["optimizer"] == "adamw" and "val_loss" in r
            },
            "Validation RMSE (kcal/mol)",
        ),
        "targets-errors",
        "Validation errors with AdamW.",
    )
    return rows


def _spread(data: Conformers, own: SelfEnergies) -> float:
    """Standard deviation of energies above self energies, hartree."""
    assert data.energies is not None
    return float((data.energies - own.of(data)).std())


def mae_of(row: Mapping[str, Any]) -> str:
    """The test MAE of one of ``scaled_targets``, kcal/mol, as text."""
    return "diverges" if "stopped" in row else f"{row['mae']:,.3g}"
