"""Writing files so that a crash, a full disk or a killed process never leaves half of one, and
reading them so that a damaged one is an error which names it.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

from anipot.errors import AnipotError, InUseError, SettingsError, cut
from anipot.system.temporary_files import temporary_file

T = TypeVar("T")

log = logging.getLogger("anipot")

try:
    import fcntl
except ImportError:  # no Unix: processes that work in one folder are not told apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | Path, *, new: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name ``path`` only at the end.

    ``new``: raise FileExistsError where there is a file of that name by then; of several processes
    that write it at the same moment one alone does.

    When the block raises (no space left, interrupted), the temporary file goes and an old file at
    ``path`` stays as it was. What a killed process left goes when ``path`` is written again. The
    data is on the disk before the name changes. Missing folders are made. An OSError (no space, no
    permission) names ``path``, of which its reader knows, and not the temporary file.
    """
    path = Path(path)
    with _naming(path):
        _make_folder(path)
        lock, name = temporary_file(path)
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
            if new:
                _take_name(path, temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # what is worth telling has been raised by now
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


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


def _take_name(path: Path, temporary: Path) -> None:
    """Make ``path``, which must not exist, as another name of ``temporary``."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))


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


def write_first(path: str | Path, text: str) -> bool:
    """Write a text file unless there is one of that name, and whether this process wrote it.

    This is how a folder is taken by one of several processes that would work in it.
    """
    try:
        with atomic_write(path, new=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except FileExistsError:
        return False
    return True


@lru_cache(maxsize=1)
def _warn_of_no_locks(reason: str) -> None:
    log.warning(
        "WARNING, this file system has no locks (%s): make sure that no other process works in the "
        "same folder",
        reason,
    )


@contextmanager
def only_process(folder: str | Path) -> Iterator[None]:
    """Keep other processes from working in a folder; a process that ends, however, lets go of it.

    Raises InUseError where another one works there.
    """
    handle = None
    if fcntl is not None:
        with suppress(OSError):
            # Locks of network file systems need a file that is open for writing.
            handle = os.open(folder, os.O_RDONLY if Path(folder).is_dir() else os.O_RDWR)
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUseError(
                    f"another process works in {folder}: wait for its end, or name another folder"
                ) from None
            except OSError as e:
                _warn_of_no_locks(str(e))
        yield
    finally:
        if handle is not None:
            os.close(handle)


def kept(error: OSError, command: str) -> OSError:
    """An error such as of a full disk, with the command that goes on once it is mended."""
    then = "; what is done is kept"
    if error.errno is None:
        return OSError(f"{str(error).partition(then)[0]}{then}; to go on: {command}")
    said = (error.strerror or os.strerror(error.errno)).partition(then)[0]
    return OSError(error.errno, f"{said}{then}; to go on: {command}", error.filename)


# ---- reading -------------------------------------------------------------------------------------


def read_text(path: str | Path, kind: type[AnipotError] = SettingsError, way_out: str = "") -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises ``kind`` for a file that cannot be read, or has another encoding (naming the line), with
    the ``way_out`` (default: to save it in that encoding).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise kind(f"{path}: cannot be read ({e.strerror or e})") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise kind(
            f"{path}: line {line}: the byte 0x{data[e.start]:02x} is not UTF-8; "
            f"{way_out or 'save the file in that encoding'}"
        ) from None


def read_json(
    path: str | Path, kind: type[AnipotError] = SettingsError, way_out: str = ""
) -> dict[str, Any]:
    """The JSON object in a file. Raises ``kind``, which names the file and the ``way_out``."""
    text = read_text(path, kind, way_out)
    with damage_named(path, kind, way_out):
        found = json.loads(text)
        if not isinstance(found, dict):
            raise TypeError(f"a {type(found).__name__} where an object is expected")
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return found


def read_table(
    path: str | Path,
    read: Callable[[dict[str, str]], T],
    kind: type[AnipotError] = SettingsError,
    way_out: str = "",
) -> list[T]:
    """Read a CSV file; ``read`` maps each line, given by column name, to a result.

    Raises ``kind``, which names the file, the line and the ``way_out``, for what is no such table.
    """
    lines = csv.DictReader(io.StringIO(read_text(path, kind, way_out), newline=""))
    found = []
    try:
        for line in lines:
            if None in line or None in line.values():
                raise ValueError(f"it has not the {len(lines.fieldnames or ())} cells of the first")
            found.append(read(line))
    except KeyError as e:
        raise kind(f"{path}: damaged: it has no column {e}; {way_out}") from None
    except (csv.Error, OverflowError, TypeError, ValueError) as e:
        raise kind(f"{path}: line {lines.line_num} is damaged ({cut(str(e))}); {way_out}") from None
    return found


@contextmanager
def damage_named(
    path: str | Path, kind: type[AnipotError] = SettingsError, way_out: str = ""
) -> Iterator[None]:
    """Turn errors of the block into a ``kind`` that names the file and the ``way_out``.

    For reading a file that may be damaged or of another version.
    """
    then = f"; {way_out}" if way_out else ""
    try:
        yield
    except AnipotError as e:
        named = str(e).startswith(f"{path}: ")
        raise kind(f"{'' if named else f'{path}: '}{e}{then}") from None
    except KeyError as e:
        raise kind(f"{path}: damaged, or of another version: it has no {e}{then}") from None
    except (
        AttributeError, IndexError, OverflowError, RecursionError, TypeError, ValueError,
    ) as e:  # fmt: skip
        raise kind(f"{path}: damaged, or of another version ({cut(str(e))}){then}") from None


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
