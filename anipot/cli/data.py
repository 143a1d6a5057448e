"""anipot data: what a data file holds, and whether anything is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.datasets.bundled import bundled_path
from anipot.datasets.check import read_and_check
from anipot.datasets.describe import describe
from anipot.datasets.load import load_dataset
from anipot.datasets.mapping import ReadOptions

data_app = typer.Typer(
    help="Look at data sets: what they hold (info), what is wrong with them (check).",
    no_args_is_help=True,
)

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        help="HDF5, extended XYZ or .npz files; default: the bundled data.", metavar="FILE"
    ),
]
EnergyKey = Annotated[str | None, typer.Option(help="Name of the energies in the file.")]
CoordinatesKey = Annotated[str | None, typer.Option(help="Name of the coordinates.")]
SpeciesKey = Annotated[str | None, typer.Option(help="Name of the elements or atomic numbers.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the forces.")]
EnergyUnit = Annotated[
    str | None, typer.Option(help="hartree, kcal/mol, kJ/mol, eV, meV, rydberg.")
]
LengthUnit = Annotated[str | None, typer.Option(help="angstrom, bohr or nm.")]
ForcesSign = Annotated[str | None, typer.Option(help="'forces', or 'gradient' to negate them.")]
HighEnergy = Annotated[
    bool, typer.Option("--high-energy", help="Read ANI-1's high-energy extras too.")
]
KeepUnlabelled = Annotated[
    bool, typer.Option("--keep-unlabelled", help="Keep conformers that have no energy.")
]
GroupKey = Annotated[str | None, typer.Option(help="Info key that names the molecule of a frame.")]


@data_app.command()
def info(
    files: Files = None,
    energy_key: EnergyKey = None,
    coordinates_key: CoordinatesKey = None,
    species_key: SpeciesKey = None,
    forces_key: ForcesKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    forces_sign: ForcesSign = None,
    high_energy: HighEnergy = False,
    keep_unlabelled: KeepUnlabelled = False,
    group_key: GroupKey = None,
) -> None:
    """Print what data files hold, read together as one data set.

    Molecules, conformers, elements, energy range, labels, level of theory, memory.

    In Python:

    \b
    from anipot.datasets import describe, load_dataset
    print(describe(load_dataset("FILE")))
    """
    data = load_dataset(
        files or [bundled_path()],
        energy_key=energy_key,
        coordinates_key=coordinates_key,
        species_key=species_key,
        forces_key=forces_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_sign=forces_sign,
        high_energy=high_energy,
        keep_unlabelled=keep_unlabelled,
        group_key=group_key,
    )
    typer.echo(str(describe(data)))


@data_app.command()
def check(
    files: Files = None,
    energy_key: EnergyKey = None,
    coordinates_key: CoordinatesKey = None,
    species_key: SpeciesKey = None,
    forces_key: ForcesKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    forces_sign: ForcesSign = None,
    high_energy: HighEnergy = False,
    keep_unlabelled: KeepUnlabelled = False,
    group_key: GroupKey = None,
) -> None:
    """Look for mistakes in data files; exit with 1 when there is one.

    Shapes that disagree, NaN, unknown elements, atoms closer than 0.3 angstrom, energies that
    look like another unit, conformers that occur twice. Names the first bad group and why.

    In Python:

    \b
    from anipot.datasets import check_file
    print(*check_file("FILE"), sep="\\n")
    """
    options = ReadOptions(
        energy_key=energy_key,
        coordinates_key=coordinates_key,
        species_key=species_key,
        forces_key=forces_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_sign=forces_sign,
        high_energy=high_energy,
        keep_unlabelled=keep_unlabelled,
        group_key=group_key,
    )
    failed = False
    for file in files or [bundled_path()]:
        data, problems = read_and_check(file, options)
        for problem in problems:
            typer.echo(f"{file}: {problem}")
        if problems:
            failed = True
        elif data is not None:
            typer.echo(f"{file}: no problem found in {len(data):,} conformers")
    if failed:
        raise typer.Exit(1)
