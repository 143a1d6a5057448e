"""anipot evaluate."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.output import shows_progress, written
from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.data.mapping import ReadOptions


class Part(StrEnum):
    """A part of the data that a potential was trained on."""

    all = "all"
    train = "train"
    validation = "validation"
    test = "test"


DataFiles = Annotated[
    list[Path] | None,
    typer.Argument(help="Data files (default: the bundled data).", metavar="DATA"),
]
OnlyPart = Annotated[
    Part, typer.Option(help="Evaluate this part of the data of the training alone.")
]


@reads_data(keep_unlabelled=False)
def evaluate(
    potential: Annotated[
        str,
        typer.Argument(help="A saved potential, or a name such as ani1x.", metavar="POTENTIAL"),
    ],
    data: DataFiles = None,
    part: OnlyPart = Part.all,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write plots and evaluation.json to this folder."),
    ] = None,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Print the errors of a potential on a data set, by size and by composition.

    Example:

    \b
    anipot evaluate anipot-hcno --part test

    Errors are in kcal/mol, for crystals in eV and meV/atom; forces and stress are included where
    the data has them. If the potential was trained on these data, the number of conformers it was
    trained on is printed; '--part test' evaluates the test part alone.

    In Python:

    \b
    import anipot
    data = anipot.load_dataset("DATA.h5")
    print(anipot.evaluate(anipot.load("POTENTIAL.safetensors"), data))
    """
    from anipot.data.check import warn_of_labels
    from anipot.data.load import read_files
    from anipot.data.published.bundled import bundled_path
    from anipot.errors import DataError
    from anipot.evaluation.metrics import Evaluation
    from anipot.evaluation.trained_on import part_of
    from anipot.formats.load import load
    from anipot.report.figures import plots
    from anipot.system.files import damage_named, write_text
    from anipot.training.trainer import evaluate as errors_of

    model = load(potential)
    conformers = read_files(data or [bundled_path()], read)
    if data:
        warn_of_labels(conformers, read)
    with damage_named(potential, DataError):
        conformers, note = part_of(model, conformers, part.value)
    evaluation = errors_of(model, conformers, progress=shows_progress(len(conformers)))
    unit, sizes = evaluation.unit, evaluation.by_heavy_atoms()
    typer.echo(Evaluation.table(sizes, "error by number of heavy atoms", unit))
    typer.echo(Evaluation.table(evaluation.by_formula(), "error by composition", unit))
    typer.echo(evaluation.summary(part.value if part is not Part.all else ""))
    if note:
        typer.echo(note)
    if out is not None:
        existed = (out / "evaluation.json").exists()
        text = json.dumps({"potential": potential, "note": note, **evaluation.to_dict()}, indent=1)
        write_text(out / "evaluation.json", text + "\n")
        plots.save_figure(plots.parity(evaluation), out / "parity")
        rows = evaluation.by_formula()
        figure = plots.error_by_group(rows, "error by composition", unit)
        plots.save_figure(figure, out / "error_by_composition")
        where = written(f"{out}/", existed)
        typer.echo(
            f"written to {where}: evaluation.json, parity and error_by_composition (PNG, SVG)"
        )
