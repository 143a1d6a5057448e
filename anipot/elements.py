"""Chemical elements: symbols, atomic numbers, and the order of elements a model was built with."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from ase.data import atomic_numbers as _ASE_NUMBERS
from ase.data import chemical_symbols as _ASE_SYMBOLS

from anipot.errors import SettingsError

#: Symbol of each atomic number; index 0 is a placeholder ("X").
SYMBOLS: tuple[str, ...] = tuple(_ASE_SYMBOLS)

_SYMBOL = re.compile(r"[A-Z][a-z]?")


def parse_elements(elements: str | Iterable[str | int]) -> tuple[str, ...]:
    """Elements in the order given, as symbols.

    ``elements`` is a string of symbols (``"HCNO"``, ``"HCNOSFCl"``, ``"H C N"``, ``"H,C,N"``) or a
    sequence of symbols or atomic numbers. A string is read symbol by symbol: an upper-case letter
    and the lower-case letter that follows it. Raises SettingsError for anything that is no
    element, for an element named twice, and for an empty list.
    """
    parts: list[str]
    if isinstance(elements, str):
        text = re.sub(r"[\s,;]+", "", elements)
        parts = _SYMBOL.findall(text)
        if "".join(parts) != text:
            raise SettingsError(
                f"cannot read {elements!r} as chemical elements; write symbols as in 'HCNOSFCl'"
            )
    else:
        parts = [e if isinstance(e, str) else symbol_of(int(e)) for e in elements]
    for part in parts:
        number_of(part)
    twice = sorted({p for p in parts if parts.count(p) > 1})
    if twice:
        raise SettingsError(f"element named twice: {', '.join(twice)} (in {elements!r})")
    if not parts:
        raise SettingsError("no element given; write symbols as in 'HCNO'")
    return tuple(parts)


def number_of(symbol: str) -> int:
    """Atomic number of a symbol. Raises SettingsError for what is no element."""
    number = _ASE_NUMBERS.get(symbol, 0)
    if number == 0:
        raise SettingsError(f"{symbol!r} is not the symbol of a chemical element")
    return int(number)


def symbol_of(number: int) -> str:
    """Symbol of an atomic number. Raises SettingsError for what is no element."""
    if not 1 <= number < len(SYMBOLS):
        raise SettingsError(f"{number} is not the atomic number of a chemical element")
    return SYMBOLS[number]


def numbers_of(symbols: Iterable[str]) -> np.ndarray:
    """Atomic numbers (n,) uint8 of symbols."""
    return np.array([number_of(s) for s in symbols], dtype=np.uint8)


def symbols_of(numbers: Iterable[int]) -> list[str]:
    """Symbols of atomic numbers."""
    return [symbol_of(int(n)) for n in numbers]


def sorted_elements(numbers: Iterable[int]) -> tuple[str, ...]:
    """The distinct elements among atomic numbers, by atomic number (hydrogen first)."""
    return tuple(symbol_of(n) for n in sorted({int(n) for n in numbers}))


def index_table(elements: Sequence[str]) -> np.ndarray:
    """(119,) int64: the place of each atomic number in ``elements``, -1 where it is not in it."""
    table = np.full(len(SYMBOLS), -1, dtype=np.int64)
    for i, symbol in enumerate(elements):
        table[number_of(symbol)] = i
    return table


def formula(numbers: Iterable[int]) -> str:
    """Molecular formula in Hill order: C, H, then the rest by symbol (``"C2H6O"``)."""
    counts: dict[str, int] = {}
    for symbol in symbols_of(numbers):
        counts[symbol] = counts.get(symbol, 0) + 1
    first = ["C", "H"] if "C" in counts else []
    order = [s for s in first if s in counts] + sorted(s for s in counts if s not in first)
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)
