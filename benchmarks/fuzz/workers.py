"""Trying inputs one after another in forked processes, so that none can end the whole.

A process reads many inputs. What would end it (a signal, all memory, no end) is known to be that
of the input it had begun, and another process goes on behind it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anipot
from anipot import cli
from anipot.errors import AnipotError
from benchmarks.fuzz import structured
from benchmarks.fuzz.kinds import Kind
from benchmarks.fuzz.mutators import BYTES, STRANGERS, TEXT, TEXT_WEIGHTS

#: Seconds of processor time that reading an input may take, and of the clock, which is for what
#: waits or is deaf to signals.
SECONDS, WALL = 10.0, 120.0

#: Bytes of memory, over what the process has anyway, that reading an input may take.
MEMORY = 1 << 30

#: Inputs of a process, before another one begins with fresh memory.
INPUTS = 1500

#: Every so many inputs are given to commands, too.
COMMANDS = 10

#: More characters than this are no clear message.
LONGEST = 3000

_PACKAGE = Path(anipot.__file__).parent


@dataclass(frozen=True)
class Finding:
    """An input that was not read as it should be.

    ``what`` is the type of the exception, or "crash", "time", "memory", "silent change", "file not
    named", "long message", "traceback of a command"; ``where`` the innermost line of anipot.
    """

    kind: str
    seed: int
    what: str
    where: str
    message: str
    change: str
    trace: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        return self.kind, self.what, self.where


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for an error of the file."""


# ---- inputs --------------------------------------------------------------------------------------


@dataclass
class Seed:
    """The valid files of a kind."""

    kind: Kind
    files: dict[str, bytes]
    content: Any
    covered: dict[str, list[tuple[int, int]]] | None


@dataclass
class Input:
    """A changed seed: the files, which one was changed and how, and whether sums must tell."""

    files: dict[str, bytes]
    name: str
    change: str
    told_by_sums: bool
    in_place: str = ""


def changed(seed: Seed, number: int, others: Sequence[Seed]) -> Input:
    """Input ``number`` of a kind: the same one whenever it is asked for."""
    rng = random.Random(f"{seed.kind.name}:{number}")
    names = [n for n in seed.files if n.endswith(seed.kind.changed)]
    # Files that are alike in kind are changed as often as one that is alone.
    ends = sorted({Path(n).suffix or n for n in names})
    end = rng.choice(ends)
    name = rng.choice([n for n in names if (Path(n).suffix or n) == end])
    content = before = seed.files[name]
    act = rng.random()
    if act < 0.03:
        in_place = rng.choice((
            "a folder", "a link to itself", "a link to nothing", "a file nobody may read",
            "nothing",
        ))  # fmt: skip
        files = {n: c for n, c in seed.files.items() if n != name}
        return Input(files, name, in_place, False, in_place)
    if act < 0.06:
        stranger = rng.choice([*STRANGERS, *range(len(others))])
        if isinstance(stranger, int):
            other = others[stranger]
            content = other.files[rng.choice(list(other.files))]
            how = f"a file of the kind {other.kind.name!r}"
        else:
            content, how = STRANGERS[stranger], stranger
        return Input({**seed.files, name: content}, name, how, False)
    done = []
    only_bytes = True
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Only of what is valid: parsers of YAML, for one, take for ever over deep nesting.
        fitting = {} if done else structured.fitting(name, content)
        text = _is_text(content)
        if fitting and rng.random() < 0.5:
            how, mutator = rng.choice(list(fitting.items()))
        elif text and rng.random() < 0.75:
            weights = [TEXT_WEIGHTS.get(n, 1) for n in TEXT]
            how, mutator = rng.choices(list(TEXT.items()), weights)[0]
        else:
            how, mutator = rng.choice(list(BYTES.items()))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = mutator(rng, content)
        except Exception:  # what an earlier change left is none of this format any more
            how = "truncated"
            content = BYTES[how](rng, content)
        only_bytes &= how in BYTES
        done.append(how)
    told = only_bytes and seed.kind.summed(name) and content != before
    if told and seed.covered is not None:
        told = _within(before, content, seed.covered[name])
    return Input({**seed.files, name: content}, name, ", ".join(done), told)


def _is_text(content: bytes) -> bool:
    return b"\x00" not in content[:4096] and bool(content)


def _within(before: bytes, after: bytes, places: list[tuple[int, int]]) -> bool:
    """Whether all that was changed lies in the places."""
    if len(before) != len(after):
        return False
    changes = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return all(any(start <= k < end for start, end in places) for k in changes)


# ---- one input -----------------------------------------------------------------------------------


