"""anipot study: the experiments of the source documents, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.app import App

study_app = App(
    help="Studies: each prints a table with what is published beside what it measures, saves "
    "figures, and says what one learns. An interrupted one goes on with --out FOLDER.",
    short_help="Run an experiment with tables, figures and conclusions.",
    no_args_is_help=True,
)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder, new or of an interrupted study to resume "
        "(default: runs/study-NAME-001, ...).",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")]


@study_app.callback()
def _study() -> None:
    """Without it typer would make a command of a group with one study."""


@study_app.command()
def materials(
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder with EL_training.extxyz and EL_test.extxyz of each."),
    ],
    elements: Annotated[
        str | None, typer.Option("--elements", help="Such as Li,Si (default: all in the folder).")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            help="Cross-validate on N folds of the training files; leave the test files alone.",
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option("--members", min=1, help="Potentials of which the mean is taken.")
    ] = None,
    epochs: Annotated[
        tuple[int, int] | None,
        typer.Option("--epochs", help="Of each member: on forces first, and on energies."),
    ] = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Errors on crystals, beside those of published potentials.

    Trains on energies and forces of EL_training.extxyz, by one rule for every element, and
    evaluates once on EL_test.extxyz. As many members are trained side by side as there are
    threads (default: 2).

    In Python:

    \b
    from anipot.studies import materials
    materials.run("FOLDER", ["Li", "Si"])
    """
    from anipot.studies.materials import EPOCHS, MEMBERS, run

    run(
        data,
        None if elements is None else [e.strip() for e in elements.split(",")],
        out,
        threads=threads or 2,
        members=members or MEMBERS,
        epochs=epochs or EPOCHS,
        folds=folds,
    )


@study_app.command()
def forces(
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of it, to see in a minute how it goes.")
    ] = False,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Compare trainings with and without forces, for known and new molecules, and in dynamics.

    Trains on the bundled HCNO data, split by conformer and by molecule, on energies only and on
    energies and forces; then ten molecules that were never trained on move at 300 K with both.
    About 15 minutes on two cores.

    In Python:

    \b
    from anipot.studies import forces
    forces.run()
    """
    from anipot.studies.forces import run

    run(out, quick=quick, threads=threads)


@study_app.command("lennard-jones")
def lennard_jones(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes, seeds and updates: in a minute.")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Repetitions.")] = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Learn a Lennard-Jones cluster and a crystal from energies, forces and stress.

    Clusters are learnt from energies, and from energies and forces: errors against their number,
    and the learnt curve of a pair of atoms beside the true one. Crystals are learnt with and
    without stress. About four minutes on two cores.

    In Python:

    \b
    from anipot.studies import lennard_jones
    lennard_jones.run()
    """
    from anipot.studies.lennard_jones import QUICK, run

    run(out, threads=threads, **{**(QUICK if quick else {}), **({"seeds": seeds} if seeds else {})})


@study_app.command()
def invariance(
    potential: Annotated[
        str,
        typer.Argument(help="A saved potential, or a name such as ani1x.", metavar="POTENTIAL"),
    ] = "anipot-hcno",
    molecules: Annotated[
        int | None,
        typer.Option("--molecules", min=2, help="Largest number of the 63 bundled molecules."),
    ] = None,
    out: Out = None,
) -> None:
    """Check properties every potential must have: symmetries, forces, cutoffs, crystals.

    The largest deviations over a conformer of each bundled molecule (and random clusters, for
    elements that the bundled data lacks), in float32 and in float64: size extensivity, permutation,
    translation, rotation, reflection, batches, forces against finite differences, smoothness at the
    cutoffs, cells. Less than a minute.

    In Python:

    \b
    from anipot.studies import invariance
    invariance.run("POTENTIAL.safetensors")
    """
    from anipot.studies.invariance import run

    run(potential, out, molecules=molecules)


@study_app.command()
def symmetry(
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and half the updates: in a minute.")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Repetitions.")] = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Symmetry in the features, or shown by augmentation: four particles in the plane.

    Networks on positions, distances, sorted distances and AEVs are tested on molecules rotated,
    translated and permuted, without and with augmentation, and with two labels, one of which
    depends on the numbering of the particles. About three minutes on two cores.

    In Python:

    \b
    from anipot.studies import symmetry
    symmetry.run()
    """
    from anipot.studies.symmetry import QUICK, run

    run(out, threads=threads, **{**(QUICK if quick else {}), **({"seeds": seeds} if seeds else {})})


@study_app.command()
def explore(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="HDF5, extended XYZ or .npz files; default: the bundled data.", metavar="FILE"
        ),
    ] = None,
    new: Annotated[
        list[Path] | None,
        typer.Option(
            "--new",
            help="Ask how well the data covers the conformers of this file, any number of times "
            "(default: a part of the molecules is left out of the training, and asked).",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, to see how it goes.")
    ] = False,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Explore a data set: composition, atomic environments, clusters, coverage.

    Energies against size and composition; principal components of AEVs; clusters of carbon
    environments beside their hybridisation; how far new environments are from those trained on,
    and whether that tells the error of a potential; an autoencoder beside PCA. Needs scikit-learn
    (pip install 'anipot[explore]'). About two minutes on two cores.

    In Python:

    \b
    from anipot.studies import explore
    explore.run(["FILE"])
    """
    from anipot.studies.explore import run

    run(files or (), out, new=new or (), quick=quick, threads=threads)


@study_app.command()
def regression(
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, fewer epochs: in half a minute.")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Sets of points.")] = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """A line with noise, scaling, self energies, and the scale of targets.

    What R2 says of a line with noise 1, 10 and 20; a wide range that makes gradient descent
    diverge, and scaling that mends it; then self energies as a linear model of the composition, and
    networks that learn energies in several scales. About a minute on two cores.

    In Python:

    \b
    from anipot.studies import regression
    regression.run()
    """
    from anipot.studies.regression import QUICK, run

    run(out, threads=threads, **{**(QUICK if quick else {}), **({"seeds": seeds} if seeds else {})})
