"""Potential: what ANIModel and ANIEnsemble have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from anipot.aev.computer import AEVComputer
from anipot.data.batches import Batch, known_species
from anipot.data.conformers import Conformers, check_conformers
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.inference import Evaluator
from anipot.potential.prediction import Prediction
from anipot.potential.stepper import Stepper

if TYPE_CHECKING:
    from anipot.potential.calculator import ANICalculator
    from anipot.potential.model import ANIModel


class Potential(nn.Module):
    """A potential: one ANIModel, or an ANIEnsemble of several that share their AEVs.

    ``anipot.load`` returns one. ``about`` describes its origin as plain data and is saved with it.
    """

    #: The AEV computer of all members.
    aev: AEVComputer
    #: Elements whose networks have been trained in every member; none of a new model.
    trained: tuple[str, ...]
    #: Self energies in hartree; of an ensemble, their mean over the members.
    self_energies: SelfEnergies
    about: dict[str, Any]

    @property
    def models(self) -> tuple[ANIModel, ...]:
        """The members of an ensemble; a model is its own only member."""
        raise NotImplementedError

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements the potential has networks for, in the order of the AEV."""
        return self.aev.settings.elements

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the networks."""
        return self.models[0].networks.dtype

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.models[0].networks.parameters()).device

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, of all members together."""
        return sum(p.numel() for m in self.models for p in m.networks.parameters())

    def batch(self, conformers: Conformers) -> Batch:
        """All of ``conformers`` as one batch in the potential's precision, on its device."""
        check_conformers(conformers, "a batch")
        known_species(conformers, self.trained or self.elements)
        return Batch.of(conformers, self.elements, self.dtype, self.device)

    def evaluator(self) -> Evaluator:
        """A snapshot of the weights for repeated evaluation."""
        return Evaluator(self.models)

    def predict(
        self,
        conformers: Conformers,
        *,
        forces: bool = False,
        stress: bool = False,
        atomic: bool = False,
        forces_std: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Prediction:
        """Predict energies of any number of conformers, in batches, and what else is asked for.

        ``forces``, ``stress`` and ``atomic`` (energies of atoms) are computed if True; units are
        those of ``Prediction``. Dropout is never active. ``batch_size`` is chosen by the number of
        atoms by default.

        An ensemble predicts the mean of its members and ``energy_std`` (M,) hartree, the sample
        standard deviation over the members (NaN for one member). ``forces_std`` adds that of the
        forces (A, 3), at the cost of one gradient per member; ``atomic`` adds
        ``atomic_energies_std`` (A,).

        Raises DataError for an element that the potential does not know, naming the atom.
        """
        return self.evaluator().predict(
            conformers,
            forces=forces,
            stress=stress,
            atomic=atomic,
            spread=self.models[0] is not self,
            forces_std=forces_std,
            batch_size=batch_size,
            progress=progress,
        )

    def stepper(self, atomic_numbers: ArrayLike, pbc: bool | Sequence[bool] = False) -> Stepper:
        """Return a ``Stepper``: energy and forces of one system, step after step."""
        return Stepper(self.evaluator(), atomic_numbers, pbc)

    # Short ways to what builds on potentials, imported when used: these files import this one.

    def calculator(self, **options: Any) -> ANICalculator:
        """Return the potential as an ASE calculator; see ``ANICalculator`` for the options."""
        from anipot.potential.calculator import ANICalculator

        return ANICalculator(self, **options)

    def save(self, path: str | Path, **about: Any) -> Path:
        """Write a self-describing safetensors file, which ``anipot.load`` reads back bit for bit.

        ``about`` is added to the description of the potential (level of theory, metrics, ...).
        """
        from anipot.formats.anipot_format import write_anipot

        # The file of one member is that of a model, which has a single description.
        only = self.models[0].about if len(self.models) == 1 else {}
        return write_anipot(self.models, {**only, **self.about, **about}, path)

    def to_torchani(self) -> Any:
        """Return the potential as a TorchANI 2 model; see ``anipot.formats.torchani_format``."""
        from anipot.formats.torchani_format import to_torchani

        return to_torchani(self)
