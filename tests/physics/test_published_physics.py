"""The published potentials against TorchANI's own reader of NeuroChem's files, in float64."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_padded, exact_torchani_aev, random_conformers

from anipot.data.conformers import Conformers
from anipot.formats.neurochem import read_neurochem

HARTREE = 1e-9
HARTREE_PER_ANGSTROM = 1e-8


class CELU(torch.nn.Module):
    """CELU of alpha 0.1. The derivative of torch's own, also in float64, has 1 / alpha in float32,
    which is wrong by 1e-8 and would show in forces."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.1 * torch.expm1(x.clamp(max=0) / 0.1))


@cache
def molecules(elements: tuple[str, ...]) -> Conformers:
    """200 of 1 to 40 atoms, no two closer than 0.7 angstrom."""
    rng = np.random.default_rng(11)
    return random_conformers(rng, np.sort(rng.integers(1, 41, 200)), elements)


def by_torchani(info: Path, conformers: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """Energies (M,) of the networks, hartree, and forces (A, 3): mean over the members.

    TorchANI's reader of ``.info`` files ignores their folder, so its parts are called one by one;
    its constants, which it rounds to float32, are those of the ``.params`` file again.
    """
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    from torchani.neurochem import load_aev_computer_and_symbols, load_ensemble

    params, _, prefix, count = info.read_text().split()
    computer, symbols = load_aev_computer_and_symbols(info.parent / params)
    computer = computer.double()
    exact = dict(exact_torchani_aev(read_neurochem(info).aev.settings).named_buffers())
    for name, values in computer.named_buffers():
        if values.is_floating_point():
            torch.testing.assert_close(values, exact[name], rtol=2e-7, atol=5e-8)
            values.copy_(exact[name])
    networks = load_ensemble(symbols, info.parent / prefix, int(count)).double()
    for module in networks.modules():
        if hasattr(module, "activation"):
            assert type(module.activation).__name__ == "TightCELU"
            module.activation = CELU()
    energies, forces = [], []
    for start in range(0, len(conformers), 20):
        part = conformers.take(np.arange(start, start + 20))
        species, x = as_padded(part, symbols)
        x.requires_grad_()
        found = networks(species, computer(species, x))
        (gradient,) = torch.autograd.grad(found.sum(), x)
        energies.append(found.detach().numpy())
        forces.append(-gradient[species >= 0].numpy())
    return np.concatenate(energies), np.concatenate(forces)


@pytest.mark.parametrize(
    "name", ["ani-1x", "ani-1ccx", pytest.param("ani-2x", marks=pytest.mark.slow)]
)
def test_energies_and_forces_are_torchanis(shared_potentials, name):
    info = shared_potentials / f"{name}_8x.info"
    ensemble = read_neurochem(info, dtype=torch.float64)
    conformers = molecules(ensemble.elements)
    found = ensemble.predict(conformers, forces=True)
    energies, forces = by_torchani(info, conformers)
    networks = found.energies - ensemble[0].self_energies.of(conformers)
    of_energies = np.abs(networks - energies).max()
    of_forces = np.abs(found.forces - forces).max()
    print(f"{name}: {of_energies:.1e} hartree, {of_forces:.1e} hartree/angstrom")
    assert np.ptp(energies) > 0.1  # they have something to differ in
    assert of_energies < HARTREE
    assert of_forces < HARTREE_PER_ANGSTROM
