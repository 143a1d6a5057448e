"""Train the runs of a table, one after another or side by side, and beside other processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from anipot.errors import InUseError, TrainingError
from anipot.experiments.table import runs

#: Seconds between attempts to take runs that other processes are training.
LOOK_EVERY = 2.0


class Queue:
    """The runs that are ``left`` of some, for this process and others that work on the same table.

    Whoever trains a run holds the lock of its folder (``only_process``), which the system releases
    when the process ends, however it does. So each run is trained once, and those of a killed
    process are free again.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.left = [folder for folder in folders if not runs.ended(folder)]
        self._waiting = list(self.left)
        self._elsewhere: list[Path] = []

    def take(self) -> Path | None:
        """Claim the next run to try; None if there is none, or none yet."""
        return self._waiting.pop(0) if self._waiting else None

    @property
    def ready(self) -> bool:
        """Whether there are runs to try."""
        return bool(self._waiting)

    def in_use(self, folder: Path) -> None:
        """Leave a run to the process that is training it."""
        self._elsewhere.append(folder)

    def finish(self, folder: Path) -> None:
        """Remove a run that has come to its end."""
        self.left.remove(folder)

    def look(self) -> list[Path]:
        """Return the runs that others have brought to their end since; try the rest again."""
        done = [folder for folder in self._elsewhere if runs.ended(folder)]
        for folder in done:
            self.left.remove(folder)
        self._waiting += [folder for folder in self._elsewhere if folder not in done]
        self._elsewhere = []
        return done


def train_all(queue: Queue, workers: int) -> Iterator[Path | None]:
    """Train the runs of a queue; yield each as it comes to its end, and None after an interruption.

    With several workers Ctrl-C reaches their processes too, each of which writes its checkpoint and
    ends.
    """
    running: dict[Future[bool], Path] = {}
    train = runs.train if workers == 1 else runs.train_quietly
    announced = False
    with _pool(workers) as pool:
        try:
            while queue.left:
                while len(running) < workers and (folder := queue.take()) is not None:
                    running[pool.submit(train, folder)] = folder
                for done in wait(running, LOOK_EVERY, FIRST_COMPLETED).done:
                    folder = running.pop(done)
                    try:
                        finished = done.result()
                    except InUseError:
                        queue.in_use(folder)
                        continue
                    if not finished:
                        yield None
                        return
                    queue.finish(folder)
                    yield folder
                if not running and len(queue.left) and not queue.ready:
                    if not announced:
                        print(f"waiting for runs of other processes: {len(queue.left)}", flush=True)
                        announced = True
                    time.sleep(LOOK_EVERY)
                    yield from queue.look()
        except KeyboardInterrupt:
            yield None
        except BrokenProcessPool:  # of all runs of the pool, whichever was killed
            raise TrainingError(
                "a process that trained a run was killed, as happens when memory is short; to go "
                "on, with fewer workers perhaps: anipot iterate --resume "
                f"{queue.left[0].parent.parent}"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Here(Executor):
    """Calls functions at once, in this process."""

    def submit(self, fn: Any, /, *given: Any, **more: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*given, **more))
        except InUseError as e:  # others are raised at once
            done.set_exception(e)
        return done


def _pool(workers: int) -> Executor:
    if workers == 1:
        return _Here()
    # A fork would copy locks that the parent's threads hold.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when the one that began it is killed: others may train its run then."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
