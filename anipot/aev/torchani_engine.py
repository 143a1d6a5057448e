"""TorchANI's AEVComputer as an engine: the field's own implementation, to compare with or to use.

TorchANI reads padded molecules, one cell for all of them, and single values of EtaR, EtaA and Zeta.
What it cannot express is refused here with a reason, never approximated.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from anipot.aev.geometry import (
    FEW_NEIGHBORS,
    check_finite,
    completed_cells,
    periodic_conformers,
)
from anipot.aev.neighbors import neighbor_pairs
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import DataError, SettingsError


def import_torchani() -> Any:
    """TorchANI's module ``aev``, imported without its warnings about missing extensions.

    Raises SettingsError, with the reason, when it cannot be imported.
    """
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    try:
        import torchani.aev
    except Exception as e:  # whatever goes wrong in there, the engine is not available
        raise SettingsError(f"torchani cannot be imported: {e}") from e
    return torchani.aev


def import_cuaev() -> None:
    """Raise SettingsError, with the way out, unless TorchANI's CUDA extension can be used."""
    import_torchani()
    from torchani.csrc import CUAEV_IS_INSTALLED

    if not CUAEV_IS_INSTALLED:
        raise SettingsError(
            "TorchANI's CUDA extension is not installed; with the CUDA toolkit at hand, "
            "'ani build-extensions' builds it"
        )
    if not torch.cuda.is_available():
        raise SettingsError("there is no CUDA device")


def aev_cuda(
    settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None
) -> Tensor:
    """As ``aev``, by TorchANI's CUDA extension: molecules in float32, on a CUDA device.

    Raises also SettingsError for another device or precision, and DataError for cells. anipot has
    not been run with this extension yet.
    """
    if coordinates.device.type != "cuda" or coordinates.dtype != torch.float32:
        raise SettingsError(
            "the engine 'torchani-cuda' takes float32 on CUDA devices, and the coordinates are "
            f"{coordinates.dtype} on {coordinates.device}; use engine='auto'"
        )
    if periodic_conformers(batch, cells) is not None:
        raise DataError("the engine 'torchani-cuda' takes no cells; use engine='reference'")
    return aev(settings, batch, coordinates, None, "cuaev")


def aev(
    settings: AEVSettings,
    batch: Batch,
    coordinates: Tensor,
    cells: Tensor | None,
    strategy: str = "pyaev",
) -> Tensor:
    """(N, L) AEVs by row, L = ``settings.length``, as TorchANI computes them; no unit.

    ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3), in angstrom, stand in for the batch's
    own. float32 or float64, as ``coordinates``, the constants too. Raises DataError for what
    TorchANI would silently get wrong: several conformers of which any is periodic, and periodicity
    in some directions only; SettingsError for settings that it cannot express. ``strategy`` is
    TorchANI's name for its implementation.
    """
    computer = _computer(settings, coordinates.dtype, coordinates.device, strategy)
    check_finite(batch, coordinates.detach(), None if cells is None else cells.detach())
    periodic = periodic_conformers(batch, cells)
    cell = pbc = None
    if periodic is not None:
        assert cells is not None
        assert batch.pbc is not None
        if len(batch) > 1:
            raise DataError(
                f"the engine 'torchani' takes one periodic conformer at a time, and this batch has "
                f"{len(batch)} conformers of which {int(periodic.sum())} are periodic (TorchANI "
                "would give all of them one cell); use engine='reference' or batches of one"
            )
        if not batch.pbc.all():
            raise DataError(
                f"conformer {int(batch.index[0])} is periodic in some directions only, which "
                "the engine 'torchani' gets wrong in cells that are not rectangular; use "
                "engine='reference'"
            )
        completed_cells(
            batch, cells.detach(), torch.zeros(1, dtype=torch.int64, device=cells.device)
        )
        cell, pbc = cells[0].to(coordinates.dtype), batch.pbc[0]
    if len(coordinates) == 0:
        return coordinates[:, :1].expand(0, settings.length)
    if periodic is not None or int(batch.n_atoms.max()) > FEW_NEIGHBORS:
        for cutoff in (settings.radial_cutoff, settings.angular_cutoff):
            neighbor_pairs(batch, coordinates, cells, cutoff)  # raises where there are too many

    # Conformer order is what padding is made of: atom k of conformer b stands in place [b, k].
    in_order = batch.conformer.index_select(0, batch.rows)
    place = torch.arange(len(in_order), device=coordinates.device)
    width = int(batch.n_atoms.max())
    place = place - batch.offsets.index_select(0, in_order) + in_order * width
    species = torch.full((len(batch) * width,), -1, dtype=torch.int64, device=coordinates.device)
    species[place] = batch.species.index_select(0, batch.rows)
    padded = coordinates.new_zeros(len(batch) * width, 3)
    padded = padded.index_copy(0, place, coordinates.index_select(0, batch.rows))
    result: Tensor = computer(
        species.view(len(batch), width), padded.view(len(batch), width, 3), cell, pbc
    )
    by_row = place.index_select(0, batch.atoms)
    return result.reshape(len(batch) * width, settings.length).index_select(0, by_row)


@lru_cache(maxsize=8)
def _computer(
    settings: AEVSettings, dtype: torch.dtype, device: torch.device, strategy: str
) -> torch.nn.Module:
    try:
        return torchani_computer(settings, dtype, device, strategy)
    except SettingsError as e:
        raise SettingsError(f"the engine 'torchani': {e}; use engine='reference'") from None


def torchani_computer(
    settings: AEVSettings, dtype: torch.dtype, device: torch.device, strategy: str = "pyaev"
) -> torch.nn.Module:
    """A TorchANI ``AEVComputer`` whose constants have all digits that ``dtype`` can hold.

    Raises SettingsError for settings that TorchANI cannot express.
    """
    for name in ("radial_eta", "angular_eta", "zeta"):
        values = getattr(settings, name)
        if len(values) > 1:
            raise SettingsError(f"TorchANI takes one value of {name}, not {len(values)}")
    if settings.angular_cutoff == settings.radial_cutoff:
        raise SettingsError("TorchANI needs angular_cutoff below radial_cutoff")
    module = import_torchani()
    # What is kept must be ordinary tensors even when the first call is made in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        computer: torch.nn.Module = module.AEVComputer(
            radial=module.ANIRadial(
                settings.radial_eta[0], settings.radial_shifts, settings.radial_cutoff
            ),
            angular=module.ANIAngular(
                settings.angular_eta[0],
                settings.zeta[0],
                settings.angular_shifts,
                settings.angle_shifts,
                settings.angular_cutoff,
            ),
            num_species=settings.n_elements,
            strategy=strategy,
        ).to(device=device, dtype=dtype)
        # TorchANI rounds its constants to float32 before it is moved to float64.
        radial, angular = computer.get_submodule("radial"), computer.get_submodule("angular")
        for term, name, values in (
            (radial, "eta", settings.radial_eta),
            (radial, "shifts", settings.radial_shifts),
            (angular, "eta", settings.angular_eta),
            (angular, "zeta", settings.zeta),
            (angular, "shifts", settings.angular_shifts),
            (angular, "sections", settings.angle_shifts),
        ):
            term.get_buffer(name).copy_(torch.tensor(values, dtype=torch.float64))
    return computer
