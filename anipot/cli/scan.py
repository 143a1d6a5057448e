"""anipot scan."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

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
from anipot.errors import AnipotError, SettingsError, SimulationError


def scan(
    potential: Potential,
    file: Structure,
    over: Annotated[
        str,
        typer.Option(
            "--range",
            help="N values from START to STOP, both included, in angstrom or degrees.",
            metavar="START:STOP:N",
        ),
    ],
    dihedral: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            help="Four atoms, counted from 0; the group attached to the third rotates with it."
        ),
    ] = None,
    angle: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Three atoms; the third moves.")
    ] = None,
    distance: Annotated[
        tuple[int, int] | None, typer.Option(help="Two atoms; the second moves.")
    ] = None,
    relaxed: Annotated[
        bool, typer.Option("--relaxed", help="Relax all other coordinates at every point.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="BFGS, LBFGS or FIRE.")] = "BFGS",
    fmax: Annotated[float, typer.Option(help="Largest force after relaxing, eV/angstrom.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Largest number of steps per point.")] = 1000,
    frame: Frame = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output .extxyz file (default: FILE_scan.extxyz)."),
    ] = None,
    double: Double = False,
    max_disagreement: MaxDisagreement = None,
    overwrite: Overwrite = False,
) -> None:
    """Scan the energy along a dihedral, an angle or a distance, rigid or relaxed.

    Example:

    \b
    printf '3\\n\\nO 0 0 0\\nH 0 0 0.96\\nH 0.93 0 -0.24\\n' > water.xyz
    anipot scan anipot-hcno water.xyz --distance 0 1 --range 0.9:1.2:4

    Prints kcal/mol above the lowest point; writes the structures (energies in eV) and a figure
    (.png, .svg) beside them. Ctrl-C keeps the points computed so far. Fixed atoms of a file stay in
    place.

    In Python:

    \b
    from anipot.simulation import Coordinate, scan
    calculator = anipot.load("POTENTIAL").calculator()
    points = scan(atoms, calculator, Coordinate((0, 1)), [1.0, 1.1])
    """
    import numpy as np
    from tqdm import tqdm

    from anipot.report.figures.plots import save_figure
    from anipot.simulation.coordinate_scan import Coordinate, ScanPoint
    from anipot.simulation.coordinate_scan import scan as scan_of
    from anipot.simulation.figures import EV_TO_KCALMOL, scan_figure
    from anipot.simulation.structures import extxyz, snapshot
    from anipot.system.files import write_text
    from anipot.system.interruption import Interruption

    given = [tuple(x) for x in (dihedral, angle, distance) if x]
    if len(given) != 1:
        raise SettingsError("give one of --dihedral, --angle and --distance")
    coordinate = Coordinate(given[0])
    start, stop, n = _range(over)
    values = np.linspace(start, stop, n)
    out = out or Path(f"{file.stem}_scan.extxyz")
    if out.suffix not in (".extxyz", ".xyz"):
        raise SettingsError(f"{out}: scans are written as .extxyz")
    refuse_existing([out, *(out.with_suffix(s) for s in FIGURES)], [file], overwrite)
    calculator = calculator_of(potential, double, max_disagreement)
    atoms = structure_of(file, frame, calculator)
    points: list[ScanPoint] = []
    problem = ""
    with Interruption() as interruption:
        run = scan_of(
            atoms,
            calculator,
            coordinate,
            values,
            relaxed=relaxed,
            optimizer=optimizer,
            fmax=fmax,
            steps=steps,
            stop=lambda: interruption.requested,
        )
        try:
            for point in tqdm(run, total=n, unit=" points", disable=not sys.stderr.isatty()):
                points.append(point)
        except AnipotError as e:
            if not points:
                raise
            problem = str(e)
    if points:
        # First, for files may turn out not to be writable.
        lowest = min(p.energy for p in points)
        typer.echo(f"{coordinate} / {coordinate.unit}   energy / kcal/mol")
        for p in points:
            note = "" if p.converged else "   not converged"
            typer.echo(f"{p.value:12.3f}{(p.energy - lowest) * EV_TO_KCALMOL:14.3f}{note}")
        name = f"{coordinate.kind}_{coordinate.unit}"
        write_text(
            out,
            "".join(
                extxyz(snapshot(p.atoms, **{name: p.value, "converged": p.converged}))
                for p in points
            ),
        )
        save_figure(scan_figure(points, coordinate), out.with_suffix(""))
        typer.echo(f"{len(points)} points written to {out}, figure {out.with_suffix('.png')}")
    if problem:
        raise SimulationError(f"after {len(points)} points: {problem}")
    if len(points) < n:
        rest = f"{values[len(points)]:g}:{stop:g}:{n - len(points)}"
        here = f" from the last structure in {shlex.quote(str(out))}" if relaxed and points else ""
        typer.echo(
            f"interrupted: {n - len(points)} points are left; --range {rest} goes on{here}",
            err=True,
        )
        raise typer.Exit(130)


def _range(text: str) -> tuple[float, float, int]:
    parts = text.split(":")
    try:
        start, stop, n = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        raise SettingsError(f"--range {text}: write START:STOP:N, as in 0:360:37") from None
    if len(parts) != 3 or n < 1:
        raise SettingsError(f"--range {text}: write START:STOP:N with N at least 1")
    return start, stop, n
