"""Store: a data set as flat arrays in a folder, mapped into memory instead of read into it.

A store is a folder with an array a file (``.npy``) and ``store.json``, which says what they are and
has a checksum (CRC-32) of every block of ``BLOCK`` bytes of every file, and one of itself. Opening
looks at names, types and sizes and reads every block once, so that nothing is trained on what a
disk, a copy or an editor has changed; that takes about a second a GB, and what was read stays in
the system's cache for the training. While a store is in use, sizes and times of its files are
looked at whenever conformers are read: what changes under a training ends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anipot.data.concatenation import ARRAYS, PER_ATOM
from anipot.data.conformers import Conformers
from anipot.data.views import StoredConformers
from anipot.errors import DataError
from anipot.system.files import damage_named, read_json

MANIFEST = "store.json"
FORMAT = "anipot store 1"

#: Bytes under one checksum.
BLOCK = 1 << 24

#: Threads that read and sum: more would wait for the disk.
READERS = 4

UNITS = {
    "coordinates": "angstrom",
    "energies": "hartree",
    "forces": "hartree/angstrom",
    "cells": "angstrom",
    "stress": "hartree/angstrom^3",
}


def is_store(path: Path) -> bool:
    """Whether a folder is a store, or the rest of one."""
    return path.is_dir() and (path / MANIFEST).is_file()


def open_store(path: str | Path, *, verify: bool = True) -> Conformers:
    """The conformers of a store, on arrays that are mapped into memory (read-only).

    ``verify``: read every block and compare its checksum; without it only names, types, sizes and
    the description are looked at. Raises DataError that names the file, and the block and
    conformers in it, for a store that is cut short, changed, or of another version.
    """
    path = Path(path)
    about = read_manifest(path)
    watch = _Watch(path / f"{name}.npy" for name in about["arrays"])
    for name, of in about["arrays"].items():
        _check_size(path / f"{name}.npy", of["bytes"])
    if verify:
        damaged = next(damages(path, about), None)
        if damaged is not None:
            raise DataError(f"{damaged}; {_WAY_OUT}")
    arrays = {name: _mapped(path / f"{name}.npy", of) for name, of in about["arrays"].items()}
    _check_shapes(path, about, arrays)
    masks = {n.removeprefix("mask_"): arrays.pop(n) for n in list(arrays) if n.startswith("mask_")}
    try:
        fields = {
            **arrays,
            "masks": masks,
            "molecule_names": tuple(about["molecule_names"]),
            "grouped_by": about["grouped_by"],
            "level_of_theory": about["level_of_theory"],
            "sources": tuple(about["sources"]),
            "dropped": about["dropped"],
            "not_read": tuple(about.get("not_read", ())),
            "file_units": about.get("file_units", {}),
        }
        conformers = StoredConformers.of(fields, about["content_sha256"], watch)
    except DataError as e:  # sums are right: it was written so
        raise DataError(f"{path}: {e}") from None
    watch()
    return conformers


class _Watch:
    """Called, it raises DataError where a file is not as it was when this was made.

    A map of a file shows what is written to it, and to read beyond the end of one that was cut
    short kills the process.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.seen = {file.absolute(): self._look(file) for file in files}

    @staticmethod
    def _look(file: Path) -> tuple[int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def __call__(self) -> None:
        for file, before in self.seen.items():
            if self._look(file) != before:
                raise DataError(
                    f"{file}: was changed or removed after it was opened; {_WAY_OUT}, and run the "
                    "command again"
                )


_WAY_OUT = "pack the store again, or copy it again from where it is whole"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read ``store.json``. Raises DataError unless it is whole and of this version."""
    file = path / MANIFEST
    try:
        about = read_json(file, DataError, _WAY_OUT)
        told = about.pop("sha256")
    except KeyError as e:
        raise DataError(f"{file}: damaged ({e}); {_WAY_OUT}") from None
    if about.get("format") != FORMAT:
        raise DataError(
            f"{path}: a store of the format {about.get('format')!r}, which this version of anipot "
            f"does not read ({FORMAT!r}); pack it again"
        )
    if told != _sum_of(about):
        raise DataError(f"{file}: damaged (its own sha256 does not fit); {_WAY_OUT}")
    with damage_named(file, DataError, _WAY_OUT):  # whoever wrote it can make a sum that fits
        _check_manifest(about)
    return about


#: What the parts of ``store.json`` are.
_KINDS = {
    "conformers": int, "atoms": int, "molecule_names": list, "grouped_by": str,
    "level_of_theory": str, "sources": list, "dropped": int, "content_sha256": str, "arrays": dict,
}  # fmt: skip


def _check_manifest(about: dict[str, Any]) -> None:
    """Raises an error for what no store says; names become names of files."""
    for key, kind in _KINDS.items():
        if not isinstance(about[key], kind):
            raise ValueError(f"{key!r} is {about[key]!r:.200}")
    for name, of in about["arrays"].items():
        check_column(name)
        if not (isinstance(of["bytes"], int) and isinstance(of["dtype"], str)):
            raise ValueError(f"{name!r}: bytes or dtype are of another kind")
        if not all(isinstance(n, int) for n in (*of["shape"], *of["crc32"])):
            raise ValueError(f"{name!r}: shape or crc32 are no integers")
        if len(of["crc32"]) != -(-of["bytes"] // BLOCK):
            raise ValueError(f"{name!r}: there are not as many checksums as blocks")


def check_column(name: str) -> None:
    """Raises ValueError for a name that no array of a data set has."""
    if name not in ARRAYS and name.removeprefix("mask_") not in ("energies", "forces", "stress"):
        raise ValueError(f"there is no array {name!r:.200}")


def damages(path: Path, about: dict[str, Any]) -> Iterator[str]:
    """In words, each block whose checksum does not fit, in the order of files and blocks."""
    jobs = [
        (name, k, crc) for name, of in about["arrays"].items() for k, crc in enumerate(of["crc32"])
    ]
    total = sum(of["bytes"] for of in about["arrays"].values())
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(
            total=total, unit="B", unit_scale=True, desc=f"checking {path.name}", leave=False,
            disable=None if total > 1 << 30 else True,
        ) as bar,
    ):  # fmt: skip
        files = {name: path / f"{name}.npy" for name in about["arrays"]}
        found = pool.map(lambda job: block_sum(files[job[0]], job[1]), jobs)
        for (name, k, crc), (actual, size) in zip(jobs, found, strict=True):
            bar.update(size)
            if actual != crc:
                first, last = k * BLOCK, k * BLOCK + size - 1
                yield (
                    f"{files[name]}: block {k + 1} of {len(about['arrays'][name]['crc32'])} "
                    f"(bytes {first:,} to {last:,}{_about_where(about, name, first, last)}) is not "
                    "what was written: its checksum does not fit"
                )


def block_sum(file: Path, k: int) -> tuple[int, int]:
    """CRC-32 of a file's block number ``k``, and its bytes."""
    crc = size = 0
    with file.open("rb", buffering=0) as stream:
        stream.seek(k * BLOCK)
        while size < BLOCK:
            piece = stream.read(min(1 << 20, BLOCK - size))
            if not piece:
                break
            crc = zlib.crc32(piece, crc)
            size += len(piece)
    return crc, size


def seal(folder: Path, about: dict[str, Any], columns: Iterable[str]) -> None:
    """Write ``store.json`` for the arrays in ``folder``, which are there and complete.

    ``about`` are the words of the data set (``Joined.about``).
    """
    names = list(columns)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    described = {}
    with ThreadPoolExecutor(READERS) as pool:
        for name, array in arrays.items():
            file = folder / f"{name}.npy"
            size = file.stat().st_size
            blocks = range(-(-size // BLOCK))
            described[name] = {
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "bytes": size,
                "unit": UNITS.get(name),
                "crc32": [s for s, _ in pool.map(lambda k, f=file: block_sum(f, k), blocks)],
            }
    manifest = {
        "format": FORMAT,
        "conformers": len(arrays["offsets"]) - 1,
        "atoms": len(arrays["atomic_numbers"]),
        **about,
        "content_sha256": _content_hash(arrays),
        "arrays": described,
    }
    text = json.dumps({**manifest, "sha256": _sum_of(manifest)}, indent=1)
    with (folder / MANIFEST).open("w", encoding="utf-8") as out:
        out.write(text)  # to its last byte: a newline at the end could be lost unnoticed
        out.flush()
        os.fsync(out.fileno())


def _content_hash(arrays: dict[str, np.ndarray]) -> str:
    """``Conformers.content_hash`` of the arrays, before there are conformers."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(name.encode())
        if name in arrays:
            digest.update(str(arrays[name].dtype).encode())
            digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _sum_of(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _check_size(file: Path, written: int) -> None:
    try:
        size = file.stat().st_size
    except OSError as e:
        raise DataError(f"{file}: cannot be read ({e.strerror}); {_WAY_OUT}") from None
    if size != written:
        what = "cut short" if size < written else "too long"
        raise DataError(
            f"{file}: {what}: it has {size:,} bytes, and {written:,} were written; {_WAY_OUT}"
        )


def _mapped(file: Path, of: dict[str, Any]) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as e:  # not verified: whatever a damaged header makes of numpy's reader
        raise DataError(f"{file}: cannot be mapped ({e}); {_WAY_OUT}") from None
    if str(array.dtype) != of["dtype"] or list(array.shape) != of["shape"]:
        raise DataError(
            f"{file}: holds {array.dtype} {array.shape}, and {of['dtype']} {tuple(of['shape'])} "
            f"was written; {_WAY_OUT}"
        )
    return array


def _check_shapes(path: Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """The last offset, a single number, says how many atoms there must be."""
    lacking = {"atomic_numbers", "coordinates", "offsets", "molecule"} - set(arrays)
    if lacking:
        raise DataError(f"{path / MANIFEST}: names no {', '.join(sorted(lacking))}; {_WAY_OUT}")
    offsets = arrays["offsets"]
    if len(offsets) != about["conformers"] + 1 or int(offsets[-1]) != about["atoms"]:
        raise DataError(f"{path / 'offsets.npy'}: does not fit {MANIFEST}; {_WAY_OUT}")


def _about_where(about: dict[str, Any], name: str, first: int, last: int) -> str:
    """Which conformers (of the whole, about) lie in some bytes of an array with one row each."""
    of = about["arrays"][name]
    rows = of["shape"][0]
    if name in PER_ATOM or not rows:
        return ""
    row = int(np.prod(of["shape"][1:], dtype=np.int64)) * np.dtype(of["dtype"]).itemsize
    head = of["bytes"] - rows * row
    start, end = max(first - head, 0) // row, max(last - head, 0) // row
    return f", conformers {start:,} to {min(end, about['conformers'] - 1):,}"
