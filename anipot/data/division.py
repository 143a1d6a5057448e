"""Division: the training, validation and test conformers of a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anipot.config import DataSettings, ReadSettings
from anipot.data import splits
from anipot.data.check import warn_of_labels
from anipot.data.conformers import Conformers
from anipot.data.load import read_files
from anipot.data.mapping import log, read_options
from anipot.data.published.bundled import (
    TEST_MOLECULES,
    VALIDATION_MOLECULES,
    bundled_path,
    load_bundled,
    read_molecule_list,
)
from anipot.data.selection import isolated_atoms
from anipot.errors import DataError, SettingsError
from anipot.system.files import atomic_write

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Division:
    """Index arrays of the three parts; the other fields say how they came about.

    ``listed`` are the parts whose molecules a list named; ``fold`` is (number, of how many) where
    the test part is a fold. ``data_hash`` identifies the data the indices point into.
    ``isolated``: all isolated atoms are in the training part, and the rest was divided.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    by: str
    seed: int
    data_hash: str
    listed: tuple[str, ...] = ()
    fold: tuple[int, int] | None = None
    isolated: bool = False

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

    def groups_of(self, data: Conformers) -> np.ndarray | None:
        """Return the group (M,) of each conformer that stays in one part; None by conformer."""
        return grouped(data, self.by).groups(_unit(self.by))

    def describe(self) -> str:
        """Return the division in one sentence."""
        sizes = ", ".join(f"{len(i):,} {p}" for p, i in zip(PARTS, self, strict=True))
        how = f"seed {self.seed}"
        if set(self.listed) == {"validation", "test"}:
            how = "listed"
        elif self.listed:
            how = f"{self.listed[0]} listed, the rest with seed {self.seed}"
        elif self.fold is not None:
            how = f"fold {self.fold[0]} of {self.fold[1]}, seed {self.seed}"
        return f"split by {self.by} ({how}): {sizes}"

    def save(self, path: str | Path) -> None:
        """Write the indices as ``.npz`` (atomic)."""
        names = ("by", "seed", "data_hash", "listed", "fold", "isolated")
        about = json.dumps({name: getattr(self, name) for name in names})
        # Millions of numbers are not worth the time that compressing them takes.
        write = np.savez if len(self.train) > splits.LARGE else np.savez_compressed
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            text = np.frombuffer(about.encode(), dtype=np.uint8)
            write(file, about=text, train=self.train, validation=self.validation, test=self.test)

    @staticmethod
    def load(path: str | Path, parts: Collection[str] = PARTS) -> Division:
        """Read a file written by ``save``, other parts than ``parts`` empty, or raise DataError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                about["listed"] = tuple(map(str, about.get("listed", ())))
                about["fold"] = tuple(about["fold"]) if about.get("fold") else None
                none = np.zeros(0, dtype=np.int64)
                train, validation, test = (file[p] if p in parts else none for p in PARTS)
                for part in (train, validation, test):
                    if part.ndim != 1 or part.dtype.kind not in "iu":
                        raise ValueError(f"{part.shape} {part.dtype} is no list of conformers")
                return Division(train, validation, test, **about)
        except Exception as e:  # whatever a damaged file makes of numpy's reader
            raise DataError(f"{path}: not the split of a run, or damaged ({e})") from None


def read_data(settings: DataSettings) -> Conformers:
    """Read the files of the options, or the bundled data, and select conformers.

    Logs a warning where energies look like another unit and none was given.
    """
    if settings.files:
        names = set(ReadSettings.model_fields)
        options = read_options(**settings.model_dump(include=names))
        data = read_files(settings.files, options)
        if not data.mapped:  # a store is in hartree, and was looked at when it was packed
            warn_of_labels(data, options)
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


def divide(data: Conformers, settings: DataSettings, isolated: bool = False) -> Division:
    """Divide ``data`` as the options say.

    By molecule (or formula), lists can name the molecules of the validation and test parts; the
    bundled data comes with such lists. Other conformers are divided at random, in proportion to the
    fractions. With ``folds``, the test part is fold number ``fold``, and ``validation`` a fraction
    of the rest. With ``isolated``, all isolated atoms go to the training part, where they become
    self energies. Raises DataError when a part is empty, training lacks an element, or a molecule
    listed by the caller has no conformer (for the bundled lists, a warning); SettingsError for
    options that contradict each other or have no effect.
    """
    by, seed = settings.split, settings.seed
    whole = data
    if isolated:
        data = data.take(~isolated_atoms(data))
    lists = {
        "validation": settings.validation_molecules,
        "test": settings.test_molecules,
    }
    own = any(lists.values())
    if by == "molecule" and not settings.files and not own and settings.folds is None:
        lists = {
            "validation": str(bundled_path(VALIDATION_MOLECULES)),
            "test": str(bundled_path(TEST_MOLECULES)),
        }
    if by == "molecule" and data.grouped_by == "formula":
        by = "formula"  # all that the file knows; what is reported must say so
    listed = {name: path for name, path in lists.items() if path is not None}
    _check_fractions(settings, listed, own)
    fold = None
    if listed:
        if by == "conformer":
            raise SettingsError("lists of molecules need split=molecule")
        if settings.folds is not None:
            raise SettingsError(
                "folds divide at random, and lists of molecules do not: leave out folds, or "
                "validation_molecules and test_molecules"
            )
        indices = _by_lists(grouped(data, by), settings, listed, own)
    else:
        indices = at_random(data, settings, by)
        if settings.folds is not None:
            fold = (settings.fold, settings.folds)
    train, validation, test = indices
    for name, index in zip(PARTS, indices, strict=True):
        if not len(index) and (name != "test" or settings.test > 0):
            raise DataError(
                f"the {name} part of the split is empty: give it a larger fraction, select more "
                "conformers, or list molecules that are among them"
            )
    data.check_elements(train, validation, test)
    if isolated:
        train, validation, test = with_atoms(whole, indices)
    hash_of_all = whole.content_hash()
    return Division(train, validation, test, by, seed, hash_of_all, tuple(listed), fold, isolated)


def with_atoms(data: Conformers, indices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turn parts of ``data`` without isolated atoms into parts of all; atoms join the first."""
    single = isolated_atoms(data)
    rest = splits.nonzero(~single)
    train, *others = (rest[index] for index in indices)
    return [np.sort(np.concatenate([splits.nonzero(single), train])), *others]


