"""anipot vibrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anipot.cli.simulating import (
    Frame,
    MaxDisagreement,
    Overwrite,
    Potential,
    Structure,
    calculator_of,
    refuse_existing,
    structure_of,
)
from anipot.errors import SettingsError, SimulationError

if TYPE_CHECKING:
    from anipot.simulation import Vibrations

#: Largest force, eV/angstrom, left by --relax.
TIGHT = 1e-4


def vibrations(
    potential: Potential,
    file: Structure,
    frame: Frame = None,
    relax_first: Annotated[
        bool, typer.Option("--relax", help=f"Relax first, to {TIGHT:g} eV/angstrom.")
    ] = False,
    fmax: Annotated[
        float, typer.Option(help="Largest force of a stationary point, eV/angstrom.")
    ] = 0.01,
    differences: Annotated[
        bool,
        typer.Option("--differences", help="Compute the Hessian by finite differences of forces."),
    ] = False,
    temperature: Annotated[
        float, typer.Option(help="Temperature of the thermochemistry, K.")
    ] = 298.15,
    pressure: Annotated[
        float, typer.Option(help="Pressure of the thermochemistry, Pa.")
    ] = 101325.0,
    symmetry: Annotated[
        int,
        typer.Option(help="Rotational symmetry number: 2 for water, 12 for methane and benzene."),
    ] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the results to this .json file.")
    ] = None,
    max_disagreement: MaxDisagreement = None,
    overwrite: Overwrite = False,
) -> None:
    """Compute frequencies, zero-point energy and thermochemistry of a relaxed structure.

    Example:

    \b
    printf '3\\n\\nO 0 0 0\\nH 0 0 0.96\\nH 0.93 0 -0.24\\n' > water.xyz
    anipot vibrations anipot-hcno water.xyz --relax --symmetry 2

    Computed in float64. Frequencies are in cm^-1 (imaginary ones with an i), energies in eV and
    kcal/mol. Thermochemistry is that of an ideal gas of rigid rotors and harmonic oscillators.
    Fixed atoms of a file do not vibrate, and there is no thermochemistry then.

    In Python:

    \b
    from anipot.simulation import vibrations
    print(vibrations(atoms, anipot.load("POTENTIAL").calculator()).frequencies)
    """
    from anipot.simulation.normal_modes import vibrations as vibrations_of
    from anipot.simulation.relaxation import relax
    from anipot.system.files import write_text

    if out is not None:
        if out.suffix != ".json":
            raise SettingsError(f"{out}: vibrations are written as .json")
        refuse_existing([out], [file], overwrite)
    calculator = calculator_of(potential, double=True, max_disagreement=max_disagreement)
    atoms = structure_of(file, frame, calculator)
    if relax_first:
        relaxed = relax(atoms, calculator, fmax=min(TIGHT, fmax))
        if not relaxed.converged:
            raise SimulationError(
                f"{file}: not relaxed after {relaxed.steps} steps; the largest force is "
                f"{relaxed.max_force:.3g} eV/A. {relaxed.problem}".rstrip()
            )
        typer.echo(f"relaxed in {relaxed.steps} steps (BFGS)")
        atoms = relaxed.atoms
    try:
        found = vibrations_of(
            atoms,
            calculator,
            method="finite-difference" if differences else "analytic",
            fmax=fmax,
            temperature=temperature,
            pressure=pressure,
            symmetry_number=symmetry,
        )
    except SimulationError as e:
        raise SimulationError(f"{file}: {e}") from None
    typer.echo(_table(found))
    if out is not None:
        write_text(out, json.dumps(_plain(found), indent=1) + "\n")
        typer.echo(f"written to {out}")


def _frequency(value: float) -> str:
    return f"{abs(value):.1f}{'i' if value < 0 else ''}"


def _table(found: Vibrations) -> str:
    from anipot.simulation.figures import EV_TO_KCALMOL

    def energy(name: str, ev: float) -> str:
        return f"{name:<28}{ev:16.6f} eV{ev * EV_TO_KCALMOL:18.3f} kcal/mol"

    cells = [f"{_frequency(f):>10}" for f in found.frequencies]
    lines = [
        f"{found.atoms.get_chemical_formula()}, {found.method} Hessian; largest force "
        f"{found.max_force:.2g} eV/A",
        f"{len(cells)} frequencies / cm^-1:",
        *("".join(cells[k : k + 6]) for k in range(0, len(cells), 6)),
        "translations and rotations / cm^-1: " + " ".join(map(_frequency, found.others)),
        energy("energy", found.energy),
        energy("zero-point energy", found.zero_point),
    ]
    if found.n_imaginary:
        lines.append(
            f"{found.n_imaginary} imaginary: a saddle point and no minimum, which has no "
            "thermochemistry"
        )
    if found.atoms.constraints:
        lines.append("no thermochemistry: atoms are fixed")
    thermo = found.thermochemistry
    if thermo is not None:
        entropy = thermo.entropy * EV_TO_KCALMOL * 1000
        lines += [
            f"ideal gas at {thermo.temperature:g} K and {thermo.pressure:g} Pa, "
            f"{thermo.geometry}, symmetry number {thermo.symmetry_number} (--symmetry):",
            energy("  enthalpy H", thermo.enthalpy),
            f"{'  entropy S':<28}{thermo.entropy:16.6f} eV/K{entropy:16.3f} cal/mol/K",
            energy("  Gibbs energy G", thermo.gibbs_energy),
        ]
    return "\n".join(lines)


def _plain(found: Vibrations) -> dict[str, object]:
    from dataclasses import asdict

    thermo = found.thermochemistry
    return {
        "formula": found.atoms.get_chemical_formula(),
        "symbols": list(found.atoms.symbols),
        "positions_angstrom": found.atoms.positions.tolist(),
        "method": found.method,
        "frequencies_cm-1": found.frequencies.tolist(),
        "translations_and_rotations_cm-1": found.others.tolist(),
        "zero_point_energy_ev": found.zero_point,
        "energy_ev": found.energy,
        "max_force_ev_angstrom": found.max_force,
        "thermochemistry_ev_k_pa": None if thermo is None else asdict(thermo),
    }
