"""Targets: the labels of a data set, less what the networks are not to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anipot.config import TrainingSettings
from anipot.data.conformers import Conformers
from anipot.data.selection import isolated_atoms
from anipot.elements import parse_elements
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel


def with_isolated_atoms(
    settings: TrainingSettings,
    train: Conformers,
    val: Conformers,
    elements: str | Sequence[str] | None = None,
) -> tuple[TrainingSettings, Conformers, Conformers]:
    """Apply ``self_energies=isolated``: return options with self energies by element, and the parts
    without the single atoms they come from. Other options are returned unchanged.

    ``elements`` are those of the model, by default those of the rest. Raises DataError for an
    element that has no isolated atom.
    """
    if settings.self_energies != "isolated":
        return settings, train, val
    masks = [isolated_atoms(part) for part in (train, val)]
    parts = [part.take(mask) for part, mask in zip((train, val), masks, strict=True)]
    there = [part for part in parts if len(part)] or parts[:1]
    atoms = Conformers.concatenate([part.by_formula() for part in there])
    train, val = train.take(~masks[0]), val.take(~masks[1])
    wanted = train.elements if elements is None else parse_elements(elements)
    own = SelfEnergies.isolated(atoms, wanted)
    values = dict(zip(own.elements, own.values.tolist(), strict=True))
    return settings.model_copy(update={"self_energies": values}), train, val


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
    return data.replaced(**changed)


def network_targets(model: ANIModel, data: Conformers) -> Conformers:
    """``data`` with labels of which self energies and repulsion are taken off, in float64.

    Energies are NaN where a conformer has none.
    """
    left = without_repulsion(model, data)
    assert left.energies is not None
    above = left.energies - model.self_energies.of(data)
    return left.replaced(energies=np.where(data.has("energies"), above, np.nan))
