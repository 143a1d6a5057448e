"""The structure of an XYZ file: its frames, each held against its number of atoms."""

from __future__ import annotations

import codecs
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from ase.io.formats import open_with_compression

from anipot.errors import DataError, shortly

#: The tags of QM9's comment after "gdb N".
QM9_PROPERTIES = (
    "A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv",
)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file, which may be compressed. Raises DataError where it cannot be read."""
    try:
        with open_with_compression(str(path), "rb") as binary:
            encoding = encoding_of(binary)
        with (
            open_with_compression(str(path), "rb") as binary,
            io.TextIOWrapper(binary, encoding=encoding) as text,
        ):
            yield text
    except (OSError, EOFError, UnicodeError, zlib.error, lzma.LZMAError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e


def encoding_of(binary: Any) -> str:
    """UTF-8, or UTF-16 by its mark, or Latin-1, of which every byte is a letter."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    first = True
    while piece := binary.read(1 << 20):
        if first and piece[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        first = False
        try:
            decoder.decode(piece)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


class Frame:
    """The lines of one frame as they are in the file."""

    def __init__(self, path: Path, index: int, line: int, comment: str, rows: list[str]) -> None:
        self.path, self.index, self.line, self.comment, self.rows = path, index, line, comment, rows
        self.vectors: list[str] = []
        self.tail: list[str] = []

    def error(self, reason: str, row: int | None = None) -> DataError:
        line = self.line + 1 if row is None else self.line + 2 + row
        return DataError(f"{self.path}, frame {self.index}, line {line}: {reason}")


class _Lines:
    """The lines of a file one by one, with their number and a look ahead."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text, self._ahead, self.number = text, [], 0  # type: ignore[var-annotated]

    def peek(self, n: int = 1) -> list[str]:
        self._ahead += islice(self._text, n - len(self._ahead))
        return self._ahead[:n]

    def take(self, n: int) -> list[str]:
        ahead, self._ahead = self._ahead[:n], self._ahead[n:]
        lines = ahead + list(islice(self._text, n - len(ahead)))
        self.number += len(lines)
        return lines


def frames_of(text: Iterator[str], path: Path) -> Iterator[Frame]:
    lines = _Lines(text)
    before: Frame | None = None
    index = 0
    while taken := lines.take(1):
        count = taken[0].strip()
        if not count:
            continue
        if not re.fullmatch(r"[0-9]{1,12}", count):
            raise _no_count(path, lines.number, count, before)
        start, n = lines.number, int(count)
        comment = "".join(lines.take(1)).strip()
        frame = Frame(path, index, start, comment, lines.take(n))
        if len(frame.rows) < n:
            raise DataError(
                f"{path}, frame {index}: line {start} says {n} atoms, but the file ends after "
                f"{len(frame.rows)} of them"
            )
        while len(frame.vectors) < 3 and (ahead := lines.peek()) and _is_vector(ahead[0]):
            frame.vectors += lines.take(1)
        if is_qm9(comment):
            ahead = lines.peek(3)
            if len(ahead) == 3 and ahead[2].startswith("InChI="):
                frame.tail = lines.take(3)
        yield frame
        before, index = frame, index + 1


def _is_vector(line: str) -> bool:
    return re.match(r"\s*VEC\d?\s", line) is not None


def _no_count(path: Path, line: int, text: str, before: Frame | None) -> DataError:
    shown = shortly(text, 60)
    if before is None:
        return DataError(
            f"{path}, line {line}: {shown} is not the number of atoms that a frame begins with; "
            "an XYZ file has that number, a comment, and a line for each atom"
        )
    return DataError(
        f"{path}, line {line}: {shown} follows frame {before.index}, which has "
        f"{len(before.rows)} atoms by line {before.line}; the number of atoms of the next frame "
        "is expected here. Correct the number, or remove what does not belong to a frame"
    )


def is_qm9(comment: str) -> bool:
    """Whether a comment is that of a molecule of QM9."""
    return comment.startswith("gdb ") and len(comment.split()) == 2 + len(QM9_PROPERTIES)
