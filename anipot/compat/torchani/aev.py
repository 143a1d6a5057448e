"""torchani.AEVComputer of TorchANI 2.2, computed by anipot's engines."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchani.tuples import SpeciesAEV

from anipot.aev import AEVComputer as _Engine
from anipot.aev import AEVSettings
from anipot.data.batches import Batch
from anipot.elements import SYMBOLS
from anipot.errors import SettingsError

__all__ = ["AEVComputer", "SpeciesAEV"]


class AEVComputer(torch.nn.Module):
    """Atomic environment vectors of padded conformers, with the arguments and buffers of 2.2.

    ``Rcr``, ``Rca``: cutoffs, angstrom; ``EtaR``, ``EtaA``: 1/angstrom^2; ``ShfR``, ``ShfA``:
    angstrom; ``Zeta``: no unit; ``ShfZ``: radian; all but the cutoffs one-dimensional tensors. The
    buffers are the constants in use: what ``load_state_dict`` puts there counts.
    ``use_cuda_extension`` is understood and changes nothing. Numbers are those of TorchANI.

    Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192, eqs. 2 to 4.
    """

    EtaR: Tensor
    ShfR: Tensor
    EtaA: Tensor
    Zeta: Tensor
    ShfA: Tensor
    ShfZ: Tensor

    def __init__(
        self,
        Rcr: float,
        Rca: float,
        EtaR: Tensor,
        ShfR: Tensor,
        EtaA: Tensor,
        Zeta: Tensor,
        ShfA: Tensor,
        ShfZ: Tensor,
        num_species: int,
        use_cuda_extension: bool = False,
    ) -> None:
        super().__init__()
        self.Rcr, self.Rca, self.num_species = float(Rcr), float(Rca), int(num_species)
        for name, values, shape in (
            ("EtaR", EtaR, (-1, 1)),
            ("ShfR", ShfR, (1, -1)),
            ("EtaA", EtaA, (-1, 1, 1, 1)),
            ("Zeta", Zeta, (1, -1, 1, 1)),
            ("ShfA", ShfA, (1, 1, -1, 1)),
            ("ShfZ", ShfZ, (1, 1, 1, -1)),
        ):
            self.register_buffer(name, torch.as_tensor(values).view(shape))
        s = self._engine().settings  # refuses constants that make no sense
        self.radial_sublength, self.angular_sublength = s.radial_terms, s.angular_terms
        self.radial_length, self.angular_length = s.radial_length, s.angular_length
        self.aev_length = s.length
        # Of no use here, but part of every state dict of 2.2.
        like, n = self.EtaR, self.num_species
        pairs = [[s.pair_index(a, b) for b in range(n)] for a in range(n)]
        self.register_buffer("triu_index", torch.tensor(pairs, device=like.device))
        self.register_buffer("default_cell", torch.eye(3, dtype=like.dtype, device=like.device))
        shifts = torch.zeros(0, 3, dtype=torch.int64, device=like.device)
        self.register_buffer("default_shifts", shifts)

    @classmethod
    def cover_linearly(
        cls,
        radial_cutoff: float,
        angular_cutoff: float,
        radial_eta: float,
        angular_eta: float,
        radial_dist_divisions: int,
        angular_dist_divisions: int,
        zeta: float,
        angle_sections: int,
        num_species: int,
        angular_start: float = 0.9,
        radial_start: float = 0.9,
    ) -> AEVComputer:
        """Shifts spread evenly from the start up to the cutoff, which is not one of them."""

        def shifts(start: float, stop: float, n: int) -> Tensor:
            return torch.linspace(start, stop, n + 1)[:-1]

        half = math.pi / (2 * angle_sections)
        return cls(
            radial_cutoff,
            angular_cutoff,
            torch.tensor([float(radial_eta)]),
            shifts(radial_start, radial_cutoff, radial_dist_divisions),
            torch.tensor([float(angular_eta)]),
            torch.tensor([float(zeta)]),
            shifts(angular_start, angular_cutoff, angular_dist_divisions),
            shifts(0.0, math.pi, angle_sections) + half,
            num_species,
        )

    def constants(self) -> tuple[Any, ...]:
        """As in 2.2: Rcr, EtaR, ShfR, Rca, ShfZ, EtaA, Zeta, ShfA."""
        return (
            self.Rcr, self.EtaR, self.ShfR, self.Rca, self.ShfZ, self.EtaA, self.Zeta, self.ShfA,
        )  # fmt: skip

    def _engine(self) -> _Engine:
        values = (self.EtaR, self.ShfR, self.EtaA, self.Zeta, self.ShfA, self.ShfZ)
        numbers = tuple(tuple(v.flatten().double().tolist()) for v in values)
        return _engine(self.num_species, self.Rcr, self.Rca, numbers)

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesAEV:
        """Species (C, A) as they came, and AEVs (C, A, length), 0 for padding (species -1).

        ``input_`` are species and coordinates (C, A, 3), angstrom; the AEVs have their precision
        and are differentiable in them and in ``cell``. ``cell`` (3, 3), angstrom, and ``pbc`` (3,)
        bool hold for all conformers. Raises SettingsError for a species that is not below
        ``num_species`` and for shapes that do not fit, DataError for coordinates that are not
        finite.
        """
        species, coordinates = input_
        if species.ndim != 2 or coordinates.shape != (*species.shape, 3):
            raise SettingsError(
                f"species {tuple(species.shape)} and coordinates {tuple(coordinates.shape)} must "
                "be (conformers, atoms) and (conformers, atoms, 3)"
            )
        if species.numel() and int(species.max()) >= self.num_species:
            raise SettingsError(
                f"there are atoms of species {int(species.max())} (counted from 0), and the "
                f"AEVComputer was made for num_species={self.num_species}"
            )
        batch, places = _batch(species, coordinates, self.num_species, cell, pbc)
        rows = self._engine()(batch, batch.coordinates, batch.cells)
        aevs = rows.new_zeros(species.numel(), self.aev_length).index_copy(0, places, rows)
        return SpeciesAEV(species, aevs.view(*species.shape, self.aev_length))


@lru_cache(maxsize=8)
def _engine(
    num_species: int, Rcr: float, Rca: float, numbers: tuple[tuple[float, ...], ...]
) -> _Engine:
    EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ = numbers
    # 2.2 knows how many elements there are and not which; the names are never seen.
    elements = SYMBOLS[1 : num_species + 1]
    return _Engine(AEVSettings(elements, Rcr, Rca, EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ))


def _batch(
    species: Tensor, coordinates: Tensor, num_species: int, cell: Tensor | None, pbc: Tensor | None
) -> tuple[Batch, Tensor]:
    """The atoms that are no padding as a batch, and the place (N,) of each row among (C, A)."""
    conformers = len(species)
    places = (species.flatten() >= 0).nonzero().flatten()
    by_row, atoms = torch.sort(species.flatten()[places].long(), stable=True)
    rows = torch.argsort(atoms)
    offsets = torch.zeros(conformers + 1, dtype=torch.int64, device=species.device)
    torch.cumsum((species >= 0).sum(1), 0, out=offsets[1:])
    periodic = cell is not None and pbc is not None and bool(pbc.any())
    places = places[atoms]
    batch = Batch(
        coordinates=coordinates.reshape(-1, 3)[places],
        species=by_row,
        counts=tuple(torch.bincount(by_row, minlength=num_species).tolist()),
        conformer=places // max(species.shape[1], 1),
        rows=rows,
        atoms=atoms,
        offsets=offsets,
        cells=cell.expand(conformers, 3, 3) if periodic and cell is not None else None,
        pbc=pbc.bool().expand(conformers, 3) if periodic and pbc is not None else None,
        index=torch.arange(conformers, device=species.device),
        data_atoms=places,
    )
    return batch, places
