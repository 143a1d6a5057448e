"""anipot's potential file: self-describing safetensors, of a model or an ensemble.

Tensors: ``networks.<member>.<element>.<layer>.weight`` (out, in) and ``.bias`` (out,), and
``self_energies`` (K, E) float64 hartree, a row a member. Everything else is JSON under the key
``anipot`` of the file's metadata, behind a sha256 of tensors and JSON, so that a changed byte is
noticed. Nothing in a file is ever executed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError, cut
from anipot.networks.atomic import DTYPES, AtomicNetworks
from anipot.networks.repulsion import Repulsion
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.system.files import atomic_write
from anipot.version import __version__

FORMAT = "anipot potential 1"
UNITS = {"length": "angstrom", "energy": "hartree"}
SUFFIX = ".safetensors"

#: More members than this are a mistake or an attack; the published ensembles have eight.
MOST_MEMBERS = 1000


class _Networks(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hidden: dict[str, list[int]]
    activation: str
    dropout: float
    output_activation: str | None
    output_dropout: bool
    network: str = "mlp"


class _Member(BaseModel):
    """Properties of one member; ``about`` is empty for a single model."""

    model_config = ConfigDict(extra="forbid")
    networks: _Networks
    output_unit: str
    self_energies_note: str
    trained: list[str]
    about: dict[str, Any]


class _Header(BaseModel):
    """The JSON of a file."""

    model_config = ConfigDict(extra="forbid")
    format: str
    anipot_version: str
    members: list[_Member] = Field(min_length=1, max_length=MOST_MEMBERS)
    aev: dict[str, Any]
    dtype: str
    units: dict[str, str]
    about: dict[str, Any]
    repulsion: dict[str, Any] | None = None


def is_anipot(path: Path) -> bool:
    """Whether a file claims to be a safetensors file, by its name or its first bytes."""
    if path.suffix == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**27


def write_anipot(members: Sequence[ANIModel], about: Mapping[str, Any], path: str | Path) -> Path:
    """Write one model or the members of an ensemble atomically; return the path.

    Raises PotentialError if ``about`` is not plain data, a weight is not finite, or the suffix is
    not ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise PotentialError(
            f"{path}: a potential is saved as a {SUFFIX} file, for example {path.stem}{SUFFIX}"
        )
    energies = np.stack([m.self_energies.values for m in members])
    tensors = {"self_energies": torch.as_tensor(energies)}
    for k, member in enumerate(members):
        networks = copy.deepcopy(member.networks)
        networks.fold()  # in the middle of a training, layers may be of normalized AEVs
        for name, value in networks.state_dict().items():
            if not torch.isfinite(value).all():
                of = f" of member {k}" if len(members) > 1 else ""
                raise PotentialError(
                    f"{path}: not saved, because the weights {name}{of} of this model are not all "
                    "finite; train again with a smaller learning_rate"
                )
            tensors[_key(k, name)] = value.detach().cpu().contiguous()
    header = _Header(
        format=FORMAT,
        anipot_version=__version__,
        members=[
            _Member(
                networks=_Networks(**m.networks.options()),
                output_unit=m.output_unit,
                self_energies_note=m.self_energies.note,
                trained=list(m.trained),
                about=_plain(m.about) if len(members) > 1 else {},
            )
            for m in members
        ],
        aev=members[0].aev.settings.to_dict(),
        dtype=str(members[0].dtype).removeprefix("torch."),
        units=UNITS,
        about=_plain(about),
        repulsion=None if members[0].repulsion is None else members[0].repulsion.to_dict(),
    )
    values = header.model_dump()
    for member in values["members"]:
        if member["networks"]["network"] == "mlp":  # as in files of version 0.1.0
            del member["networks"]["network"]
    text = json.dumps(values, sort_keys=True)
    # One key only: safetensors writes several in no fixed order, and equal potentials are to be
    # equal files.
    metadata = {"anipot": f"{_digest(text, tensors)} {text}"}
    with atomic_write(path) as temporary:
        # Not safetensors' own save_file, which says of a full disk only that it is an error.
        temporary.write_bytes(save(tensors, metadata))
    return path


