"""The log of a run: everything that is printed, and warnings."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO


class RunLog(io.TextIOBase):
    """A run's log. What is written before there is a folder for it comes first."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._before: list[str] = []
        self._file: io.RawIOBase | None = None

    def begin(self, folder: Path, new: bool = False) -> None:
        self.folder = folder
        # Without a buffer, of which a full disk would make an error at the end.
        self._file = (folder / "log.txt").open("wb" if new else "ab", buffering=0)
        self.write("".join(self._before))

    def write(self, text: str) -> int:
        if self._file is None:
            self._before.append(text)
        else:
            with suppress(OSError):
                self._file.write(text.encode(errors="backslashreplace"))
        return len(text)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class Tee(io.TextIOBase):
    """Writes to the terminal and to the log. Asks the terminal whether it is one.

    A terminal that cannot be written to (closed, a full disk, | head) does not end a run, and what
    is said is in the log.
    """

    def __init__(self, terminal: TextIO | None, log: TextIO | io.TextIOBase) -> None:
        self.terminal, self.log = terminal, log

    def write(self, text: str) -> int:
        self.log.write(text)
        if self.terminal is not None:
            with suppress(OSError, ValueError):
                self.terminal.write(text)
        return len(text)

    def flush(self) -> None:
        if self.terminal is not None:
            with suppress(OSError, ValueError):
                self.terminal.flush()

    def isatty(self) -> bool:
        return self.terminal is not None and self.terminal.isatty()


@contextmanager
def logged() -> Iterator[RunLog]:
    with closing(RunLog()) as log:
        # What readers warn of belongs to what a run was too, and must still reach the terminal.
        logger = logging.getLogger("anipot")
        warnings: list[logging.Handler] = [logging.StreamHandler(log)]
        if not logger.hasHandlers():
            warnings.append(logging.StreamHandler())
        for handler in warnings:
            handler.setLevel(logging.WARNING)
            logger.addHandler(handler)
        try:
            with redirect_stdout(Tee(sys.stdout, log)):
                yield log
        except KeyboardInterrupt:
            log.write("KeyboardInterrupt\n")
            if log.folder is not None:
                print(f"\nInterrupted. To go on: anipot train --resume {log.folder}")
            raise
        except BaseException as e:
            log.write(f"{type(e).__name__}: {e}\n")
            raise
        finally:
            for handler in warnings:
                logger.removeHandler(handler)
