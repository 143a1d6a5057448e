"""Potentials, structures and output files of the commands that simulate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anipot.errors import SettingsError

if TYPE_CHECKING:
    import ase

    from anipot.potential.calculator import ANICalculator

Potential = Annotated[
    str,
    typer.Argument(help="A saved potential, or a name such as ani1x.", metavar="POTENTIAL"),
]
Structure = Annotated[
    Path, typer.Argument(help="A structure: XYZ, extended XYZ, CIF, ...", metavar="FILE")
]
Frame = Annotated[int | None, typer.Option("--frame", help="Frame of FILE to use, counted from 0.")]
Double = Annotated[bool, typer.Option("--double", help="Compute in float64.")]
MaxDisagreement = Annotated[
    float | None,
    typer.Option(
        "--max-disagreement",
        help="Stop if the members of an ensemble disagree by more: std / sqrt(N), kcal/mol.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]

#: Endings of the files of a figure.
FIGURES = (".png", ".svg")


def calculator_of(
    potential: str, double: bool = False, max_disagreement: float | None = None
) -> ANICalculator:
    """The calculator of a potential named on the command line.

    It ends a simulation at the disagreement asked for; else it warns beyond the calibration.
    """
    from anipot.evaluation.calibration import calibrated
    from anipot.formats.load import load

    model = load(potential, dtype="float64" if double else None)
    if max_disagreement is None and (known := calibrated(model)) is not None:
        return model.calculator(max_disagreement=known.disagreement_kcalmol)
    return model.calculator(max_disagreement=max_disagreement, on_disagreement="stop")


def structures_of(files: list[Path], calculator: ANICalculator) -> list[ase.Atoms]:
    """All structures of some files, whose elements the potential knows.

    They have the constraints of the files, and the masses of isotopes. Warns of those that are
    larger than what its errors are known for, and of atoms that are too close to each other or too
    far away.
    """
    import numpy as np

    from anipot.data.batches import known_species
    from anipot.data.check import warn_of_geometry
    from anipot.data.load import read_files
    from anipot.data.mapping import read_options
    from anipot.evaluation.calibration import beyond
    from anipot.simulation.structures import structures

    carried: list[ase.Atoms | None] = []
    conformers = read_files(files, read_options(keep_unlabelled=True), carried)
    known_species(conformers, calculator.potential.trained or calculator.potential.elements)
    cutoff = calculator.potential.aev.settings.radial_cutoff
    warn_of_geometry(conformers, cutoff, unit_option=False)
    formula, formulas = conformers.formulas()
    names = [f"frame {i} {formulas[f]}" for i, f in enumerate(formula)]
    nothing = np.zeros(len(conformers))
    for warning in beyond(calculator.potential, nothing, conformers.n_atoms, names):
        typer.echo(f"WARNING, {warning}", err=True)
    frames = structures(conformers, carried)
    held = sorted({type(c).__name__ for frame in frames for c in frame.constraints})
    if held:
        n = sum(bool(frame.constraints) for frame in frames)
        typer.echo(f"constraints of {n} of {len(frames)} structures hold: {', '.join(held)}")
    return frames


def structure_of(file: Path, frame: int | None, calculator: ANICalculator) -> ase.Atoms:
    """Return the only structure of a file, or the given frame."""
    frames = structures_of([file], calculator)
    if frame is None and len(frames) > 1:
        raise SettingsError(f"{file} has {len(frames)} structures; choose one with --frame")
    if not 0 <= (frame or 0) < len(frames):
        raise SettingsError(
            f"{file}: no frame {frame}; they are counted from 0 to {len(frames) - 1}"
        )
    return frames[frame or 0]


def refuse_existing(paths: Iterable[Path], inputs: Iterable[Path], overwrite: bool) -> None:
    """Raise SettingsError for an output that is an input, or that exists and may not be lost."""
    read = [path.resolve() for path in inputs]
    for path in paths:
        if path.resolve() in read:
            raise SettingsError(f"{path} is an input file; name another with --out")
        if path.exists() and not overwrite:
            raise SettingsError(
                f"{path} exists; name another file with --out, or replace it with --overwrite"
            )
