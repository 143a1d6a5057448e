"""anipot iterate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anipot.cli.many import Name, Resume, Words, change_base, naming
from anipot.errors import SettingsError

Workers = Annotated[
    int, typer.Option("--workers", "-w", min=1, help="Runs trained side by side, a thread each.")
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
        int | None, typer.Option("--seeds", "-s", min=1, help="Runs of each row (default: 3).")
    ] = None,
    workers: Workers = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Share the runs with other machines through this file, or an address such as "
            "postgresql://...",
        ),
    ] = None,
    name: Name = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder: a new one, or that of the same table to go on with "
            "(default: runs/iterate-001, ...).",
        ),
    ] = None,
    resume: Resume = None,
) -> None:
    """Compare settings: train each from several seeds on one split, and write the table.

    \b
    FILE.yaml:
      base: {training: {epochs: 20}}
      rows:
        - {}
        - {name: wider, hidden: [256, 192]}
        - {activation: gelu, training.batch_size: 128}
      seeds: 3

    Rows change the options of the base, which are those of 'anipot train --options'. Instead of
    rows, 'grid: {hidden: [[128], [256]], dropout: [0, 0.1]}' has a row for every combination.
    'updates: 5000' trains all rows for so many updates, whatever their batch size. With 'tune:
    {option: learning_rate, values: [1e-4, 1e-3, 1e-2], updates: 300}' an option is first chosen
    for each row on validation, by a short run for each value.

    Writes table.md, .html, .csv, runs.csv and figures: errors with mean and spread over seeds, what
    each row cost, and whether differences exceed the spread. A row that fails is a row with its
    reason. Finished runs are never run again; each is a folder that 'anipot evaluate' and the
    others read.

    Several machines train one table by the same command with a --storage that all of them reach: a
    file on a shared disk (NFS too), or a data base on a server; sqlite:/// is for processes of one
    machine. Each takes runs that nobody has; all have the whole table at the end, and the weights
    of a run lie where it was trained. Runs of a machine that was killed are taken by the others
    after ten minutes.

    '--preset source --data FILE' has the seven rows of the source report, with its numbers beside
    those measured, and says which of its conclusions survive. A second, shorter table, in which
    each row's learning rate is tuned first, follows in the folder tuned/ of the first. With
    '--protocol as-written' the rows are trained as the source's notebook does it, and each of its
    defects is shown by numbers.

    In Python:

    \b
    import anipot
    anipot.iterate({"epochs": 20}, rows=[{}, {"hidden": [256, 192]}], seeds=3)
    """
    from anipot.experiments.table.iterate import resume_table, run_table
    from anipot.experiments.table.presets import source, source_tuned
    from anipot.experiments.table.settings import read_parts, table_settings
    from anipot.system.options import with_words

    if preset == "source" and protocol == "as-written":
        # Without a FILE the first word takes its place.
        words = [str(file), *(words or [])] if file is not None else words
        alone = (seeds in (None, 1), workers == 1, not resume, not storage, not name)
        if not all(alone):
            raise SettingsError(
                "as-written has one run a row, one after another, as the notebook: leave out "
                "--seeds, --workers, --resume, --storage and --name (seed=1 is another seed)"
            )
        from anipot.studies.source_report.run import run_as_written

        base = {"data": {"files": [str(path) for path in data]}} if data else {}
        run_as_written(with_words(base, words or []), updates, out)
        return
    given = (preset, protocol, data, updates, seeds, out, storage, name)
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
        table = run_table(first, out, workers, then, storage, name)
    if not table.complete:
        raise typer.Exit(130)  # as shells have it for what Ctrl-C ended
