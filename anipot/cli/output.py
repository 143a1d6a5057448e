"""Output of commands: streams that may fail, progress bars, names of written files."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

#: Conformers of one batch of a prediction: fewer need no progress bar.
_ONE_BATCH = 1024


def shows_progress(n: int) -> bool:
    """Whether to show a progress bar for ``n`` conformers: on a terminal, for long work."""
    return n > _ONE_BATCH and sys.stderr.isatty()


def written(path: str | Path, existed: bool) -> str:
    """Name of a written file, marked if it replaced another."""
    return f"{path} (replaced)" if existed else str(path)


class Lasting(io.TextIOBase):
    """A standard stream that drops what it cannot write instead of ending the command.

    For commands that run for hours and keep their results in files. A message on standard error
    says that the stream failed, unless its reader has gone (``| head``).
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            code = self.encoding
            self.stream.write(text.encode(code, errors="backslashreplace").decode(code))
        except (OSError, ValueError) as e:
            self._leave(e)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError) as e:
            self._leave(e)

    def _leave(self, error: Exception) -> None:
        with suppress(OSError, ValueError):  # else what waits in its buffer would fail at the end
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)
        if self is not sys.stderr and getattr(error, "errno", None) != errno.EPIPE:
            print(
                f"anipot: output cannot be printed any more ({error}); the work continues",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Leave the stream as it is: it is that of the process."""

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


def open_closed() -> None:
    """Open closed standard streams (``>&-``) on the null device.

    Otherwise the next file to be opened would get the number of a standard stream, and everything
    that is printed would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
