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
        float | None, typer.Option("--minutes", "-m", help="End after so many minutes.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", "-t", min=1, help="End with so many trials, of all processes together."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Trials side by side, a thread each.")
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Where trials are kept: a file, or an address such as sqlite:///x.db or "
            "postgresql://... (default: trials.journal in the folder).",
        ),
    ] = None,
    name: Name = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder: a new one, or that of the same search to go on with "
            "(default: runs/search-001, ...).",
        ),
    ] = None,
    resume: Resume = None,
) -> None:
    """Search for options with a low validation error, with Optuna. The test part is not looked at.

    \b
    SPACE.yaml:
      base: {training: {epochs: 40}}
      space:
        learning_rate: {low: 3e-4, high: 1e-2, log: true}
        batch_size: [32, 64, 128]
        force_weight: {values: [0], low: 0.03, high: 1, log: true}
      minutes: 30

    Options are those of 'anipot train --options'. Beside base and space: objective (mae, rmse,
    force_mae or force_rmse of the validation part), minutes, trials, seed, max_seconds (trials that
    would take more processor time are pruned), shorten: 3 (trials train for a third of the epochs),
    pruning (trials that are worse than the median of others, at the same fraction of their training
    and not before 40 % of it, are ended).

    Writes best.yaml for 'anipot train --config', confirm.yaml for 'anipot iterate', which compares
    the best with the base on the test part, trials.csv and figures. The same command again goes on;
    trials that were interrupted or killed are tried again.

    Several machines search together by the same command with a --storage that all of them reach: a
    file on a shared disk (NFS too), or a data base on a server; sqlite:/// is for one machine.

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
