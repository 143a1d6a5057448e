"""torchani.nn of TorchANI 2.2: modules that take and return pairs of tensors.

C conformers, A atoms of the largest, species (C, A) int64 as places in the order of elements, -1
for padding. ``cell`` and ``pbc`` are for the AEVComputer alone and change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchani.nn
from torch import Tensor
from torchani.tuples import SpeciesCoordinates, SpeciesEnergies

from anipot.errors import SettingsError
from anipot.networks.atomic import Gaussian

__all__ = [
    "ANIModel",
    "Ensemble",
    "Gaussian",
    "Sequential",
    "SpeciesConverter",
    "SpeciesCoordinates",
    "SpeciesEnergies",
]


class ANIModel(torch.nn.ModuleDict):
    """A network for each element, any module from AEVs (n, length) to n numbers; their sum.

    ``modules`` stand in the order of the elements; the keys of a mapping become the names of the
    parameters, else ``0``, ``1``, ... do.
    """

    def __init__(self, modules: Sequence[torch.nn.Module] | Mapping[str, torch.nn.Module]) -> None:
        if not isinstance(modules, Mapping):
            modules = {str(i): module for i, module in enumerate(modules)}
        super().__init__(modules)

    def forward(
        self,
        species_aev: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> SpeciesEnergies:
        """Species, and energies (C,) hartree, of species and AEVs (C, A, length).

        Raises SettingsError for shapes that do not fit, and for a species without a network.
        """
        species, _ = species_aev
        return SpeciesEnergies(species, self._atomic_energies(species_aev).sum(dim=1))

    # 2.2's name: notebooks that wanted the energies of atoms had no other way.
    def _atomic_energies(self, species_aev: tuple[Tensor, Tensor]) -> Tensor:
        """(C, A) hartree, 0 for padding."""
        species, aevs = species_aev
        if species.shape != aevs.shape[:-1]:
            raise SettingsError(
                f"species {tuple(species.shape)} and AEVs {tuple(aevs.shape)} are not of the same "
                "atoms; AEVs must be (conformers, atoms, length)"
            )
        if species.numel() and int(species.max()) >= len(self):
            raise SettingsError(
                f"ANIModel has {len(self)} networks, and there are atoms of species "
                f"{int(species.max())} (counted from 0); give one network for each element"
            )
        flat, rows = species.flatten(), aevs.flatten(0, 1)
        energies = rows.new_zeros(flat.shape)
        for i, network in enumerate(self.values()):
            atoms = (flat == i).nonzero().flatten()
            if len(atoms):  # no call without atoms, as in 2.2: BatchNorm would refuse it
                energies = energies.index_copy(0, atoms, network(rows[atoms]).flatten())
        return energies.view_as(species)


class Ensemble(torch.nn.ModuleList):
    """The mean of the energies of its members."""

    def forward(
        self,
        species_input: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> SpeciesEnergies:
        """Species, and energies (C,) hartree, of what each member takes."""
        energies = [member(species_input).energies for member in self]
        return SpeciesEnergies(species_input[0], torch.stack(energies).mean(0))


class Sequential(torch.nn.ModuleList):
    """``torch.nn.Sequential`` that hands ``cell`` and ``pbc`` to every module."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__(modules)

    def forward(
        self,
        input_: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Any:
        for module in self:
            input_ = module(input_, cell, pbc)
        return input_


class SpeciesConverter(torchani.nn.SpeciesConverter):
    """Atomic numbers (C, A), -1 for padding, into places in the order of elements."""

    def forward(
        self,
        input_: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> SpeciesCoordinates:
        """Species and coordinates. Raises ValueError for an element that has no place."""
        numbers, coordinates = input_
        return SpeciesCoordinates(super().forward(numbers), coordinates)
