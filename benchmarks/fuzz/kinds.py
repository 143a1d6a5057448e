"""A kind of file: how a valid one is made, and what reads it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anipot.data.conformers import Conformers

#: Stands in texts for the folder of the seeds, so that a seed is the same wherever it lies.
HERE = "/SEEDS"


@dataclass(frozen=True)
class Kind:
    """A kind of file (or of folder), whose valid examples are changed.

    ``make`` writes a valid one into a folder; ``target`` is what its reader is given, a file there
    or, where it has several files, a folder. ``read`` raises an AnipotError or returns the content
    in a form that can be compared. ``summed`` says of a file's name whether a checksum must notice
    that bytes of it were changed. ``changed``: endings of the files that are changed; by default
    all.
    """

    name: str
    target: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    weight: float = 1.0
    summed: Callable[[str], bool] = field(default=lambda name: False)
    changed: tuple[str, ...] = ("",)
    #: Bytes that the checksum covers, by file, where it does not cover all.
    covered: Callable[[Mapping[str, bytes]], Mapping[str, list[tuple[int, int]]]] | None = None
    #: Whether even a valid one is refused, because it cannot be made here.
    refused: bool = False
    #: Whether making a valid one takes seconds (of training).
    costly: bool = False
    #: Commands of ``anipot`` that read it, "@" being the file, "@potential" some potential.
    commands: tuple[str, ...] = ()

    def files(self) -> dict[str, bytes]:
        """A valid one: content by name, in the folder that a reader is given or beside it."""
        with tempfile.TemporaryDirectory() as place:
            self.make(Path(place))
            return {
                path.relative_to(place).as_posix(): path.read_bytes()
                for path in sorted(Path(place).rglob("*"))
                if path.is_file()
            }

    def write(self, folder: Path, files: Mapping[str, bytes]) -> Path:
        """Write files into a folder; returns what the reader is given."""
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.replace(HERE.encode(), str(folder).encode()))
        return folder / self.target


def always(name: str) -> bool:
    """Every file of the kind carries a checksum."""
    return True


def digest(data: Conformers) -> str:
    """What was read of a data set."""
    return " ".join(map(str, (
        data.content_hash(), data.molecule_names, data.grouped_by, sorted(data.masks),
    )))  # fmt: skip


def potential_digest(potential: Any) -> tuple[Any, ...]:
    """What was read of a potential: every number that an energy depends on."""
    hashed = hashlib.sha256()
    for member in getattr(potential, "members", [potential]):
        for name, value in member.networks.state_dict().items():
            hashed.update(name.encode() + value.contiguous().numpy().tobytes())
        hashed.update(member.self_energies.values.tobytes())
        hashed.update(repr(member.networks.options()).encode())
    return hashed.hexdigest(), potential.elements, repr(potential.aev.settings)
