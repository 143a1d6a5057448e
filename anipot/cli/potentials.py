"""anipot potentials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anipot.cli.app import App
from anipot.cli.output import written
from anipot.errors import PotentialError, SettingsError

potentials_app = App(
    help="List, describe, fetch and convert potentials.",
    short_help="List, describe, fetch and convert potentials.",
    no_args_is_help=True,
)

Potential = Annotated[
    str,
    typer.Argument(
        help="A name (see anipot potentials list), or a file or folder of a potential.",
        metavar="POTENTIAL",
    ),
]


@potentials_app.command("list", short_help="List the potentials known by name.")
def list_() -> None:
    """List the potentials known by name and where they are on this machine.

    In Python:

    \b
    from anipot.formats.published import NAMES, cached
    print({name: cached(name) for name in NAMES})
    """
    from anipot.data.published.bundled import bundled_path
    from anipot.errors import DataError
    from anipot.formats.load import SHIPPED
    from anipot.formats.published import PUBLISHED, cache_folders, cached

    problems = []
    for potential in PUBLISHED:
        try:
            place = cached(potential.name)
            where = str(place) if place else f"not here: anipot potentials fetch {potential.name}"
        except PotentialError as e:
            where = "damaged, see below"
            problems.append(str(e))
        typer.echo(
            f"{potential.name:<12} {potential.elements:<9} {potential.level_of_theory:<15} {where}"
        )
    for name, file in SHIPPED.items():
        try:
            typer.echo(f"{name:<12} comes with anipot: {bundled_path(file)}")
        except DataError:
            typer.echo(f"{name:<12} comes with anipot, but is missing: install anipot again")
    folders = ", ".join(map(str, cache_folders())) or "no folder (no home, ANIPOT_CACHE not set)"
    typer.echo(f"looked for in {folders}")
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)


Hints = Annotated[
    list[str] | None,
    typer.Argument(
        help="What a notebook's state dict lacks: activation=relu elements=HCNO aev=ani1x "
        "(or aev=FILE.params) data=FILE.h5 ...",
        metavar="HINT=VALUE",
    ),
]


@potentials_app.command(short_help="Describe a potential and its known errors.")
def info(potential: Potential, hints: Hints = None) -> None:
    """Describe a potential: elements, members, networks, self energies, origin and known errors.

    Example:

    \b
    anipot potentials info anipot-hcno

    Hints are those of 'anipot potentials convert'.

    In Python:

    \b
    import anipot
    from anipot.evaluation.description import describe
    print(describe(anipot.load("POTENTIAL")))
    """
    from anipot.evaluation.description import describe
    from anipot.formats.load import load

    typer.echo(describe(load(potential, **_values(hints or []))))


@potentials_app.command(short_help="Download published potentials and check them.")
def fetch(
    names: Annotated[list[str], typer.Argument(help="ani1x, ani1ccx, ani2x.", metavar="NAME")],
) -> None:
    """Download published potentials into the cache and check every file.

    Example:

    \b
    anipot potentials fetch ani2x

    The cache is the first writable folder of $ANIPOT_CACHE, $XDG_CACHE_HOME/anipot and
    ~/.cache/anipot. Copy the files there to use them on a machine without a network.

    In Python:

    \b
    from anipot.formats.published import fetch
    print(fetch(["ani1x"]))
    """
    from anipot.formats.published import fetch as fetch_published

    for place in fetch_published(names):
        typer.echo(f"{place} and {place.with_suffix('')} (checked)")


@potentials_app.command(short_help="Convert a potential to a .safetensors file.")
def convert(
    source: Potential,
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.safetensors")],
    hints: Hints = None,
) -> None:
    """Convert a potential of any format to a .safetensors file that gives the same energies.

    Example:

    \b
    anipot potentials convert anipot-hcno my.safetensors

    For a notebook's state dict give activation=relu and self_energies="{H: -0.6, C: -38.1}", or
    data=FILE.h5 to find and check both. If it holds no AEV constants, give aev=ani1x, aev=ani2x,
    aev=FILE.params (of NeuroChem), or the constants: aev="{Rcr: 5.2, Rca: 3.5, EtaR: [16], ShfR:
    [0.9, ...], Zeta: [32], ShfZ: [...], EtaA: [8], ShfA: [...]}". Keywords of anipot.load are hints
    here.

    In Python:

    \b
    import anipot
    anipot.load("POTENTIAL").save("OUT.safetensors")
    """
    from anipot.evaluation.description import describe
    from anipot.formats.load import load

    if Path(source).exists() and out.exists() and out.samefile(source):
        raise SettingsError(f"{out} is the potential to convert; name another file to write to")
    potential = load(source, **_values(hints or []))
    existed = out.exists()
    potential.save(out)
    typer.echo(describe(potential))
    typer.echo(f"written to {written(out, existed)}")


def _values(hints: list[str]) -> dict[str, Any]:
    """Keywords of ``load`` from words such as activation=relu."""
    from anipot.data.load import load_dataset
    from anipot.formats.safe_reading import number
    from anipot.system.yaml_files import parse_value

    values: dict[str, Any] = {}
    for word in hints:
        name, equals, text = word.partition("=")
        if not equals:
            raise SettingsError(f"{word!r} is no hint such as activation=relu")
        if name == "data":
            values[name] = load_dataset(text)
        elif name == "self_energies" or (name == "aev" and text.lstrip().startswith("{")):
            values[name] = parse_value(text)
        elif name.endswith("_cutoff"):
            values[name] = number(text, name)
        else:
            values[name] = text  # and not what YAML makes of it: NO is two elements
    return values
