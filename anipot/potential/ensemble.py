"""ANIEnsemble: several models of the same atoms' AEVs, and how far they disagree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from anipot.aev.computer import AEVComputer
from anipot.data.conformers import Conformers
from anipot.errors import SettingsError
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.inference import Evaluator
from anipot.potential.model import ANIModel
from anipot.potential.prediction import Prediction
from anipot.potential.stepper import Stepper

if TYPE_CHECKING:
    from anipot.potential.calculator import ANICalculator


class ANIEnsemble(nn.Module):
    """Several ANIModels; its energy is the mean of theirs.

    ``members`` have the same elements in the same order, AEV settings, precision and device, else
    SettingsError; AEVs are computed once for all. Widths, activations, self energies and output
    units may differ. Members of equal widths are evaluated as batched matrix products.
    ``about`` is what is known of the ensemble, as plain data, beside what each member says of
    itself; it is saved with it.
    """

    def __init__(self, members: Iterable[ANIModel], about: dict[str, Any] | None = None) -> None:
        super().__init__()
        members = list(members)
        if not all(isinstance(m, ANIModel) for m in members):
            raise SettingsError("the members of an ensemble are ANIModels")
        Evaluator(members)  # raises for members that do not go together
        self.members = nn.ModuleList(members)
        self.about = about or {}

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: int) -> ANIModel:
        member = self.members[k]
        assert isinstance(member, ANIModel)
        return member

    def __iter__(self) -> Iterator[ANIModel]:
        return (self[k] for k in range(len(self)))

    @property
    def aev(self) -> AEVComputer:
        return self[0].aev

    @property
    def elements(self) -> tuple[str, ...]:
        return self[0].elements

    @property
    def trained(self) -> tuple[str, ...]:
        """The elements whose networks have been trained in every member; of new models, none."""
        return tuple(e for e in self.elements if all(e in m.trained for m in self))

    @property
    def self_energies(self) -> SelfEnergies:
        """The mean of the members' self energies."""
        values = np.mean([m.self_energies.values for m in self], axis=0)
        return SelfEnergies(self.elements, values, "mean of the members'")

    @property
    def dtype(self) -> torch.dtype:
        return self[0].dtype

    @property
    def device(self) -> torch.device:
        return self[0].device

    @property
    def n_parameters(self) -> int:
        return sum(m.n_parameters for m in self)

    def evaluator(self) -> Evaluator:
        """A snapshot of the weights for evaluations one after another."""
        return Evaluator(list(self))

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
        """As ``ANIModel.predict``, for the mean of the members, with ``energy_std``.

        ``energy_std`` (M,) hartree is the sample standard deviation of the energies over the
        members (NaN for an ensemble of one); ``Prediction.disagreement`` is what the field makes
        of it. ``forces_std`` (A, 3) hartree/angstrom, if asked for, is that of the forces; it costs
        a gradient a member. ``atomic`` gives ``atomic_energies_std`` (A,) too, which says on which
        atoms the members disagree.
        """
        return self.evaluator().predict(
            conformers,
            forces=forces,
            stress=stress,
            atomic=atomic,
            spread=True,
            forces_std=forces_std,
            batch_size=batch_size,
            progress=progress,
        )

    def stepper(self, atomic_numbers: ArrayLike, pbc: bool | Sequence[bool] = False) -> Stepper:
        """Energy and forces of one system, step after step: see ``Stepper``."""
        return Stepper(self.evaluator(), atomic_numbers, pbc)

    def save(self, path: str | Path, **about: Any) -> Path:
        """Write one self-describing safetensors file (atomic); ``anipot.load`` reads it back bit
        for bit.

        ``about`` is added to what is known of the ensemble (level of theory, metrics, ...).
        """
        # Here and not above: the package of saved potentials imports this module.
        from anipot.formats.anipot_format import write_own

        # The file of one member is that of a model, which has no place for two stories.
        own = self[0].about if len(self) == 1 else {}
        return write_own(list(self), {**own, **self.about, **about}, path)

    def to_torchani(self) -> Any:
        """The potential as a TorchANI 2 model: see ``anipot.formats.torchani_format``."""
        from anipot.formats.torchani_format import to_torchani

        return to_torchani(self)

    def calculator(self, **options: Any) -> ANICalculator:
        """The potential as an ASE calculator: see ``anipot.potential.calculator.ANICalculator``."""
        # Here and not above: the calculator knows of ensembles.
        from anipot.potential.calculator import ANICalculator

        return ANICalculator(self, **options)


#: What ``anipot.load`` gives and everything that uses a potential takes.
Potential = ANIModel | ANIEnsemble


def members_of(potential: Potential) -> list[ANIModel]:
    """The members of an ensemble; a model is one of one."""
    return [potential] if isinstance(potential, ANIModel) else list(potential)
