"""Writing files so that a crash, a full disk or a killed process never leaves half of one."""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name ``path`` only at the end.

    When the block raises (no space left, interrupted), the temporary file goes and an old file at
    ``path`` stays as it was. The data is on the disk before the name changes. Missing folders are
    made. An OSError (no space, no permission) names ``path``, of which its reader knows, and not
    the temporary file.
    """
    path = Path(path)
    with _naming(path):
        _make_folder(path)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with _naming(path, name):
            yield temporary
            # mkstemp makes files only their owner can read; a result is meant to be shared.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # what is worth telling has been raised by now
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path, temporary: str | None = None) -> Iterator[None]:
    """OSErrors of the block name ``path``, unless they are about some other file."""
    try:
        yield
    except OSError as e:
        about = None if e.filename is None else os.fspath(e.filename)
        if e.errno is None or (temporary is not None and about not in (None, temporary)):
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


def _make_folder(path: Path) -> None:
    """The folder to write ``path`` to. A file in its way is said to be one."""
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                reason = f"{parent} is a file, so nothing can be written into it"
                raise NotADirectoryError(errno.ENOTDIR, reason, str(path))
            break
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def zip_damage(file: str | Path | IO[bytes]) -> str | None:
    """The first entry of a zip archive that does not match its checksum (CRC-32), or None.

    torch can save without checksums, all of which are zero then: such an archive says nothing.
    Raises what ``zipfile`` raises for what is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        for entry in entries:
            # torch takes an entry with the mark of a folder for empty, and reads whatever was in
            # memory; the mark is covered by no checksum.
            if entry.external_attr & 0x10 and entry.file_size:
                return entry.filename
        if not any(entry.CRC for entry in entries):
            return None
        for entry in entries:
            try:
                with archive.open(entry) as part:
                    while part.read(1 << 20):
                        pass
            except (zipfile.BadZipFile, EOFError):
                return entry.filename
    return None
