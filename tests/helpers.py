"""What several tests need: random molecules, and TorchANI's AEVs without its rounded constants."""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from anipot import units
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.elements import index_table, numbers_of, parse_elements
from anipot.errors import DataError
from anipot.potential.prediction import Prediction


def random_coordinates(
    rng: np.random.Generator, n_atoms: int, min_distance: float = 0.7, density: float = 0.1
) -> np.ndarray:
    """(n_atoms, 3) angstrom: atoms at random in a cube, none closer than ``min_distance``.

    ``density`` is in atoms per cubic angstrom (0.1 is that of liquids and of organic molecules).
    """
    side = (n_atoms / density) ** (1 / 3)
    points = np.empty((0, 3))
    while len(points) < n_atoms:
        point = rng.uniform(0, side, 3)
        if (np.linalg.norm(points - point, axis=1) >= min_distance).all():
            points = np.vstack([points, point])
        else:
            side *= 1.001  # a cube too small for the distance asked for must not loop for ever
    return points - points.mean(axis=0) if n_atoms else points


def random_conformers(
    rng: np.random.Generator,
    sizes: Iterable[int],
    elements: str | Sequence[str] = "HCNO",
    min_distance: float = 0.7,
    density: float = 0.1,
    cells: np.ndarray | None = None,
    pbc: np.ndarray | None = None,
) -> Conformers:
    """Conformers of the given numbers of atoms, with random elements and coordinates (float64)."""
    sizes = list(sizes)
    numbers = numbers_of(parse_elements(elements))
    parts = [random_coordinates(rng, n, min_distance, density) for n in sizes]
    return Conformers(
        atomic_numbers=rng.choice(numbers, sum(sizes)),
        coordinates=np.concatenate([np.empty((0, 3)), *parts]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        cells=cells,
        pbc=pbc,
    )


def random_cell(rng: np.random.Generator, length: float, skew: float = 0.25) -> np.ndarray:
    """(3, 3) angstrom: a triclinic cell with edges near ``length``."""
    cell: np.ndarray = length * (np.eye(3) + rng.uniform(-skew, skew, (3, 3)))
    return cell


def exact_torchani_aev(
    settings: AEVSettings, dtype: torch.dtype = torch.float64
) -> torch.nn.Module:
    """TorchANI's AEVComputer with constants that have the digits of ``settings``.

    TorchANI makes its constants in float32, also when it is then moved to float64. Written apart
    from anipot's own TorchANI engine, so that one cannot hide a mistake of the other.
    """
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial

    (radial_eta,), (angular_eta,), (zeta,) = (
        settings.radial_eta,
        settings.angular_eta,
        settings.zeta,
    )
    computer: torch.nn.Module = AEVComputer(
        radial=ANIRadial(radial_eta, list(settings.radial_shifts), settings.radial_cutoff),
        angular=ANIAngular(
            angular_eta,
            zeta,
            list(settings.angular_shifts),
            list(settings.angle_shifts),
            settings.angular_cutoff,
        ),
        num_species=settings.n_elements,
    ).to(dtype)
    exact = {
        "radial.eta": settings.radial_eta,
        "radial.shifts": settings.radial_shifts,
        "angular.eta": settings.angular_eta,
        "angular.zeta": settings.zeta,
        "angular.shifts": settings.angular_shifts,
        "angular.sections": settings.angle_shifts,
    }
    buffers = dict(computer.named_buffers())
    for name, values in exact.items():
        buffers[name].copy_(torch.tensor(values, dtype=torch.float64).to(dtype))
    return computer


def as_padded(conformers: Conformers, elements: Sequence[str]) -> tuple[Tensor, Tensor]:
    """For TorchANI: (B, n) species, -1 where no atom is, and (B, n, 3) float64 coordinates."""
    b, n = len(conformers), int(conformers.n_atoms.max(initial=0))
    species = torch.full((b, n), -1, dtype=torch.int64)
    coordinates = torch.zeros(b, n, 3, dtype=torch.float64)
    table = index_table(elements)
    for k in range(b):
        part = slice(conformers.offsets[k], conformers.offsets[k + 1])
        size = part.stop - part.start
        species[k, :size] = torch.as_tensor(table[conformers.atomic_numbers[part]])
        coordinates[k, :size] = torch.as_tensor(conformers.coordinates[part])
    return species, coordinates


def evaluate_batch(model, batch, *, forces=False, stress=False, atomic=False):
    """Prediction of a model for a batch by autograd, which the fast evaluation is held against."""
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
        atomic_out = model.networks(model.aev(batch, moved, cells), batch.counts).double()
        atomic_out = atomic_out * units.energy_to_hartree(model.output_unit)
        if model.repulsion is not None:
            atomic_out = atomic_out + model.repulsion.atomic(batch, moved, cells)
        energies = batch.sum_atoms(atomic_out)
        wanted = [x for x in (coordinates if forces else None, strain) if x is not None]
        grads = list(torch.autograd.grad(energies.sum(), wanted)) if wanted else []
    found = {}
    if forces:
        found["forces"] = batch.conformer_order(-grads.pop(0)).cpu().numpy()
    if stress and batch.cells is not None and batch.pbc is not None:
        volume = torch.linalg.det(batch.cells.double()).abs()
        whole = torch.where(batch.pbc.all(1), volume, torch.nan)  # else no volume to divide by
        found["stress"] = (grads.pop(0).double() / whole[:, None, None]).cpu().numpy()
    if atomic:
        own = torch.as_tensor(model.self_energies.values, device=batch.species.device)
        per_atom = atomic_out.detach() + own[batch.species]
        found["atomic_energies"] = batch.conformer_order(per_atom).cpu().numpy()
    total = energies.detach() + model.self_energies.of_batch(batch)
    return Prediction(total.cpu().numpy(), **found)
