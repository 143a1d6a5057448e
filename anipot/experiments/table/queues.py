"""Training the runs that wait in a queue, one after another or side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anipot.errors import TrainingError
from anipot.experiments.table import runs


class Queue:
    """The runs that are left of some, all for this process; a context, within which they are
    trained. ``left`` are those that have not come to their end, here or elsewhere.
    """

    #: Seconds between looks at what others have done; None where there are no others.
    look_every: float | None = None

    def __init__(self, folders: Sequence[Path]) -> None:
        self.left = [folder for folder in folders if not runs.ended(folder)]
        self._waiting = list(reversed(self.left))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the runs that were taken and not finished."""

    def take(self) -> Path | None:
        """The next run to train here; None where there is none (or none yet)."""
        return self._waiting.pop() if self._waiting else None

    def finish(self, folder: Path, finished: bool) -> None:
        """Say that a run that was taken came to its end, or was interrupted."""
        if finished:
            self.left.remove(folder)

    def brought(self) -> list[Path]:
        """Runs that others have brought to their end, each told once; their files are here now."""
        return []


def train_all(queue: Queue, workers: int) -> Iterator[Path | None]:
    """The runs of a queue, as they come to their end; None, and no more, after an interruption.

    With several workers Ctrl-C reaches their processes too, each of which writes its checkpoint and
    ends.
    """
    running: dict[Future[bool], Path] = {}
    train = runs.train if workers == 1 else runs.train_quietly
    told = False
    with queue, _pool(workers) as pool:
        try:
            while True:
                yield from queue.brought()
                while len(running) < workers and (folder := queue.take()) is not None:
                    running[pool.submit(train, folder)] = folder
                if not running:
                    if not queue.left:
                        return
                    if not told:
                        print(f"waiting for runs that others train: {len(queue.left)}", flush=True)
                        told = True
                    time.sleep(queue.look_every or 0)
                for done in wait(running, queue.look_every, FIRST_COMPLETED).done:
                    folder, finished = running.pop(done), done.result()
                    queue.finish(folder, finished)
                    yield folder if finished else None
                    if not finished:
                        return
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
    """Does what it is given at once, in this process."""

    def submit(self, fn: Any, /, *given: Any, **more: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*given, **more))
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
