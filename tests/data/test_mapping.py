import numpy as np
import pytest

from anipot.data.mapping import parse_species
from anipot.errors import DataError


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (["O", "H", ""], [8, 1, 0]),
        ([b"Cl", b"H\0"], [17, 1]),
        (["8", "1.0", "-1"], [8, 1, 0]),
        ([" C\n", "6"], [6, 6]),
        (np.array([8.0, -1.0]), [8, 0]),
        (np.array(["C", b"H"], dtype=object), [6, 1]),
        (np.zeros((0, 3), dtype="S1"), np.zeros((0, 3))),
    ],
)
def test_symbols_and_numbers(given, numbers):
    np.testing.assert_array_equal(parse_species(np.asarray(given), "file"), numbers)


@pytest.mark.parametrize(
    "given",
    ["D", "T", "O1", "h", "CL", "X", "Qq", "119", "8.5", "nan", "inf", "-2", "1e400", "C-13", "²"],
)
def test_what_is_no_element(given):
    for array in (np.array([given, "H"]), np.array([given, "H"], dtype=object)):
        with pytest.raises(DataError, match=r"file: '.*' is"):
            parse_species(array, "file")


@pytest.mark.parametrize(
    "array",
    [np.array([b"\xc3", b"H"]), np.array([1.5]), np.array([np.nan]), np.array([-np.inf]),
     np.array([-2]), np.array([2**63], dtype=np.uint64), np.array([1e30]), np.array([1j]),
     np.array([True]), np.array([None]), np.array([1], dtype="M8[s]")],
)  # fmt: skip
def test_numbers_that_are_no_element(array):
    with pytest.raises(DataError, match="file: "):
        parse_species(array, "file")
