"""anipot relax."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anipot.cli.simulating import (
    Double,
    MaxDisagreement,
    Overwrite,
    Potential,
    calculator_of,
    refuse_existing,
    structures_of,
)
from anipot.errors import SettingsError

if TYPE_CHECKING:
    import ase

    from anipot.potential.calculator import ANICalculator
    from anipot.simulation import Relaxed


def relax(
    potential: Potential,
    files: Annotated[
        list[Path],
        typer.Argument(help="Structures: any number of files and frames.", metavar="FILE"),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output .extxyz file (default: FILE_relaxed.extxyz)."),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="BFGS, LBFGS or FIRE.")] = "BFGS",
    fmax: Annotated[float, typer.Option(help="Largest force after relaxing, eV/angstrom.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Largest number of steps per structure.")] = 1000,
    cell: Annotated[bool, typer.Option("--cell", help="Also relax the cell.")] = False,
    double: Double = False,
    max_disagreement: MaxDisagreement = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue after the last structure in the output file.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Relax structures to the nearest minimum of the energy.

    Example:

    \b
    printf '3\\n\\nO 0 0 0\\nH 0 0 0.96\\nH 0.93 0 -0.24\\n' > water.xyz
    anipot relax anipot-hcno water.xyz

    Each structure is written when it is relaxed, with energy (eV), forces (eV/angstrom),
    convergence, number of steps, energies before and after, and largest force. Run the command
    again with --resume to continue after an interruption. Constraints in a file hold (fixed atoms,
    selective dynamics).

    In Python:

    \b
    from anipot.simulation import relax
    print(relax(atoms, anipot.load("POTENTIAL").calculator()).energy_after)
    """
    from tqdm import tqdm

    from anipot.simulation.relaxation import check_options
    from anipot.simulation.relaxation import relax as relax_one
    from anipot.simulation.structures import extxyz
    from anipot.system.interruption import Interruption

    if out is None:
        if len(files) > 1:
            raise SettingsError("several files: name the file to write to with --out")
        out = Path(f"{files[0].stem}_relaxed.extxyz")
    if out.suffix not in (".extxyz", ".xyz"):
        raise SettingsError(f"{out}: relaxed structures are written as .extxyz")
    if resume and overwrite:
        raise SettingsError("--resume keeps what --overwrite would replace; give one of them")
    refuse_existing([out], files, overwrite or resume)
    calculator = calculator_of(potential, double, max_disagreement)
    frames = structures_of(files, calculator)
    check_options(frames, optimizer, fmax, steps, cell)  # before the output file is emptied
    done = _done(out, frames, calculator) if resume and out.exists() else 0
    out.parent.mkdir(parents=True, exist_ok=True)
    converged = written = steps_taken = 0
    watched = sys.stderr.isatty()
    with (
        out.open("a" if resume else "w", encoding="utf-8") as file,
        Interruption() as interruption,
        tqdm(total=len(frames), initial=done, unit=" structures", disable=not watched) as bar,
    ):
        head = f"{'structure':>9}  {'formula':<14}{'steps':>6}{'energy / eV':>18}"
        typer.echo(f"{head}{'gained / kcal/mol':>19}{'max force / eV/A':>18}")
        for number, atoms in enumerate(frames[done:], done):
            found = relax_one(
                atoms,
                calculator,
                optimizer=optimizer,
                fmax=fmax,
                steps=steps,
                cell=cell,
                stop=lambda: interruption.requested,
            )
            if found.interrupted:
                break
            # In one piece, so that a killed process leaves whole frames.
            file.write(extxyz(found.frame()))
            file.flush()
            written += 1
            converged += found.converged
            steps_taken += found.steps
            bar.update()
            with bar.external_write_mode():
                typer.echo(_line(number, found))
            if interruption.requested:
                break
    typer.echo(
        f"{converged} of {written} converged to {fmax:g} eV/angstrom in {steps_taken} steps; "
        f"written to {out}"
    )
    missing = len(frames) - done - written
    if missing:
        typer.echo(
            f"interrupted: {missing} structures are left; run the same command with --resume to "
            "continue",
            err=True,
        )
        raise typer.Exit(130)


def _line(number: int, found: Relaxed) -> str:
    from anipot.simulation.figures import EV_TO_KCALMOL

    note = "" if found.converged else "  not converged"
    if found.problem:
        note += f": {found.problem}"
    return (
        f"{number:9d}  {found.atoms.get_chemical_formula():<14}{found.steps:6d}"
        f"{found.energy_after:18.6f}"
        f"{(found.energy_before - found.energy_after) * EV_TO_KCALMOL:19.3f}"
        f"{found.max_force:18.4f}{note}"
    )


def _done(out: Path, frames: list[ase.Atoms], calculator: ANICalculator) -> int:
    """Number of relaxed structures in the output file of an interrupted run."""
    import numpy as np
    from ase.io import read

    from anipot.simulation.relaxation import energy_of

    try:
        there = read(out, ":")
    except Exception as e:  # ASE's reader raises anything at all on a damaged file
        raise SettingsError(f"{out}: cannot be read to go on from ({e})") from None
    same = len(there) <= len(frames) and all(
        np.array_equal(a.numbers, b.numbers) for a, b in zip(there, frames, strict=False)
    )
    if not same:
        raise SettingsError(f"{out} does not hold the beginning of these structures, relaxed")
    last = there[-1] if there else None
    if last is not None and "energy" in getattr(last.calc, "results", {}):
        before, now = last.get_potential_energy(), energy_of(last, calculator)
        if abs(now - before) > 1e-4 * len(last):  # positions in the file are rounded
            raise SettingsError(
                f"{out}: the potential gives {now:.6f} eV for the last structure there, and it was "
                f"{before:.6f} eV: this is not the potential of that run"
            )
    return len(there)
