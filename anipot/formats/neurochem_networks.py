"""NeuroChem's networks: ``ANN-<symbol>.nnf`` with the layers, raw files with the weights."""

from __future__ import annotations

import bz2
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.formats.safe_reading import MAX_TEXT, inside, is_number, naming, read_bytes, short
from anipot.networks.atomic import AtomicNetworks

#: NeuroChem's numbers of activations. 6 is none, and only the last layer has it.
ACTIVATIONS = {5: "gaussian", 9: "celu"}
LINEAR = 6

#: More than any real potential has: what a damaged or hostile file can make us read.
MAX_LAYERS = 64
MAX_WEIGHTS = 1 << 28  # of all members together: 1 GiB in float32

_STATEMENT = re.compile(r"\s*(\w+)\s*=\s*([^;\s]*)\s*;")
_ARRAY = re.compile(r"FILE:([^\[\]:]+)\[(\d{1,9})\]")


@dataclass
class Budget:
    """Number of weights that a potential may still have."""

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


def read_networks(folder: Path, settings: AEVSettings, budget: Budget) -> AtomicNetworks:
    """The networks of one member, float32, from its folder ``networks``; they give hartree.

    Raises PotentialError that names the file and what is wrong with it.
    """
    hidden: dict[str, list[int]] = {}
    weights: dict[str, torch.Tensor] = {}
    activations: dict[str, int] = {}
    for element in settings.elements:
        path = folder / f"ANN-{element}.nnf"
        with naming(path):
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
                arrays.append((f"{key}.weight", inside(folder, layer.weights), shape))
                arrays.append((f"{key}.bias", inside(folder, layer.biases), shape[:1]))
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
    content = read_bytes(path, MAX_TEXT)
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
            f"its text must begin with 'inputsize=N; atom_net {element} $', not {short(head)}"
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
    """Layer ``k`` from the text behind its bracket; ``end`` matches what closes it."""
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
            f"layer {k}: not understood at {short(block[position:])}; 'key=value;' is expected"
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
        if not (is_number(value) or re.fullmatch("[+-]?(nan|inf)", value)):
            raise PotentialError(f"layer {k}: {key} must be a number, but is {short(value)}")
        if key in ("nodes", "blocksize", "activation", "btchnorm"):
            if not re.fullmatch(r"\d{1,9}", value):
                raise PotentialError(f"layer {k}: {key} must be a whole number, not {short(value)}")
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
    """Read raw little-endian float32 as an array of this shape."""
    with naming(path):
        size = 4 * math.prod(shape)
        content = read_bytes(path, size)
        if len(content) != size:
            raise PotentialError(
                f"{len(content):,} bytes, but {' x '.join(map(str, shape))} numbers in float32 "
                f"have {size:,}"
            )
        array = np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)
        if not np.isfinite(array).all():
            raise PotentialError("it holds numbers that are not finite")
        return array