def attempt(seed: Seed, number: int, given: Input, place: Path) -> Finding | None:
    """Read one input; None where it was read, or refused by a message that names it.

    Every ``COMMANDS``-th is given to the commands that read such files, too.
    """
    folder = place / f"{number}"
    path = seed.kind.write(folder, given.files)
    put_in_place(folder / given.name, given.in_place)
    try:
        wrong, error = _judged(seed, given, folder, path)
        if not wrong and number % COMMANDS == 0:
            wrong, error = _commanded(seed.kind, path, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not wrong:
        return None
    message = str(error) if error is not None else ""
    trace = "" if error is None else "".join(traceback.format_exception(error))
    change = f"{given.name}: {given.change}"
    return Finding(
        seed.kind.name, number, wrong, _where(error), message[:500], change, trace[-6000:]
    )


def _judged(seed: Seed, given: Input, folder: Path, path: Path) -> tuple[str, BaseException | None]:
    """What is wrong with how a reader took an input: "" for nothing, and the error."""
    # Of what was changed, or of what was given; or the path of a file beside these, which is amiss.
    names = {Path(given.name).name, Path(seed.kind.target).name, f"{folder}{os.sep}"}
    try:
        found = _limited(lambda: seed.kind.read(path))
    except AnipotError as e:
        if not any(name in str(e) for name in names):
            return "file not named", e
        return ("long message", e) if len(str(e)) > LONGEST else ("", None)
    except TooLong as e:
        return "time", e
    except MemoryError as e:
        return "memory", e
    except BaseException as e:
        return type(e).__name__, e
    if given.told_by_sums and found != seed.content:
        return "silent change", None
    return "", None


def _commanded(kind: Kind, path: Path, place: Path) -> tuple[str, BaseException | None]:
    """The same of the commands that read the kind: these end with a code, and no traceback."""
    potential = place / "potential.safetensors"
    if not potential.exists():
        anipot.ANIModel.create("HCNO", hidden=[2]).save(potential)
    words = {"@": str(path), "@potential": str(potential)}
    before = sys.argv
    for command in kind.commands:
        sys.argv = ["anipot", *(words.get(word, word) for word in command.split())]
        try:
            _limited(cli.main)
        except SystemExit as e:
            if e.code not in (None, 0, 1, 2):
                return f"anipot {command}", e
        except BaseException as e:
            return f"anipot {command}", e
        finally:
            sys.argv = before
    return "", None


def _limited(call: Callable[[], Any]) -> Any:
    """What is called, within limits of time and memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    before = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def put_in_place(path: Path, what: str) -> None:
    if what:
        path.parent.mkdir(parents=True, exist_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a link to itself":
        path.symlink_to(path)
    elif what == "a link to nothing":
        path.symlink_to(path.with_name("nowhere"))
    elif what == "a file nobody may read":
        path.write_bytes(b"")
        path.chmod(0)


def _where(error: BaseException | None) -> str:
    """The innermost line of the package, in the error that came first where one led to another."""
    where = ""
    while error is not None:
        for frame in traceback.extract_tb(error.__traceback__):
            file = Path(frame.filename)
            if file.is_relative_to(_PACKAGE) and file.parent.name != "cli":
                where = f"{file.relative_to(_PACKAGE.parent)}:{frame.lineno} {frame.name}"
        error = error.__cause__ or error.__context__
    return where


# ---- many inputs ---------------------------------------------------------------------------------


def _too_long(number: int, frame: Any) -> None:
    raise TooLong


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What readers print is of no interest; what Python says of a crash goes to ``log``."""
    logging.disable(logging.CRITICAL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    with log.open("w") as out:
        faulthandler.enable(out)
        try:
            yield
        finally:
            faulthandler.disable()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            for handle in (nothing, *kept):
                os.close(handle)
            logging.disable(logging.NOTSET)


def _work(
    jobs: Sequence[tuple[int, int]], seeds: Sequence[Seed], place: Path, pipe: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    place.mkdir(exist_ok=True)
    os.chdir(place)
    with quiet(place / "crash.txt"):
        for k, (which, number) in enumerate(jobs):
            given = changed(seeds[which], number, seeds)
            pipe.send(("begun", k, f"{given.name}: {given.change}"))
            found = attempt(seeds[which], number, given, place)
            pipe.send(("done", k, None if found is None else asdict(found)))
        pipe.close()
        os._exit(0)  # not joining threads that readers may have left behind


def attempts(
    jobs: Sequence[tuple[int, int]], seeds: Sequence[Seed]
) -> Iterator[tuple[int, Finding | None]]:
    """(place in ``jobs``, what was found) for each of ``jobs``: (index of the seed, number)."""
    context = multiprocessing.get_context("fork")
    start = 0
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / "inputs"
        while start < len(jobs):
            batch = jobs[start : start + INPUTS]
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(batch, seeds, place, theirs))
            process.start()
            theirs.close()
            done, change = 0, "?"
            try:
                while done < len(batch):
                    ended = ""
                    try:
                        if mine.poll(WALL):
                            what, k, told = mine.recv()
                            if what == "begun":
                                change = told
                            else:
                                done = k + 1
                                yield start + k, told and Finding(**told)
                            continue
                        ended = "time"
                    except EOFError:
                        ended = "crash"
                    process.kill()
                    process.join()
                    which, number = batch[done]
                    name = seeds[which].kind.name
                    yield start + done, _ended(ended, process.exitcode, name, number, change, place)
                    done += 1
                    break
            finally:
                mine.close()
                if process.is_alive():
                    process.kill()
                process.join()
                shutil.rmtree(place, ignore_errors=True)
            start += done


def _ended(
    what: str, code: int | None, kind: str, number: int, change: str, place: Path
) -> Finding:
    """What ended a process, or had to be ended."""
    log = place / "crash.txt"
    trace = log.read_text() if log.exists() else ""
    lines = [line.strip() for line in trace.splitlines() if str(_PACKAGE) in line]
    why = f"no end within {WALL:g} s" if what == "time" else f"exit code {code}"
    where = lines[0].replace(str(_PACKAGE.parent) + os.sep, "") if lines else ""
    return Finding(kind, number, what, where, why, change, trace)
