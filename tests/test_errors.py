"""Messages stay readable whatever a file holds."""

import pickle

import pytest

from anipot.errors import LONGEST, DataError, cut, shortly


def test_a_long_message_keeps_its_beginning_and_its_end():
    error = DataError(f"a.xyz, line 3: {'A' * 100_000} is no number; correct the line")
    assert len(str(error)) < LONGEST + 10
    assert str(error).startswith("a.xyz, line 3: AAA")
    assert str(error).endswith("AAA is no number; correct the line")


def test_a_short_message_stays_as_it_is():
    error = DataError("a.xyz: has no atoms")
    assert str(error) == "a.xyz: has no atoms"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("length", [1, 200, 201, 5000])
def test_texts_are_cut(length):
    text = "".join(chr(ord("a") + k % 26) for k in range(length))
    assert (cut(text) == text) == (length <= 200)
    assert len(cut(text)) <= 205
    assert cut(text)[:50] == text[:50]
    assert cut(text)[-50:] == text[-50:]
    assert shortly(text, 10_000) == repr(text)
