"""Tensors of a state dict in a ``torch.save`` file, and the AEV constants among them.

Shared by the formats of TorchANI, notebooks and MLatom. ``networks`` finds the networks.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.formats.neurochem_constants import LISTS
from anipot.formats.safe_reading import naming
from anipot.formats.state_dict.torch_file import WAY_OUT, Unread, read_torch_file

#: Names of the AEV's constants: of TorchANI up to 2.2 (as in NeuroChem), and after.
CONSTANTS = {
    **LISTS,
    "radial.eta": "radial_eta",
    "radial.shifts": "radial_shifts",
    "angular.eta": "angular_eta",
    "angular.zeta": "zeta",
    "angular.shifts": "angular_shifts",
    "angular.sections": "angle_shifts",
}

#: Where people put the weights of a model when they save more than these.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "nn", "net", "weights")

#: Most bytes of a pickle that are looked at to tell what a file is.
_GLANCE = 1 << 22


# ---- files ---------------------------------------------------------------------------------------


def pickled_text(path: Path) -> bytes | None:
    """Return the pickle bytes of a ``torch.save`` file; None for another kind of file.

    Returns ``b""`` for a zip file that is cut short. Never raises.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(_GLANCE)
        if start[:1] == b"\x80":  # before torch 1.6, or a pickle of whatever else
            return start
        if start[:4] != b"PK\x03\x04":
            return None
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.split("/")[-1] == "data.pkl":
                    del entry.CRC  # for a glance; torch can save without checksums
                    with archive.open(entry) as text:
                        return text.read(_GLANCE)
        return None
    except OSError:
        return None
    except Exception:  # whatever a damaged zip file makes of its reader
        return b""


class StateDict(NamedTuple):
    """Tensors by name, in their order, and the dictionary around them.

    ``beside``: other entries of that dictionary. ``unread``: keys of pickled objects that were not
    read; ``classes``: their classes. ``key``: key of this state dict; ``others``: keys of others.
    """

    tensors: dict[str, Tensor]
    beside: dict[str, Any]
    unread: tuple[str, ...]
    classes: tuple[str, ...]
    key: str
    others: tuple[str, ...]

    @property
    def assumed(self) -> list[str]:
        """Notes for the user on contents that were not used."""
        assumed = []
        if self.others:
            assumed.append(f"the weights in {self.key!r}, and not in {', '.join(self.others)}")
        if self.unread:
            assumed.append(
                "nothing is needed of the Python objects beside the weights, which were left "
                f"unread ({', '.join(self.unread)})"
            )
        return assumed


def read_state_dict(path: str | Path) -> StateDict:
    """The tensors of a state dict, on the CPU; no code in it is run.

    A dictionary around it, such as ``{"model": ..., "optimizer": ...}``, is looked through, and
    ``module.`` before all names (DataParallel) is dropped. Pickled objects beside it are left
    unread. Raises PotentialError with the file and the reason for what cannot be read, for pickled
    objects among the tensors, and for numbers that are not finite.
    """
    path = Path(path)
    with naming(path, hints=True):
        contents, classes = read_torch_file(path)
        key, tensors = _weights_in(contents, classes)
        beside = {} if key is None else {k: v for k, v in contents.items() if k != key}
        for prefix in ("module.", "_orig_mod."):
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        for name, tensor in tensors.items():
            check_tensor(name, tensor)
        others = tuple(str(k) for k, v in beside.items() if _has_weights(_tensors(v)))
        unread = tuple(str(k) for k, v in beside.items() if _has_unread(v))
        return StateDict(tensors, beside, unread, classes, str(key), others)


