import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.formula import Formula
from hypothesis import given
from hypothesis import strategies as st

from anipot import elements as el
from anipot.errors import SettingsError


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("HCNO", ("H", "C", "N", "O")),
        ("HCNOSFCl", ("H", "C", "N", "O", "S", "F", "Cl")),
        ("Cl, C H", ("Cl", "C", "H")),
        (["O", "H"], ("O", "H")),
        ([1, 6, 17], ("H", "C", "Cl")),
        (np.array([8, 7]), ("O", "N")),
    ],
)
def test_elements_are_read_symbol_by_symbol_in_the_order_given(given_, expected):
    assert el.parse_elements(given_) == expected


@pytest.mark.parametrize(
    ("given_", "message"),
    [("hcno", "cannot read"), ("HCNOQ", "'Q'"), ("HH", "twice: H"), ("", "no element"),
     ([0], "0 is not"), ([119], "119"), (["Xx"], "'Xx'"), (["X"], "'X'")],
)  # fmt: skip
def test_what_is_no_element_is_named(given_, message):
    with pytest.raises(SettingsError, match=message):
        el.parse_elements(given_)


def test_every_symbol_and_number_agree_with_the_periodic_table():
    for number in range(1, len(chemical_symbols)):
        assert el.number_of(el.symbol_of(number)) == number
        assert el.symbol_of(number) == chemical_symbols[number]


@given(st.lists(st.sampled_from([1, 6, 7, 8, 9, 16, 17]), min_size=1, max_size=20))
def test_formula_counts_the_atoms(numbers):
    symbols = "".join(chemical_symbols[n] for n in numbers)
    assert Formula(el.formula(numbers)).count() == Formula(symbols).count()


@pytest.mark.parametrize(
    ("symbols", "formula"),
    [
        ("OHH", "H2O"),
        ("HCHHH", "CH4"),
        ("FH", "FH"),
        ("OCHN", "CHNO"),
        ("NNO", "N2O"),
        ("HCl", "ClH"),
    ],
)
def test_formula_is_in_hill_order(symbols, formula):
    # Hill, J. Am. Chem. Soc. 22, 478 (1900): without carbon, all by the alphabet.
    assert el.formula(atomic_numbers_of(symbols)) == formula


def atomic_numbers_of(symbols):
    return [n for s, k in Formula(symbols).count().items() for n in [chemical_symbols.index(s)] * k]


def test_index_table():
    table = el.index_table(["O", "H"])
    assert table[8] == 0
    assert table[1] == 1
    assert (table >= 0).sum() == 2
