"""NumPy's files read with care: ``.npy`` and ``.npz``, whatever their headers claim.

Nothing is unpickled, and no memory is taken before the size that a header declares was compared
with what the file holds.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from anipot.errors import AnipotError, DataError

#: What numpy and zipfile raise on a file that is damaged, cut short or of another kind.
BROKEN = (
    OSError, EOFError, TypeError, ValueError, KeyError, IndexError, SyntaxError, RuntimeError,
    OverflowError, MemoryError, NotImplementedError, tokenize.TokenError, struct.error,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip

#: Deflate packs at most 1032 bytes into one.
_MOST_PACKED = 1100


@dataclass(frozen=True)
class Header:
    """Header of a ``.npy`` file: type and shape of its array, and its own length."""

    shape: tuple[int, ...]
    dtype: np.dtype
    length: int

    @property
    def pickled(self) -> bool:
        """Whether the array is one of Python objects, which can only be unpickled."""
        return self.dtype.hasobject

    @property
    def nbytes(self) -> int:
        """Bytes of header and array."""
        return self.length + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """The header of an open ``.npy`` file, which is left behind it. Raises one of ``BROKEN``."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version in ((2, 0), (3, 0)):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"format version {version} of .npy is not known")
    if any(n < 0 for n in shape):
        raise ValueError(f"its header declares the shape {shape}")
    return Header(shape, dtype, file.tell())


def read_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file. Raises DataError naming the file."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            if header.pickled:
                raise DataError(f"{path} holds Python objects, which are never unpickled")
            size = path.stat().st_size
            if header.nbytes != size:
                raise DataError(
                    f"{path}: its header declares an array of shape {header.shape}, "
                    f"{header.nbytes:,} bytes, but the file has {size:,}"
                )
            file.seek(0)
            return _array(file)
    except AnipotError:
        raise
    except BROKEN as e:
        raise DataError(f"{path}: not a NumPy array (.npy), or damaged ({e})") from e


def _array(file: IO[bytes]) -> np.ndarray:
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return np.ascontiguousarray(array) if array.ndim else array


class Archive:
    """The arrays of an open ``.npz`` file by name; each is read when it is asked for.

    ``headers`` (name -> Header) are read at once. Raises DataError naming file and array for what
    is damaged, pickled, or declares more than the file can hold.
    """

    def __init__(self, path: Path, zipped: zipfile.ZipFile) -> None:
        self.path, self._zip = path, zipped
        self.headers: dict[str, Header] = {}
        self.other: list[str] = []
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in zipped.infolist():
            name = info.filename.removesuffix(".npy")
            with self._named(name):
                if name in self._members or name in self.other:
                    raise ValueError("two members of the archive have this name")
                with zipped.open(info) as file:
                    if name == info.filename or file.read(6) != np.lib.format.MAGIC_PREFIX:
                        self.other.append(name)
                        continue
                with zipped.open(info) as file:
                    self.headers[name] = read_header(file)
                self._members[name] = info

    @property
    def pickled(self) -> list[str]:
        """Names of the arrays of Python objects."""
        return [name for name, header in self.headers.items() if header.pickled]

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except AnipotError:
            raise
        except BROKEN as e:
            raise DataError(
                f"{self.path}: not a NumPy archive (.npz), or damaged ({name!r}: {e})"
            ) from e

    def __getitem__(self, name: str) -> np.ndarray:
        header, info = self.headers[name], self._members[name]
        if header.pickled:
            raise DataError(f"{self.path}: {name!r} holds Python objects, which are not unpickled")
        if header.nbytes != info.file_size or info.file_size > _MOST_PACKED * info.compress_size:
            raise DataError(
                f"{self.path}: {name!r} declares an array of shape {header.shape}, "
                f"{header.nbytes:,} bytes, but the archive has {info.compress_size:,} bytes of it "
                f"that unpack to {info.file_size:,}"
            )
        with self._named(name), self._zip.open(info) as file:
            array = _array(file)
            file.read(1)  # the end of a member is where its checksum is compared
            return array


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An ``.npz`` file. Raises DataError naming it where it is something else or damaged."""
    try:
        zipped = zipfile.ZipFile(path)
    except BROKEN as e:
        raise DataError(f"{path}: not a NumPy archive (.npz), or damaged ({e})") from e
    with zipped:
        yield Archive(path, zipped)
