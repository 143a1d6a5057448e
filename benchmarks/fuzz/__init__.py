"""``python -m benchmarks fuzz``: thousands of damaged files for every reader of anipot.

    python -m benchmarks fuzz --minutes 10                # as many inputs as come
    python -m benchmarks fuzz --inputs 20000 --seed 7     # so many
    python -m benchmarks fuzz --kinds extxyz ani1.h5      # of these kinds alone
    python -m benchmarks fuzz --list
    python -m benchmarks fuzz --replay extxyz:1234        # one input again, with its traceback
    python -m benchmarks fuzz --replay extxyz:1234 --keep FOLDER     # and the file itself

Valid files of every kind that anipot reads are made anew, changed at random (bytes, text, or within
their format: keys, types, shapes, numbers), and given to the reader of the kind. It must either
succeed or raise an AnipotError whose message names the file. Anything else is a finding: another
exception, a crash, more than ten seconds of processor time, more than a GB of memory, and, where
the file carries a checksum and bytes alone were changed, content that differs from what was
written. ``KIND:SEED`` makes an input again, on any machine.

``kinds`` says what a kind is; ``data_kinds``, ``potential_kinds`` and ``run_kinds`` list them;
``mutators`` and ``structured`` change files; ``workers`` reads them. A new reader needs a Kind in
one of the three lists.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz import data_kinds, potential_kinds, run_kinds, workers
from benchmarks.fuzz.kinds import Kind
from benchmarks.fuzz.workers import Finding, Seed


def all_kinds() -> list[Kind]:
    return [*data_kinds.kinds(), *potential_kinds.kinds(), *run_kinds.kinds()]


def make_seeds(kinds: Sequence[Kind]) -> tuple[list[Seed], list[Finding]]:
    """The valid files, with what their readers make of them; and those that are refused.

    In a process of its own: threads that PyTorch has begun would be missing in forks of this one.
    """
    mine, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    maker = multiprocessing.get_context("fork").Process(target=_make_seeds, args=(kinds, theirs))
    maker.start()
    theirs.close()
    made = mine.recv()
    maker.join()
    if isinstance(made, str):
        raise RuntimeError(f"a valid file could not be made:\n{made}")
    seeds = [Seed(k, *parts) for k, (*parts, _) in zip(kinds, made, strict=True)]
    found = [
        Finding(kind.name, 0, "a valid file is refused", "", why, "nothing")
        for kind, (*_, why) in zip(kinds, made, strict=True)
        if why and not kind.refused
    ]
    return seeds, found


def _make_seeds(kinds: Sequence[Kind], pipe: Connection) -> None:
    try:
        with tempfile.TemporaryDirectory() as place, workers.quiet(Path(place) / "crash.txt"):
            made = [_made(kind, Path(place) / str(k)) for k, kind in enumerate(kinds)]
        pipe.send(made)
    except Exception:
        pipe.send(traceback.format_exc())


def _made(kind: Kind, folder: Path) -> tuple[Any, ...]:
    """Files, content, where checksums cover them, and why the reader refuses them."""
    files = kind.files()
    covered = None if kind.covered is None else dict(kind.covered(files))
    try:
        return files, kind.read(kind.write(folder, files)), covered, ""
    except Exception as e:
        return files, None, covered, f"{type(e).__name__}: {e}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz")
    parser.add_argument("--minutes", type=float, help="end after so many")
    parser.add_argument("--inputs", type=int, help="end after so many")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--kinds", nargs="*", help="these alone (see --list)")
    parser.add_argument("--list", action="store_true", help="the kinds there are")
    parser.add_argument("--replay", metavar="KIND:SEED", help="one input again")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where --replay leaves the files"
    )
    parser.add_argument("--out", type=Path, help="a JSON file of all findings")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = {kind.name: kind for kind in all_kinds()}
    if args.list:
        print("\n".join(known))
        return 0
    if args.replay:
        name, _, number = args.replay.rpartition(":")
        return replay(known[name], int(number), args.keep)
    wanted = [known[name] for name in args.kinds] if args.kinds else list(known.values())
    if args.minutes is None and args.inputs is None:
        args.minutes = 10.0
    began = time.monotonic()
    seeds, refused = make_seeds(wanted)
    print(f"{len(seeds)} kinds, made in {time.monotonic() - began:.0f} s", flush=True)
    done, found, seconds, counts = run(seeds, args.seed, args.inputs, args.minutes)
    return report(done, refused + found, seconds, counts, args.out)


def run(
    seeds: Sequence[Seed], seed: int, inputs: int | None, minutes: float | None
) -> tuple[int, list[Finding], float, dict[str, int]]:
    """Read inputs until there are so many, or the time is over."""
    rng = random.Random(seed)
    began = time.monotonic()
    end = began + minutes * 60 if minutes is not None else float("inf")
    weights = [s.kind.weight for s in seeds]
    found: list[Finding] = []
    counts: dict[str, int] = defaultdict(int)
    done = 0
    while (inputs is None or done < inputs) and time.monotonic() < end:
        n = workers.INPUTS if inputs is None else min(workers.INPUTS, inputs - done)
        jobs = [(k, rng.randrange(2**31)) for k in rng.choices(range(len(seeds)), weights, k=n)]
        for place, finding in workers.attempts(jobs, seeds):
            done += 1
            counts[seeds[jobs[place][0]].kind.name] += 1
            if finding is not None:
                found.append(finding)
            if done % 500 == 0:
                seconds = time.monotonic() - began
                print(f"{done:,} inputs, {len(found)} findings, {seconds:.0f} s", flush=True)
            if time.monotonic() > end:
                break
    return done, found, time.monotonic() - began, counts


def report(
    done: int, found: list[Finding], seconds: float, counts: dict[str, int], out: Path | None = None
) -> int:
    """Print findings by group, each with one that makes it again; 1 where there is any."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in found:
        groups[finding.group].append(finding)
    for (kind, what, where), members in sorted(groups.items()):
        first = min(members, key=lambda f: f.change.count(","))
        print(f"\n{kind}: {what} ({len(members)} of {counts[kind]:,}) at {where or '?'}")
        print(f"    {first.message.splitlines()[0][:200] if first.message else '(no message)'}")
        print(f"    {first.change}; --replay '{kind}:{first.seed}'")
    if out is not None:
        out.write_text(json.dumps([asdict(f) for f in found], indent=1))
    rate = done / max(seconds, 1e-9)
    print(f"\n{done:,} inputs of {len(counts)} kinds in {seconds:.0f} s ({rate:.0f}/s): "
          f"{len(found)} findings in {len(groups)} groups")  # fmt: skip
    return 1 if found else 0


def replay(kind: Kind, number: int, keep: Path | None) -> int:
    """Read one input again, in a process of its own, and show what comes of it."""
    others, _ = make_seeds(all_kinds())
    (seed,) = [s for s in others if s.kind.name == kind.name]
    which = others.index(seed)
    given = workers.changed(seed, number, others)
    print(f"{given.name}: {given.change}")
    if keep is not None:
        path = kind.write(keep, given.files)
        workers.put_in_place(keep / given.name, given.in_place)
        print(f"kept as {path}")
    ((_, finding),) = workers.attempts([(which, number)], others)
    if finding is None:
        print("read, or refused by a message that names it")
        return 0
    print(finding.trace)
    print(f"{finding.what}: {finding.message}")
    return 1
