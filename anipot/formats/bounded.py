"""Reading files of unknown origin: bounded, by name only inside their folder, errors with names."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from anipot.errors import PotentialError, SettingsError

#: Bytes of a text, also after decompression: more than any real one has.
MAX_TEXT = 1 << 20

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the block name the file."""
    try:
        yield
    except FileNotFoundError:
        raise PotentialError(f"{path}: there is no such file") from None
    except OSError as e:
        raise PotentialError(f"{path}: cannot be read ({e.strerror or e})") from None
    except (PotentialError, SettingsError) as e:
        raise PotentialError(f"{path}: {e}") from None
    except Exception as e:  # whatever a file made by hand makes of those who read it
        raise PotentialError(f"{path}: {not_understood(e)}") from e


def not_understood(error: Exception) -> str:
    """Message about a file that made a reader fail unexpectedly."""
    first = (str(error).splitlines() or [""])[0][:200]
    return (
        f"its contents are not understood ({type(error).__name__}: {first}); it may be damaged: "
        "copy or save it again"
    )


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of an ordinary file, which must not be more than ``most``."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise PotentialError("this is not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise PotentialError(f"it has more than the {most:,} bytes that it should have at most")
    return content


def read_text(path: Path) -> str:
    """An ASCII text of at most MAX_TEXT bytes, with or without a byte-order mark."""
    try:
        return read_bytes(path, MAX_TEXT).removeprefix(codecs.BOM_UTF8).decode("ascii")
    except UnicodeDecodeError as e:
        raise PotentialError(f"not a text in ASCII (byte {e.start}); save it as one") from None


def is_number(text: str) -> bool:
    """Whether ``text`` is a decimal number, of a length that takes no time to find out."""
    return len(text) <= 64 and _NUMBER.fullmatch(text) is not None


def number(text: str, what: str) -> float:
    """The number that ``text`` is; the error calls it ``what``."""
    if not is_number(text.strip()):
        raise PotentialError(f"{what} must be a number, but is {short(text)}")
    return float(text)


def short(text: str) -> str:
    """As much of ``text`` as an error should quote."""
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, for a name written in a file, which must not lead out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or re.search(r"[\\:\x00]", name):
        raise PotentialError(f"the path {name[:80]!r} leads out of the potential's folder")
    return folder.joinpath(*parts)
