"""Read files of unknown origin safely: limited size, no paths out of their folder, clear errors."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from anipot.errors import AnipotError, PotentialError, SettingsError

#: Bytes of a text, also after decompression: more than any real one has.
MAX_TEXT = 1 << 20

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@contextmanager
def naming(path: Path, *, hints: bool = False) -> Iterator[None]:
    """Turn errors of the block into PotentialErrors that name the file, once.

    With ``hints``, SettingsErrors are about arguments of the caller and remain SettingsErrors.
    """
    try:
        yield
    except AnipotError as e:
        kind = SettingsError if hints and isinstance(e, SettingsError) else PotentialError
        message = str(e)
        raise kind(message if message.startswith(f"{path}: ") else f"{path}: {message}") from None
    except FileNotFoundError:
        raise PotentialError(f"{path}: there is no such file") from None
    except OSError as e:
        raise PotentialError(f"{path}: cannot be read ({e.strerror or e})") from None
    except Exception as e:  # a file made by hand can raise anything
        raise PotentialError(f"{path}: {not_understood(e)}") from e


def not_understood(error: Exception) -> str:
    """Return the message for a file on which a reader failed unexpectedly."""
    first = (str(error).splitlines() or [""])[0][:200]
    return (
        f"its contents are not understood ({type(error).__name__}: {first}); it may be damaged: "
        "copy or save it again"
    )


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of an ordinary file of at most ``most`` bytes."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise PotentialError("this is not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise PotentialError(f"it has more than the {most:,} bytes that it should have at most")
    return content


def read_text(path: Path) -> str:
    """Return an ASCII text of at most MAX_TEXT bytes, without its byte-order mark."""
    try:
        return read_bytes(path, MAX_TEXT).removeprefix(codecs.BOM_UTF8).decode("ascii")
    except UnicodeDecodeError as e:
        raise PotentialError(f"not a text in ASCII (byte {e.start}); save it as one") from None


def is_number(text: str) -> bool:
    """Whether ``text`` is a decimal number of at most 64 characters."""
    return len(text) <= 64 and _NUMBER.fullmatch(text) is not None


def number(text: str, what: str) -> float:
    """Parse a number; ``what`` names it in the error."""
    if not is_number(text.strip()):
        raise PotentialError(f"{what} must be a number, but is {short(text)}")
    return float(text)


def short(text: str) -> str:
    """Quote ``text`` for an error, shortened to 60 characters."""
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; raise PotentialError if the name leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or re.search(r"[\\:\x00]", name):
        raise PotentialError(f"the path {name[:80]!r} leads out of the potential's folder")
    return folder.joinpath(*parts)
