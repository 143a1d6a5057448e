"""ANIModel: AEV computer, atomic networks and self energies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from anipot import units
from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.config import ModelSettings
from anipot.data.batches import Batch
from anipot.elements import parse_elements
from anipot.errors import SettingsError
from anipot.networks.atomic import DTYPES, AtomicNetworks
from anipot.networks.repulsion import Repulsion
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential
from anipot.system.options import checked

#: Hidden widths of ANI-1x; those of N and O are the default of all other elements.
ANI1X_WIDTHS = {"H": (160, 128, 96), "C": (144, 112, 96)}
ANI1X_OTHER = (128, 112, 96)


class ANIModel(Potential):
    """An ANI potential.

    The energy of a molecule is the sum over its atoms of network output and self energy. Networks
    are in single precision by default; sums over atoms and self energies are in double precision,
    because float32 cannot resolve total energies of 10^3 hartree.

    ``output_unit`` is the unit of the network output ("kcal/mol", or "hartree" as in the published
    potentials); all results of this class are in hartree. ``about`` describes the origin of the
    potential as plain data and is saved with it. ``trained`` lists the elements whose networks have
    been trained; if there are any, predictions for other elements are refused. ``repulsion``, for
    the same elements, is added to the output of the networks.
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
        """Create a model with random weights, which depend on ``seed`` alone.

        ``aev``: "ani1x" (default) or "ani2x" for the published constants, "cover" with options of
        ``AEVSettings.cover``, or an AEVSettings. ``repulsion``: "zbl" or a Repulsion for the same
        elements. ``options`` are the other fields of ``anipot.config.ModelSettings``, where their
        defaults are: ``hidden`` (widths for all elements, or a mapping from symbol to widths),
        ``activation``, ``dropout``, ``output_activation``, ``output_dropout``, ``dtype``,
        ``output_unit``, ``engine``. Raises SettingsError for unknown options and values.
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
            wanted.network,
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
    def models(self) -> tuple[ANIModel, ...]:
        return (self,)

    # ---- energies ----------------------------------------------------------------------------

    def network_energies(self, batch: Batch, aevs: Tensor | None = None) -> Tensor:
        """Energies (B,) of the networks alone, float64, in ``output_unit``.

        ``aevs`` (N, length): AEVs of the batch, if they have been computed already.
        """
        aevs = self.aev(batch) if aevs is None else aevs
        return batch.sum_atoms(self.networks(aevs, batch.counts))

    def forward(self, batch: Batch, aevs: Tensor | None = None) -> Tensor:
        """Total energies (B,), float64, hartree."""
        network = self.network_energies(batch, aevs) * units.energy_to_hartree(self.output_unit)
        total = network + self.self_energies.of_batch(batch)
        if self.repulsion is not None:
            total = total + batch.sum_atoms(self.repulsion.atomic(batch))
        return total
