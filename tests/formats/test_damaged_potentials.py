"""Damaged and hand-made files of every format: a potential, or one message that names the file.

Seeded and small; the same mutations by the thousand show no more than these by the dozen, unless a
reader has changed.
"""

from __future__ import annotations

import bz2
import json
import logging
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from neurochem_files import write_ensemble
from safetensors.torch import load, save
from torch import nn

import anipot
from anipot.aev.settings import AEVSettings
from anipot.errors import AnipotError
from anipot.evaluation.description import describe
from anipot.formats import anipot_format
from anipot.potential.model import ANIModel

SETTINGS = AEVSettings.cover("HO", 3.0, 2.5, 2, 2, 2)
INSERTED = (
    b"\xef\xbb\xbf", b"\xe9", b"\0", b"9" * 400, b"[" * 3000, b"-1", b"1e999", b"nan", b"\n\n",
    b"\xff\xfe",
)  # fmt: skip


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Cut short, with flipped or other bytes, a part gone or twice, or something put in."""
    place, span = rng.randrange(len(raw)), rng.randint(1, 40)
    kind = rng.randrange(7)
    if kind == 0:
        return raw[:place]
    if kind == 1:
        return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]
    if kind == 2:
        return raw[:place] + rng.randbytes(min(span, len(raw) - place)) + raw[place + span :]
    if kind == 3:
        return raw[:place] + raw[place + span :]
    if kind == 4:
        return raw[: place + span] + raw[place:]
    if kind == 5:
        return raw[:place] + rng.choice(INSERTED) + raw[place:]
    number = rng.choice(list(re.finditer(rb"\d+", raw)) or [re.match(b"", raw)])
    assert number is not None
    other = rng.choice([b"0", b"-1", b"999999999999", b"1e400", b"null", b'"x"'])
    return raw[: number.start()] + other + raw[number.end() :]


def changed_json(value: Any, rng: random.Random) -> Any:
    """With one node, anywhere, of another type or gone."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    node[key] = rng.choice(
        [
            None,
            -1,
            10**30,
            1e308,
            "",
            "x" * 1000,
            [],
            {},
            True,
            "\ud800",
            [1] * 200,
            "\x1b[2J",
            deep,
        ]
    )
    return value


# ---- the formats: each gives a path and a function that writes a new version there ---------------

Case = tuple[Path, Callable[[random.Random], None], dict[str, Any]]


def own_file(folder: Path) -> Case:
    path = folder / "m.safetensors"
    ANIModel.create("HO", hidden=[3], seed=1, aev=SETTINGS).save(path)
    raw = path.read_bytes()
    tensors, size = load(raw), int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    text = header["__metadata__"]["anipot"].partition(" ")[2]

    def write(rng: random.Random) -> None:
        kind = rng.randrange(3)
        if kind == 0:
            path.write_bytes(mutated(raw, rng))
        elif kind == 1:  # with the checksum that belongs to it
            new = json.dumps(changed_json(json.loads(text), rng))
            path.write_bytes(
                save(tensors, {"anipot": f"{anipot_format._digest(new, tensors)} {new}"})
            )
        else:  # shapes and places of tensors
            new = json.dumps(changed_json(header, rng)).encode()
            path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + size :])

    return path, write, {}


def state_dict(folder: Path, state: dict[str, Any], inner: list[str], hints: Any) -> Case:
    path = folder / "m.pt"
    torch.save(state, path)
    raw = path.read_bytes()
    values = [
        None, -1, 1.5, "x", b"x", [], {}, torch.zeros(0), torch.zeros(3, 3), torch.tensor(1),
        torch.tensor(float("nan")), torch.zeros(2, 2, 2), torch.tensor(1.0), 10**30, nn.ReLU(),
        torch.zeros(2, dtype=torch.complex64), torch.zeros(4).to_sparse(), Path("x"),
        nn.Parameter(torch.zeros(2)), torch.zeros(2, dtype=torch.bool), {1: 2}, ("H",),
    ]  # fmt: skip
    names = ["x", "1.0.1.weight", "1.9.weight", "", "é", 5, None, "H.1.weight", "a.self_energies"]

    def write(rng: random.Random) -> None:
        if rng.random() < 0.4:
            path.write_bytes(mutated(raw, rng))
            return
        whole = dict(state)
        part: dict[Any, Any] = whole
        if inner and rng.random() < 0.8:
            key = rng.choice(inner)
            part = whole[key] = dict(whole[key])
        key = rng.choice(list(part))
        if rng.random() < 0.3:
            part[rng.choice(names)] = part.pop(key)
        else:
            part[key] = rng.choice(values)
        torch.save(whole, path)

    return path, write, hints


def torchani_file(folder: Path) -> Case:
    model = ANIModel.create("HO", hidden=[3], seed=1, aev=SETTINGS)
    return state_dict(folder, dict(model.to_torchani().state_dict()), [], {})


def constants() -> dict[str, Any]:
    s = SETTINGS
    values = (
        s.radial_eta, s.radial_shifts, s.angular_eta, s.zeta, s.angular_shifts, s.angle_shifts,
    )  # fmt: skip
    return dict(
        zip(
            ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ"), map(torch.tensor, values), strict=True
        )
    )


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(SETTINGS.length, 3), nn.ReLU(), nn.Linear(3, 1))


def notebook_file(folder: Path) -> Case:
    nets = nn.ModuleList([network(), network()]).state_dict()
    state = {f"0.{k}": v for k, v in constants().items()} | {f"1.{k}": v for k, v in nets.items()}
    hints = {"activation": "relu", "self_energies": [-0.6, -75.0], "elements": "HO"}
    return state_dict(folder, state, [], hints)


def mlatom_file(folder: Path) -> Case:
    nets = nn.ModuleDict({"H": network(), "O": network()})
    args = {**constants(), "Rcr": 3.0, "Rca": 2.5, "species_order": ["H", "O"],
            "self_energies": torch.tensor([-0.6, -75.0])}  # fmt: skip
    state = {"network": nets, "args": args, "nn": dict(nets.state_dict())}
    return state_dict(folder, state, ["args", "nn"], {})


def neurochem_files(folder: Path) -> Case:
    info, _ = write_ensemble(folder)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    texts = [p for p in files if p.suffix in (".nnf", ".params", ".dat", ".info")]
    contents = {p: p.read_bytes() for p in files}

    def write(rng: random.Random) -> None:
        for path in files:
            path.write_bytes(contents[path])
        path = rng.choice(texts if rng.random() < 0.8 else files)
        if path.suffix == ".nnf" and rng.random() < 0.7:
            text = mutated(bz2.decompress(contents[path].partition(b"=\n")[2]), rng)
            path.write_bytes(str(len(text)).encode() + b"=\n" + bz2.compress(text))
        else:
            path.write_bytes(mutated(contents[path], rng))

    return info, write, {}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "make", [own_file, torchani_file, notebook_file, mlatom_file, neurochem_files]
)
def test_a_potential_or_one_message_that_names_the_file(make, seed, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "anipot")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, write, hints = make(tmp_path)
        anipot.load(path, **hints)
        rng = random.Random(seed)
        refused = 0
        for _ in range(25):
            write(rng)
            try:
                describe(anipot.load(path, **hints))
            except AnipotError as e:
                refused += 1
                assert str(e).startswith(str(path if make is not neurochem_files else tmp_path))  # noqa: PT017
                assert "\n" not in str(e)  # noqa: PT017
        assert refused > 8
