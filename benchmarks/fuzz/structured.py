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

import h5py
import numpy as np
import torch
import yaml

from benchmarks.fuzz.mutators import TEXT, Mutator

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


# ---- arrays --------------------------------------------------------------------------------------


def array_changed(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """An array of another shape, type or with odd numbers in it."""
    act = rng.randrange(11)
    flat = array.reshape(-1)
    if act == 0:
        kinds = ("f2", "c16", "?", "i1", "u8", ">f8", ">i4", "S3", "U2", "M8[s]", "f16", "i8", "f4")
        with np.errstate(all="ignore"):
            try:
                return array.astype(rng.choice(kinds))
            except (TypeError, ValueError):
                return np.zeros(array.shape, rng.choice(("?", "c8", "S1")))
    if act == 1:
        return array[:0]
    if act == 2:
        return np.array(rng.choice((0, -1, 3.5, "x", b"x", np.nan)))
    if act == 3:
        return array[..., None] if rng.random() < 0.5 else array[None]
    if act == 4:
        return np.asfortranarray(array.T)
    if act == 5:
        return flat[: rng.randrange(len(flat) + 1)]
    if act == 6:
        return np.concatenate([flat, flat])[: len(flat) + rng.randint(1, 3)]
    if act == 7:
        return np.zeros(array.shape, [("a", "f4"), ("b", "i4")])
    if act == 8:
        return np.zeros((0,) + array.shape[1:] if array.ndim else (0,), array.dtype)
    changed = array.copy()
    if changed.size:
        odd = (np.nan, np.inf, -1, 0, 1, 119, 255, 1e30, 1e308, -(2**31), 2**62, 1e-300)
        with np.errstate(all="ignore"):
            try:
                changed.reshape(-1)[rng.randrange(changed.size)] = rng.choice(odd)
            except (OverflowError, ValueError, TypeError):
                changed.reshape(-1)[:] = changed.reshape(-1)[::-1]
    return changed


def _npy(array: np.ndarray, header: Mapping[str, Any] | str | None = None) -> bytes:
    """A ``.npy``, perhaps with a header that says something else than the array is."""
    out = io.BytesIO()
    if header is None:
        np.lib.format.write_array(out, array, allow_pickle=True)
        return out.getvalue()
    text = (header if isinstance(header, str) else repr(dict(header))).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def npy_changed(rng: random.Random, content: bytes) -> bytes:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if rng.random() < 0.6:
        return _npy(array_changed(rng, array))
    return _npy(array, _odd_header(rng, array))


def _odd_header(rng: random.Random, array: np.ndarray) -> Mapping[str, Any] | str:
    shape = rng.choice((
        (2**40,), (2**62,), (2**31, 2**31), (-1,), (-2, 3), (2**70,), (10**9, 3), (10**8,),
        (2**20, 2**20, 3), (0, 2**60), (), (1,) * 40, ("a",), (1.5,), None, 7,
    ))  # fmt: skip
    kind = rng.choice((array.dtype.str, array.dtype.str, "<f8", "|O", "|V0", "|S0", "xx", "<f2", "<M8[s]"))
    header = {"descr": kind, "fortran_order": rng.choice((False, True, 1)), "shape": shape}
    act = rng.random()
    if act < 0.1:
        return "{" * rng.choice((10, 500, 5000))
    if act < 0.2:
        del header[rng.choice(list(header))]
    return header


def npz_changed(rng: random.Random, content: bytes) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays: dict[str, np.ndarray] = {name: file[name] for name in file.files}
    entries = {name: _npy(array) for name, array in arrays.items()}
    key = rng.choice(list(arrays))
    act = rng.randrange(9)
    if act == 0:
        del entries[key]
    elif act == 1:
        new = rng.choice((f"{key}s", key.upper(), "x", "", "a/b", "../x", "é", "self", "file"))
        entries[new] = entries.pop(key)
    elif act == 2:
        entries[key] = _npy(arrays[key], _odd_header(rng, arrays[key]))
    elif act == 3:
        entries[key] = _npy(np.array([None, {"a": 1}], dtype=object))
    elif act == 4:
        entries[rng.choice(("extra", "cells", "pbc", "mask_energies", "charge"))] = entries[key]
    elif act == 5 and "about" in arrays:
        about = json.loads(arrays["about"].tobytes())
        text = json.dumps(plain_changed(rng, about)).encode()
        entries["about"] = _npy(np.frombuffer(text, np.uint8))
    elif act == 6 and "rest" in arrays:
        rest = json.loads(str(arrays["rest"]))
        entries["rest"] = _npy(np.array(json.dumps(plain_changed(rng, rest))))
    else:
        entries[key] = _npy(array_changed(rng, arrays[key]))
    if rng.random() < 0.02:
        return entries.get(key, content)  # a single array, which is no archive
    return _zipped({f"{name}.npy": data for name, data in entries.items()}, rng)


def _zipped(entries: Mapping[str, bytes], rng: random.Random) -> bytes:
    out = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return out.getvalue()


# ---- HDF5 ----------------------------------------------------------------------------------------


def hdf5_changed(rng: random.Random, content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        datasets: list[str] = []
        groups: list[str] = ["/"]
        file.visititems(
            lambda name, item: (datasets if isinstance(item, h5py.Dataset) else groups).append(name)
        )
        _change_hdf5(rng, file, datasets, groups)
    return buffer.getvalue()


def _change_hdf5(
    rng: random.Random, file: h5py.File, datasets: list[str], groups: list[str]
) -> None:
    name = rng.choice(datasets)
    parent = file[name].parent
    last = name.rsplit("/", 1)[-1]
    data = file[name]
    array = data[()]
    act = rng.randrange(16)
    if act == 0:
        del file[name]
    elif act == 1:
        new = rng.choice((f"{last}s", last.upper(), "x", "energies", "é", "units", "charge"))
        if new not in parent:
            parent.move(last, new)
    elif act in (2, 3, 4):
        del file[name]
        parent[last] = array_changed_hdf5(rng, array)
    elif act == 5:  # declared, never written: takes no room in the file
        del file[name]
        shape = rng.choice(((2**40, 5, 3), (2**62,), (2**31,), (10**9, 5, 3), (3, 2**40, 3), (2**40, 5)))
        parent.create_dataset(
            last, shape, data.dtype if rng.random() < 0.7 else "f8",
            chunks=tuple(min(s, 16) for s in shape),
            compression=rng.choice((None, "gzip")),
        )  # fmt: skip
    elif act == 6:
        del file[name]
        parent.create_group(last)
    elif act == 7:
        del file[name]
        parent[last] = rng.choice((
            h5py.SoftLink("/nowhere"), h5py.SoftLink("/"), h5py.SoftLink(f"/{name}"),
            h5py.ExternalLink("nowhere.h5", "/"), h5py.ExternalLink("/dev/null", "/"),
            h5py.ExternalLink("/etc/passwd", "/x"),
        ))  # fmt: skip
    elif act == 8:
        del file[name]
        parent[last] = h5py.Empty(rng.choice(("f4", "S3", "i8")))
    elif act == 9:
        place = file[rng.choice((name, parent.name, "/"))]
        key = rng.choice(("units", "unit", "energy_unit", "length_unit", "force_unit", "lot", "x"))
        place.attrs[key] = rng.choice((
            "nonsense", "", b"\xff\xfe", 3, np.nan, np.arange(3), "hartree", "eV", "bohr",
            h5py.Empty("f4"), np.array(["a", "b"], dtype=object), "A" * 5000,
        ))  # fmt: skip
    elif act == 10:
        del file[name]
        kind = rng.choice((h5py.string_dtype(), h5py.vlen_dtype(np.int32), h5py.ref_dtype))
        new = parent.create_dataset(last, (2,), kind)
        if kind == h5py.string_dtype():
            new[:] = rng.choice((["C", "H"], ["é", ""], ["x" * 1000, "1"]))
    elif act == 11:
        group = file[rng.choice(groups)]
        extra = rng.choice(("extra", "cell", "pbc", "smiles", "units", "coordinates", "energies"))
        if extra not in group:
            group[extra] = array_changed_hdf5(rng, array)
    elif act == 12:
        group = file[rng.choice(groups)]
        group[rng.choice(("loop", "0loop"))] = group  # a hard link to itself
    elif act == 13:
        group = file
        for k in range(rng.choice((5, 200))):
            group = group.create_group(f"deep{k}")
    elif act == 14:
        del file[name]
        layout = h5py.VirtualLayout(array.shape or (1,), array.dtype)
        layout[...] = h5py.VirtualSource("nowhere.h5", "x", array.shape or (1,))
        parent.create_virtual_dataset(last, layout)
    else:
        del file[rng.choice([g for g in groups if g != "/"] or [name])]


def array_changed_hdf5(rng: random.Random, array: Any) -> Any:
    """As ``array_changed``, for types that HDF5 has."""
    changed = array_changed(rng, np.asarray(array))
    if changed.dtype.kind in "UM":
        return changed.astype("S") if changed.dtype.kind == "U" else changed.astype("i8")
    return changed


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
    """As ``anipot.potentials.own`` has it: whoever forges a description can do so too."""
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
    torch.save(_objects_changed(rng, value), out, _use_new_zipfile_serialization=content[:2] == b"PK")
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
        kinds = (torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float64)
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
        odd = (None, 0, -1, 2**62, 1.5, "", "x", b"", b"\x00" * 7, b"\xff" * 24, "{", '{"a": ' * 500,
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
