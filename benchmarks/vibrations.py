"""Harmonic frequencies of ANI-1x: ``python -m benchmarks vibrations --info ani-1x_8x.info``.

Water, methane and benzene at the potential's own minimum: anipot's analytic Hessian against that of
TorchANI (its readers of NeuroChem's files, its constants in full precision), which must agree
within 0.5 cm^-1. With ``--dft``, harmonic wB97X/6-31G(d) at its own minimum stands beside, computed
with PySCF (``pip install anipot[dft]``; Cartesian d functions): that is what ANI-1x learned.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np
import torch
from ase import units as aseunits
from ase.calculators.calculator import Calculator, all_changes

from anipot.formats.load import load
from anipot.simulation import relax, vibrations
from anipot.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

#: cm^-1: what the two codes may differ by.
BAR = 0.5
MOLECULES = ("H2O", "CH4", "C6H6")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks vibrations", description=__doc__)
    parser.add_argument("--info", type=Path, required=True, help="NeuroChem's .info file")
    parser.add_argument("--molecules", nargs="+", default=MOLECULES)
    parser.add_argument("--dft", action="store_true", help="compute wB97X/6-31G(d) too")
    options = parser.parse_args(argv)
    calculator = load(options.info, dtype="float64").calculator()
    theirs = TorchANI(options.info)
    worst = 0.0
    for name in options.molecules:
        start = ase.build.molecule(name)
        atoms = relax(start, calculator, fmax=1e-5).atoms
        found = vibrations(atoms, calculator)
        n = len(found.frequencies)
        columns = {"anipot": found.frequencies, "TorchANI": theirs.frequencies(atoms)[-n:]}
        difference = float(np.abs(columns["anipot"] - columns["TorchANI"]).max())
        worst = max(worst, difference)
        if options.dft:
            dft = PySCF()
            columns["wB97X"] = vibrations(relax(start, dft, fmax=1e-3).atoms, dft).frequencies
        print(f"\n{name}: frequencies / cm^-1, zero-point energy / kcal/mol")
        for label, values in columns.items():
            zero_point = values.sum() / 2 * aseunits.invcm / aseunits.kcal * aseunits.mol
            shown = " ".join(f"{v:.1f}" for v in values)
            print(f"{label:>9}  {shown}  ({zero_point:.3f})")
        print(f"anipot - TorchANI: at most {difference:.1e} cm^-1")
        if options.dft:
            away = columns["anipot"] - columns["wB97X"]
            mean, root = np.abs(away).mean(), np.sqrt((away**2).mean())
            most = np.abs(away).max()
            print(f"ANI-1x - wB97X: MAE {mean:.1f}, RMSE {root:.1f}, max {most:.1f} cm^-1")
    print(f"\nlargest difference to TorchANI {worst:.1e} cm^-1; the bar is {BAR}")
    return 0 if worst < BAR else 1


class TorchANI:
    """TorchANI's own reading of the files, its own Hessian and its own analysis, in float64."""

    def __init__(self, info: Path) -> None:
        os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
        from torchani.neurochem import load_aev_computer_and_symbols, load_ensemble

        from anipot.formats.neurochem import read_neurochem

        parameters, _, prefix, count = info.read_text().split()
        self.aev, self.symbols = load_aev_computer_and_symbols(info.parent / parameters)
        self.networks = load_ensemble(self.symbols, info.parent / prefix, int(count)).double()
        self.aev = self.aev.double()
        # TorchANI keeps the constants in float32, also when it is moved to float64.
        s = read_neurochem(info).aev.settings
        exact = {
            "radial.eta": s.radial_eta, "radial.shifts": s.radial_shifts,
            "angular.eta": s.angular_eta, "angular.zeta": s.zeta,
            "angular.shifts": s.angular_shifts, "angular.sections": s.angle_shifts,
        }  # fmt: skip
        buffers = dict(self.aev.named_buffers())
        for name, values in exact.items():
            buffers[name].copy_(torch.tensor(values, dtype=torch.float64))

    def frequencies(self, atoms: ase.Atoms) -> np.ndarray:
        """(3N,) cm^-1, rising by the eigenvalue."""
        from torchani.grad import forces_and_hessians, vibrational_analysis

        species = torch.tensor([[self.symbols.index(s) for s in atoms.symbols]])
        x = torch.tensor(atoms.positions[None], requires_grad=True)
        energy = self.networks(species, self.aev(species, x))
        second = forces_and_hessians(energy, x).hessians
        masses = torch.tensor(atoms.get_masses()[None])
        found: np.ndarray = vibrational_analysis(masses, second.detach()).freqs.numpy()
        return found


class PySCF(Calculator):
    """wB97X/6-31G(d) with Cartesian d functions: energy, forces and analytic Hessian."""

    implemented_properties = ["energy", "forces", "hessian"]  # noqa: RUF012

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        from pyscf import dft, gto

        molecule = gto.M(
            atom=list(zip(self.atoms.symbols, self.atoms.positions, strict=True)),
            basis="6-31g(d)",
            cart=True,
            verbose=0,
        )
        scf = dft.RKS(molecule, xc="wb97x")
        scf.grids.level, scf.conv_tol = 3, 1e-10
        energy = scf.kernel()
        gradient = HARTREE_TO_EV / BOHR_TO_ANGSTROM
        self.results["energy"] = energy * HARTREE_TO_EV
        self.results["forces"] = -scf.nuc_grad_method().kernel() * gradient
        if "hessian" in properties:
            n = 3 * len(self.atoms)
            second = scf.Hessian().kernel().transpose(0, 2, 1, 3).reshape(n, n)
            self.results["hessian"] = second * gradient / BOHR_TO_ANGSTROM
