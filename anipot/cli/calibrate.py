"""anipot calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.evaluate import DataFiles, OnlyPart, Part
from anipot.cli.output import shows_progress, written
from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.data.mapping import ReadOptions


@reads_data(keep_unlabelled=False)
def calibrate(
    potential: Annotated[
        str, typer.Argument(help="A saved ensemble, or a name such as ani1x.", metavar="POTENTIAL")
    ],
    data: DataFiles = None,
    part: OnlyPart = Part.all,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the figure and calibration.json to this folder."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Save the potential with this calibration as a .safetensors file."),
    ] = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Calibrate an ensemble: relate the disagreement of its members to its error.

    Example:

    \b
    anipot train members=2 epochs=3 per_molecule=10 hidden=16,8 --out pair
    anipot calibrate pair --part test

    Compares std / sqrt(N) over the members with error / sqrt(N), N atoms, in kcal/mol. Use data
    that no member was trained on. A potential that is saved with its calibration warns of
    predictions whose members disagree by more.

    In Python:

    \b
    from anipot.evaluation.calibration import calibrate
    print(calibrate(anipot.load("POTENTIAL.safetensors"), anipot.load_dataset("DATA.h5")))
    """
    from anipot.data.check import warn_of_labels
    from anipot.data.load import read_files
    from anipot.data.published.bundled import bundled_path
    from anipot.errors import DataError
    from anipot.evaluation.calibration import calibrate as compare
    from anipot.evaluation.trained_on import part_of
    from anipot.formats.load import load
    from anipot.system.files import damage_named, write_text

    model = load(potential)
    conformers = read_files(data or [bundled_path()], read)
    if data:
        warn_of_labels(conformers, read)
    with damage_named(potential, DataError):
        conformers, note = part_of(model, conformers, part.value)
    name = ", ".join(dict.fromkeys(Path(s).name for s in conformers.sources))
    name += f" ({part.value} part)" if part is not Part.all else ""
    found = compare(model, conformers, name, progress=shows_progress(len(conformers)))
    typer.echo(str(found))
    if note:
        typer.echo(note)
    if out is not None:
        from anipot.report.figures import plots
        from anipot.report.figures.calibration import calibration_plot

        existed = (out / "calibration.json").exists()
        text = json.dumps({"potential": potential, "note": note, **found.to_dict()}, indent=1)
        write_text(out / "calibration.json", text + "\n")
        plots.save_figure(calibration_plot(found), out / "calibration")
        typer.echo(
            f"written to {written(f'{out}/', existed)}: calibration.json, calibration (PNG, SVG)"
        )
    if save is not None:
        existed = save.exists()
        model.save(save, calibrated=found.about())
        typer.echo(f"the potential with this calibration: {written(save, existed)}")