def _check_fractions(settings: DataSettings, listed: Mapping[str, str], own: bool) -> None:
    """Raise SettingsError for fractions that exceed 1 in total or have no effect."""
    given = [n for n in PARTS if getattr(settings, n) != DataSettings.model_fields[n].default]
    idle = given if len(listed) == 2 else [n for n in given if n in listed]
    if settings.folds is not None:
        idle = [n for n in given if n != "validation"]
        why = "with folds, the test part is one of them, and training has the rest"
        way = "validation=, a fraction of the rest, can be given"
    elif own:
        why = f"{' and '.join(f'{n}_molecules' for n in listed)} decide that already"
        way = "to divide at random, leave out the lists"
    else:
        why = "split=molecule divides the bundled data by lists that come with it"
        way = (
            f"to divide it at random, name its file ({bundled_path()}), or give lists of your own "
            "(validation_molecules, test_molecules); per_molecule takes less of the data"
        )
    if idle:
        options = ", ".join(f"{n}={getattr(settings, n):g}" for n in idle)
        raise SettingsError(f"{options} would change nothing: {why}. Leave it out; {way}")
    total = settings.train + settings.validation + settings.test
    if not listed and settings.folds is None and total > 1 + 1e-9:
        raise SettingsError(
            f"the fractions add up to more than 1: train={settings.train:g}, "
            f"validation={settings.validation:g}, test={settings.test:g}"
        )


def at_random(data: Conformers, settings: DataSettings, by: str) -> list[np.ndarray]:
    """Training, validation and test indices, drawn with the seed by fractions or folds."""
    in_groups, seed = grouped(data, by), settings.seed
    if settings.folds is None:
        return in_groups.split_indices(
            settings.train, settings.validation, settings.test, seed=seed, by=_unit(by)
        )
    pairs = splits.folds(len(data), settings.folds, seed, in_groups.groups(_unit(by)))
    rest, test = next(itertools.islice(pairs, settings.fold - 1, None))
    share = settings.validation
    train, validation = in_groups.take(rest).split_indices(
        1 - share, share, seed=seed, by=_unit(by)
    )
    return [rest[train], rest[validation], test]


def _by_lists(
    data: Conformers, settings: DataSettings, listed: Mapping[str, str], own: bool
) -> list[np.ndarray]:
    def members(name: str) -> np.ndarray:
        path = listed.get(name)
        if path is None:
            return np.zeros(len(data), dtype=bool)
        indices = data.molecule_indices(read_molecule_list(path))
        empty = data.without_conformers(indices)
        if empty and own:
            raise DataError(
                f"{path}: no conformer of {', '.join(empty)} is left after the selection; take "
                "them off the list, or select more conformers"
            )
        if empty and len(empty) < len(indices):
            log.warning(
                "WARNING, the %s part is smaller than its list: no conformer of %s is left after "
                "the selection",
                name, ", ".join(empty),
            )  # fmt: skip
        listed_here = np.zeros(len(data.molecule_names), dtype=bool)
        listed_here[indices] = True
        return data.of_molecules(listed_here)

    in_validation, in_test = members("validation"), members("test")
    if (in_validation & in_test).any():
        both = int(np.flatnonzero(in_validation & in_test)[0])
        name = data.molecule_names[data.molecule[both]]
        raise DataError(f"molecule {name!r} is listed for validation and for the test")
    rest = splits.nonzero(~in_validation & ~in_test)
    if not len(rest):
        raise DataError("the lists hold every molecule: nothing is left to train on")
    parts: dict[str, np.ndarray] = {
        "validation": splits.nonzero(in_validation),
        "test": splits.nonzero(in_test),
    }
    shares = {n: getattr(settings, n) for n in ("validation", "test") if n not in listed}
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


def _unit(by: str) -> str:
    return by if by == "conformer" else "molecule"


def grouped(data: Conformers, by: str) -> Conformers:
    """The data in the groups that a split by molecule or formula keeps together."""
    return data.by_formula() if by == "formula" and data.grouped_by == "molecule" else data
