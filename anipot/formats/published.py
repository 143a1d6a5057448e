"""The published potentials by name: found in a cache, or fetched and checked file by file.

A cache is a folder with the files as they were published, ``ani-1x_8x.info`` beside ``ani-1x_8x/``.
Every file of it must have the sha256 sum that ``published_sums.txt`` has (``sha256sum -c`` reads
it), whoever put it there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from anipot.errors import PotentialError
from anipot.system.downloading import DownloadError, download
from anipot.system.files import atomic_write

#: Where all published potentials are, in one archive.
ARCHIVE = "https://github.com/aiqm/ani-model-zoo/archive/refs/tags/ani-2x.zip"

#: Environment variables: a folder of potentials, and another address of the archive.
CACHE_VARIABLE = "ANIPOT_CACHE"
ADDRESS_VARIABLE = "ANIPOT_ZOO_URL"

_MOST_ARCHIVE = 1 << 30  # bytes
_MOST_FILE = 1 << 24  # bytes; the largest published file has 1 MB

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """Names, level of theory and citation of a published potential."""

    name: str
    title: str
    elements: str
    level_of_theory: str
    citation: str

    @property
    def folder(self) -> str:
        """Name of its folder; ``.info`` behind it is its file."""
        return f"{self.title.lower()}_8x"

    @property
    def about(self) -> dict[str, Any]:
        """Metadata of a potential read from these files."""
        return {
            "name": self.title,
            "level_of_theory": self.level_of_theory,
            "citation": self.citation,
            "source": "https://github.com/aiqm/ani-model-zoo",
        }


PUBLISHED = (
    Published(
        "ani1x",
        "ANI-1x",
        "HCNO",
        "wB97X/6-31G(d)",
        "Smith, Nebgen, Lubbers, Isayev, Roitberg, J. Chem. Phys. 2018, 148, 241733",
    ),
    Published(
        "ani1ccx",
        "ANI-1ccx",
        "HCNO",
        "CCSD(T)*/CBS",
        "Smith, Nebgen, Zubatyuk, Lubbers, Devereux, Barros, Tretiak, Isayev, Roitberg, "
        "Nat. Commun. 2019, 10, 2903",
    ),
    Published(
        "ani2x",
        "ANI-2x",
        "HCNOSFCl",
        "wB97X/6-31G(d)",
        "Devereux, Smith, Huddleston, Barros, Zubatyuk, Isayev, Roitberg, "
        "J. Chem. Theory Comput. 2020, 16, 4192",
    ),
)

NAMES = tuple(p.name for p in PUBLISHED)


def is_name(name: str) -> bool:
    """Whether ``name`` is that of a published potential, as "ani1x", "ANI-1x" or "ani_1x"."""
    return _plain(name) in NAMES


def named(name: str) -> Published:
    """The published potential of that name. Raises PotentialError for another name."""
    if not is_name(name):
        raise PotentialError(f"no published potential {name!r}; there are {', '.join(NAMES)}")
    return PUBLISHED[NAMES.index(_plain(name))]


def _plain(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "-_ "))


# ---- caches --------------------------------------------------------------------------------------


def cache_folders() -> list[Path]:
    """The folders in which potentials are looked for and kept, in this order, without repeats:
    ``$ANIPOT_CACHE``, ``$XDG_CACHE_HOME/anipot``, ``~/.cache/anipot``."""
    found = []
    if given := os.environ.get(CACHE_VARIABLE):
        found.append(Path(given).expanduser())
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        found.append(Path(xdg) / "anipot")
    with suppress(RuntimeError):  # no home
        found.append(Path.home() / ".cache" / "anipot")
    return list(dict.fromkeys(found))


def cached(name: str) -> Path | None:
    """The ``.info`` file of a potential in a cache, its files checked; None where there is none.

    Raises PotentialError, naming the file, for a missing or changed one.
    """
    potential = named(name)
    for folder in cache_folders():
        info, there = folder / f"{potential.folder}.info", False
        with suppress(PermissionError):
            there = info.is_file()
        if there:  # it comes last: without it, a copy has not been finished
            _check(potential, folder)
            return info
    return None


def find(name: str, *, address: str | None = None) -> Path:
    """The ``.info`` file of a published potential, from a cache or else fetched into one.

    ``address`` is that of the archive, ``$ANIPOT_ZOO_URL`` or the published one by default. Raises
    PotentialError that says what was looked for, where, and the way out.
    """
    return cached(name) or fetch([name], address=address)[0]


def recognised(folder: Path) -> Published | None:
    """The published potential of which ``folder`` has the very files, or None.

    A folder of that name in which most files are the published ones, but some have other contents,
    is another potential, and the logger warns of it: it may be damage.
    """
    folder = folder.resolve()
    for potential in PUBLISHED:
        if potential.folder != folder.name:
            continue
        sums = {name: d for name, d in _sums(potential).items() if not name.endswith(".info")}
        found = {name: _sha256(folder.parent / name) for name in sums}
        changed = [n for n, digest in found.items() if digest and digest != sums[n]]
        if changed and sum(found[n] == d for n, d in sums.items()) > len(sums) // 2:
            _logger.warning(
                "%s: not the file published with %s, as others in its folder are; if it was not "
                "changed on purpose, it is damaged: anipot potentials fetch %s",
                folder.parent / changed[0],
                potential.title,
                potential.name,
            )
        return potential if found == sums else None
    return None


def _sha256(file: Path) -> str | None:
    """The sum of a file; None for one that cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


