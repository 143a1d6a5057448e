"""Mutators that know a format: the file stays a whole one of its kind, but says something odd.

Of these no checksum can tell, so a reader may accept what they make; it may not fall over it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import random
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz.array_mutators import hdf5_changed, npy_changed, npz_changed
from benchmarks.fuzz.mutators import TEXT, Mutator
from benchmarks.fuzz.plain import (
    json_changed,
    json_line_changed,
    odd_value,
    plain_changed,
    yaml_changed,
)

# ---- potentials ----------------------------------------------------------------------------------


def safetensors_changed(rng: random.Random, content: bytes) -> bytes:
    """Another header, or another description with the checksum that belongs to it."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    act = rng.random()
    if act < 0.3:
        header = plain_changed(rng, header)
    elif act < 0.4:
        size = rng.choice((0, 2**20, 2**40, 2**63, 2**64 - 1, size - 1, size + 1))
        return struct.pack("<Q", size) + content[8:]
    else:
        from safetensors.torch import load

        tensors = load(content)
        _, _, text = header["__metadata__"]["anipot"].partition(" ")
        text = json.dumps(plain_changed(rng, json.loads(text)), sort_keys=True)
        header["__metadata__"]["anipot"] = f"{_digest(text, tensors)} {text}"
    text = json.dumps(header)
    return struct.pack("<Q", len(text.encode())) + text.encode() + data


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """As ``anipot.formats.anipot_format`` has it: whoever forges a description can do so too."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def torch_changed(rng: random.Random, content: bytes) -> bytes:
    """Other contents, or entries of the zip file that do not fit each other."""
    if content[:2] == b"PK" and rng.random() < 0.25:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        key = rng.choice(list(entries))
        act = rng.randrange(4)
        if act == 0:
            del entries[key]
        elif act == 1:
            entries[rng.choice(("x", f"{key}x", "../x", key.replace("/", "//")))] = entries.pop(key)
        else:
            entries[key] = rng.choice((b"", entries[key][:-1], entries[key] * 2, rng.randbytes(50)))
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return out.getvalue()
    value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    out = io.BytesIO()
    torch.save(
        _objects_changed(rng, value), out, _use_new_zipfile_serialization=content[:2] == b"PK"
    )
    return out.getvalue()


def _objects_changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _tensor_changed(rng, value)
    if isinstance(value, Mapping) and value:
        changed = dict(value)
        key = rng.choice(list(changed))
        act = rng.random()
        if act < 0.6:
            changed[key] = _objects_changed(rng, changed[key])
        elif act < 0.75:
            del changed[key]
        elif act < 0.9:
            changed[rng.choice((f"{key}s", "x", "", 0, None, f"module.{key}"))] = changed.pop(key)
        else:
            changed[rng.choice(("extra", "extra.weight", 0))] = changed[key]
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        changed = list(value)
        k = rng.randrange(len(changed))
        if rng.random() < 0.7:
            changed[k] = _objects_changed(rng, changed[k])
        else:
            del changed[k]
        return changed
    return odd_value(rng)


def _tensor_changed(rng: random.Random, tensor: torch.Tensor) -> Any:
    act = rng.randrange(9)
    if act == 0:
        kinds = (
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.bool,
            torch.complex64,
            torch.float64,
        )
        return tensor.to(rng.choice(kinds))
    if act == 1:
        return tensor.reshape(-1)
    if act == 2:
        return tensor[:0] if tensor.ndim else tensor[None]
    if act == 3:
        return torch.zeros(1).expand(2**20, 2**20)
    if act == 4:
        return torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor[None]
    if act == 5:
        return tensor.to_sparse() if tensor.ndim and tensor.dtype != torch.bool else tensor
    if act == 6:
        return torch.empty(tensor.shape, device="meta")
    if act == 7:
        return odd_value(rng)
    changed = tensor.clone()
    if changed.numel() and changed.is_floating_point():
        odd = (float("nan"), float("inf"), -1.0, 0.0, 1e30)
        changed.view(-1)[rng.randrange(changed.numel())] = rng.choice(odd)
    return changed


# ---- text in a wrapping, and data bases ----------------------------------------------------------


def text_inside(rng: random.Random, content: bytes) -> bytes:
    """A text within bz2 (NeuroChem's .nnf, which says its length first) or gzip."""
    change = rng.choice(list(TEXT.values()))
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(change(rng, gzip.decompress(content)), mtime=0)
    text = change(rng, bz2.decompress(content[content.index(b"BZh") :]))
    length = len(text) if rng.random() < 0.8 else rng.choice((0, 10**12, -1))
    return f"{length}=\n".encode() + bz2.compress(text)


def sqlite_changed(rng: random.Random, content: bytes) -> bytes:
    """One cell of one table with something else in it; or a table without its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.db"
        path.write_bytes(content)
        base = sqlite3.connect(path)
        found = base.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")
        tables = [n for (n,) in found if base.execute(f'SELECT COUNT(*) FROM "{n}"').fetchone()[0]]
        table = rng.choice(tables)
        columns = [row[1] for row in base.execute(f'PRAGMA table_info("{table}")')]
        (rows,) = base.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()
        odd = (None, 0, -1, 2**62, 1.5, "", "x", b"", b"\x00" * 7, b"\xff" * 24, "{", '{"a": ' * 99,
               "[[", "null", "3", float("inf"), "A" * 5000)  # fmt: skip
        try:
            if rng.random() < 0.1:
                base.execute(f'DELETE FROM "{table}"')
            else:
                base.execute(
                    f'UPDATE "{table}" SET "{rng.choice(columns)}"=? WHERE rowid IN '
                    f'(SELECT rowid FROM "{table}" LIMIT 1 OFFSET ?)',
                    (rng.choice(odd), rng.randrange(rows)),
                )
            base.commit()
        except (sqlite3.Error, OverflowError):
            pass  # a constraint of the table
        base.close()
        return path.read_bytes()


# ---- which of them fit ---------------------------------------------------------------------------


def fitting(name: str, content: bytes) -> dict[str, Mutator]:
    """Mutators that know the format of a file."""
    found: list[Callable[[random.Random, bytes], bytes]] = []
    if content[:4] == b"\x89HDF":
        found = [hdf5_changed]
    elif content[:6] == b"\x93NUMPY":
        found = [npy_changed]
    elif name.endswith(".npz"):
        found = [npz_changed]
    elif name.endswith((".pt", ".pth")):
        found = [torch_changed]
    elif name.endswith(".safetensors"):
        found = [safetensors_changed]
    elif name.endswith((".nnf", ".gz")):
        found = [text_inside]
    elif content[:15] == b"SQLite format 3":
        found = [sqlite_changed]
    elif name.endswith((".json", ".jsonl")):
        found = [json_line_changed if name.endswith(".jsonl") else json_changed]
    elif name.endswith((".yaml", ".yml")):
        found = [yaml_changed]
    return {f.__name__: f for f in found}
