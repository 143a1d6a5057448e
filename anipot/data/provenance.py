"""Provenance: what a saved potential records of its data, and the division it stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anipot.config import DataSettings
from anipot.data import splits
from anipot.data.conformers import Conformers
from anipot.data.division import PARTS, Division, at_random, grouped, with_atoms
from anipot.data.selection import isolated_atoms
from anipot.errors import DataError
from anipot.system.options import checked


def provenance(data: Conformers, division: Division, settings: DataSettings) -> dict[str, Any]:
    """Record the data of a training, so that ``divide_again`` can divide them again."""
    in_groups = grouped(data, division.by)

    def molecules(index: np.ndarray) -> list[str]:
        if division.by == "conformer":
            return []
        return [in_groups.molecule_names[g] for g in in_groups.molecules_of(index)]

    unused = np.zeros(0, dtype=np.int32)
    if sum(map(len, division)) < len(data):
        mask = np.ones(len(data), dtype=bool)
        for part in division:
            mask[part] = False
        unused = splits.nonzero(mask)
    return {
        "files": [Path(s).name for s in data.sources],
        "sha256": division.data_hash,
        "conformers": len(data),
        "level_of_theory": data.level_of_theory,
        "split": {
            "by": division.by,
            "seed": division.seed,
            "listed": list(division.listed),
            "fold": division.fold,
            "isolated": division.isolated,
            **{p: len(i) for p, i in zip(PARTS, division, strict=True)},
            "validation_molecules": molecules(division.validation),
            "test_molecules": molecules(division.test),
            "unused_molecules": molecules(unused),
            "train_sha256": index_hash(division.train),
        },
        # Without paths, which mean nothing elsewhere; what lists said is in the split.
        "options": settings.model_dump(exclude={"files", "validation_molecules", "test_molecules"}),
    }


def divide_again(data: Conformers, known: Mapping[str, Any]) -> Division:
    """The division that ``provenance`` told of, for the same data (after selection).

    Raises DataError when ``data`` is other data, or the division does not come out the same.
    """
    if data.content_hash() != known["sha256"]:
        raise DataError(
            "this is not the data that the potential was trained on "
            f"({', '.join(known['files'])}, {known['conformers']:,} conformers)"
        )
    split = known["split"]
    settings = checked(DataSettings, known["options"])
    whole, isolated = data, bool(split.get("isolated"))
    if isolated:
        data = data.take(~isolated_atoms(data))
    if split["by"] == "conformer":
        indices = at_random(data, settings, "conformer")
    else:
        # Names the data does not have are other groups: found by the hash below.
        in_groups = grouped(data, split["by"])
        place = {name: i for i, name in enumerate(in_groups.molecule_names)}
        kinds = ("validation_molecules", "test_molecules", "unused_molecules")
        home = np.zeros(len(place), dtype=np.int8)
        for k, kind in enumerate(kinds, start=1):
            home[[place[n] for n in split[kind] if n in place]] = k
        indices = [splits.nonzero(in_groups.of_molecules(home == k)) for k in range(3)]
    train, validation, test = with_atoms(whole, indices) if isolated else indices
    listed, fold = tuple(split.get("listed", ())), split.get("fold")
    division = Division(
        train, validation, test, split["by"], split["seed"], known["sha256"], listed,
        tuple(fold) if fold else None, isolated,
    )  # fmt: skip
    if index_hash(division.train) != split["train_sha256"]:
        raise DataError(
            "the split does not come out as it was: the molecules have other names in this file, "
            "or another version of numpy draws other numbers"
        )
    return division


def index_hash(index: np.ndarray) -> str:
    """SHA-256 of conformers' numbers (n,), the same for integers of every width."""
    digest = hashlib.sha256()
    for start in range(0, len(index), splits.LARGE):
        digest.update(index[start : start + splits.LARGE].astype("<i8").data)
    return digest.hexdigest()
