"""anipot's own potential file: one self-describing safetensors file.

Tensors: ``networks.<member>.<element>.<layer>.weight`` (out, in) and ``.bias`` (out,), and
``self_energies`` (E,) float64 hartree. Everything else is JSON under the key ``anipot`` of the
file's metadata, behind a sha256 of tensors and JSON, so that a changed byte is noticed. Nothing in
a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.files import atomic_write
from anipot.networks import DTYPES, AtomicNetworks
from anipot.self_energies import SelfEnergies
from anipot.units import energy_unit
from anipot.version import __version__

FORMAT = "anipot potential 1"
UNITS = {"length": "angstrom", "energy": "hartree"}
SUFFIX = ".safetensors"


class _Networks(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hidden: dict[str, list[int]]
    activation: str
    dropout: float
    output_activation: str | None
    output_dropout: bool


class _Header(BaseModel):
    """What the JSON of a file must hold."""

    model_config = ConfigDict(extra="forbid")
    format: str
    anipot_version: str
    members: int
    aev: dict[str, Any]
    networks: _Networks
    dtype: str
    output_unit: str
    units: dict[str, str]
    self_energies_note: str
    trained: list[str]
    about: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SavedPotential:
    """All that a file holds; the fields mean what they mean for ``ANIModel``.

    ``about`` is plain data: numbers, texts, lists, dictionaries.
    """

    aev: AEVSettings
    networks: AtomicNetworks
    self_energies: SelfEnergies
    output_unit: str
    trained: tuple[str, ...]
    about: dict[str, Any]


def write_potential(potential: SavedPotential, path: str | Path) -> Path:
    """Write a potential to ``path``, all or nothing, and return the path.

    Raises PotentialError for what is not plain data in ``about``, for weights that are not finite,
    and for another suffix than ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise PotentialError(
            f"{path}: a potential is saved as a {SUFFIX} file, for example {path.stem}{SUFFIX}"
        )
    tensors = {"self_energies": torch.as_tensor(potential.self_energies.values)}
    for name, value in potential.networks.state_dict().items():
        if not torch.isfinite(value).all():
            raise PotentialError(
                f"{path}: not saved, because the weights {name} of this model are not all finite; "
                "train again with a smaller learning_rate"
            )
        tensors[f"networks.0.{name.replace('.layers.', '.')}"] = value.detach().cpu().contiguous()
    header = _Header(
        format=FORMAT,
        anipot_version=__version__,
        members=1,
        aev=potential.aev.to_dict(),
        networks=_Networks(**potential.networks.options()),
        dtype=str(potential.networks.dtype).removeprefix("torch."),
        output_unit=potential.output_unit,
        units=UNITS,
        self_energies_note=potential.self_energies.note,
        trained=list(potential.trained),
        about=_plain(potential.about),
    )
    text = json.dumps(header.model_dump(), sort_keys=True)
    # One key only: safetensors writes several in no fixed order, and equal potentials are to be
    # equal files.
    metadata = {"anipot": f"{_digest(text, tensors)} {text}"}
    with atomic_write(path) as temporary:
        # Not safetensors' own save_file, which says of a full disk only that it is an error.
        temporary.write_bytes(save(tensors, metadata))
    return path


def read_potential(path: str | Path) -> SavedPotential:
    """Read a potential that anipot wrote; its tensors are on the CPU.

    Raises PotentialError that names the file and what is wrong with it.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PotentialError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError, ValueError) as e:
        raise PotentialError(f"{path}: not a safetensors file, or cut short ({e})") from None
    if "anipot" not in metadata:
        raise PotentialError(f"{path}: a safetensors file, but not a potential saved by anipot")
    digest, _, text = metadata["anipot"].partition(" ")
    try:
        if digest != _digest(text, tensors):
            raise PotentialError("damaged; its contents do not match the checksum in it")
        return _build(_read_header(text), tensors)
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors())
        raise PotentialError(f"{path}: its description is not understood: {wrong}") from None
    # Whatever a file made by hand makes of the constructors; AnipotError is a ValueError too.
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, RecursionError) as e:
        first = (str(e) or type(e).__name__).splitlines()[0]  # torch adds a trace of its own code
        raise PotentialError(f"{path}: {first}") from None


def _read_header(text: str) -> _Header:
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        told = values if isinstance(values, dict) else {}
        raise PotentialError(
            f"written as {told.get('format')!r} by anipot {told.get('anipot_version')}; this is "
            f"anipot {__version__}, which reads {FORMAT!r}"
        )
    header = _Header(**values)
    if header.units != UNITS:
        raise PotentialError(f"its units are {header.units}, and only {UNITS} can be read")
    energy_unit(header.output_unit)
    if header.members != 1:
        raise PotentialError(f"an ensemble of {header.members} networks, which cannot be read here")
    if header.dtype not in DTYPES:
        raise PotentialError(f"unknown precision {header.dtype!r}; known: {', '.join(DTYPES)}")
    return header


def _build(header: _Header, tensors: dict[str, Tensor]) -> SavedPotential:
    settings = AEVSettings(**header.aev)
    if not set(header.trained) <= set(settings.elements):
        raise PotentialError(f"trained for {header.trained}, but it has {settings.elements}")
    # Without memory until the shapes are known to be those of the tensors in the file; and without
    # random weights, which would move the caller's random state.
    with torch.device("meta"):
        networks = AtomicNetworks(
            settings.elements, settings.length, **header.networks.model_dump()
        )
    networks.to(DTYPES[header.dtype])
    weights: dict[str, Tensor] = {}
    for name, like in networks.state_dict().items():
        key = f"networks.0.{name.replace('.layers.', '.')}"
        value = tensors.pop(key, None)
        if value is None or value.shape != like.shape or value.dtype != like.dtype:
            found = "missing" if value is None else f"{tuple(value.shape)} {value.dtype}"
            raise PotentialError(f"{key} must be {tuple(like.shape)} {like.dtype}, but is {found}")
        if not torch.isfinite(value).all():
            raise PotentialError(f"{key} holds numbers that are not finite")
        weights[name] = value.clone()  # the file is mapped into memory, and may change
    networks.load_state_dict(weights, assign=True)
    own = tensors.pop("self_energies", None)
    if own is None or own.dtype != torch.float64:
        raise PotentialError("self_energies are missing or not in float64")
    if tensors:
        raise PotentialError(f"unexpected tensors: {', '.join(sorted(tensors))}")
    energies = SelfEnergies(settings.elements, own.numpy().copy(), header.self_energies_note)
    return SavedPotential(
        settings, networks, energies, header.output_unit, tuple(header.trained), header.about
    )


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Data that JSON can hold: NaN and infinity become None, arrays lists, tuples lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise PotentialError(
        f"what is told about a potential must be numbers, texts, lists or dictionaries, not "
        f"{type(value).__name__} ({value!r})"
    )
