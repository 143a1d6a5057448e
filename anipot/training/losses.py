"""Losses: what training makes small. Each term names the label that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anipot import units
from anipot.config import TrainingSettings
from anipot.data.batches import Batch
from anipot.data.conformers import LABELS, READ_AT_ONCE, Conformers
from anipot.potential.outputs import Outputs
from anipot.registry import Registry

#: (predicted, reference) of one shape, the reference NaN where a conformer lacks the label.
Pair = tuple[Tensor, Tensor]

#: What stands for each label in options and messages: ``energy_weight``.
OPTION = {"energies": "energy", "forces": "force", "stress": "stress"}


def energies_of(outputs: Outputs, batch: Batch, scale: float) -> Pair:
    """(B,) in the target unit; ``scale`` is its value for a hartree."""
    assert batch.energies is not None
    return outputs.energies, batch.energies * scale


def forces_of(outputs: Outputs, batch: Batch, scale: float) -> Pair:
    """(N, 3) in the target unit per angstrom."""
    assert batch.forces is not None
    assert outputs.forces is not None
    return outputs.forces, batch.forces * scale


def stress_of(outputs: Outputs, batch: Batch, scale: float) -> Pair:
    """(B, 3, 3) stress times the volume of an atom, in the target unit.

    So small and large cells count alike, and a stress is comparable with an energy per atom.
    """
    assert batch.stress is not None
    assert batch.cells is not None
    assert outputs.virials is not None
    atoms = batch.n_atoms[:, None, None]
    volume = torch.linalg.det(batch.cells.double()).abs()[:, None, None]
    return outputs.virials / atoms, batch.stress * volume / atoms * scale


PAIRS: dict[str, Callable[[Outputs, Batch, float], Pair]] = {
    "energies": energies_of,
    "forces": forces_of,
    "stress": stress_of,
}


#: Loss terms by the names in the option ``loss_terms``: functions (outputs, batch, scale) that
#: return the loss (B,) of each conformer, float64; ``scale`` is the target unit's value for a
#: hartree. ``outputs.forces`` are computed if the function has an attribute ``derivatives = True``;
#: ``batch.labels`` holds the registered labels that its attribute ``labels`` names.
registered_terms: Registry[Callable[[Outputs, Batch, float], Tensor]] = Registry(
    "loss term", "anipot.loss_terms"
)


@dataclass(frozen=True)
class Term:
    """One term of a loss: ``weight`` times the mean over what is labelled.

    ``needs`` is the label (``"energies"``, ``"forces"``, ``"stress"``). The mean is over
    conformers, over the components of forces, or over those of stress. ``items`` of conformers
    (B,) is the number of these in each, (B,) float64: 0 where the label is missing.
    """

    needs: str
    weight: float
    pair: Callable[[Outputs, Batch, float], Pair]
    shape: Callable[[Tensor, Tensor], Tensor]
    items: Callable[[Tensor], Tensor]
    complete: bool
    scale: float

    def sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum over what is labelled in a batch, not weighted (a float64 scalar)."""
        predicted, reference = self.pair(outputs, batch, self.scale)
        if not self.complete:
            # No error where there is no label, and not NaN, of which the gradient would be NaN too.
            reference = torch.where(torch.isnan(reference), predicted.detach(), reference)
        error = predicted - reference
        return self.shape(error, batch.n_atoms).sum(dtype=torch.float64)

    def count(self, index: Tensor) -> Tensor:
        """Number of labelled items of the conformers ``index`` (a scalar; at least 1)."""
        return self.items(index).sum().clamp(min=1.0)


