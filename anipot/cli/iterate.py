"""anipot iterate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.many import Resume, Words, change_base, naming
from anipot.errors import SettingsError

Workers = Annotated[
    int,
    typer.Option("--workers", "-w", min=1, help="Runs trained side by side, one thread each."),
]


def iterate(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file with the table.", metavar="FILE.yaml")
    ] = None,
    words: Words = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="source", help="The source report's rows, not a FILE."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="With --preset: controlled (default), as-described, or as-written.",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="With --preset: data files (default: the bundled data)."),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option("--updates", min=1, help="Updates of each run, which decide its epochs."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", "-s", min=1, help="Runs of each row (default: 3)."),
    ] = None,
    workers: Workers = 1,
    storage: Annotated[str | None, typer.Option("--storage", hidden=True)] = None,
    name: Annotated[str | None, typer.Option("--name", hidden=True)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder, new or of the same table (default: runs/iterate-001, ...).",
        ),
    ] = None,
    resume: Resume = None,
) -> None:
    """Compare settings: train each with several seeds on one split, and write a table.

    Example:

    \b
    echo 'base: {epochs: 3, per_molecule: 10}' > table.yaml
    echo 'rows: [{}, {name: wider, hidden: [256, 192]}]' >> table.yaml
    anipot iterate table.yaml --seeds 2

    Rows change the options of the base, which are those of 'anipot train --options'. Instead of
    rows, 'grid: {hidden: [[128], [256]], dropout: [0, 0.1]}' has a row for every combination.
    'updates: 5000' trains all rows for this many updates, whatever their batch size. With 'tune:
    {option: learning_rate, values: [1e-4, 1e-3, 1e-2], updates: 300}' an option is first chosen
    for each row on validation, by a short run for each value.

    Writes table.md, .html, .csv, runs.csv and figures: errors with mean and spread over seeds, the
    cost of each row, and whether differences exceed the spread. A row that fails is listed with its
    reason. Finished runs are never trained again; each is a folder for 'anipot evaluate' and other
    commands.

    Run the command again with the same --out to resume. Several processes share a table by the same
    command with the same --out, also on machines that share a disk with file locks.

    '--preset source --data FILE' has the seven rows of the source report, with its numbers beside
    the measured ones, and says which of its conclusions survive. A second table, in which the
    learning rate of each row is tuned first, follows in the folder tuned/. With '--protocol
    as-written' the rows are trained as in the source's notebook, and the effect of each of its
    defects is measured.

    In Python:

    \b
    import anipot
    anipot.iterate({"epochs": 20}, rows=[{}, {"hidden": [256, 192]}], seeds=3)
    """
    from anipot.experiments.table.iterate import resume_table, run_table
    from anipot.experiments.table.presets import source, source_tuned
    from anipot.experiments.table.settings import read_parts, table_settings
    from anipot.system.options import with_words

    if storage is not None or name is not None:
        typer.echo(
            "WARNING, --storage and --name are deprecated and ignored: processes share a table by "
            "the same --out, on a disk with file locks",
            err=True,
        )
    if preset == "source" and protocol == "as-written":
        # Without a FILE the first word takes its place.
        words = [str(file), *(words or [])] if file is not None else words
        alone = (seeds in (None, 1), workers == 1, not resume)
        if not all(alone):
            raise SettingsError(
                "as-written has one run a row, one after another, as the notebook: leave out "
                "--seeds, --workers and --resume (seed=1 is another seed)"
            )
        from anipot.studies.source_report.run import run_as_written

        base = {"data": {"files": [str(path) for path in data]}} if data else {}
        run_as_written(with_words(base, words or []), updates, out)
        return
    given = (preset, protocol, data, updates, seeds, out)
    if preset is None and (protocol is not None or data):
        raise SettingsError("--protocol and --data go with --preset source")
    if resume is not None:
        if file is not None or words or any(o is not None for o in given):
            raise SettingsError("--resume goes on with the table as it was begun; it takes no more")
        table = resume_table(resume, workers)
    elif file is None and preset is None:
        raise SettingsError("name a YAML file with the table; 'anipot iterate --help' shows one")
    else:
        if preset is not None:
            if preset != "source":
                raise SettingsError(f"there is no preset {preset!r}; known: source")
            # Without a FILE the first word takes its place.
            words = [str(file), *(words or [])] if file is not None else words
            files = [str(path) for path in data or []]
            tables = {"": source(protocol or "controlled", updates, files)}
            if protocol in (None, "controlled"):
                tables["tuned"] = source_tuned(updates, files)
        else:
            assert file is not None
            tables = {"": read_parts(file)}
            if updates is not None:
                tables[""]["updates"] = updates
        with naming(file if preset is None else None, words):
            for parts in tables.values():
                change_base(parts, words)
                if seeds is not None:
                    parts["seeds"] = seeds
            first, *further = [table_settings(parts) for parts in tables.values()]
        then = dict(zip(list(tables)[1:], further, strict=True))
        table = run_table(first, out, workers, then)
    if not table.complete:
        raise typer.Exit(130)  # as shells have it for what Ctrl-C ended
