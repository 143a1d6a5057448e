"""ANIEnsemble: several models of the same atoms' AEVs, and how far they disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from anipot.aev.computer import AEVComputer
from anipot.conformers import Conformers
from anipot.errors import SettingsError
from anipot.inference import Evaluator
from anipot.model import ANIModel
from anipot.prediction import Prediction
from anipot.stepper import Stepper


class ANIEnsemble(nn.Module):
    """Several ANIModels; its energy is the mean of theirs.

    ``members`` have the same elements in the same order, AEV settings, precision and device, else
    SettingsError; AEVs are computed once for all. Widths, activations, self energies and output
    units may differ. Members of equal widths are evaluated as batched matrix products.
    """

    def __init__(self, members: Iterable[ANIModel]) -> None:
        super().__init__()
        members = list(members)
        if not all(isinstance(m, ANIModel) for m in members):
            raise SettingsError("the members of an ensemble are ANIModels")
        Evaluator(members)  # raises for members that do not go together
        self.members = nn.ModuleList(members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: int) -> ANIModel:
        member = self.members[k]
        assert isinstance(member, ANIModel)
        return member

    @property
    def aev(self) -> AEVComputer:
        return self[0].aev

    @property
    def elements(self) -> tuple[str, ...]:
        return self[0].elements

    @property
    def dtype(self) -> torch.dtype:
        return self[0].dtype

    @property
    def device(self) -> torch.device:
        return self[0].device

    @property
    def n_parameters(self) -> int:
        return sum(self[k].n_parameters for k in range(len(self)))

    def evaluator(self) -> Evaluator:
        """A snapshot of the weights for evaluations one after another."""
        return Evaluator([self[k] for k in range(len(self))])

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
        a gradient a member.
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
        return Stepper(self.evaluator(), np.asarray(atomic_numbers), pbc)
