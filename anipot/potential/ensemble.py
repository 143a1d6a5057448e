"""ANIEnsemble: several models that share their AEVs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import nn

from anipot.aev.computer import AEVComputer
from anipot.errors import SettingsError
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential
from anipot.potential.inference import Evaluator
from anipot.potential.model import ANIModel


class ANIEnsemble(Potential):
    """An ensemble of ANIModels, whose energy is the mean of theirs.

    ``members`` share elements (in the same order), AEV settings, precision and device; AEVs are
    computed once for all. Widths, activations, self energies and output units may differ. Members
    of equal widths are evaluated as batched matrix products. ``about`` describes the ensemble as
    plain data, beside the descriptions of its members. Raises SettingsError for members that
    cannot share AEVs.
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
    def models(self) -> tuple[ANIModel, ...]:
        return tuple(self)

    @property
    def aev(self) -> AEVComputer:  # type: ignore[override]
        return self[0].aev

    @property
    def trained(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(e for e in self.elements if all(e in m.trained for m in self))

    @property
    def self_energies(self) -> SelfEnergies:  # type: ignore[override]
        values = np.mean([m.self_energies.values for m in self], axis=0)
        return SelfEnergies(self.elements, values, "mean of the members'")
