"""Mutators of NumPy and HDF5 files: other shapes, types, numbers, names, and promises not kept."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz.plain import plain_changed

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
        return np.zeros((0, *array.shape[1:]) if array.ndim else (0,), array.dtype)
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
    kind = rng.choice(
        (array.dtype.str, array.dtype.str, "<f8", "|O", "|V0", "|S0", "xx", "<f2", "<M8[s]")
    )
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
    kind = rng.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
    )
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
        parent[last] = _array_changed_hdf5(rng, array)
    elif act == 5:  # declared, never written: takes no room in the file
        del file[name]
        shape = rng.choice(
            ((2**40, 5, 3), (2**62,), (2**31,), (10**9, 5, 3), (3, 2**40, 3), (2**40, 5))
        )
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
            group[extra] = _array_changed_hdf5(rng, array)
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


def _array_changed_hdf5(rng: random.Random, array: Any) -> Any:
    """As ``array_changed``, for types that HDF5 has."""
    changed = array_changed(rng, np.asarray(array))
    if changed.dtype.kind in "UM":
        return changed.astype("S") if changed.dtype.kind == "U" else changed.astype("i8")
    return changed