def read_anipot(path: str | Path, *, engine: str = "auto") -> Potential:
    """Read a potential that anipot wrote: an ANIModel, or an ANIEnsemble where it has members.

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
        raise PotentialError(
            f"{path}: not a safetensors file, or cut short ({cut(str(e))})"
        ) from None
    if "anipot" not in metadata:
        raise PotentialError(f"{path}: a safetensors file, but not a potential saved by anipot")
    digest, _, text = metadata["anipot"].partition(" ")
    try:
        if digest != _digest(text, tensors):
            raise PotentialError("damaged; its contents do not match the checksum in it")
        return _build(_read_header(text), tensors, engine)
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors())
        raise PotentialError(f"{path}: its description is not understood: {wrong}") from None
    # Whatever a file made by hand makes of the constructors; AnipotError is a ValueError too.
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, RecursionError) as e:
        first = (str(e) or type(e).__name__).splitlines()[0]  # torch adds a trace of its own code
        raise PotentialError(f"{path}: {cut(first, 500)}") from None


def _read_header(text: str) -> _Header:
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        fields = values if isinstance(values, dict) else {}
        raise PotentialError(
            f"written as {fields.get('format')!r} by anipot {fields.get('anipot_version')}; this "
            f"is anipot {__version__}, which reads {FORMAT!r}"
        )
    header = _Header(**values)
    if header.units != UNITS:
        raise PotentialError(f"its units are {header.units}, and only {UNITS} can be read")
    if header.dtype not in DTYPES:
        raise PotentialError(f"unknown precision {header.dtype!r}; known: {', '.join(DTYPES)}")
    return header


def _build(header: _Header, tensors: dict[str, Tensor], engine: str) -> Potential:
    settings = AEVSettings(**header.aev)
    rows = tensors.pop("self_energies", None)
    shape = (len(header.members), settings.n_elements)
    if rows is None or rows.dtype != torch.float64 or tuple(rows.shape) != shape:
        raise PotentialError(f"self_energies are missing, or not {shape} in float64")
    aev = AEVComputer(settings, engine)
    repulsion = None
    if header.repulsion is not None:
        repulsion = Repulsion.from_dict(header.repulsion, settings.elements)
    members = []
    for k, entry in enumerate(header.members):
        if not set(entry.trained) <= set(settings.elements):
            raise PotentialError(f"trained for {entry.trained}, but it has {settings.elements}")
        networks = _networks(k, entry.networks, settings, DTYPES[header.dtype], tensors)
        energies = SelfEnergies(settings.elements, rows[k].numpy().copy(), entry.self_energies_note)
        about = entry.about if len(header.members) > 1 else header.about
        members.append(
            ANIModel(
                aev,
                networks,
                energies,
                entry.output_unit,
                about,
                tuple(entry.trained),
                repulsion,
            )
        )
    if tensors:
        raise PotentialError(f"unexpected tensors: {', '.join(sorted(tensors))}")
    return members[0] if len(members) == 1 else ANIEnsemble(members, header.about)


def _networks(
    k: int,
    entry: _Networks,
    settings: AEVSettings,
    dtype: torch.dtype,
    tensors: dict[str, Tensor],
) -> AtomicNetworks:
    """The networks of member ``k``; its weights are taken out of ``tensors``."""
    # Without memory until the shapes are known to be those of the tensors in the file; and without
    # random weights, which would move the caller's random state.
    with torch.device("meta"):
        networks = AtomicNetworks(settings.elements, settings.length, **entry.model_dump())
    networks.to(dtype)
    weights: dict[str, Tensor] = {}
    for name, like in networks.state_dict().items():
        key = _key(k, name)
        value = tensors.pop(key, None)
        if value is None or value.shape != like.shape or value.dtype != like.dtype:
            found = "missing" if value is None else f"{tuple(value.shape)} {value.dtype}"
            raise PotentialError(f"{key} must be {tuple(like.shape)} {like.dtype}, but is {found}")
        if not torch.isfinite(value).all():
            raise PotentialError(f"{key} holds numbers that are not finite")
        weights[name] = value.clone()  # the file is mapped into memory, and may change
    networks.load_state_dict(weights, assign=True)
    return networks


def _key(member: int, name: str) -> str:
    """The name in the file of a weight of a member's networks."""
    return f"networks.{member}.{name.replace('.layers.', '.')}"


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
        f"the description of a potential must be numbers, texts, lists or dictionaries, not "
        f"{type(value).__name__} ({value!r})"
    )
