"""Division: the training, validation and test conformers of a run, as options ask, kept with the
run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anipot.config import DataSettings, checked
from anipot.conformers import Conformers
from anipot.datasets.bundled import (
    TEST_MOLECULES,
    VALIDATION_MOLECULES,
    bundled_path,
    load_bundled,
    read_molecule_list,
)
from anipot.datasets.load import load_dataset
from anipot.errors import DataError, SettingsError
from anipot.files import atomic_write

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Division:
    """Index arrays of the three parts; ``by`` and ``seed`` say how they came about.

    ``data_hash`` identifies the data the indices point into.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    by: str
    seed: int
    data_hash: str

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.train, self.validation, self.test))

    def take(self, data: Conformers) -> list[Conformers]:
        """The parts of ``data``. Raises DataError when it is not the data that was divided."""
        if data.content_hash() != self.data_hash:
            raise DataError(
                "this is not the data that the split was made of: a file has changed, or other "
                "conformers are selected"
            )
        return [data.take(index) for index in self]

    def describe(self) -> str:
        """In a sentence, for people."""
        sizes = ", ".join(f"{len(i):,} {p}" for p, i in zip(PARTS, self, strict=True))
        return f"split by {self.by} (seed {self.seed}): {sizes}"

    def save(self, path: str | Path) -> None:
        """Write the indices as ``.npz`` (atomic)."""
        about = json.dumps({"by": self.by, "seed": self.seed, "data_hash": self.data_hash})
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(about.encode(), dtype=np.uint8),
                train=self.train,
                validation=self.validation,
                test=self.test,
            )

    @staticmethod
    def load(path: str | Path) -> Division:
        """Read what ``save`` wrote. Raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                return Division(file["train"], file["validation"], file["test"], **about)
        except Exception as e:  # whatever a damaged file makes of numpy's reader
            raise DataError(f"{path}: not the split of a run, or damaged ({e})") from None


def read_data(settings: DataSettings) -> Conformers:
    """The conformers that the options select, from the files they name or the bundled data."""
    if settings.files:
        data = load_dataset(
            settings.files,
            **settings.model_dump(
                include={
                    "energy_key", "coordinates_key", "species_key", "forces_key",
                    "energy_unit", "length_unit", "high_energy",
                }
            ),
        )  # fmt: skip
    else:
        data = load_bundled()
    return select(data, settings)


def select(data: Conformers, settings: DataSettings) -> Conformers:
    """The conformers of ``data`` that the options keep."""
    names = ("elements", "heavy_atoms", "max_energy", "per_molecule")
    wanted = {name: getattr(settings, name) for name in names}
    if all(value is None for value in wanted.values()):
        return data
    return data.select(**wanted, seed=settings.seed)


def divide(data: Conformers, settings: DataSettings) -> Division:
    """Divide ``data`` as the options say.

    By molecule, lists of molecules for test and validation can be given; the bundled data has lists
    of its own, used unless ``settings`` names others. What lists leave is divided at random, in the
    proportions of the fractions. By formula, lists name formulas.
    Raises DataError when a part comes out empty or training lacks an element.
    """
    by, seed = settings.split, settings.seed
    lists = (settings.validation_molecules, settings.test_molecules)
    if by == "molecule" and not settings.files and lists == (None, None):
        lists = (str(bundled_path(VALIDATION_MOLECULES)), str(bundled_path(TEST_MOLECULES)))
    if by == "molecule" and data.grouped_by == "formula":
        by = "formula"  # all that the file knows; what is reported must say so
    if any(lists):
        if by == "conformer":
            raise SettingsError("lists of molecules need split=molecule")
        indices = _by_lists(_grouped(data, by), settings, *lists)
    else:
        if settings.train + settings.validation + settings.test > 1 + 1e-9:
            raise SettingsError(
                f"the fractions add up to more than 1: train={settings.train:g}, "
                f"validation={settings.validation:g}, test={settings.test:g}"
            )
        indices = _grouped(data, by).split_indices(
            settings.train, settings.validation, settings.test, seed=seed, by=_unit(by)
        )
    train, validation, test = indices
    for name, index in zip(PARTS, indices, strict=True):
        if not len(index) and (name != "test" or settings.test > 0):
            raise DataError(
                f"the {name} part of the split is empty: give it a larger fraction, select more "
                "conformers, or list molecules that are among them"
            )
    data.check_elements(train, validation, test)
    return Division(train, validation, test, by, seed, data.content_hash())


def _by_lists(
    data: Conformers, settings: DataSettings, validation: str | None, test: str | None
) -> list[np.ndarray]:
    def members(path: str | None) -> np.ndarray:
        if path is None:
            return np.zeros(len(data), dtype=bool)
        return np.isin(data.molecule, data.molecule_indices(read_molecule_list(path)))

    in_validation, in_test = members(validation), members(test)
    if (in_validation & in_test).any():
        both = int(np.flatnonzero(in_validation & in_test)[0])
        name = data.molecule_names[data.molecule[both]]
        raise DataError(f"molecule {name!r} is listed for validation and for the test")
    rest = np.flatnonzero(~in_validation & ~in_test)
    if not len(rest):
        raise DataError("the lists hold every molecule: nothing is left to train on")
    parts: dict[str, np.ndarray] = {
        "validation": np.flatnonzero(in_validation),
        "test": np.flatnonzero(in_test),
    }
    shares: dict[str, float] = {}
    if validation is None:
        shares["validation"] = settings.validation
    if test is None:
        shares["test"] = settings.test
    total = settings.train + sum(shares.values())
    drawn = data.take(rest).split_indices(
        settings.train / total,
        *(share / total for share in shares.values()),
        seed=settings.seed,
        by="molecule",
    )
    for name, index in zip(shares, drawn[1:], strict=True):
        parts[name] = rest[index]
    return [rest[drawn[0]], parts["validation"], parts["test"]]


def provenance(data: Conformers, division: Division, settings: DataSettings) -> dict[str, Any]:
    """What a saved potential tells of the data it was trained on: enough to divide it again."""
    grouped = _grouped(data, division.by)

    def molecules(index: np.ndarray) -> list[str]:
        if division.by == "conformer":
            return []
        return [grouped.molecule_names[g] for g in np.unique(grouped.molecule[index])]

    used = np.zeros(len(data), dtype=bool)
    for part in division:
        used[part] = True
    return {
        "files": [Path(s).name for s in data.sources],
        "sha256": division.data_hash,
        "conformers": len(data),
        "level_of_theory": data.level_of_theory,
        "split": {
            "by": division.by,
            "seed": division.seed,
            **{p: len(i) for p, i in zip(PARTS, division, strict=True)},
            "validation_molecules": molecules(division.validation),
            "test_molecules": molecules(division.test),
            "unused_molecules": molecules(np.flatnonzero(~used)),
            "train_sha256": _hash(division.train),
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
    if split["by"] == "conformer":
        indices = data.split_indices(
            settings.train, settings.validation, settings.test, seed=split["seed"]
        )
    else:
        # Names the data does not have are other groups: found by the hash below.
        grouped = _grouped(data, split["by"])
        place = {name: i for i, name in enumerate(grouped.molecule_names)}
        kinds = ("validation_molecules", "test_molecules", "unused_molecules")
        validation, test, unused = (
            np.isin(grouped.molecule, [place[n] for n in split[kind] if n in place])
            for kind in kinds
        )
        indices = [np.flatnonzero(p) for p in (~validation & ~test & ~unused, validation, test)]
    train, validation, test = indices
    division = Division(train, validation, test, split["by"], split["seed"], known["sha256"])
    if _hash(division.train) != split["train_sha256"]:
        raise DataError(
            "the split does not come out as it was: the molecules have other names in this file, "
            "or another version of numpy draws other numbers"
        )
    return division


def _grouped(data: Conformers, by: str) -> Conformers:
    """The data in the groups that a split by molecule or formula keeps together."""
    return data.by_formula() if by == "formula" and data.grouped_by == "molecule" else data


def _unit(by: str) -> str:
    return by if by == "conformer" else "molecule"


def _hash(index: np.ndarray) -> str:
    return hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()
