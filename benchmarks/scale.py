"""The source's experiment on a made data set of its size, on whatever device there is.

A store of 864,898 conformers of one to four heavy atoms, labelled by a potential, is made once
and kept. Without --ranks and --sizes: epochs of 384-128-1 ReLU networks with batches of 8,192,
read from the store and in memory, and one step beside TorchANI's. Each training runs in a process
of its own, so that its memory is its own. Results go to scale.json, one CSV a table, and, for
--sizes, a figure.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from anipot.experiments.table.presets import source
from anipot.report.figures import plots
from anipot.report.figures.style import BLUE, COLUMN, ORANGE, log_axis, styled
from anipot.system.devices import free_memory, pick_device
from anipot.system.files import write_text
from benchmarks.made_data import ANI1, made_store
from benchmarks.scale_run import conformers_seen
from benchmarks.timing import Load, in_words

ROOT = Path(__file__).resolve().parents[1]

#: Conformers a second of two ranks, over those of one, that are aimed at.
WANTED_OF_RANKS = 1.6

#: Conformers of the sets that --sizes goes through.
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)

STREAMED, IN_MEMORY = "streamed", "in memory"

Row = dict[str, Any]

#: Columns of the tables: title, key, format.
COLUMNS = {
    "experiment": [
        ("data", "mode", ""), ("threads", "threads", ""), ("s/epoch", "seconds_per_epoch", ".1f"),
        ("conformers/s", "conformers_per_second", ",.0f"), ("atoms/s", "atoms_per_second", ",.0f"),
        ("of matmul", "of_matmul", ".0%"), ("RSS MB", "peak_mb", ".0f"),
        ("anonymous MB", "anonymous_peak_mb", ".0f"),
        ("above imports", "anonymous_above_imports_mb", ".0f"),
        ("device MB", "device_peak_mb", ".0f"), ("load", "others_load", "load"),
    ],
    "step": [
        ("code", "code", ""), ("ms/step", "step_ms", ".1f"), ("+-", "spread", ".0%"),
        ("s/epoch", "seconds_per_epoch", ".1f"), ("conformers/s", "conformers_per_second", ",.0f"),
        ("atoms/s", "atoms_per_second", ",.0f"), ("of matmul", "of_matmul", ".0%"),
        ("times anipot", "times_anipot", ".1f"), ("load", "others_load", "load"),
    ],
    "ranks": [
        ("ranks", "ranks", ""), ("updates", "updates", ""), ("s", "seconds", ".2f"),
        ("conformers/s", "conformers_per_second", ",.0f"), ("speed-up", "speed_up", ".2f"),
        ("load", "others_load", "load"),
    ],
    "sizes": [
        ("conformers", "conformers", ",d"), ("data", "mode", ""),
        ("conformers/s", "conformers_per_second", ",.0f"),
        ("anonymous MB", "anonymous_peak_mb", ".0f"),
        ("above imports", "anonymous_above_imports_mb", ".0f"),
        ("opening s", "opening_seconds", ".1f"), ("load", "others_load", "load"),
    ],
}  # fmt: skip


def run(**options: Any) -> dict[str, Any]:
    """What ``benchmarks.scale_run`` measures in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale_run", json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def experiment(store: Path, options: argparse.Namespace) -> list[Row]:
    """The source's training, read from the store and in memory; on a GPU all lies on the GPU."""
    modes = [IN_MEMORY] if pick_device(options.device).type == "cuda" else [STREAMED, IN_MEMORY]
    return [
        run(
            store=str(store), mode=mode, batch=options.batch, epochs=options.epochs,
            updates=options.updates, device=options.device, threads=options.threads,
        )
        for mode in modes
    ]  # fmt: skip


def step(store: Path, options: argparse.Namespace) -> list[Row]:
    """One step of anipot and of TorchANI on the same batch."""
    found = run(
        kind="side by side", store=str(store), batch=options.batch, device=options.device,
        threads=options.threads, rounds=options.rounds,
    )  # fmt: skip
    return [
        {"code": code, **row, "step_ms": row["step_seconds"] * 1e3} for code, row in found.items()
    ]


