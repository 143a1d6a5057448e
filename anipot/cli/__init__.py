"""The command line, one file a command."""

from __future__ import annotations

import logging
import sys

import typer

from anipot.cli.app import App
from anipot.cli.bench import bench_app
from anipot.cli.calibrate import calibrate
from anipot.cli.data import data_app
from anipot.cli.evaluate import evaluate
from anipot.cli.info import info
from anipot.cli.iterate import iterate
from anipot.cli.md import md
from anipot.cli.output import Lasting, open_closed
from anipot.cli.potentials import potentials_app
from anipot.cli.predict import predict
from anipot.cli.relax import relax
from anipot.cli.report import report
from anipot.cli.scan import scan
from anipot.cli.search import search
from anipot.cli.study import study_app
from anipot.cli.train import train
from anipot.cli.vibrations import vibrations
from anipot.errors import AnipotError
from anipot.version import __version__

app = App(
    help="ANI-style atomic neural network potentials: train, compare, save, load and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Train a potential and report its errors on unseen data.")(train)
app.command(short_help="Print the errors of a potential on a data set.")(evaluate)
app.command(short_help="Compare settings: a table of runs with several seeds.")(iterate)
app.command(short_help="Search for good options with Optuna.")(search)
app.command(short_help="Regenerate the HTML report of a run or a table.")(report)
app.command(short_help="Calibrate the disagreement of an ensemble.")(calibrate)
app.command(short_help="Predict energies and forces of structures.")(predict)
app.command(short_help="Relax structures to the nearest minimum.")(relax)
app.command(short_help="Compute frequencies and thermochemistry.")(vibrations)
app.command(short_help="Run molecular dynamics (NVE or Langevin).")(md)
app.command(short_help="Scan a dihedral, an angle or a distance.")(scan)
app.add_typer(study_app, name="study")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
app.add_typer(potentials_app, name="potentials")
app.command(short_help="Print versions, AEV engines and devices.")(info)


#: Commands whose results are in files: when nothing can be printed any more, they go on.
_LASTING = {"train", "iterate", "search", "bench", "study", "md", "relax", "scan"}


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        typer.echo(f"anipot {__version__}")
        raise typer.Exit
    if context.invoked_subcommand in _LASTING:
        sys.stdout = Lasting(sys.stdout)


def main() -> None:
    """Entry point. Errors of the user end with a message and exit code 2, without a traceback."""
    open_closed()
    streams = sys.stdout, sys.stderr
    sys.stderr = Lasting(sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("anipot").setLevel(logging.INFO)
    try:
        app(prog_name="anipot")
    except (AnipotError, OSError) as e:  # OSError: no space left, no permission ...
        print(f"anipot: {e}", file=sys.stderr)
        sys.exit(2)
    finally:
        if isinstance(sys.stdout, Lasting):
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams
