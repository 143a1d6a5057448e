"""Targets: the labels of a data set, less what the networks are not to learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from anipot.conformers import Conformers
from anipot.model import ANIModel


def without_repulsion(model: ANIModel, data: Conformers) -> Conformers:
    """``data`` with the model's repulsion of nuclei taken off its labels, computed once."""
    if model.repulsion is None:
        return data
    energies, forces, virials = model.repulsion.of(data)
    changed: dict[str, Any] = {}
    if data.energies is not None:
        changed["energies"] = data.energies - energies
    if data.forces is not None:
        changed["forces"] = data.forces - forces
    if data.stress is not None and data.cells is not None:
        volume = np.abs(np.linalg.det(data.cells.astype(np.float64)))
        per_volume = np.divide(1.0, volume, out=np.zeros_like(volume), where=volume > 0)
        changed["stress"] = data.stress - virials * per_volume[:, None, None]
    return replace(data, **changed)


def network_targets(model: ANIModel, data: Conformers) -> Conformers:
    """``data`` with labels of which self energies and repulsion are taken off, in float64.

    Energies are NaN where a conformer has none.
    """
    left = without_repulsion(model, data)
    assert left.energies is not None
    above = left.energies - model.self_energies.of(data)
    return replace(left, energies=np.where(data.has("energies"), above, np.nan))