@cache
def _sums(potential: Published) -> dict[str, str]:
    """sha256 of each file of a potential by its name, with ``/``."""
    text = Path(__file__).with_name("published_sums.txt").read_text(encoding="ascii")
    pairs = (line.split() for line in text.splitlines())
    prefixes = (f"{potential.folder}/", f"{potential.folder}.info")
    return {name: digest for digest, name in pairs if name.startswith(prefixes)}


def _check(potential: Published, cache: Path, info: bool = True) -> None:
    for name, digest in _sums(potential).items():
        file = cache / name
        if file.suffix == ".info" and not info:
            continue
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as e:
            reason = f"cannot be read ({e.strerror})"
        else:
            if found == digest:
                continue
            reason = f"not the published file (its sha256 is {found[:12]}..., not {digest[:12]}...)"
        raise PotentialError(
            f"{file}: {reason}; remove {cache / potential.folder} and "
            f"{potential.folder}.info beside it, and fetch them again: "
            f"anipot potentials fetch {potential.name}"
        )


# ---- fetching ------------------------------------------------------------------------------------


def fetch(names: Iterable[str], *, address: str | None = None) -> list[Path]:
    """Download the archive and unpack the potentials ``names`` into a cache; their ``.info`` files.

    Those in a cache already are not fetched again. Every file is checked before it takes its
    place, a potential's folder and its ``.info`` file appear whole, and several processes may
    fetch at once. The download is shown as a bar on a terminal. Raises PotentialError.
    """
    potentials = [named(name) for name in dict.fromkeys(map(_plain, names))]
    places = {p.name: cached(p.name) for p in potentials}
    missing = [p for p in potentials if places[p.name] is None]
    if missing:
        address = address or os.environ.get(ADDRESS_VARIABLE) or ARCHIVE
        folder = _writable(missing)
        # Without a name, so that nothing is left of it even if the process is killed.
        with tempfile.TemporaryFile(dir=folder) as file:
            _download(address, file, missing)
            for potential in missing:
                places[potential.name] = _unpack(potential, file, folder, address)
    return [place for place in places.values() if place is not None]


def _writable(missing: list[Published]) -> Path:
    """The first cache folder that can be written to."""
    reasons = []
    for folder in cache_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as e:
            reasons.append(f"{folder}: {e.strerror}")
    names = ", ".join(p.name for p in missing)
    raise PotentialError(
        f"{names}: not in a cache, and no folder to keep it in can be written to "
        f"({'; '.join(reasons) or 'there is no home folder'}); name one in {CACHE_VARIABLE}"
    )


def _download(address: str, file: IO[bytes], wanted: list[Published]) -> None:
    names = ", ".join(p.name for p in wanted)
    _logger.info("fetching %s from %s", names, address)
    try:
        download(address, file, names, _MOST_ARCHIVE)
    except DownloadError as e:
        raise PotentialError(_offline(wanted, address, str(e))) from None


def _offline(wanted: list[Published], address: str, reason: str) -> str:
    names = " ".join(p.name for p in wanted)
    files = ", ".join(f"{p.folder}.info and {p.folder}" for p in wanted)
    folders = cache_folders()
    return (
        f"{names}: not on this machine, and not to be had from {address} ({reason}).\n"
        f"Looked for {files} in {', '.join(map(str, folders))}.\n"
        f"On a machine with a network, run\n"
        f"    anipot potentials fetch {names}\n"
        f"and copy them from the folder that it names to {folders[0]}, "
        f"or to any folder named in {CACHE_VARIABLE}."
    )


def _unpack(potential: Published, file: IO[bytes], folder: Path, address: str) -> Path:
    """Unpack one potential into a cache, or take what another process has put there meanwhile."""
    sums = _sums(potential)
    info = f"{potential.folder}.info"
    staging = Path(tempfile.mkdtemp(prefix=f".{potential.folder}.", dir=folder))
    try:
        for name, content in _published_files(file, info, sums, address):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
        staged = staging / potential.folder
        for path in (staging, staged):
            path.chmod(0o755)  # mkdtemp's is for its owner alone, and a cache may be shared
        with suppress(OSError):  # it is there already: another process was faster, or was stopped
            staged.rename(folder / potential.folder)
        _check(potential, folder, info=False)
        with atomic_write(folder / info) as temporary:
            temporary.write_bytes((staging / info).read_bytes())
    except OSError as e:
        raise PotentialError(f"{potential.name}: cannot be kept in {folder} ({e})") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / info


def _published_files(
    file: IO[bytes], info: str, sums: dict[str, str], address: str
) -> Iterable[tuple[str, bytes]]:
    """(name, content) of the files in ``sums``, each checked. Nothing else of it is looked at."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.NameToInfo
            roots = [n.removesuffix(info) for n in entries if n.endswith(f"/{info}")]
            root = min(roots, key=len, default="")
            for name, digest in sums.items():
                if root + name not in entries:
                    raise PotentialError(f"{address}: {name} is not in this archive")
                with archive.open(root + name) as entry:
                    content = entry.read(_MOST_FILE)
                if hashlib.sha256(content).hexdigest() != digest:
                    raise PotentialError(
                        f"{address}: {name} in this archive is not the published file; nothing of "
                        f"it has been kept (is {ADDRESS_VARIABLE} set to another archive?)"
                    )
                yield name, content
    # What zipfile raises for what is no zip archive, or damaged, is of many kinds.
    except PotentialError:
        raise
    except Exception as e:
        raise PotentialError(
            f"{address}: what came is not a whole zip archive ({e}); try again"
        ) from None
