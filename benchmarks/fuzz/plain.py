"""Mutators of plain data: JSON and YAML that says something odd."""

from __future__ import annotations

import json
import random
from typing import Any

import yaml

#: What stands where a value of plain data was.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -1.5, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"),
    -float("inf"), "", "x", "nan", "1", "../../x", "é", "A" * 5000, [], {}, [[]], [None], [1, "a"],
    {"a": 1}, {"": None}, [[1, 2], [3]], "\x00", "H", ["H", "H"], "<b>",
)  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    if rng.random() < 0.03:
        value: Any = 1
        for _ in range(rng.choice((30, 300))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(ODD_VALUES)


def plain_changed(rng: random.Random, value: Any) -> Any:
    """Plain data with one place changed: a value, a key, the length of a list."""
    places: list[tuple[Any, Any]] = []

    def look(inner: Any) -> None:
        items = inner.items() if isinstance(inner, dict) else enumerate(inner)
        for key, below in list(items):
            places.append((inner, key))
            if isinstance(below, dict | list) and below:
                look(below)

    if not isinstance(value, dict | list) or not value or rng.random() < 0.03:
        return odd_value(rng)
    look(value)
    inner, key = rng.choice(places)
    act = rng.random()
    if act < 0.55:
        inner[key] = odd_value(rng)
    elif act < 0.75:
        del inner[key]
    elif isinstance(inner, list):
        inner.insert(key, rng.choice((inner[key], odd_value(rng))))
    elif act < 0.9:
        new = rng.choice((f"{key}s", str(key).upper(), str(key)[:-1], "", "x y", "é", "__class__"))
        inner[new] = inner.pop(key)
    else:
        inner[rng.choice(("extra", "", "self", "name", "0"))] = odd_value(rng)
    return value


def json_changed(rng: random.Random, content: bytes) -> bytes:
    return json.dumps(plain_changed(rng, json.loads(content)), indent=1).encode()


def json_line_changed(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines()
    k = rng.randrange(len(lines))
    lines[k] = json.dumps(plain_changed(rng, json.loads(lines[k]))).encode()
    return b"\n".join(lines) + b"\n"


def yaml_changed(rng: random.Random, content: bytes) -> bytes:
    return yaml.safe_dump(plain_changed(rng, yaml.safe_load(content)), sort_keys=False).encode()
