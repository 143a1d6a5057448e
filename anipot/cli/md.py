"""anipot md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anipot.cli.simulating import (
    FIGURES,
    Double,
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
    from anipot.simulation import MDResult, MDSettings


def md(
    potential: Potential,
    file: Structure,
    frame: Frame = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Trajectory, .extxyz or .traj (default: FILE_md.extxyz)."),
    ] = None,
    nvt: Annotated[
        bool,
        typer.Option("--nvt", help="Use a Langevin thermostat (default: NVE, velocity Verlet)."),
    ] = False,
    time: Annotated[float, typer.Option(help="Length of the run, fs.")] = 1000.0,
    timestep: Annotated[float, typer.Option(help="Time step, fs.")] = 0.5,
    temperature: Annotated[
        float, typer.Option(help="Temperature of the initial velocities and the thermostat, K.")
    ] = 300.0,
    friction: Annotated[float, typer.Option(help="Friction of the thermostat, 1/fs.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the velocities and the thermostat.")] = 0,
    every: Annotated[int, typer.Option(help="Steps between frames and lines of the log.")] = 10,
    save_every: Annotated[int, typer.Option(help="Steps between restart points.")] = 1000,
    max_temperature: Annotated[
        float | None,
        typer.Option(
            help="Abort above this temperature, K (default: 10 * --temperature, at least 3000)."
        ),
    ] = None,
    double: Double = False,
    max_disagreement: MaxDisagreement = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume from the restart file; --time may be longer."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run molecular dynamics of a structure.

    Example:

    \b
    printf '3\\n\\nO 0 0 0\\nH 0 0 0.96\\nH 0.93 0 -0.24\\n' > water.xyz
    anipot md anipot-hcno water.xyz --time 50 --nvt --temperature 300

    Writes a trajectory, a log (.csv: energies in eV, temperature in K, disagreement in kcal/mol), a
    restart file (.restart.npz) and a figure (.png, .svg). Run the command again with --resume to
    continue; the result has the same bits as a run that was never interrupted.

    Constraints in a file hold (fixed atoms, selective dynamics, fixed bond lengths); unsupported
    ones are an error.

    In Python:

    \b
    from anipot.simulation import run_md
    calculator = anipot.load("POTENTIAL").calculator()
    print(run_md(atoms, calculator, "OUT.extxyz", time=1000).drift)
    """
    from tqdm import tqdm

    from anipot.report.figures.plots import save_figure
    from anipot.simulation.dynamics import MDSettings, run_md
    from anipot.simulation.figures import md_figure
    from anipot.simulation.recording import RunFiles
    from anipot.system.files import kept
    from anipot.system.interruption import Interruption
    from anipot.system.options import checked

    settings = checked(
        MDSettings,
        {
            "ensemble": "nvt" if nvt else "nve",
            "time": time,
            "timestep": timestep,
            "temperature": temperature,
            "friction": friction,
            "seed": seed,
            "every": every,
            "save_every": save_every,
            "max_temperature": max_temperature,
        },
    )
    files = RunFiles.of(out or Path(f"{file.stem}_md.extxyz"))
    if resume and overwrite:
        raise SettingsError("--resume keeps what --overwrite would replace; give one of them")
    written = [*files, *(files.figure.with_suffix(s) for s in FIGURES)]
    refuse_existing(written, [file], overwrite or resume)
    calculator = calculator_of(potential, double, max_disagreement)
    atoms = structure_of(file, frame, calculator)
    typer.echo(_intent(settings, atoms.get_chemical_formula(), len(atoms)))
    watched = sys.stderr.isatty()
    with (
        Interruption() as interruption,
        tqdm(total=settings.steps, unit=" steps", disable=not watched, leave=False) as bar,
    ):

        def shown(step: int) -> None:
            bar.update(step - bar.n)

        try:
            result = run_md(
                atoms,
                calculator,
                files.trajectory,
                settings,
                resume=resume,
                stop=lambda: interruption.requested,
                on_step=shown,
            )
        except OSError as e:
            if not files.restart.exists():
                raise
            raise kept(e, "the same command with --resume") from e
    save_figure(md_figure(result, max_disagreement), files.figure.with_suffix(""))
    typer.echo(_summary(result))
    if result.stopped == "interrupted":
        typer.echo(
            f"interrupted after {result.steps} of {settings.steps} steps; run the same command "
            "with --resume to continue",
            err=True,
        )
        raise typer.Exit(130)
    if result.stopped:
        raise SimulationError(f"stopped at {result.stopped}. Everything up to there is saved")


def _intent(settings: MDSettings, formula: str, n_atoms: int) -> str:
    how = "NVE (velocity Verlet)"
    if settings.ensemble == "nvt":
        how = f"NVT (Langevin, friction {settings.friction:g} /fs)"
    return (
        f"{formula}, {n_atoms} atoms: {how}, {settings.temperature:g} K, {settings.time:g} fs in "
        f"{settings.steps} steps of {settings.timestep:g} fs, seed {settings.seed}"
    )


def _summary(result: MDResult) -> str:
    from math import isfinite

    lines = [
        f"{result.steps} steps; mean temperature of the second half {result.temperature:.0f} K"
    ]
    if result.drift is not None:
        lines.append(
            f"energy drift {result.drift:.2e} eV/atom/ps (fitted slope of the total energy)"
        )
    if isfinite(result.max_disagreement):
        lines.append(f"largest disagreement {result.max_disagreement:.3f} kcal/mol (std / sqrt(N))")
    files = result.files
    lines.append(f"trajectory {files.trajectory}, log {files.log}, figure {files.figure}")
    return "\n".join(lines)
