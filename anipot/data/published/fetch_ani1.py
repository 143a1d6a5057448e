"""The ANI-1 data set: its published archive, fetched, unpacked and merged into one file.

Smith, Isayev, Roitberg, Sci. Data 4, 170193 (2017): 22 million conformers of molecules with one to
eight heavy atoms, a file for each number of heavy atoms.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import h5py
from tqdm import tqdm

from anipot.data.mapping import ReadOptions, log
from anipot.data.pack import array_on_disk
from anipot.data.readers.ani_hdf5 import read_ani_hdf5
from anipot.errors import DataError, SettingsError
from anipot.system.downloading import DownloadError, download_file
from anipot.system.files import atomic_write, write_text

ADDRESS = "https://ndownloader.figshare.com/files/9057631"

#: Environment variable: another address of the archive.
ADDRESS_VARIABLE = "ANIPOT_ANI1_URL"

#: Conformers of files that are known, by the (least, most) heavy atoms: what must come out.
CONFORMERS = {(1, 1): 10_800, (1, 4): 864_898}

HEAVY_ATOMS = range(1, 9)

_MOST = 1 << 36  # bytes of the archive


def file_name(least: int, most: int) -> str:
    """The name of the file with so many heavy atoms: that of the archive, or the source's."""
    return f"ani_gdb_s{least:02d}" + (f"_to_s{most:02d}" if most > least else "") + ".h5"


def heavy_atoms_of(text: str) -> tuple[int, int]:
    """(least, most) of "4" or "1-4". Raises SettingsError for anything else."""
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    least, most = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if not (least in HEAVY_ATOMS and most in HEAVY_ATOMS and least <= most):
        raise SettingsError(
            f"heavy atoms are a number from 1 to 8, or a range as 1-4: not {text!r}"
        )
    return least, most


