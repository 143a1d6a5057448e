"""anipot data resolve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anipot.cli.reading import NO_OPTIONS, reads_data
from anipot.config import COVER_OPTIONS, ModelSettings
from anipot.data.mapping import ReadOptions
from anipot.system.options import checked


def _option(name: str) -> Any:
    text = ModelSettings.model_fields[name].description
    assert text is not None
    return typer.Option(help=f"{text[0].upper()}{text[1:]}.")


@reads_data(keep_unlabelled=True)
def resolve(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="HDF5, extended XYZ or .npz files; default: the bundled data.", metavar="FILE"
        ),
    ] = None,
    aev: Annotated[str, typer.Option(help="AEV constants: ani1x, ani2x or cover.")] = "ani1x",
    radial_cutoff: Annotated[float | None, _option("radial_cutoff")] = None,
    angular_cutoff: Annotated[float | None, _option("angular_cutoff")] = None,
    radial_terms: Annotated[int | None, _option("radial_terms")] = None,
    angular_terms: Annotated[int | None, _option("angular_terms")] = None,
    angle_terms: Annotated[int | None, _option("angle_terms")] = None,
    zeta: Annotated[float | None, _option("zeta")] = None,
    radial_start: Annotated[float | None, _option("radial_start")] = None,
    sample: Annotated[
        int, typer.Option(help="Largest number of conformers, drawn at random.", min=1)
    ] = 10_000,
    read: ReadOptions = NO_OPTIONS,
) -> None:
    """Report how well AEV settings distinguish the geometries of a data set.

    Example:

    \b
    anipot data resolve --aev ani1x

    Prints distances, numbers of neighbors within the cutoffs, columns of the AEV that are constant
    for an element (its network learns nothing from them), and what to change.

    In Python:

    \b
    from anipot.aev.resolution import resolution
    print(resolution(anipot.AEVSettings.cover("Si", 6.0), anipot.load_dataset("FILE")))
    """
    from anipot.aev.resolution import resolution
    from anipot.aev.settings import AEVSettings
    from anipot.data.load import read_files
    from anipot.data.published.bundled import bundled_path

    given = (
        radial_cutoff, angular_cutoff, radial_terms, angular_terms, angle_terms, zeta, radial_start,
    )  # fmt: skip
    wanted = checked(ModelSettings, {"aev": aev, **dict(zip(COVER_OPTIONS, given, strict=True))})
    data = read_files(files or [bundled_path()], read)
    settings = AEVSettings.named(wanted.aev, data.elements, **wanted.cover)
    typer.echo(str(resolution(settings, data, sample)))
