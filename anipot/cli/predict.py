"""anipot predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.output import shows_progress, written
from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.data.mapping import ReadOptions
from anipot.errors import SettingsError


@reads_data(keep_unlabelled=True)
def predict(
    potential: Annotated[
        str,
        typer.Argument(help="A saved potential, or a name such as ani1x.", metavar="POTENTIAL"),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(help="Structures in any format, with any number of frames.", metavar="FILE"),
    ],
    forces: Annotated[bool, typer.Option("--forces", help="Also predict forces.")] = False,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also predict the stress of periodic cells.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write .json, .csv (largest force only) or .extxyz instead of printing a table.",
        ),
    ] = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Print energies, relative energies and forces of structures.

    Example:

    \b
    printf '3\\n\\nO 0 0 0\\nH 0 0 0.96\\nH 0.93 0 -0.24\\n' > water.xyz
    anipot predict anipot-hcno water.xyz --forces

    Energies are in hartree and in kcal/mol above the lowest conformer of the same formula; .extxyz
    files are in eV and eV/angstrom, as in ASE. For an ensemble, the disagreement of its members is
    printed, with a warning where it exceeds the calibration. Charged or open-shell structures and
    elements that the potential does not know are errors.

    In Python:

    \b
    import anipot
    data = anipot.load_dataset("FILE.xyz", keep_unlabelled=True)
    print(anipot.load("POTENTIAL.safetensors").predict(data, forces=True).energies)
    """
    from anipot.data.check import warn_of_geometry, warn_of_labels
    from anipot.data.load import read_files
    from anipot.formats.load import load
    from anipot.potential.prediction import checked_ending

    if out is not None and out.resolve() in [file.resolve() for file in files]:
        raise SettingsError(f"{out} is an input file; name another file to write to")
    ending = None if out is None else checked_ending(out)  # before all the work
    if out is not None and not out.parent.is_dir():
        what = "is a file" if out.parent.exists() else "is not there"
        raise SettingsError(f"{str(out)!r} cannot be written: the folder {out.parent} {what}")
    if stress and ending in (None, ".csv"):
        raise SettingsError("--stress is written to .json and .extxyz files: name one with --out")
    model = load(potential)
    conformers = read_files(files, read)
    warn_of_labels(
        conformers, read, lengths=False
    )  # the errors printed are relative to these energies
    warn_of_geometry(conformers, model.aev.settings.radial_cutoff)
    prediction = model.predict(
        conformers, forces=forces, stress=stress, progress=shows_progress(len(conformers))
    )
    if out is None:
        typer.echo(prediction.table(conformers))
    else:
        existed = out.exists()
        prediction.write(conformers, out)
        typer.echo(f"{len(conformers):,} predictions written to {written(out, existed)}")
    if prediction.energy_std is not None and len(conformers):
        from anipot.evaluation.calibration import beyond, in_words

        spread = prediction.disagreement(conformers)
        typer.echo(in_words(model, spread, conformers))
        formula, formulas = conformers.formulas()
        names = [f"frame {i} {formulas[f]}" for i, f in enumerate(formula)]
        for warning in beyond(model, spread, conformers.n_atoms, names):
            typer.echo(f"WARNING, {warning}", err=True)
