"""Whether a frame is a neutral closed-shell molecule: the potentials here know of no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import ase
import numpy as np

from anipot.errors import DataError

#: Info keys of a total charge, in any case; any value but 0 is an error.
CHARGE_KEYS = frozenset({
    "charge", "total_charge", "net_charge", "molecular_charge", "mol_charge", "formal_charge", "q",
    "qtot", "chrg",
})  # fmt: skip
#: Info keys of a spin: the number of unpaired electrons or S, which must be 0 ...
SPIN_KEYS = frozenset({
    "spin", "total_spin", "magmom", "uhf", "nelec_unpaired", "n_unpaired", "num_unpaired",
    "unpaired", "unpaired_electrons", "n_unpaired_electrons", "num_unpaired_electrons",
})  # fmt: skip
#: ... and of a multiplicity, 2S + 1, which must be 1.
MULTIPLICITY_KEYS = frozenset({"multiplicity", "spin_multiplicity", "mult", "spinmult"})

#: Keys of charges of the atoms, whose sum is the charge of the molecule.
ATOMIC_CHARGE_KEYS = frozenset({
    "charges", "partial_charges", "atomic_charges", "atom_charges", "formal_charges",
    "mbis_charges", "initial_charges",
})  # fmt: skip

#: What the comment of a plain XYZ file may say of charge and spin in words.
_IN_WORDS = re.compile(
    r"(?<![A-Za-z])(charge|chrg|multiplicity|mult|spin|uhf)\s*[:=]?\s*([-+]?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
#: Programs' habit: nothing but charge and multiplicity.
_TWO_NUMBERS = re.compile(r"\s*([-+]?\d+)[\s,]+(\d+)\s*")


def tells_charge_or_spin(key: object) -> bool:
    """Whether a key names a total charge, a spin or a multiplicity."""
    return any(_plain(key) in kind for kind in (CHARGE_KEYS, SPIN_KEYS, MULTIPLICITY_KEYS))


def _plain(key: object) -> str:
    return str(key).lower().replace("-", "_").replace(" ", "_")


def check_values(key: str, values: np.ndarray, where: str) -> None:
    """Raise DataError where an array under a key of charge or spin is not that of singlets.

    ``values`` (M,) or one number for all conformers, of any type. A missing value (NaN) passes.
    """
    try:
        numbers = np.asarray(values, dtype=float).reshape(-1)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {key!r} holds something else than numbers") from None
    good = 1.0 if _plain(key) in MULTIPLICITY_KEYS else 0.0
    wrong = np.flatnonzero(~(np.isnan(numbers) | (numbers == good)))
    if len(wrong):
        place = f"{where}, conformer {wrong[0]}" if len(numbers) > 1 else where
        raise _refused(place, f"{key} {numbers[wrong[0]]:g}")


def check_charge_entries(
    keys: Iterable[str], values: Callable[[str], np.ndarray], n: int, atoms: int, where: str
) -> set[str]:
    """Check what the arrays of a file tell of charge and spin, for n conformers of so many atoms.

    ``values`` gives the array of a key; it is asked for those only that are checked. Charges of
    atoms may be anything whose sum is 0. Returns the keys of total charges and spins. Raises
    DataError for all but neutral singlets.
    """
    found = set()
    for key in keys:
        last = key.rpartition(".")[2]
        name = _plain(last)
        of_atoms = name in ATOMIC_CHARGE_KEYS
        if not of_atoms and not tells_charge_or_spin(name):
            continue
        array = np.asarray(values(key))
        shape = array.shape
        by_atom = shape[:2] == (n, atoms) or (shape[:1] == (atoms,) and (of_atoms or n != atoms))
        if not by_atom and not (of_atoms and n == 0):
            found.add(key)
            check_values(last, array, where)
            continue
        try:
            numbers = np.nan_to_num(np.asarray(array, dtype=float))
        except (TypeError, ValueError):
            raise DataError(f"{where}: {key!r} holds something else than numbers") from None
        rows = numbers.reshape(n if shape[:2] == (n, atoms) else 1, -1)
        if of_atoms or name in CHARGE_KEYS:
            total, what = np.abs(rows.sum(axis=1)), "that add up to"
            wrong = total > 0.5  # far beyond the rounding of a population analysis
        else:
            total, what = np.abs(rows).max(axis=1, initial=0), "of up to"
            wrong = total > 0
        if wrong.any():
            row = int(np.argmax(wrong))
            place = f"{where}, conformer {row}" if len(rows) > 1 else where
            raise _refused(place, f"{key} {what} {total[row]:g}")
    return found


def check_neutral_singlet(frame: ase.Atoms, where: str) -> None:
    """Raise DataError for a frame with a charge or a spin: the potentials here know of neither."""
    what = None
    for key in frame.info:
        name = _plain(key)
        value = info_entry(frame, key)
        if value is None or not tells_charge_or_spin(key):
            continue
        if name == "q" and np.size(value) != 1:
            continue  # a wave vector
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise DataError(f"{where}: {key}={value!r} is not a number") from None
        what = what or _not_neutral_singlet(str(key), name, number, value)
    # Partial charges of a neutral molecule are no charge; 0.01 is the rounding of a population
    # analysis.
    charge = float(frame.get_initial_charges().sum())
    if what is None and abs(charge) > 0.01:
        what = f"initial charges that add up to {charge:g}"
    if what is None and np.any(frame.get_initial_magnetic_moments()):
        what = "initial magnetic moments"
    if what is not None:
        raise _refused(f"{where} ({frame.get_chemical_formula()})", what)


def _not_neutral_singlet(key: str, name: str, number: float, value: Any) -> str | None:
    if number == (1.0 if name in MULTIPLICITY_KEYS else 0.0):
        return None
    hint = (
        " (a multiplicity belongs in spin_multiplicity)" if name == "spin" and number == 1 else ""
    )
    return f"{key}={value}{hint}"


def _refused(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: has {what}, but only neutral closed-shell molecules can be described. Remove "
        "it from the file, or correct its charge and spin there if they are wrong"
    )


def check_comment(comment: str, where: str) -> None:
    """Raise DataError for the comment of a plain XYZ frame that tells of a charge or a spin.

    ``charge 1``, ``Multiplicity: 2``, and nothing but two whole numbers, which programs read as
    charge and multiplicity. The comments of extended XYZ are read by their keys instead.
    """
    for word, text in _IN_WORDS.findall(comment):
        what = _not_neutral_singlet(word, word.lower(), float(text), text)
        if what is not None:
            raise _refused(where, what)
    two = _TWO_NUMBERS.fullmatch(comment)
    charge, multiplicity = (int(two[1]), int(two[2])) if two is not None else (0, 1)
    # Larger numbers are a step and a count, or the like.
    if (charge, multiplicity) != (0, 1) and abs(charge) < 10 and multiplicity < 10:
        raise _refused(where, f"a comment of charge {charge} and multiplicity {multiplicity}")


def info_entry(frame: ase.Atoms, key: str) -> Any:
    """An info entry; None where there is none.

    True is none: ASE makes it of every bare word in the comment of a plain XYZ file.
    """
    value = frame.info.get(key)
    return None if isinstance(value, bool | np.bool_) else value
