"""ANIModel: AEV computer + atomic networks + self energies. Energies, forces and stress."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anipot import units
from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.config import ModelSettings
from anipot.data.batches import Batch, known_species
from anipot.data.conformers import Conformers, check_conformers
from anipot.elements import parse_elements
from anipot.errors import DataError, SettingsError
from anipot.networks.atomic import DTYPES, AtomicNetworks
from anipot.networks.repulsion import Repulsion
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.inference import Evaluator
from anipot.potential.prediction import Prediction
from anipot.potential.stepper import Stepper
from anipot.system.options import checked

if TYPE_CHECKING:
    from anipot.potential.calculator import ANICalculator

#: Hidden widths of ANI-1x, the default for any element it does not know being that of N and O.
ANI1X_WIDTHS = {"H": (160, 128, 96), "C": (144, 112, 96)}
ANI1X_OTHER = (128, 112, 96)


class ANIModel(nn.Module):
    """An ANI potential.

    The energy of a molecule is the sum over its atoms of network output and self energy. Networks
    are in single precision unless asked otherwise; sums over atoms and self energies in double,
    since total energies of 10^3 hartree do not fit float32.

    ``output_unit`` is the unit in which the networks speak ("kcal/mol", or "hartree" as in the
    published potentials); everything that comes out of this class is in hartree all the same.
    ``about`` is what is known of the potential's origin, as plain data; it is saved with it.
    ``trained`` are the elements whose networks have been trained; once there is one, the others'
    random networks are not used for predictions. A new model has none.
    ``repulsion``, for the same elements, is added to what the networks say.
    """

    def __init__(
        self,
        aev: AEVComputer,
        networks: AtomicNetworks,
        self_energies: SelfEnergies | None = None,
        output_unit: str = "kcal/mol",
        about: dict[str, Any] | None = None,
        trained: tuple[str, ...] = (),
        repulsion: Repulsion | None = None,
    ) -> None:
        super().__init__()
        if tuple(networks) != aev.settings.elements:
            raise SettingsError(
                f"networks for {', '.join(networks)}, "
                f"but an AEV of {', '.join(aev.settings.elements)}"
            )
        if repulsion is not None and repulsion.elements != aev.settings.elements:
            raise SettingsError(
                f"a repulsion of {', '.join(repulsion.elements)}, "
                f"but an AEV of {', '.join(aev.settings.elements)}"
            )
        self.aev, self.networks, self.repulsion = aev, networks, repulsion
        self.self_energies = self_energies or SelfEnergies.zero(aev.settings.elements)
        self.output_unit = units.energy_unit(output_unit)
        self.about = about or {}
        self.trained = trained

    @classmethod
    def create(
        cls,
        elements: str | Iterable[str] = "HCNO",
        *,
        aev: str | AEVSettings | None = None,
        repulsion: str | Repulsion | None = None,
        seed: int = 0,
        **options: Any,
    ) -> ANIModel:
        """A new model with random weights, a function of ``seed``.

        ``aev``: "ani1x" (the default) or "ani2x" constants for ``elements``, "cover" with options
        of ``AEVSettings.cover``, or AEVSettings of your own. ``repulsion``: "zbl", or a Repulsion
        for the same elements. ``options`` are the other fields of ``anipot.config.ModelSettings``,
        which owns the defaults: ``hidden`` (widths for all elements, or a mapping from symbol to
        widths; ANI-1x's by default), ``activation``, ``dropout``, ``output_activation``,
        ``output_dropout``, ``dtype``, ``output_unit``, ``engine``. Raises SettingsError for
        anything unknown.
        """
        symbols = parse_elements(elements)
        if isinstance(aev, str):
            options["aev"] = aev
        if isinstance(repulsion, str):
            options["repulsion"] = repulsion
        wanted = checked(ModelSettings, options)
        settings = (
            aev
            if isinstance(aev, AEVSettings)
            else AEVSettings.named(wanted.aev, symbols, **wanted.cover)
        )
        if settings.elements != symbols:
            settings = settings.with_elements(symbols)
        networks = AtomicNetworks(
            symbols,
            settings.length,
            {e: ANI1X_WIDTHS.get(e, ANI1X_OTHER) for e in symbols}
            if wanted.hidden is None
            else wanted.hidden,
            wanted.activation,
            wanted.dropout,
            wanted.output_activation,
            wanted.output_dropout,
        )
        networks.initialize(seed)
        return cls(
            AEVComputer(settings, wanted.engine),
            networks.to(DTYPES[wanted.dtype]),
            output_unit=wanted.output_unit,
            repulsion=repulsion
            if isinstance(repulsion, Repulsion)
            else Repulsion.named(wanted.repulsion, symbols),
        )

    @property
    def elements(self) -> tuple[str, ...]:
        return self.aev.settings.elements

    @property
    def dtype(self) -> torch.dtype:
        return self.networks.dtype

    @property
    def device(self) -> torch.device:
        return next(self.networks.parameters()).device

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.networks.parameters())

    # ---- energies ----------------------------------------------------------------------------

    def network_energies(self, batch: Batch, aevs: Tensor | None = None) -> Tensor:
        """(B,) float64, in ``output_unit``: the networks' part of the energies, no repulsion.

        ``aevs`` (N, length) where they are known already.
        """
        aevs = self.aev(batch) if aevs is None else aevs
        return batch.sum_atoms(self.networks(aevs, batch.counts))

    def forward(self, batch: Batch, aevs: Tensor | None = None) -> Tensor:
        """(B,) float64 hartree: total energies."""
        network = self.network_energies(batch, aevs) * units.energy_to_hartree(self.output_unit)
        total = network + self.self_energies.of_batch(batch)
        if self.repulsion is not None:
            total = total + batch.sum_atoms(self.repulsion.atomic(batch))
        return total

    def batch(self, conformers: Conformers) -> Batch:
        """All of ``conformers`` as one batch in the model's precision, on its device."""
        check_conformers(conformers, "a batch")
        known_species(conformers, self.trained or self.elements)
        return Batch.of(conformers, self.elements, self.dtype, self.device)

    # ---- derivatives by autograd: what the fast evaluation is held against -----------------------

    def evaluate_batch(
        self, batch: Batch, *, forces: bool = False, stress: bool = False, atomic: bool = False
    ) -> Prediction:
        """Energies of a batch and what else is asked for, without a graph; atoms in conformer
        order.

        Stress is the derivative of the energy with respect to a symmetric strain of coordinates and
        cell, divided by the cell's volume (ASE's sign).
        """
        coordinates, cells = batch.coordinates.detach(), batch.cells
        strain = None
        with torch.set_grad_enabled(forces or stress):
            if stress:
                if cells is None or batch.pbc is None:
                    raise DataError("stress needs a periodic cell, and no conformer here has one")
                strain = torch.zeros(
                    len(batch), 3, 3, dtype=coordinates.dtype, device=coordinates.device
                ).requires_grad_()
                deform = (
                    torch.eye(3, dtype=strain.dtype, device=strain.device)
                    + (strain + strain.transpose(1, 2)) / 2
                )
            coordinates = coordinates.requires_grad_(forces)
            moved = coordinates
            if strain is not None and cells is not None:
                moved = torch.bmm(coordinates.unsqueeze(1), deform[batch.conformer]).squeeze(1)
                cells = torch.bmm(cells, deform)
            atomic_out = self.networks(self.aev(batch, moved, cells), batch.counts).double()
            atomic_out = atomic_out * units.energy_to_hartree(self.output_unit)
            if self.repulsion is not None:
                atomic_out = atomic_out + self.repulsion.atomic(batch, moved, cells)
            energies = batch.sum_atoms(atomic_out)
            wanted = [x for x in (coordinates if forces else None, strain) if x is not None]
            grads = list(torch.autograd.grad(energies.sum(), wanted)) if wanted else []
        found: dict[str, np.ndarray] = {}
        if forces:
            found["forces"] = batch.conformer_order(-grads.pop(0)).cpu().numpy()
        if stress and batch.cells is not None and batch.pbc is not None:
            volume = torch.linalg.det(batch.cells.double()).abs()
            whole = torch.where(batch.pbc.all(1), volume, torch.nan)  # else no volume to divide by
            found["stress"] = (grads.pop(0).double() / whole[:, None, None]).cpu().numpy()
        if atomic:
            own = torch.as_tensor(self.self_energies.values, device=batch.species.device)
            per_atom = atomic_out.detach() + own[batch.species]
            found["atomic_energies"] = batch.conformer_order(per_atom).cpu().numpy()
        total = energies.detach() + self.self_energies.of_batch(batch)
        return Prediction(total.cpu().numpy(), **found)

    def predict(
        self,
        conformers: Conformers,
        *,
        forces: bool = False,
        stress: bool = False,
        atomic: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Prediction:
        """Energies of any number of conformers, in batches, and what else is asked for.

        Dropout is never active. ``batch_size`` is chosen by the number of atoms unless it is given.
        Raises DataError for an element that the model does not know, naming the atom.
        """
        return Evaluator([self]).predict(
            conformers,
            forces=forces,
            stress=stress,
            atomic=atomic,
            batch_size=batch_size,
            progress=progress,
        )

    def stepper(self, atomic_numbers: ArrayLike, pbc: bool | Sequence[bool] = False) -> Stepper:
        """Energy and forces of one system, step after step: see ``Stepper``."""
        return Stepper(Evaluator([self]), atomic_numbers, pbc)

    def calculator(self, **options: Any) -> ANICalculator:
        """The potential as an ASE calculator: see ``anipot.potential.calculator.ANICalculator``."""
        # Here and not above: the calculator knows of models.
        from anipot.potential.calculator import ANICalculator

        return ANICalculator(self, **options)

    # ---- saving ------------------------------------------------------------------------------

    def save(self, path: str | Path, **about: Any) -> Path:
        """Write one self-describing safetensors file (atomic); ``anipot.load`` reads it back bit
        for bit.

        ``about`` is added to what is known of the potential (level of theory, metrics, ...).
        """
        # Here and not above: the package of saved potentials imports this module.
        from anipot.formats.anipot_format import write_own

        return write_own([self], {**self.about, **about}, path)

    def to_torchani(self) -> Any:
        """The potential as a TorchANI 2 model: see ``anipot.formats.torchani_format``."""
        from anipot.formats.torchani_format import to_torchani

        return to_torchani(self)
