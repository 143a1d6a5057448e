"""Conversion of arrays that users give: numbers, atomic numbers and truth values.

Lists, numpy arrays of any byte order, layout and width, and tensors are converted once, where they
come in. What has no clear meaning as numbers is refused: truth values, complex numbers, text,
masked entries, rows of unequal length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anipot.elements import number_of
from anipot.errors import DataError, SettingsError


def _plain(values: Any, name: str) -> np.ndarray:
    """An array of whatever ``values`` are, in this machine's byte order, C-contiguous."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # numpy has none
            values = values.float()
        values = values.numpy()
    # A list of masked arrays would lose its masks.
    for part in values if isinstance(values, list | tuple) else (values,):
        if isinstance(part, np.ma.MaskedArray) and np.ma.getmaskarray(part).any():
            raise DataError(f"{name}: some entries are masked, and have no value; fill them in")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as e:
        raise DataError(f"{name}: is not an array of numbers ({e})") from None
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return _laid_out(array)


def _laid_out(array: np.ndarray) -> np.ndarray:
    """``array``, or a copy of it, in C order and with strides that torch takes."""
    # Of an axis of one, numpy calls any stride contiguous; torch wants none that is negative.
    odd = (0 in array.shape or 1 in array.shape) and any(
        s < 0 or s % array.itemsize for s in array.strides if array.itemsize
    )
    return array.copy("C") if odd or not array.flags.c_contiguous else array


def _what(array: np.ndarray) -> str:
    """The kind of what an array holds, in words."""
    kinds = {"b": "truth values", "c": "complex numbers", "U": "text", "S": "text"}
    return kinds.get(array.dtype.kind, f"of the type {array.dtype.name}")


def reals(values: Any, name: str, *, keep_single: bool = False) -> np.ndarray:
    """``values`` as float64; with ``keep_single``, float32 stays float32.

    The array itself where nothing is to be converted. Raises DataError, which begins with ``name``,
    for anything but integers and real numbers.
    """
    if type(values) is not np.ndarray or values.dtype != np.float64:
        values = _plain(values, name)
        if values.dtype.kind not in "fiu" and values.size:
            raise DataError(f"{name} must be real numbers, not {_what(values)}")
        if not (keep_single and values.dtype == np.float32):
            values = values.astype(np.float64, copy=False)
    return _laid_out(values)


def integers(values: Any, name: str) -> np.ndarray:
    """``values`` as integers, of the type that they have; whole numbers of any type are integers.

    Raises DataError, which begins with ``name``, for anything else.
    """
    array = _plain(values, name)
    if array.dtype.kind in "iu":
        return array
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise DataError(f"{name} must be whole numbers, not {_what(array)}")
    array = array.astype(np.float64, copy=False)
    whole = np.isfinite(array) & (array == np.rint(array)) & (np.abs(array) < 2.0**53)
    if not whole.all():
        raise DataError(f"{name} must be whole numbers, but one is {array[~whole].flat[0]:g}")
    return array.astype(np.int64)


def atomic_numbers(values: Any, name: str = "atomic_numbers") -> np.ndarray:
    """(N,) integers: atomic numbers given as such, or as symbols of elements.

    Raises DataError, which begins with ``name``, for anything else. Whether each number is that of
    an element is not looked at.
    """
    array = _plain(values, name)
    if array.ndim != 1:
        raise DataError(
            f"{name} must be a list as [8, 1, 1] or ['O', 'H', 'H'], and have shape {array.shape}"
        )
    if array.dtype.kind in "SO" and array.size:  # bytes are what HDF5 files have
        texts = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in array.tolist()]
        if all(isinstance(v, str) for v in texts):
            array = np.array(texts)
    if array.dtype.kind != "U":
        return integers(array, name)
    symbols, place = np.unique(array, return_inverse=True)
    try:
        known = np.array([number_of(symbol) for symbol in symbols.tolist()], dtype=np.int64)
    except SettingsError as e:
        raise DataError(f"{name}: {e}") from None
    numbers: np.ndarray = known[place.reshape(-1)]
    return numbers


def truths(values: Any, name: str) -> np.ndarray:
    """``values`` as truth values, which 0 and 1 are too. DataError, with ``name``, for others."""
    array = _plain(values, name)
    if array.dtype == bool or (
        array.dtype.kind in "iu" and (array.size == 0 or (array.min() >= 0 and array.max() <= 1))
    ):
        return array.astype(bool, copy=False)
    if not array.size:
        return array.astype(bool)
    shown = str(array.tolist())
    raise DataError(f"{name} must be true or false (or 1 or 0), not {shown[:60]}")


def directions(pbc: Any, name: str = "pbc") -> np.ndarray:
    """(3,) bool: periodic directions, given one by one or once for all three."""
    array = truths(pbc, name)
    if array.shape not in ((), (1,), (3,)):
        raise DataError(f"{name} must be one truth value or three, and have shape {array.shape}")
    return np.broadcast_to(array, 3).copy()


def check_shapes(given: Mapping[str, np.ndarray | None], m: int, a: int) -> None:
    """Raise DataError unless the arrays have the shapes of ``m`` conformers with ``a`` atoms."""
    shapes = {
        "coordinates": (a, 3), "energies": (m,), "forces": (a, 3), "cells": (m, 3, 3),
        "pbc": (m, 3), "stress": (m, 3, 3), "molecule": (m,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = given[name]
        if array is not None and array.shape != shape:
            raise DataError(
                f"{name} has shape {array.shape}, but {m} conformers with {a} atoms need {shape}"
            )
