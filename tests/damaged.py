"""Files as nobody wrote them: what bytes and values can become, drawn from a seed."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

#: Values that no option and no result is meant to have.
ODD: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, "", "x", "\x00", "é", [], [[]], {}, {"a": 1}, [None],
    "1e400", ".nan", "2020-01-01", "../../x", "<b>|\n", ["a", 1, {}], {"": {}}, 0.5, "9" * 5000,
]  # fmt: skip

#: Pieces of text that mean something to a reader of YAML, JSON or CSV.
PIECES = [
    b"\t", b"\xef\xbb\xbf", b"\xff", b"\x00", b"[" * 200, b"- " * 60, b"&a [*a]", b"*a", b"!!int x",
    b"!!timestamp 1", b"---\n", b"{", b"}", b":", b"\n", b",", b'"', b"1e999", b"9" * 5000, b"NaN",
    b"\\ud800", b"{? a: b}", b"%YAML 9\n",
]  # fmt: skip


def bytes_of(whole: bytes, seed: int) -> bytes:
    """A file cut, changed or added to at a place."""
    draw = random.Random(seed)
    at = draw.randrange(len(whole) + 1)
    end = min(at + draw.choice([1, 1, 4, 40]), len(whole))
    kind = draw.randrange(5)
    if kind == 0:
        return whole[:at]
    if kind == 1:
        return whole[:at] + whole[end:]
    if kind == 2:
        return whole[:at] + draw.choice(PIECES) + whole[at:]
    if kind == 3:
        return whole[:at] + whole[at:end] * 2 + whole[end:]
    return whole[:at] + bytes(draw.randrange(256) for _ in range(end - at)) + whole[end:]


def values_of(whole: Any, seed: int) -> Any:
    """Nested values of which one is another, is gone, or has a wrong name."""
    draw = random.Random(seed)
    changed = copy.deepcopy(whole)
    within, key = draw.choice(list(_places(changed)))
    kind = draw.randrange(4)
    if kind == 0:
        del within[key]
    elif kind == 1 and isinstance(within, dict):
        within[draw.choice([f"{key}x", "", "é", "../x"])] = within.pop(key)
    else:
        within[key] = copy.deepcopy(draw.choice(ODD))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in list(inner):
        yield value, key
        if isinstance(below, dict | list):
            yield from _places(below)


def json_of(whole: bytes, seed: int) -> bytes:
    """A JSON file (which is YAML, too) whose bytes or values are changed."""
    if seed % 2:
        return bytes_of(whole, seed)
    return json.dumps(values_of(json.loads(whole), seed)).encode()
