"""Overview of a data set: composition, energies against size, correlations."""

from __future__ import annotations

from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.networks.self_energies import SelfEnergies
from anipot.report.figures.style import short
from anipot.studies import explore_figures as figures
from anipot.studies.common import Study
from anipot.units import HARTREE_TO_KCALMOL

#: The lectures' correlation of energies with the number of atoms (of crystals, not of molecules).
SOURCE_CORRELATION = -0.965


def overview(study: Study, data: Conformers) -> dict[str, Any]:
    """Overview of the data: composition, energies against size, correlations."""
    study.say(
        f"## The data\n\n{len(data):,} conformers of {len(np.unique(data.molecule))} "
        f"{data.grouped_by}s, {len(data.atomic_numbers):,} atoms."
    )
    counts = data.composition()
    study.table(
        ["element", "atoms", "share", "conformers with it", "most in one"],
        [
            [e, f"{c.sum():,}", f"{c.sum() / counts.sum():.1%}", f"{(c > 0).mean():.0%}", c.max()]
            for e, c in zip(data.elements, counts.T, strict=True)
        ],
    )
    columns = {"atoms": data.n_atoms.astype(float)}
    columns |= {f"n({e})": c.astype(float) for e, c in zip(data.elements, counts.T, strict=True)}
    labelled = data.has("energies")
    result: dict[str, Any] = {}
    energies = None
    if data.energies is not None and labelled.sum() > 2:
        energies = data.energies[labelled]
        own = SelfEnergies.fit(data, data.elements).of(data)
        above = (data.energies - own) * HARTREE_TO_KCALMOL
        columns = {"energy": data.energies, "energy above fit": above, **columns}
        line = np.polyval(np.polyfit(columns["atoms"][labelled], energies, 1), columns["atoms"])
        result["rmse"] = {
            "mean": energies.std() * HARTREE_TO_KCALMOL,
            "line": _rms(energies - line[labelled]) * HARTREE_TO_KCALMOL,
            "composition": _rms(above[labelled]),
        }
        result["r_composition"] = float(np.corrcoef(energies, own[labelled])[0, 1])
    if data.forces is not None and data.has("forces").all():
        norm = np.linalg.norm(data.forces, axis=1)
        columns["mean force"] = np.add.reduceat(norm, data.offsets[:-1]) / data.n_atoms
    table = np.stack([c[labelled] if energies is not None else c for c in columns.values()])
    with np.errstate(invalid="ignore"):  # a column that never changes has no correlation
        matrix = np.corrcoef(table)
    result["correlation"] = {"names": list(columns), "matrix": matrix}
    if energies is not None:
        result["energy_atoms"] = matrix[0, list(columns).index("atoms")]
        study.table(
            ["energies explained by", "R, lectures", "R", "RMSE, kcal/mol"],
            [
                ["their mean", "-", "-", short(result["rmse"]["mean"])],
                ["a line in the number of atoms", f"{abs(SOURCE_CORRELATION)}",
                 f"{abs(result['energy_atoms']):.3f}", short(result["rmse"]["line"])],
                ["the composition (self energies)", "-",
                 f"{result['r_composition']:.7f}", short(result["rmse"]["composition"])],
            ],
        )  # fmt: skip
    study.figure(
        figures.overview(
            data.n_atoms if energies is None else data.n_atoms[labelled], energies,
            dict(zip(data.elements, counts.T, strict=True)), list(columns), matrix,
        ),
        "overview",
        "Energies against size, atoms of each element in a conformer, and correlations.",
    )  # fmt: skip
    return result


def _rms(values: np.ndarray) -> float:
    return float((values**2).mean() ** 0.5)
