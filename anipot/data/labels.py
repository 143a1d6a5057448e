"""The arrays of a data set, and the labels that other code may add to them.

Register a quantity to have it travel with the data (selections, splits, files, stores, batches);
its values are then ``Conformers.labels["dipole"]``:

    from anipot.data.labels import Label, labels

    labels.register("dipole")(Label("conformer", (3,), "e*angstrom"))
    data = data.replaced(labels={"dipole": dipoles})  # (M, 3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anipot.errors import DataError
from anipot.registry import Registry

if TYPE_CHECKING:
    from anipot.data.conformers import Conformers


@dataclass(frozen=True)
class Label:
    """A quantity with one value of the given shape per conformer or per atom."""

    per: Literal["conformer", "atom"]
    shape: tuple[int, ...] = ()
    unit: str | None = None


#: Fields of Conformers that are arrays, in the order in which they are hashed. There is one offset
#: more than there are conformers.
ARRAYS = {
    "atomic_numbers": Label("atom"),
    "coordinates": Label("atom", (3,), "angstrom"),
    "offsets": Label("conformer"),
    "molecule": Label("conformer"),
    "energies": Label("conformer", (), "hartree"),
    "forces": Label("atom", (3,), "hartree/angstrom"),
    "cells": Label("conformer", (3, 3), "angstrom"),
    "pbc": Label("conformer", (3,)),
    "stress": Label("conformer", (3, 3), "hartree/angstrom^3"),
}

#: Labels that a data set may have: energies, forces, stress, and what others register.
labels: Registry[Label] = Registry("label", "anipot.labels")
for _name in ("energies", "forces", "stress"):
    labels.register(_name)(ARRAYS[_name])


def described(name: str) -> Label:
    """Return the form of an array, a registered label or a mask of a label (``mask_NAME``)."""
    if name.startswith("mask_"):
        return Label("conformer")
    return ARRAYS[name] if name in ARRAYS else labels[name]


def per_atom(name: str) -> bool:
    """Whether an array has a row for each atom; the others have one for each conformer."""
    return described(name).per == "atom"


def check_column(name: str) -> None:
    """Raise ValueError unless ``name`` is an array, a registered label or a label's mask."""
    if name not in ARRAYS and name.removeprefix("mask_") not in labels:
        raise ValueError(f"there is no array or registered label {name!r:.200}")


def columns_of(data: Conformers) -> dict[str, np.ndarray]:
    """Return all arrays of a data set by their names in files (masks as ``mask_NAME``)."""
    there = {name: getattr(data, name) for name in ARRAYS}
    columns = {name: array for name, array in there.items() if array is not None}
    return columns | data.labels | {f"mask_{name}": mask for name, mask in data.masks.items()}


def fields_of(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the fields of Conformers for what ``columns_of`` returns."""
    fields: dict[str, Any] = {"labels": {}, "masks": {}}
    for name, array in columns.items():
        check_column(name)
        if name in ARRAYS:
            fields[name] = array
        elif name.startswith("mask_"):
            fields["masks"][name.removeprefix("mask_")] = array
        else:
            fields["labels"][name] = array
    return fields


def check_shapes(columns: dict[str, np.ndarray | None], m: int, a: int) -> None:
    """Raise DataError unless arrays have the shapes for ``m`` conformers with ``a`` atoms."""
    for name, array in columns.items():
        label = described(name)
        rows = a if label.per == "atom" else m + (name == "offsets")
        if array is not None and array.shape != (rows, *label.shape):
            raise DataError(
                f"{name} has shape {array.shape}, but {m} conformers with {a} atoms need "
                f"{(rows, *label.shape)}"
            )


def content_hash(names: Iterable[str], pieces: Callable[[str], Iterable[np.ndarray]]) -> str:
    """Return the sha256 of arrays and further labels, each read in pieces."""
    digest = hashlib.sha256()
    for name in [*ARRAYS, *sorted(set(names) - set(ARRAYS))]:
        digest.update(name.encode())
        for k, piece in enumerate(pieces(name)):
            if k == 0:
                digest.update(str(piece.dtype).encode())
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