def ranks(store: Path, options: argparse.Namespace) -> list[Row]:
    """Updates of one thread in one rank, and in each of several, in turn; medians.

    By ``anipot train``, as people start it: one rank without torchrun, several with it.
    """
    found: dict[int, list[float]] = {1: [], options.ranks: []}
    updates = options.updates or 20
    folder, load = store.parent.parent / "ranks", Load()
    base = source(protocol="controlled")["base"]
    words = [f"{k}={v}" for k, v in {**base["training"], "batch_size": options.batch}.items()]
    words += ["hidden=128", "activation=relu", "output_unit=hartree", "threads=1"]
    words += ["train=0.98", "validation=0.01", "test=0.01", f"device={options.device}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(options.rounds):
        for n, speeds in found.items():
            shutil.rmtree(folder, ignore_errors=True)
            launch = ["torch.distributed.run", "--nproc-per-node", str(n), "-m"] if n > 1 else []
            command = [
                sys.executable, "-m", *launch, "anipot", "train", str(store), *words,
                f"updates={updates}", "-o", str(folder),
            ]  # fmt: skip
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
            report = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            with (folder / "metrics.csv").open(encoding="utf-8") as file:
                seconds = sum(float(line["seconds"]) for line in csv.DictReader(file))
            train = report["data"]["split"]["train"]
            speeds.append(conformers_seen(train, options.batch, report["updates"]) / seconds)
    shutil.rmtree(folder, ignore_errors=True)
    seen = conformers_seen(train, options.batch, updates)
    alone = statistics.median(found[1])
    others = load.others()
    return [
        {
            "ranks": n,
            "updates": updates,
            "seconds": seen / statistics.median(speeds),
            "conformers_per_second": statistics.median(speeds),
            "speed_up": statistics.median(speeds) / alone,
            "rounds": speeds,
            "others_load": others,
        }
        for n, speeds in found.items()
    ]


def sizes(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Memory and speed of some updates on sets of growing size; labels are springs."""
    rows = []
    for size in options.sizes:
        store = made_store(folder, size, None)
        needed = 2 * sum(f.stat().st_size for f in store.iterdir())
        modes = [STREAMED]
        if needed < free_memory(torch.device("cpu")) / 2:
            modes.append(IN_MEMORY)
        for mode in modes:
            rows.append(
                run(
                    store=str(store), mode=mode, batch=options.batch, epochs=None,
                    updates=options.updates or 20, device=options.device, threads=options.threads,
                )
            )  # fmt: skip
            print(_table("sizes", rows[-1:]).splitlines()[-1], flush=True)
    return rows


@styled
def sizes_figure(rows: Sequence[Row]) -> Figure:
    """Anonymous memory above the imports, and conformers a second, against the conformers."""
    figure = Figure(figsize=(2 * COLUMN, 2.3), layout="constrained")
    panels = figure.subplots(1, 2)
    shown = (
        ("anonymous_above_imports_mb", "memory above the imports / MB"),
        ("conformers_per_second", "conformers / s"),
    )
    for axes, (key, label) in zip(panels, shown, strict=True):
        for mode, colour in ((STREAMED, BLUE), (IN_MEMORY, ORANGE)):
            mine = [r for r in rows if r["mode"] == mode]
            x, y = [r["conformers"] for r in mine], [r[key] for r in mine]
            axes.plot(x, y, "o-", color=colour, label=mode)
        axes.set_xlabel("conformers in the data set")
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.15 * max(r[key] for r in rows))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        log_axis(axes, "x", np.array([r["conformers"] for r in rows], dtype=float))
    panels[0].legend(loc="upper left")
    return figure


def _table(kind: str, rows: Sequence[Row]) -> str:
    """Rows as aligned text; columns of which no row has anything are left out."""
    columns = [c for c in COLUMNS[kind] if any(r.get(c[1]) is not None for r in rows)]

    def cell(value: Any, form: str) -> str:
        if form == "load":
            return in_words(value)
        return "-" if value is None else format(value, form)

    cells = [[c[0] for c in columns]]
    cells += [[cell(r.get(key), form) for _, key, form in columns] for r in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join(
        "  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) for line in cells
    )


def _keep(out: Path, kind: str, rows: list[Row]) -> None:
    """Add a table to scale.json, which keeps what else was measured, and write it as CSV."""
    file = out / "scale.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_text(file, json.dumps({**known, kind: rows}, indent=1) + "\n")
    text = io.StringIO()
    columns = [k for k, v in rows[0].items() if not isinstance(v, list)]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / f"{kind}.csv", text.getvalue())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--conformers", type=int, default=sum(ANI1.values()))
    parser.add_argument(
        "--potential", default="anipot-hcno", help="gives the labels; 'none': springs, at once"
    )
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--epochs", type=int, help="default: 1, on a GPU the source's 30")
    parser.add_argument("--updates", type=int, help="at most so many (ranks and sizes: 20)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3, help="of each step, and of each rank")
    parser.add_argument("--ranks", type=int, help="compare so many ranks with one, a thread each")
    parser.add_argument(
        "--profile", action="store_true", help="where the time of a step goes, and no more"
    )
    parser.add_argument(
        "--sizes", type=lambda s: int(float(s)), nargs="*", metavar="N",
        help=f"memory and speed with so many conformers (default: {', '.join(map(str, SIZES))})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=lambda s: Path(s).resolve(), default=ROOT / "runs" / "scale",
        help="folder of results and stores (default: runs/scale)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    place = pick_device(options.device).type
    options.epochs = options.epochs or (30 if place == "cuda" else 1)
    folder = options.out / "stores"
    if options.sizes is not None:
        options.sizes = options.sizes or list(SIZES)
        rows = sizes(folder, options)
        plots.save_figure(sizes_figure(rows), options.out / "sizes")
        _keep(options.out, "sizes", rows)
        print(f"\n{_table('sizes', rows)}\n{options.out / 'sizes.png'}")
        return 0
    label = None if options.potential == "none" else options.potential
    store = made_store(folder, options.conformers, label)
    print(f"{store}: {options.conformers:,} conformers, batches of {options.batch:,}, {place}")
    if options.ranks is not None:
        rows = ranks(store, options)
        _keep(options.out, "ranks", rows)
        reached = rows[-1]["speed_up"] >= WANTED_OF_RANKS
        print(_table("ranks", rows))
        print(f"wanted: {WANTED_OF_RANKS} x, {'reached' if reached else 'NOT reached'}")
        return 0
    if options.profile:
        found = run(
            kind="profile", store=str(store), batch=options.batch, device=options.device,
            threads=options.threads,
        )  # fmt: skip
        print(f"{found['steps']} steps of anipot\n{found['table']}")
        return 0
    for kind, measure in (("experiment", experiment), ("step", step)):
        rows = measure(store, options)
        _keep(options.out, kind, rows)
        print(f"\n{kind}\n{_table(kind, rows)}", flush=True)
    return 0
