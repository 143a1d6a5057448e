"""anipot search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.many import Name, Resume, Words, change_base, naming
from anipot.errors import SettingsError


def search(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file with the space.", metavar="SPACE.yaml")
    ] = None,
    words: Words = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", "-m", help="End after this time, minutes.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            "-t",
            min=1,
            help="End after this number of trials, of all processes together.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", "-w", min=1, help="Trials trained side by side, one thread each."
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="File or address of the trials, such as sqlite:///x.db or postgresql://... "
            "(default: trials.journal in the folder).",
        ),
    ] = None,
    name: Name = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder, new or of the same search to resume (default: runs/search-001, ...).",
        ),
    ] = None,
    resume: Resume = None,
) -> None:
    """Search for options with a low validation error with Optuna; the test part is not used.

    Example:

    \b
    echo 'base: {epochs: 3, per_molecule: 10}' > space.yaml
    echo 'space: {batch_size: [32, 64], learning_rate: [1e-3, 1e-2]}' >> space.yaml
    anipot search space.yaml --trials 3

    Options are those of 'anipot train --options'. Beside base and space: objective (mae, rmse,
    force_mae or force_rmse of the validation part), minutes, trials, seed, max_seconds (trials that
    would take more processor time are pruned), shorten: 3 (trials train for a third of the epochs)
    and pruning (end trials that are worse than the median of the others at the same fraction of
    their training, after 40 % of it).

    Writes best.yaml for 'anipot train --config', confirm.yaml for 'anipot iterate', which compares
    the best options with the base on the test part, trials.csv and figures. Run the command again
    to resume; interrupted trials are repeated.

    Several machines search together by the same command with the same --storage: a file on a shared
    disk, or a database on a server (sqlite:/// is for one machine).

    Needs Optuna: pip install 'anipot[search]'

    In Python:

    \b
    import anipot
    anipot.search({"epochs": 40}, space={"batch_size": [32, 64, 128]}, minutes=30)
    """
    from anipot.experiments.search.search import resume_search, run_search
    from anipot.experiments.search.settings import search_settings
    from anipot.experiments.table.settings import read_parts

    if resume is not None:
        if file is not None or words or any(o is not None for o in (storage, name, out)):
            raise SettingsError(
                "--resume goes on with the search as it was begun; it takes --minutes, --trials "
                "and --workers alone"
            )
        _, finished = resume_search(resume, workers, minutes, trials)
    elif file is None:
        raise SettingsError("name a YAML file with the space; 'anipot search --help' shows one")
    else:
        parts = read_parts(file, "search")
        with naming(file, words):
            change_base(parts, words)
            if minutes is not None or trials is not None:  # what the command says counts alone
                parts.update(minutes=minutes, trials=trials)
            settings = search_settings(parts)
        _, finished = run_search(settings, out, workers, storage, name)
    if not finished:
        raise typer.Exit(130)  # as shells have it for what Ctrl-C ended