def fetch_ani1(
    heavy_atoms: tuple[int, int] = (1, 4),
    out: str | Path | None = None,
    *,
    archive: str | Path | None = None,
    address: str | None = None,
) -> tuple[Path, int, int]:
    """Fetch ANI-1's archive and write its files of so many heavy atoms as one HDF5 file.

    ``out``: the file (default: as in the source, ``ani_gdb_s01_to_s04.h5``), which appears whole
    and checked, with the groups of the archive's files. ``archive``: one that has been downloaded
    already; else it is fetched from ``address`` ($ANIPOT_ANI1_URL, or figshare) to a file beside
    ``out``, which stays there when the download breaks off, goes on from there the next time, and
    is removed at the end. No sum of the archive was published, so the sha256 of the first one that
    holds what it should is kept beside it (``.sha256``), and later ones must have it. Returns the
    file, its molecules and its conformers. Raises DataError that says what could not be had,
    SettingsError for an ``out`` that exists.
    """
    least, most = heavy_atoms
    out = Path(out or file_name(least, most))
    if out.exists():
        raise SettingsError(f"{out} exists and is never overwritten; remove it, or name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    if archive is not None and not Path(archive).is_file():
        raise DataError(f"no file {archive}")
    here = Path(archive) if archive is not None else out.with_name(".ANI-1_release.tar.gz")
    if archive is None:
        address = address or os.environ.get(ADDRESS_VARIABLE) or ADDRESS
        log.info("fetching the ANI-1 archive, some GB, from %s", address)
        try:
            download_file(address, here, "ANI-1", _MOST)
        except DownloadError as e:
            raise DataError(_offline(address, str(e), here, heavy_atoms, out)) from None
    names = [file_name(k, k) for k in range(least, most + 1)]
    try:
        digest = _checked(here)
    except DataError:
        if archive is None:
            here.unlink(missing_ok=True)  # another attempt must not meet it again
        raise
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        try:
            files = _unpack(here, names, Path(folder))
        except DataError:
            if archive is None:
                here.unlink(missing_ok=True)  # another attempt must not meet it again
            raise
        # Not into atomic_write's own file, which is locked, as HDF5 would lock it.
        merged = Path(folder) / "merged.h5"
        _merge(here, files, merged)
        molecules, conformers = _count(here, merged, Path(folder))
        known = CONFORMERS.get(heavy_atoms)
        if known is not None and conformers != known:
            raise DataError(
                f"{here}, {', '.join(names)}: {conformers:,} conformers in all, and {known:,} were "
                "published; this is not the ANI-1 archive, or not the whole of it"
            )
        with atomic_write(out) as temporary:
            os.replace(merged, temporary)
    with suppress(OSError):  # an archive may lie in a folder that cannot be written to
        if not _sum_file(here).exists():
            write_text(_sum_file(here), f"{digest}  {_archive_name(here)}\n")
    if archive is None:
        here.unlink()
    return out, molecules, conformers


def _archive_name(archive: Path) -> str:
    return archive.name.removeprefix(".")


def _sum_file(archive: Path) -> Path:
    """Where the sha256 of an archive is kept, as ``sha256sum -c`` reads it."""
    return archive.with_name(f"{_archive_name(archive)}.sha256")


def _checked(archive: Path) -> str:
    """The sha256 of an archive, which must be the one that was kept, if there is one."""
    file = _sum_file(archive)
    known = ""
    if file.exists():
        try:
            known = file.read_text(encoding="ascii").split()[0].lower()
        except (OSError, ValueError, IndexError):
            known = ""
        if not re.fullmatch("[0-9a-f]{64}", known):
            raise DataError(f"{file}: does not begin with a sha256 sum; remove it")
    digest = hashlib.sha256()
    with (
        archive.open("rb") as raw,
        tqdm(
            total=archive.stat().st_size, unit="B", unit_scale=True, desc="checking", disable=None,
            leave=False,
        ) as bar,
    ):  # fmt: skip
        while part := raw.read(1 << 20):
            digest.update(part)
            bar.update(len(part))
    found = digest.hexdigest()
    if known and found != known:
        raise DataError(
            f"{archive}: its sha256 is {found}, but {file} has {known} of the archive that was "
            "used before; fetch it again, or remove that file if another archive is meant"
        )
    return found


def _offline(address: str, reason: str, here: Path, heavy_atoms: tuple[int, int], out: Path) -> str:
    least, most = heavy_atoms
    kept = (
        f"\nWhat has come is kept ({here}, {here.stat().st_size:,} bytes): the same command goes "
        "on with it."
        if here.exists() and here.stat().st_size
        else ""
    )
    if not kept:
        here.unlink(missing_ok=True)
    return (
        f"the ANI-1 archive is not to be had from {address} ({reason}).{kept}\n"
        f"On a machine with a network, download {ADDRESS}, copy it here, and run\n"
        f"    anipot data fetch ani1 --heavy-atoms {least}-{most} --archive FILE -o {out}"
    )


def _unpack(archive: Path, names: Sequence[str], folder: Path) -> list[Path]:
    """The files ``names`` of the archive, whatever folders they are in; nothing else of it."""
    found: dict[str, Path] = {}
    try:
        with (
            tqdm(
                total=archive.stat().st_size, unit="B", unit_scale=True, desc="unpacking",
                disable=None, leave=False,
            ) as bar,
            archive.open("rb") as raw,
            tarfile.open(fileobj=raw, mode="r|*") as tar,
        ):  # fmt: skip
            for member in tar:
                bar.update(raw.tell() - bar.n)
                name = member.name.rsplit("/", 1)[-1]
                if name not in names or name in found or not member.isfile():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None
                with (folder / name).open("wb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
                found[name] = folder / name
                if len(found) == len(names):
                    break
    except Exception as e:  # what gzip, bz2, xz and tar make of damage is of many kinds
        raise DataError(f"{archive}: not a whole tar archive ({e}); fetch it again") from None
    missing = [n for n in names if n not in found]
    if missing:
        raise DataError(f"{archive}: {', '.join(missing)} is not in this archive")
    return [found[n] for n in names]


def _merge(archive: Path, files: Sequence[Path], out: Path) -> None:
    """Copy all groups of an archive's HDF5 files into one, under their own names."""
    try:
        with h5py.File(out, "w") as target:
            for file in tqdm(files, desc="merging", unit=" files", disable=None, leave=False):
                with h5py.File(file, "r") as source:
                    for name in source:
                        if name in target:
                            raise ValueError(f"{file.name}: its group {name!r} is in another, too")
                        if not isinstance(source.get(name, getlink=True), h5py.HardLink):
                            raise ValueError(f"{file.name}: {name!r} is a link, not data")
                        source.copy(name, target)
    except Exception as e:  # h5py's errors are of many kinds
        raise DataError(
            f"{archive}: {', '.join(f.name for f in files)} in it cannot be merged ({e}); fetch it "
            "again"
        ) from None


def _count(archive: Path, file: Path, folder: Path) -> tuple[int, int]:
    """Molecules and conformers of a file, read as any other: shapes, numbers, elements."""
    try:
        data = read_ani_hdf5(
            file, ReadOptions(), lambda shape, dtype: array_on_disk(folder, shape, dtype)
        )
    except DataError as e:
        said = str(e).removeprefix(f"{file}").lstrip(":, ")
        raise DataError(f"{archive}: what it holds cannot be used: {said}") from None
    return data.n_molecules, len(data)