def loss_terms(
    settings: TrainingSettings,
    data: Conformers,
    device: torch.device,
    streams: bool | None = None,
) -> list[Term]:
    """The terms with a weight, for a data set. A term whose label no conformer has counts nothing.

    ``streams``: whether labels are counted when a batch needs it and not once for all conformers
    (default: where ``data`` streams; a store that has been copied to a GPU does not).
    Errors are in ``settings.target_unit`` (forces: per angstrom). "mse": squared error;
    "mse/sqrt(n)": squared error of energies over the square root of the number of atoms (TorchANI's
    choice), forces and stress as "mse"; "huber": half the squared error up to ``huber_delta``,
    linear beyond. With ``per_atom`` energies are divided by the number of atoms first.
    """
    terms = []
    for label, weight in weights(settings).items():
        terms.append(
            Term(
                label,
                weight,
                PAIRS[label],
                _shape(settings, label),
                _items(data, label, device, data.streams if streams is None else streams),
                bool(data.has(label).all()),
                units.hartree_to(settings.target_unit),
            )
        )
    for name, weight in settings.loss_terms.items():
        terms.append(_registered(name, weight, device, units.hartree_to(settings.target_unit)))
    return terms


def _registered(name: str, weight: float, device: torch.device, scale: float) -> Term:
    """The term of a registered function, of which every conformer is one item."""
    function = registered_terms[name]

    def pair(outputs: Outputs, batch: Batch, scale: float) -> Pair:
        losses = function(outputs, batch, scale)
        return losses, torch.zeros_like(losses)

    return Term(
        "forces" if getattr(function, "derivatives", False) else "energies",
        weight,
        pair,
        lambda error, n_atoms: error,
        lambda index: torch.ones(len(index), dtype=torch.float64, device=device),
        True,
        scale,
    )


def _items(
    data: Conformers, label: str, device: torch.device, streams: bool
) -> Callable[[Tensor], Tensor]:
    """Number of labelled items of each conformer; see ``Term``."""

    def of(index: np.ndarray) -> Tensor:
        has = data.has_at(label, index)
        each: np.ndarray | int = {"energies": 1, "stress": 9}.get(label, 0)
        if label == "forces":
            each = 3 * np.diff(data.atoms_at(index)[1])
        return torch.as_tensor(np.where(has, each, 0).astype(np.float64)).to(device)

    if streams:
        return lambda index: of(index.cpu().numpy())
    everything = torch.zeros(len(data), dtype=torch.float64, device=device)
    for start in range(0, len(data), READ_AT_ONCE):  # all atoms at once would be 17 bytes each
        end = min(start + READ_AT_ONCE, len(data))
        everything[start:end] = of(np.arange(start, end))
    return lambda index: everything[index]


def labels_of(settings: TrainingSettings) -> set[str]:
    """Names of the labels that batches need: those of all terms, and energies."""
    terms = (registered_terms[name] for name in settings.loss_terms)
    return {"energies", *weights(settings), *(n for t in terms for n in getattr(t, "labels", ()))}


def weights(settings: TrainingSettings) -> dict[str, float]:
    """Label -> weight, of the labels that are trained on."""
    every = {label: getattr(settings, f"{OPTION[label]}_weight") for label in LABELS}
    return {label: weight for label, weight in every.items() if weight}


def _shape(settings: TrainingSettings, label: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(errors, atoms of each conformer) -> what each error adds to the loss."""
    delta, energies = settings.huber_delta, label == "energies"

    def square(error: Tensor, n_atoms: Tensor) -> Tensor:
        return error.square()

    def over_root(error: Tensor, n_atoms: Tensor) -> Tensor:
        return error.square() / n_atoms.double().sqrt()  # the root of integers is float32

    def huber(error: Tensor, n_atoms: Tensor) -> Tensor:
        zero = torch.zeros_like(error)
        return torch.nn.functional.huber_loss(error, zero, reduction="none", delta=delta)

    if settings.loss == "huber":
        shape = huber
    else:
        shape = over_root if settings.loss == "mse/sqrt(n)" and energies else square
    if not (settings.per_atom and energies):
        return shape
    return lambda error, n_atoms: shape(error / n_atoms, n_atoms)


def loss_unit(settings: TrainingSettings) -> str:
    """Unit of the loss, for tables and axes; empty where it is a sum of several."""
    if set(weights(settings)) != {"energies"} or settings.energy_weight != 1.0:
        return ""
    if settings.loss_terms:
        return ""
    if settings.per_atom:
        return f"({settings.target_unit}/atom)^2"
    if settings.loss == "mse/sqrt(n)":
        return f"({settings.target_unit})^2/sqrt(atom)"
    return f"({settings.target_unit})^2"
