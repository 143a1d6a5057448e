"""Pack data files into one store, in several processes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from anipot.data.check import warn_of_labels
from anipot.data.concatenation import Joined
from anipot.data.conformers import Conformers
from anipot.data.labels import check_column, fields_of
from anipot.data.load import PathLike, read_file
from anipot.data.mapping import ReadOptions, log
from anipot.data.store import MANIFEST, is_store, seal
from anipot.errors import DataError, SettingsError
from anipot.system.files import damage_named, read_json

try:
    import fcntl
except ImportError:  # no Unix: two processes that pack one store are not told apart
    fcntl = None  # type: ignore[assignment]

#: Conformers of each file whose energies are compared with those of free atoms.
LOOKED_AT = 1 << 16

Messages = list[tuple[int, str]]


def pack(
    files: Sequence[PathLike],
    store: PathLike,
    options: ReadOptions | None = None,
    *,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write the conformers of ``files`` as one store, in their order; returns its path.

    Files are of any kind that ``load_dataset`` reads, stores among them, and are read with
    ``options``, ``workers`` of them at a time, in processes of their own (a script that asks for
    several must start them below ``if __name__ == "__main__":``). The store
    appears whole or not at all. Beside it, ``.NAME.packing`` holds what is done: a packing that was
    killed goes on with the file at which it was; it needs the store's size once more on the disk.
    Memory is that of the largest file being read, for HDF5 files and stores much less. Raises
    DataError for files that cannot be read or do not belong together, SettingsError for a
    ``store`` that exists or is being written by another process.
    """
    store, options = Path(store), options or ReadOptions()
    sources = [Path(f) for f in files]
    if not sources:
        raise DataError("no data file given")
    if store.exists():
        raise SettingsError(
            f"{store} exists and is never overwritten; remove it, or name another store"
        )
    missing = [f for f in sources if not f.exists()]
    if missing:
        raise DataError(f"no file {missing[0]}")
    with _workplace(store) as work:
        parts = _parts(sources, work, options, workers, progress)
        joined = Joined(_alike([_open_part(p) for p in parts]))
        whole = work / "store"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        _write(joined, whole, progress)
        seal(whole, joined.about, joined.columns)
        os.rename(whole, store)
    return store


def _parts(
    sources: list[Path], work: Path, options: ReadOptions, workers: int, progress: bool
) -> list[Path]:
    """Return the folder of each file's part; finished parts of a killed packing are kept."""
    parts = [work / _name(f, options) for f in sources]
    waiting = {p: f for p, f in zip(parts, sources, strict=True) if not (p / "part.json").exists()}
    workers = min(workers, max(len(waiting), 1))
    with tqdm(
        total=len(set(parts)), initial=len(set(parts)) - len(waiting), unit=" files",
        desc="reading", leave=False, disable=None if progress else True,
    ) as bar:  # fmt: skip
        if workers == 1:
            for part, file in waiting.items():
                _log_again(_read_part(file, part, options))
                bar.update()
            return parts
        # Fresh processes: a fork of one that has started threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool:
            jobs = [pool.submit(_read_part, f, p, options) for p, f in waiting.items()]
            try:
                for job in as_completed(jobs):
                    _log_again(job.result())
                    bar.update()
            except BrokenProcessPool:
                raise DataError(
                    "a process that read a file has died, perhaps out of memory; run the "
                    "command again with fewer workers: it goes on where it was"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
    return parts


def _read_part(file: Path, part: Path, options: ReadOptions) -> Messages:
    """Read one file into the folder ``part``; return the log messages of the reader."""
    building = part.with_name(f"{part.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    with _collected_log() as messages:
        conformers = read_file(
            file, options, lambda shape, dtype: array_on_disk(part.parent, shape, dtype)
        )
        warn_of_labels(conformers.take(slice(0, LOOKED_AT)), options)
    joined = Joined([conformers])
    _write(joined, building, progress=False)
    text = json.dumps({**joined.about, "columns": joined.columns})
    (building / "part.json").write_text(text, encoding="utf-8")
    os.rename(building, part)
    return messages


def array_on_disk(folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in a file without a name, so that nothing is left of it even after a kill."""
    if not math.prod(shape):
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _open_part(part: Path) -> Conformers:
    file = part / "part.json"
    way_out = f"remove {part}, and give the command again"
    with damage_named(file, DataError, way_out):
        about = read_json(file, DataError)
        columns = about.pop("columns")
        for column in columns:
            check_column(column)
        arrays = {c: np.load(part / f"{c}.npy", mmap_mode="r") for c in columns}
        about |= {name: tuple(about[name]) for name in ("molecule_names", "sources", "not_read")}
        return Conformers(**fields_of(arrays), **about)


def _alike(parts: list[Conformers]) -> list[Conformers]:
    """Parts that are all grouped by molecules or all by formulas."""
    if len({p.grouped_by for p in parts}) == 1:
        return parts
    log.warning(
        "WARNING, some files are grouped by molecule and others by formula: the store is by formula"
    )
    return [p if p.grouped_by == "formula" else p.by_formula() for p in parts]


def _write(joined: Joined, folder: Path, progress: bool) -> None:
    """Write every array of a data set, piece by piece, to the disk."""
    rows = sum(joined.form(c)[1][0] for c in joined.columns)
    with tqdm(
        total=rows, unit=" rows", unit_scale=True, desc="writing", leave=False,
        disable=None if progress else True,
    ) as bar:  # fmt: skip
        for column in joined.columns:
            dtype, shape = joined.form(column)
            form = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            with (folder / f"{column}.npy").open("wb") as out:
                np.lib.format.write_array_header_1_0(out, form)
                for piece in joined.pieces(column):
                    out.write(np.ascontiguousarray(piece).data)
                    bar.update(len(piece))
                out.flush()
                os.fsync(out.fileno())


@contextmanager
def _workplace(store: Path) -> Iterator[Path]:
    """Folder in which a store is built; removed at the end, kept if the process is killed."""
    work = store.with_name(f".{store.name}.packing")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SettingsError(f"{store} is being written by another process") from None
        try:
            yield work
        except (DataError, SettingsError):
            shutil.rmtree(work, ignore_errors=True)
            raise
        except OSError as e:  # no space left, most likely: it may be made
            said = f"{e.strerror or e}; the same command goes on with what is done, in {work}"
            raise OSError(e.errno, said, str(e.filename or store)) from e
        shutil.rmtree(work, ignore_errors=True)


def _name(file: Path, options: ReadOptions) -> str:
    """Name of a part, from the path, size and time of its file and the options."""
    stat = (file / MANIFEST if is_store(file) else file).stat()
    key = [str(file.resolve()), stat.st_size, stat.st_mtime_ns, options.model_dump()]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]


@contextmanager
def _collected_log() -> Iterator[Messages]:
    """Collect the log messages of readers, for the main process to log."""
    messages: Messages = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append((record.levelno, record.getMessage()))

    listener, before = Listener(), log.propagate
    log.addHandler(listener)
    log.propagate = False
    try:
        yield messages
    finally:
        log.removeHandler(listener)
        log.propagate = before


def _log_again(messages: Messages) -> None:
    for level, text in messages:
        log.log(level, "%s", text)
