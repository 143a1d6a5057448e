"""NeuroChem's files: the format in which ANI-1x, ANI-1ccx and ANI-2x were published.

A ``.params`` file (constants of the AEV, order of elements), a ``sae_linfit.dat`` (self energies),
and one folder a member with a ``.nnf`` (layers) and raw ``.wparam`` and ``.bparam`` for each
element. The texts are parsed and never evaluated; what a file claims is bounded before anything is
made of it, and names in files lead nowhere outside the potential's own folder.
"""

from __future__ import annotations

import bz2
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.elements import parse_elements
from anipot.ensemble import ANIEnsemble
from anipot.errors import PotentialError, SettingsError
from anipot.model import ANIModel
from anipot.networks import DTYPES, AtomicNetworks
from anipot.potentials.published import recognised
from anipot.self_energies import SelfEnergies

#: NeuroChem's numbers of activations. 6 is none, and only the last layer has it.
ACTIVATIONS = {5: "gaussian", 9: "celu"}
LINEAR = 6

#: More than any real potential has: what a damaged or hostile file can make us read.
MAX_TEXT = 1 << 20  # bytes of a text, also after decompression
MAX_MEMBERS = 1000
MAX_LAYERS = 64
MAX_WEIGHTS = 1 << 28  # of all members together: 1 GiB in float32

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_STATEMENT = re.compile(r"\s*(\w+)\s*=\s*([^;\s]*)\s*;")
_ARRAY = re.compile(r"FILE:([^\[\]:]+)\[(\d{1,9})\]")


def is_neurochem(path: Path) -> bool:
    """Whether ``path`` is a ``.info`` file, or the folder of an ensemble or of one member."""
    try:
        if path.is_dir():
            return bool(
                _infos(path) or (path / "train0").is_dir() or any(path.glob("networks/ANN-*.nnf"))
            )
        return path.suffix == ".info" and path.is_file()
    except OSError:
        return False


def read_neurochem(
    path: str | Path, *, dtype: torch.dtype = torch.float32, engine: str = "auto"
) -> ANIEnsemble | ANIModel:
    """Read a published potential, or another in NeuroChem's format, ready for use on the CPU.

    ``path`` is a ``.info`` file (its paths are relative to its folder), the folder of an ensemble
    (``train0``, ``train1``, ..., one ``.params`` file and a ``sae_linfit.dat``), or the folder of
    one member (``networks``, the two other files in it or above), which gives an ANIModel. Networks
    give hartree. ``dtype`` is the networks' precision, float32 as in the files, or float64; self
    energies are float64 always.

    Raises PotentialError that names the file and what is wrong with it; SettingsError for an
    unknown ``engine`` or ``dtype``.
    """
    if dtype not in DTYPES.values():
        raise SettingsError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}")
    found = _locate(Path(path))
    settings = _read_params(found.params)
    own = _read_self_energies(found.self_energies, settings.elements)
    try:
        aev = AEVComputer(settings, engine)
    except SettingsError as e:
        raise SettingsError(f"{path}: {e}") from None
    budget = _Budget()
    members = []
    for folder in found.members:
        networks = _read_networks(folder / "networks", settings, budget).to(dtype)
        members.append(ANIModel(aev, networks, own, "hartree", trained=settings.elements))
    origin = recognised(found.params.parent)
    about = {"format": "NeuroChem", **(origin.about if origin else {})}
    if found.single:
        members[0].about = about
        return members[0].eval()
    return ANIEnsemble(members, about).eval()


# ---- which files ---------------------------------------------------------------------------------


class _Located(NamedTuple):
    params: Path
    self_energies: Path
    members: list[Path]
    single: bool  # one member of its own, not an ensemble


def _locate(path: Path) -> _Located:
    if not path.exists():
        raise PotentialError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return _from_info(path)
    if infos := _infos(path):
        if len(infos) > 1:
            names = ", ".join(p.name for p in infos)
            raise PotentialError(f"{path} holds several potentials; name one of {names}")
        return _from_info(infos[0])
    if (path / "networks").is_dir():
        return _Located(
            _only(path, "*.params", above=True), _only(path, "sae*.dat", above=True), [path], True
        )
    numbers = [p for p in path.glob("train*") if re.fullmatch(r"train\d+", p.name)]
    members = sorted(numbers, key=lambda p: (len(p.name), p.name))
    if not members:
        raise PotentialError(
            f"{path}: not a folder in NeuroChem's format, which has a .info file, train0, train1, "
            "... or networks in it"
        )
    for k, member in enumerate(members):
        if member.name != f"train{k}":
            raise PotentialError(f"{path}: {member.name} is there, but train{k} is missing")
    return _Located(_only(path, "*.params"), _only(path, "sae*.dat"), members, False)