def _has_unread(value: Any, depth: int = 4) -> bool:
    """Whether a value contains objects that were not read."""
    if isinstance(value, Mapping) and depth:
        return any(_has_unread(v, depth - 1) for v in value.values())
    if isinstance(value, list | tuple) and depth:
        return any(_has_unread(v, depth - 1) for v in value)
    return isinstance(value, Unread)


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    return {k: v for k, v in values.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _has_weights(values: dict[str, Tensor]) -> bool:
    return any(name.split(".")[-1] == "weight" for name in values)


def _weights_in(contents: Any, classes: tuple[str, ...]) -> tuple[Any, dict[str, Tensor]]:
    """Return the key of the state dict (None if it is the whole file) and its tensors."""

    def whole(values: Mapping[Any, Any], found: dict[str, Tensor]) -> dict[str, Tensor]:
        if objects := [str(k) for k, v in values.items() if isinstance(v, Unread)]:
            raise PotentialError(
                f"among its tensors are Python objects ({', '.join(objects[:3])}), which are not "
                f"loaded, as they could run code; {WAY_OUT}"
            )
        return found

    if isinstance(contents, Unread):
        raise PotentialError(
            f"it holds Python objects ({contents.name}), and what could run code is not loaded; if "
            f"it is a model saved as a whole, {WAY_OUT}"
        )
    if not isinstance(contents, Mapping):
        raise PotentialError(f"it holds a {type(contents).__name__}, not a state dict")
    if str(contents.get("format", "")).startswith("anipot checkpoint"):
        raise PotentialError("the state of a training (anipot train --resume), not a potential")
    direct = _tensors(contents)
    if _has_weights(direct):
        return None, whole(contents, direct)
    inner = {k: t for k, v in contents.items() if _has_weights(t := _tensors(v))}
    for name in _WRAPPERS:
        if name in inner:
            return name, whole(contents[name], inner[name])
    if len(inner) > 1:
        names = ", ".join(map(str, inner))
        raise PotentialError(f"it holds several state dicts ({names}); save one of them")
    if inner:
        key, found = next(iter(inner.items()))
        return key, whole(contents[key], found)
    if classes:
        raise PotentialError(
            f"it holds Python objects ({', '.join(classes[:3])}) and no state dict, and what could "
            f"run code is not loaded; {WAY_OUT}"
        )
    if not direct:
        raise PotentialError("it holds no tensors; save model.state_dict()")
    return None, direct


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raise PotentialError unless this is an ordinary tensor of finite numbers."""
    if not name.isprintable() or len(name) > 200:
        raise PotentialError(f"it has a tensor with the name {name[:50]!a}, which is none")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise PotentialError(f"{name} is not an ordinary tensor")
    # Strides can make a giant of a few bytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PotentialError(f"{name} has the shape {tuple(tensor.shape)}, but not as many numbers")
    if tensor.dtype in (torch.int64, torch.int32, torch.bool):
        return
    if tensor.dtype not in (torch.float32, torch.float64):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise PotentialError(f"{name} is in {kind}; only float32 and float64 can be read")
    if not torch.isfinite(tensor).all():
        raise PotentialError(f"{name} holds numbers that are not finite")


# ---- constants of the AEV ------------------------------------------------------------------------


def take_constants(tensors: dict[str, Tensor]) -> dict[str, tuple[float, ...]]:
    """The AEV's constants by the names of AEVSettings, taken out of ``tensors`` with all else that
    the AEV computer has there; empty where there are none.

    Those in float32 are the published ones where they have the same bits, else the shortest
    decimals with the same bits; those in float64 are read as they are.
    """
    found: dict[str, tuple[float, ...]] = {}
    prefixes: set[str] = set()
    for name in list(tensors):
        match = re.fullmatch(rf"(.*\.)?({'|'.join(map(re.escape, CONSTANTS))})", name)
        if match:
            field = CONSTANTS[match[2]]
            prefixes.add(match[1] or "")
            if field in found:
                raise PotentialError(f"it holds two AEV computers: {name} is there twice")
            found[field] = written(field, tensors.pop(name).detach().reshape(-1).numpy())
    if not found:
        return {}
    lacking = [old for old, field in LISTS.items() if field not in found]
    if lacking:
        raise PotentialError(f"of the constants of the AEV, {', '.join(lacking)} are missing")
    for name in list(tensors):
        last = name.split(".")[-1]
        if last in ("triu_index", "default_cell", "default_shifts"):
            del tensors[name]
    return found


def written(field: str, values: np.ndarray) -> tuple[float, ...]:
    """Return the decimal constants from which float32 values were rounded."""
    if values.dtype != np.float32:
        return tuple(values.tolist())
    for settings in (AEVSettings.ani1x(), AEVSettings.ani2x()):
        published: tuple[float, ...] = getattr(settings, field)
        if np.array_equal(np.array(published, np.float32), values):
            return published
    return tuple(float(str(v)) for v in values)


def cutoff(shifts: tuple[float, ...], keyword: str) -> float:
    """The cutoff, angstrom, that evenly spaced ``shifts`` end one step short of.

    So they do in all published ANI potentials and in whatever TorchANI makes. Raises PotentialError
    for other shifts.
    """
    steps = np.diff(shifts)
    if not len(steps) or steps[0] <= 0 or np.ptp(steps) > 1e-4 * steps[0]:
        raise PotentialError(
            f"the file does not hold the cutoff, and its shifts do not tell it; give {keyword}= "
            "in angstrom"
        )
    return round(float(shifts[-1] + np.mean(steps)), 4)


def element_count(constants: Mapping[str, tuple[float, ...]], length: int) -> int | None:
    """Return the number of elements for which the AEV has ``length`` columns, or None."""
    values = {**constants, "radial_cutoff": 2.0, "angular_cutoff": 1.0}
    terms = AEVSettings(elements=("H",), **values)  # type: ignore[arg-type]
    r, a = terms.radial_terms, terms.angular_terms
    for n in range(1, 119):
        if n * r + n * (n + 1) // 2 * a == length:
            return n
    return None
