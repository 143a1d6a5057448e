"""The fuzzer of ``python -m benchmarks fuzz``, a little of it; and that it notices what it should.

A failing input is shown again by ``python -m benchmarks fuzz --replay 'KIND:SEED'``.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anipot.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import fuzz  # noqa: E402
from benchmarks.fuzz import workers  # noqa: E402
from benchmarks.fuzz.kinds import Kind, always  # noqa: E402
from benchmarks.fuzz.workers import Finding, Seed  # noqa: E402

#: Those that need no training.
QUICK = {kind.name: kind for kind in fuzz.all_kinds() if not kind.costly}
EACH = 6


@pytest.mark.parametrize("name", QUICK)
def test_damaged_files_are_read_or_refused_by_name(name, tmp_path):
    kind = QUICK[name]
    seed = Seed(kind, kind.files(), None, None)
    if kind.covered is not None:
        seed.covered = dict(kind.covered(seed.files))
    path = kind.write(tmp_path / "valid", seed.files)
    if not kind.refused:
        seed.content = kind.read(path)  # a valid file must be read
    for number in range(1, EACH + 1):  # the first is given to commands, too, which takes longer
        given = workers.changed(seed, number, [seed])
        found = workers.attempt(seed, number, given, tmp_path)
        assert found is None, f"--replay '{name}:{number}': {found}"


def test_an_input_is_the_same_whenever_it_is_made():
    kind = QUICK["own.npz"]
    one, two = (Seed(kind, kind.files(), None, None) for _ in range(2))
    assert one.files == two.files
    for number in range(50):
        assert workers.changed(one, number, [one]) == workers.changed(two, number, [two])


# ---- readers that do what none may ---------------------------------------------------------------


def _kind(read, text: bytes = b"1 2 3\n" * 50) -> Kind:
    def make(folder: Path) -> None:
        (folder / "fuzzed.txt").write_bytes(text)

    return Kind("made up", "fuzzed.txt", make, read, summed=always)


def _found(read, monkeypatch, jobs: int = 3) -> list[Finding | None]:
    monkeypatch.setattr(workers, "SECONDS", 0.2)
    monkeypatch.setattr(workers, "WALL", 2.0)
    monkeypatch.setattr(workers, "MEMORY", 1 << 28)
    kind = _kind(read)
    seed = Seed(kind, kind.files(), None, None)
    return [found for _, found in workers.attempts([(0, n) for n in range(jobs)], [seed])]


def _fails(path: Path) -> None:
    {}[path.name]


def _dies(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _computes_for_ever(path: Path) -> None:
    try:
        while True:
            pass
    except Exception:  # a reader that catches everything does not catch the limit
        pass


def _waits_for_ever(path: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(1000)


def _takes_all_memory(path: Path) -> None:
    np.ones(1 << 30)


def _names_nothing(path: Path) -> None:
    raise DataError("something is wrong")


def _believes(path: Path) -> str:
    return str(path.stat().st_size)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (_fails, "KeyError"),
        (_dies, "crash"),
        (_computes_for_ever, "time"),
        (_waits_for_ever, "time"),
        (_takes_all_memory, "memory"),
        (_names_nothing, "file not named"),
        (_believes, "silent change"),
    ],
)
def test_it_notices(read, what, monkeypatch):
    jobs = {_waits_for_ever: 1, _dies: 1, _believes: 30}.get(read, 3)
    found = _found(read, monkeypatch, jobs)
    assert what in [f.what for f in found if f is not None]
    if what != "silent change":  # which not every input is
        assert len(found) == jobs
        assert all(f is not None for f in found)


def test_it_goes_on_behind_an_input_that_ended_its_process(monkeypatch):
    def read(path: Path) -> None:
        if path.parent.name == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    first, second, third = _found(read, monkeypatch)
    assert second is not None
    assert (second.what, second.seed) == ("crash", 1)
    assert "silent" in (first.what if first else "silent")
    assert "silent" in (third.what if third else "silent")


def test_what_is_read_correctly_is_no_finding(monkeypatch):
    assert _found(lambda path: None, monkeypatch, 20) == [None] * 20


def test_a_command_that_ends_in_a_traceback_is_noticed(tmp_path, monkeypatch):
    def broken() -> None:
        raise KeyError("claims")

    monkeypatch.setattr(workers.cli, "main", broken)
    kind = _kind(lambda path: None)
    with_command = Kind(**{**vars(kind), "commands": ("data info @",)})
    seed = Seed(with_command, kind.files(), None, None)
    found = workers.attempt(seed, 0, workers.changed(seed, 0, [seed]), tmp_path)
    assert found is not None
    assert found.what == "anipot data info @"


def test_the_command_reports_and_replays(capsys):
    assert fuzz.main(["--kinds", "molecule list", "--inputs", "20", "--seed", "1"]) == 0
    assert "20 inputs of 1 kinds" in capsys.readouterr().out
    assert fuzz.main(["--list"]) == 0
    assert "molecule list" in capsys.readouterr().out