def _infos(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.info"))


def _only(folder: Path, pattern: str, above: bool = False) -> Path:
    """The one file of that pattern in a folder, or else in the folder above."""
    folders = [folder, folder.resolve().parent] if above else [folder]
    for place in folders:
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise PotentialError(f"{place}: one {pattern} file is needed, but there are {names}")
        if found:
            return found[0]
    raise PotentialError(f"{folder}: no {pattern} file in it" + (" or above it" if above else ""))


def _from_info(path: Path) -> _Located:
    """The four lines of a ``.info`` file: parameters, self energies, prefix of members, count."""
    with _naming(path):
        lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
        if len(lines) != 4:
            raise PotentialError(
                f"a .info file has four lines (parameter file, self-energy file, prefix of the "
                f"members, their number), and this one has {len(lines)}"
            )
        if not re.fullmatch(r"\d{1,9}", lines[3]) or not 1 <= int(lines[3]) <= MAX_MEMBERS:
            raise PotentialError(
                f"the number of members (line 4) must be 1 to {MAX_MEMBERS}, not {lines[3][:40]!r}"
            )
        params, self_energies, prefix = (_inside(path.parent, line) for line in lines[:3])
        count = int(lines[3])
        members = [prefix.with_name(f"{prefix.name}{k}") for k in range(count)]
        missing = [m for m in members if not m.is_dir()]
        if missing:
            raise PotentialError(
                f"it says {count} members, but only {count - len(missing)} of their folders are "
                f"there; missing: {missing[0]}"
            )
    return _Located(params, self_energies, members, False)


def _inside(folder: Path, name: str) -> Path:
    """``folder / name``, for a name written in a file, which must not lead out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or re.search(r"[\\:\x00]", name):
        raise PotentialError(f"the path {name[:80]!r} leads out of the potential's folder")
    return folder.joinpath(*parts)


# ---- texts ---------------------------------------------------------------------------------------


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the block name the file."""
    try:
        yield
    except FileNotFoundError:
        raise PotentialError(f"{path}: there is no such file") from None
    except OSError as e:
        raise PotentialError(f"{path}: cannot be read ({e.strerror or e})") from None
    except (PotentialError, SettingsError) as e:
        raise PotentialError(f"{path}: {e}") from None


def _read(path: Path, most: int) -> bytes:
    """All bytes of an ordinary file, which must not be more than ``most``."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise PotentialError("this is not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise PotentialError(f"it has more than the {most:,} bytes that it should have at most")
    return content


def _text(path: Path) -> str:
    try:
        return _read(path, MAX_TEXT).decode("ascii")
    except UnicodeDecodeError as e:
        raise PotentialError(f"not a text in ASCII (byte {e.start})") from None


def _number(text: str, what: str) -> float:
    if not _NUMBER.fullmatch(text.strip()):
        raise PotentialError(f"{what} must be a number, but is {_short(text)}")
    return float(text)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


_SCALARS = {"Rcr": "radial_cutoff", "Rca": "angular_cutoff"}
_LISTS = {
    "EtaR": "radial_eta",
    "ShfR": "radial_shifts",
    "EtaA": "angular_eta",
    "Zeta": "zeta",
    "ShfA": "angular_shifts",
    "ShfZ": "angle_shifts",
}


def _read_params(path: Path) -> AEVSettings:
    """``Key = value`` a line: the constants with the digits in the file; other keys are ignored."""
    with _naming(path):
        raw: dict[str, str] = {}
        for line in _text(path).splitlines():
            key, equals, value = line.partition("=")
            key = key.strip()
            if not equals or key not in {*_SCALARS, *_LISTS, "Atyp"}:
                continue
            if key in raw:
                raise PotentialError(f"{key} is there twice")
            raw[key] = value.strip()
        lacking = [k for k in (*_SCALARS, *_LISTS, "Atyp") if k not in raw]
        if lacking:
            raise PotentialError(f"{', '.join(lacking)} missing")
        lists = {}
        for key in (*_LISTS, "Atyp"):
            if not re.fullmatch(r"\[[^\[\]]*\]", raw[key]):
                raise PotentialError(f"{key} must be a list in brackets, but is {_short(raw[key])}")
            lists[key] = [item.strip() for item in raw[key][1:-1].split(",")]
        values: dict[str, Any] = {n: _number(raw[key], key) for key, n in _SCALARS.items()}
        for key, name in _LISTS.items():
            values[name] = tuple(_number(v, key) for v in lists[key])
        return AEVSettings(parse_elements(lists["Atyp"]), **values)


def _read_self_energies(path: Path, elements: tuple[str, ...]) -> SelfEnergies:
    """``H,0=-0.600952980000`` a line, hartree. Symbols decide, not the index behind them."""
    with _naming(path):
        energies: dict[str, float] = {}
        for k, line in enumerate(_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            found = re.fullmatch(r"\s*([A-Z][a-z]?)\s*,\s*\d+\s*=(.*)", line)
            if not found:
                raise PotentialError(
                    f"line {k} must read as 'H,0=-0.6009', not {_short(line)} (symbol, index, "
                    "self energy in hartree)"
                )
            symbol, value = found.groups()
            if symbol in energies:
                raise PotentialError(f"two self energies of {symbol}")
            energies[symbol] = _number(value, f"the self energy of {symbol}")
        lacking = [e for e in elements if e not in energies]
        if lacking:
            raise PotentialError(f"no self energy of {', '.join(lacking)}")
        if not all(math.isfinite(energies[e]) for e in elements):
            raise PotentialError("a self energy is not finite")
        return SelfEnergies(elements, np.array([energies[e] for e in elements]))


# ---- networks ------------------------------------------------------------------------------------


@dataclass
class _Budget:
    """How many weights a potential may still have."""

    left: int = field(default=MAX_WEIGHTS)

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise PotentialError(f"more than the {MAX_WEIGHTS:,} weights a potential may have")


class _Layer(NamedTuple):
    fan_in: int
    nodes: int
    activation: int
    weights: str
    biases: str


def _read_networks(folder: Path, settings: AEVSettings, budget: _Budget) -> AtomicNetworks:
    hidden: dict[str, list[int]] = {}
    weights: dict[str, torch.Tensor] = {}
    activations: dict[str, int] = {}
    for element in settings.elements:
        path = folder / f"ANN-{element}.nnf"
        with _naming(path):
            if not path.exists():
                raise PotentialError(
                    f"the network of {element} is missing, an element of the parameter file"
                )
            layers = _parse_nnf(_decompressed(path), element, settings.length)
            activations |= {element: layers[0].activation} if len(layers) > 1 else {}
            first = next(iter(activations.values()), LINEAR)
            if activations.get(element, first) != first:
                raise PotentialError(
                    f"activation {activations[element]} here, but {first} in the network of "
                    f"{next(iter(activations))}; all networks must have the same"
                )
            hidden[element] = [layer.nodes for layer in layers[:-1]]
            arrays: list[tuple[str, Path, tuple[int, ...]]] = []
            for k, layer in enumerate(layers):
                key, shape = f"{element}.layers.{k}", (layer.nodes, layer.fan_in)
                arrays.append((f"{key}.weight", _inside(folder, layer.weights), shape))
                arrays.append((f"{key}.bias", _inside(folder, layer.biases), shape[:1]))
                budget.take(math.prod(shape) + layer.nodes)
        for key, file, size in arrays:  # errors of theirs name their own files
            weights[key] = torch.from_numpy(_read_array(file, size))
    first = next(iter(activations.values()), LINEAR)
    with torch.device("meta"):  # no random weights, which would move the caller's random state
        networks = AtomicNetworks(
            settings.elements, settings.length, hidden, ACTIVATIONS.get(first, "celu")
        )
    networks.load_state_dict(weights, assign=True)
    return networks


def _decompressed(path: Path) -> str:
    """The text of a ``.nnf``: its length in ASCII, ``=``, newline, a bz2 stream; NUL at the end."""
    content = _read(path, MAX_TEXT)
    head, equals, packed = content.partition(b"=\n")
    if not equals or not re.fullmatch(rb"\d{1,7}", head):
        raise PotentialError("it does not begin with the length of its text, '=' and a new line")
    length = int(head)
    if length > MAX_TEXT:
        raise PotentialError(f"its text has {length:,} bytes, and {MAX_TEXT:,} are the most")
    stream = bz2.BZ2Decompressor()
    try:
        text = stream.decompress(packed, max_length=length + 1)  # never more than it claims
    except (OSError, ValueError) as e:
        raise PotentialError(f"its bz2 stream is damaged ({e})") from None
    if len(text) <= length and not stream.eof:
        raise PotentialError("its bz2 stream is cut short")
    if len(text) != length:
        more = "more" if len(text) > length else f"{len(text):,}"
        raise PotentialError(f"its text should have {length:,} bytes, but has {more}")
    try:
        return text.rstrip(b"\x00").decode("ascii")
    except UnicodeDecodeError as e:
        raise PotentialError(f"its text is not ASCII (byte {e.start})") from None


def _parse_nnf(text: str, element: str, length: int) -> list[_Layer]:
    """``inputsize=384; atom_net C $ layer [ key=value; ... ] ... $``: the layers, checked."""
    head, *blocks = re.split(r"\blayer\s*\[", text)
    found = re.fullmatch(r"\s*inputsize\s*=\s*(\d{1,9})\s*;\s*atom_net\s+(\w+)\s*\$\s*", head)
    if not found:
        raise PotentialError(
            f"its text must begin with 'inputsize=N; atom_net {element} $', not {_short(head)}"
        )
    if int(found[1]) != length:
        raise PotentialError(
            f"inputsize is {found[1]}, but the parameter file makes an AEV of {length}"
        )
    if found[2] != element:
        raise PotentialError(f"this is the network of {found[2]}, not of {element}")
    if not 1 <= len(blocks) <= MAX_LAYERS:
        raise PotentialError(f"1 to {MAX_LAYERS} layers are needed, and there are {len(blocks)}")
    layers = []
    for k, block in enumerate(blocks, start=1):
        end = r"\s*\]\s*(?:\$\s*)?" if k == len(blocks) else r"\s*\]\s*"
        layers.append(_parse_layer(block, k, end))
    for k, (layer, fan_in) in enumerate(
        zip(layers, [length, *(before.nodes for before in layers)], strict=False), start=1
    ):
        if layer.fan_in != fan_in:
            raise PotentialError(f"layer {k}: blocksize is {layer.fan_in}, but {fan_in} goes in")
        wanted = [LINEAR] if k == len(layers) else list(ACTIVATIONS)
        if layer.activation not in wanted:
            names = {LINEAR: "linear"} | ACTIVATIONS
            known = " or ".join(f"{n} ({names[n]})" for n in wanted)
            place = "the last layer" if k == len(layers) else "a hidden layer"
            raise PotentialError(
                f"layer {k}: activation {layer.activation}; {place} may have {known}"
            )
    different = {layer.activation for layer in layers[:-1]}
    if len(different) > 1:
        raise PotentialError(f"hidden layers with different activations: {sorted(different)}")
    if layers[-1].nodes != 1:
        raise PotentialError(f"the last layer has {layers[-1].nodes} nodes instead of 1")
    return layers


def _parse_layer(block: str, k: int, end: str) -> _Layer:
    values: dict[str, str] = {}
    position = 0
    while statement := _STATEMENT.match(block, position):
        key, value = statement.groups()
        if key in values:
            raise PotentialError(f"layer {k}: {key} is there twice")
        values[key] = value
        position = statement.end()
    if not re.fullmatch(end, block[position:]):
        raise PotentialError(
            f"layer {k}: not understood at {_short(block[position:])}; 'key=value;' is expected"
        )
    arrays: dict[str, tuple[str, int]] = {}
    numbers: dict[str, int] = {}
    for key in ("weights", "biases"):
        array = _ARRAY.fullmatch(values.pop(key, ""))
        if not array:
            raise PotentialError(f"layer {k}: {key} must be given as FILE:NAME[count]")
        arrays[key] = array[1], int(array[2])
    for key, value in values.items():
        # What says how the layer was trained is of no use here, but is no place for anything else.
        if not (_NUMBER.fullmatch(value) or re.fullmatch("[+-]?(nan|inf)", value)):
            raise PotentialError(f"layer {k}: {key} must be a number, but is {_short(value)}")
        if key in ("nodes", "blocksize", "activation", "btchnorm"):
            if not re.fullmatch(r"\d{1,9}", value):
                raise PotentialError(f"layer {k}: {key} must be a whole number, but is {value}")
            numbers[key] = int(value)
    for key in ("nodes", "blocksize", "activation"):
        if key not in numbers:
            raise PotentialError(f"layer {k}: {key} is missing")
    if numbers.get("btchnorm"):
        raise PotentialError(f"layer {k}: it has batch normalization, which is not supported")
    nodes, fan_in = numbers["nodes"], numbers["blocksize"]
    if nodes < 1:
        raise PotentialError(f"layer {k}: it has no nodes")
    for key, count in (("weights", nodes * fan_in), ("biases", nodes)):
        if arrays[key][1] != count:
            raise PotentialError(
                f"layer {k}: {count:,} {key} are needed for {fan_in} inputs and {nodes} nodes, "
                f"but {arrays[key][1]:,} are given"
            )
    return _Layer(fan_in, nodes, numbers["activation"], arrays["weights"][0], arrays["biases"][0])


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Raw little-endian float32, row by row: an array of that shape."""
    with _naming(path):
        size = 4 * math.prod(shape)
        content = _read(path, size)
        if len(content) != size:
            raise PotentialError(
                f"{len(content):,} bytes, but {' x '.join(map(str, shape))} numbers in float32 "
                f"have {size:,}"
            )
        array = np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)
        if not np.isfinite(array).all():
            raise PotentialError("it holds numbers that are not finite")
        return array
