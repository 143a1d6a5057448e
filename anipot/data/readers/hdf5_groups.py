"""The groups and datasets of an HDF5 file, opened with care: nothing outside the file is followed,
and nothing is read that the file cannot hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from anipot.errors import DataError

#: Datasets up to this size are believed to be as large as they say.
_SMALL = 1 << 26

#: No compression of numbers packs more bytes than these into one.
_MOST_PACKED = 2000


@dataclass
class Group:
    """A group with the names of its datasets, and its attributes with those of its parents."""

    handle: h5py.Group
    path: str
    names: list[str]
    about: Mapping[str, Any]


class Hdf5:
    """An open HDF5 file. Raises DataError naming file and place."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.file, self.path = file, path
        self.about = attributes(file)
        self._number = h5py.h5o.get_info(file.id).fileno

    def where(self, group: str) -> str:
        return f"{self.path}, group {group!r}"

    def groups(self, plain: frozenset[str]) -> Iterator[Group]:
        """Every group in the file's order; names of ``plain`` are taken for datasets unseen."""
        pending = [("/", self.about)]
        seen = set()  # a damaged file, or hard links, may lead round in a circle
        while pending:
            path, inherited = pending.pop()
            group = self.file[path]
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                continue
            seen.add(address)
            own = attributes(group)
            about = {**inherited, **own} if own else inherited
            names, inner = [], []
            links = self._links(group, path)
            for key in group:
                if not isinstance(key, str):
                    raise DataError(
                        f"{self.where(path)}: the name {key!r} is not UTF-8; rename it in the file"
                    )
                # The usual names are datasets: asking for the class of each would double the time.
                if key in plain:
                    names.append(key)
                elif self._is_group(group, key, path, links.get(key)):
                    inner.append((f"{path.rstrip('/')}/{key}", about))
                else:
                    names.append(key)
            pending.extend(reversed(inner))
            yield Group(group, path, names, about)

    def _links(self, group: h5py.Group, path: str) -> dict[str, int]:
        """Kinds of the links that are not hard. Raises DataError for one to another file."""
        kinds: dict[str, int] = {}

        def note(name: bytes, info: h5py.h5l.LinkInfo) -> None:
            if info.type != h5py.h5l.TYPE_HARD:
                kinds[name.decode("utf-8", "surrogateescape")] = info.type

        group.id.links.iterate(note, info=True)
        for name, kind in kinds.items():
            if kind != h5py.h5l.TYPE_SOFT:
                raise self._outside(path, name)
        return kinds

    def _outside(self, path: str, name: str) -> DataError:
        return DataError(
            f"{self.where(path)}: {name!r} leads to another file, which is not followed; copy the "
            "data into this file"
        )

    def _is_group(self, group: h5py.Group, key: str, path: str, link: int | None) -> bool:
        try:
            info = h5py.h5o.get_info(group.id, key.encode("utf-8", "surrogateescape"))
        except (KeyError, RuntimeError):
            if link is None:
                raise
            return False  # a soft link that leads nowhere
        if link is not None and info.fileno != self._number:
            raise self._outside(path, key)
        return bool(info.type == h5py.h5o.TYPE_GROUP)

    def dataset(self, group: Group, name: str) -> h5py.Dataset:
        """A dataset of a group. Raises DataError where it is none or cannot be read as it is."""
        where = self.where(group.path)
        try:
            data = group.handle[name]
        except KeyError as e:
            raise DataError(f"{where}: {name!r} cannot be opened ({e})") from e
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{where}: {name!r} is a group, not a dataset")
        if data.shape is None:
            raise DataError(f"{where}: {name!r} is a dataset without values")
        # Virtual datasets and external storage are two more ways into other files.
        creation = data.id.get_create_plist()
        elsewhere = creation.get_external_count() > 0
        stored = None
        if creation.get_layout() == h5py.h5d.VIRTUAL:
            elsewhere = any(source.file_name != "." for source in data.virtual_sources())
            stored = self.file.id.get_filesize()
        if elsewhere or h5py.h5o.get_info(data.id).fileno != self._number:
            raise self._outside(group.path, name)
        nbytes = math.prod(data.shape) * data.id.get_type().get_size()
        if nbytes > _SMALL:
            stored = data.id.get_storage_size() if stored is None else stored
            if nbytes > _MOST_PACKED * stored:
                raise DataError(
                    f"{where}: {name!r} declares the shape {data.shape}, {nbytes:,} bytes, but "
                    f"the file holds {stored:,} bytes of it"
                )
        return data


def attributes(thing: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a group or dataset that can be read; there are rarely any."""
    if not h5py.h5a.get_num_attrs(thing.id):
        return {}
    found = {}
    for name in thing.attrs:
        try:
            found[name] = thing.attrs[name]
        except (OSError, TypeError, ValueError, KeyError, RuntimeError):
            continue  # of a type that h5py cannot read: no unit, no charge
    return found


def values_of(data: h5py.Dataset, what: str) -> np.ndarray:
    """All values of a dataset, text as str. Raises DataError for a type that is neither."""
    if data.dtype.kind != "O":
        return np.asarray(data[()])
    if h5py.check_string_dtype(data.dtype) is None:
        raise DataError(f"{what} holds lists or references, not numbers or text")
    try:
        return np.asarray(data.asstr()[()], dtype=object)
    except UnicodeDecodeError as e:
        raise DataError(f"{what} holds text that is not UTF-8 ({e})") from e
