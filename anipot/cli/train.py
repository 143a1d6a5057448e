"""anipot train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.many import naming
from anipot.errors import SettingsError


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA|OPTION=VALUE",
            help="Data files (default: the bundled data) and options, as epochs=50 hidden=128,64.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file with options.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder for the run (default: runs/train-001, ...)."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Resume the run in this folder."),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve", help="Also train on 1/2, 1/4, 1/8 and 1/16 of the training data."
        ),
    ] = False,
    members: Annotated[
        int | None,
        typer.Option(
            "--members", "-m", min=2, help="Train an ensemble of this size, and calibrate it."
        ),
    ] = None,
    options: Annotated[
        bool, typer.Option("--options", help="Print all options with their values and exit.")
    ] = False,
) -> None:
    """Train a potential and report its errors on conformers that the training has not seen.

    Example:

    \b
    anipot train epochs=5 per_molecule=20 --out my-run

    Write a new folder with options, split, log, metrics.csv, checkpoint, potential, plots and
    report.html. 'anipot train --options' lists all options; they can also be written --epochs 5.

    '--members 8' trains an ensemble whose members differ by their seed, with by_folds=true by their
    validation part too; workers=2 trains two members at a time. To train one potential with several
    processes, on GPUs or the CPU: torchrun --nproc-per-node 2 -m anipot train ...

    In Python:

    \b
    import anipot
    train, val, test = anipot.load_bundled().split(0.8, 0.1, 0.1)
    trainer = anipot.ANITrainer(anipot.ANIModel.create("HCNO"))
    trainer.train(train, val)
    print(trainer.evaluate(test))
    trainer.model.save("my.safetensors")
    """
    from anipot.config import RunSettings
    from anipot.system.options import checked, read_yaml, to_yaml, with_words

    given = words or []
    others = (config, out, members)
    if resume is not None and (given or options or any(o is not None for o in others)):
        raise SettingsError(
            "--resume continues with the data and options of the run (its options.yaml) and takes "
            "no others"
        )
    values = read_yaml(config) if config is not None else {}
    # A word that is no file and does not look like one is an option without its value.
    files = [w for w in given if Path(w).exists() or ("=" not in w and Path(w).suffix)]
    words = [w for w in given if w not in files]
    values = with_words(values, words)
    if files:
        values["data"] = {**values.get("data", {}), "files": files}
    if members is not None:
        values["ensemble"] = {**values.get("ensemble", {}), "members": members}
    with naming(config, words):
        settings = checked(RunSettings, values)
    if options:
        typer.echo(to_yaml(settings), nl=False)
        return
    from anipot.runs.run import resume_run, run_settings, start_run
    from anipot.training.ranks import joined, started

    if resume is not None:
        settings = run_settings(resume)
    if settings.ensemble.members > 1:
        from anipot.runs.members import resume_members, start_members

        if learning_curve:
            raise SettingsError("--learning-curve needs a single potential: leave out --members")
        if started() > 1:
            raise SettingsError(
                f"torchrun has started {started()} processes, and each would train all members: "
                "start 'anipot train' without torchrun; workers=2 trains two members side by side"
            )
        many = resume_members(resume) if resume is not None else start_members(settings, out)
        if many.ensemble is None:
            raise typer.Exit(130)
        return
    with joined() as ranks:
        run = resume_run(resume) if resume is not None else start_run(settings, out)
    if not ranks.first:
        return
    if run.history.stopped == "interrupted":
        raise typer.Exit(130)  # as shells have it for what Ctrl-C ended
    if learning_curve:
        from anipot.runs.learning_curve import add_learning_curve

        add_learning_curve(run.folder)
