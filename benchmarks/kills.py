"""Runs killed at random moments and gone on with: ``python -m benchmarks kills``.

Trainings, packings of stores, tables, searches and molecular dynamics are killed (SIGKILL, with all
their processes) several times each, at moments drawn over their whole time, and gone on with by
their own command. What they leave is compared, file by file, with that of a run that was never
killed (``benchmarks/kills_compare.py`` says what may differ). The exit code is 1 after any
difference.

A search draws other trials once it is killed. What is promised: as many trials as asked for are
counted, no two with the same options; those that had ended before a kill are there, unchanged; one
that was being trained is tried again, unless it was killed twice; and each error is that of a
search which was never killed, for the same options.

Commands are started as copies of this process (fork), which has imported all they need, and write
figures without drawing them, which would take most of the time. With ``--fresh`` they are new
interpreters that draw; that is many times slower.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.kills_kinds import ALL_TRIALS, KINDS, STORED, TRIALS, Kind, make_inputs

#: What commands import; a fork of a process that has it starts at once.
_IMPORTS = (
    "anipot.cli", "anipot.experiments.table.iterate", "anipot.experiments.table.report_page",
    "anipot.experiments.search.search",
    "anipot.experiments.search.figures", "anipot.simulation", "anipot.simulation.figures",
    "anipot.runs.members", "anipot.runs.member_results", "matplotlib.pyplot", "optuna",
    "sqlalchemy", "torch._dynamo", "tqdm",
)  # fmt: skip

#: Seconds after which a command hangs.
_HANGS = 300.0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, number in (
        ("trainings", 25), ("packs", 10), ("tables", 10), ("searches", 10), ("md", 10),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number, help="how many are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--most", type=int, default=4, help="kills of one run, at most")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all runs")
    parser.add_argument("--fresh", action="store_true", help="new interpreters that draw (slow)")
    options = parser.parse_args(argv)
    if not hasattr(os, "fork"):
        print("kills needs process groups as POSIX has them")
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, _end)  # so that processes and folder go, as after Ctrl-C
    work = Path(tempfile.mkdtemp(prefix="anipot-kills-")).resolve()
    try:
        return _Harness(work, options).run()
    finally:
        if options.keep:
            print(f"all runs are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class _Harness:
    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        self.work, self.options = work, options
        self.rng = random.Random(options.seed)
        if not options.fresh:
            for name in _IMPORTS:
                importlib.import_module(name)

    def run(self) -> int:
        began = time.monotonic()
        inputs = self.work / "inputs"
        code = self._process(lambda: make_inputs(inputs), self.work, "inputs.txt")[0]
        assert code == 0, (self.work / "inputs.txt").read_text()
        counts = {"runs": 0, "kills": 0, "differences": 0}
        for kind in KINDS:
            wanted = getattr(self.options, kind.name)
            for k in range(wanted):
                kills, found = self._one(kind, k, inputs)
                counts["runs"] += 1
                counts["kills"] += kills
                counts["differences"] += bool(found)
                said = "as if never killed" if not found else f"{len(found)} differences"
                print(f"{kind.name:>9} {k + 1:3d} of {wanted}: killed {kills} times; {said}")
                for line in found[:8]:
                    print(f"          {line}", flush=True)
                sys.stdout.flush()
        print(
            f"{counts['runs']} runs, {counts['kills']} kills, {counts['differences']} runs that "
            f"are not as if never killed; {time.monotonic() - began:.0f} s"
        )
        return 1 if counts["differences"] else 0

    def _one(self, kind: Kind, k: int, inputs: Path) -> tuple[int, list[str]]:
        """Kill a run and go on with it; how often, and what is not as it should be."""
        from benchmarks.kills_compare import (
            differences,
            enqueue_all,
            read_trials,
            search_differences,
        )

        variant, is_search = k % kind.variants, kind.name == "searches"
        whole = self.work / f"{kind.name}-whole-{variant}"
        if not whole.exists():
            whole.mkdir()
            words = kind.begin(variant, inputs)
            if is_search:  # all there is to search
                self._command([*words, "-t", "1"], whole, None)
                self._process(lambda: enqueue_all(whole, STORED), whole, "printed.txt")
                words += ["-t", str(ALL_TRIALS)]
            code, seconds = self._command(words, whole, None)
            if is_search:
                self._trials(whole)
                seconds *= TRIALS / ALL_TRIALS
            if code != 0:
                raise RuntimeError(f"{words} ends with {code} without a kill: {_last(whole)}")
            (whole / "seconds").write_text(str(seconds))
        takes = float((whole / "seconds").read_text())
        folder = self.work / f"{kind.name}-{k}"
        folder.mkdir()
        seen = []
        wanted, kills = self.rng.randint(2, self.options.most), 0
        words = kind.begin(variant, inputs)
        while True:
            # Of three kills one is among the last third of the time, where results are written.
            first = self.rng.choice((0.0, 0.0, 0.67)) * takes
            moment = self.rng.uniform(first, takes) if kills < wanted else None
            code, seconds = self._command(words, folder, moment)
            if is_search:
                seen.append(self._trials(folder))
            if code == 0 and kills:
                break
            if code == 0:  # quicker than the other was: once more
                takes, words, seen = seconds, kind.begin(variant, inputs), []
                shutil.rmtree(folder)
                folder.mkdir()
                continue
            if code is not None:
                return kills, [f"after {kills} kills {words} ends with {code}: {_last(folder)}"]
            kills += 1
            words = kind.go_on(variant, inputs, folder)
        if is_search:
            found = search_differences(read_trials(whole), seen, folder, TRIALS)
        else:
            found = differences(whole, folder)
        if not found and not self.options.keep:
            shutil.rmtree(folder)
        return kills, found

    def _trials(self, folder: Path) -> list[dict[str, Any]]:
        """The trials of a search as they are now."""
        from benchmarks.kills_compare import read_trials, write_trials

        code, _ = self._process(lambda: write_trials(folder), folder, "printed.txt")
        if code != 0:
            raise RuntimeError(f"the trials in {folder} cannot be read: {_last(folder)}")
        return read_trials(folder)

    def _command(
        self, words: list[str], folder: Path, moment: float | None
    ) -> tuple[int | None, float]:
        """Run ``anipot`` with these words; its exit code (None: killed) and seconds."""

        def command() -> None:
            from anipot.cli import main as anipot

            _draw_nothing()
            sys.argv = ["anipot", *words]
            anipot()

        fresh = [sys.executable, "-m", "anipot", *words] if self.options.fresh else None
        return self._process(command, folder, "printed.txt", moment, fresh)

    def _process(
        self,
        function: Callable[[], object],
        folder: Path,
        printed: str,
        moment: float | None = None,
        fresh: list[str] | None = None,
    ) -> tuple[int | None, float]:
        """Do something in a process group of its own, killed at a moment (seconds) or never."""
        began = time.monotonic()
        with (folder / printed).open("ab") as out:
            if fresh is not None:
                root = Path(__file__).resolve().parents[1]
                environment = {**os.environ, "PYTHONPATH": str(root)}
                pid = subprocess.Popen(
                    fresh, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    env=environment, start_new_session=True,
                ).pid  # fmt: skip
            else:
                sys.stdout.flush()
                pid = os.fork()
                if pid == 0:
                    _be(function, folder, out.fileno())
        try:
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                passed = time.monotonic() - began
                if ended:
                    return os.waitstatus_to_exitcode(status), passed
                if passed > _HANGS:
                    return 124, passed
                if moment is not None and passed >= moment:
                    return None, passed
                left = 0.02 if moment is None else min(0.02, moment - passed)
                time.sleep(max(left, 0.0005))
        finally:  # what it has begun itself, too, however this ends
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _be(function: Callable[[], object], folder: Path, out: int) -> None:
    """In a fork: do one thing and end, without what the first process does at its end."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if sys.platform == "linux":  # PR_SET_PDEATHSIG: killed when the first process is
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        function()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _draw_nothing() -> None:
    from matplotlib.figure import Figure

    def savefig(figure: Figure, file: Any, **more: Any) -> None:
        empty = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
        if hasattr(file, "write"):
            file.write(empty)
        else:
            Path(file).write_bytes(empty)

    Figure.savefig = savefig  # type: ignore[method-assign, assignment]
    Figure.draw_without_rendering = lambda figure: None  # type: ignore[method-assign]


def _last(folder: Path) -> str:
    lines = (folder / "printed.txt").read_text(errors="replace").split("\n")
    return " | ".join([line for line in lines if line.strip()][-2:])
