"""Sort the networks of a state dict by member and element, and check their names.

``networks`` finds networks by the shapes of their layers alone, but a branch beside a network (a
skip connection, a second head) can have fitting shapes. The names of the modules say what belongs
together: every network must be all that stands under one name, networks of different elements must
differ in one part of that name (``1.0.``, ``1.1.`` or ``1.H.``, ``1.C.``), and members of an
ensemble in one part before it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ase.data import atomic_names
from torch import Tensor

from anipot.elements import SYMBOLS
from anipot.errors import PotentialError
from anipot.formats.state_dict.networks import Network

_Path = tuple[str, ...]

#: Words in the name of a linear layer that no plain chain of layers has. TorchANI and notebooks use
#: none of them for the layers of an ANI network.
_NO_CHAIN = {
    "skip", "shortcut", "bypass", "res", "resid", "residual", "resblock", "resnet", "highway",
    "downsample", "branch", "branches", "parallel", "gate", "gated", "gating", "glu", "attn",
    "attention", "mha", "query", "key", "transformer", "expert", "experts", "moe", "embed",
    "embedding", "embeddings", "emb", "film", "conv", "lstm", "gru", "rnn", "norm", "layernorm",
    "batchnorm", "groupnorm", "bn", "scale", "scaling", "rescale", "shift",
}  # fmt: skip

#: TorchANI's name of the last layer of a network, which stands beside ``layers``.
_LAST = "final_layer"

_WAY_OUT = (
    "only one plain chain of linear layers for each element can be read. If the model is that, "
    "save its state dict under the names of an nn.Sequential for each element (1.0.0.weight, "
    "1.0.2.weight, ...); if it is not, anipot has no such networks"
)

_SYMBOL_OF_NAME = {name.lower(): s for s, name in zip(SYMBOLS, atomic_names, strict=False)}


class Arrangement(NamedTuple):
    """Networks by member and element. ``symbols`` are None where the names tell no elements."""

    members: list[list[Network]]
    symbols: tuple[str, ...] | None


# ---- the order of the tensors --------------------------------------------------------------------


def order_is_lost(names: Sequence[str]) -> bool:
    """Whether tensors stand in the order of their names, and not as their modules were made.

    torch makes the weight of a layer before its bias. Formats that sort by name put ``bias`` first,
    layer 10 before layer 2, and carbon before hydrogen.
    """
    place = {name: k for k, name in enumerate(names)}
    for name, k in place.items():
        if name.endswith(".bias") and place.get(f"{name.removesuffix('bias')}weight", -1) > k:
            return True
    return list(names) == sorted(names) and list(names) != _by_number(names)


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that were sorted by name, in the order of the numbers in their names."""
    return {name: tensors[name] for name in _by_number(list(tensors))}


def _by_number(names: Sequence[str]) -> list[str]:
    """Names with numbers (``2``, ``10``, or ``fc2``, ``fc10``) in the order of these."""
    children: dict[_Path, dict[str, int]] = {}
    for name in names:
        path = tuple(name.split("."))
        for depth in range(len(path)):
            children.setdefault(path[:depth], {}).setdefault(path[depth], 0)
    for ranks in children.values():
        numbered = _numbers(list(ranks))
        for k, child in enumerate(ranks):
            ranks[child] = k if numbered is None else numbered[k]

    def key(name: str) -> list[int]:
        path = tuple(name.split("."))
        return [children[path[:depth]][path[depth]] for depth in range(len(path))]

    return sorted(names, key=key)


def _numbers(keys: Sequence[str], bare: bool = False) -> list[int] | None:
    """The numbers at the end of keys that are the same before it (``bare``: have nothing there)."""
    found = [re.fullmatch(r"(.*?)(\d{1,9})", key) for key in keys]
    if any(f is None or f[1] != found[0][1] or (bare and f[1]) for f in found):  # type: ignore[index]
        return None
    return [int(f[2]) for f in found if f is not None]


# ---- members and elements ------------------------------------------------------------------------


def arrange(networks: list[Network], count: int, lost: bool = False) -> Arrangement:
    """Members and elements of ``networks``, of which every member has ``count``.

    ``lost``: the order of the tensors is not that of the model. Raises PotentialError, naming the
    modules, where names and shapes do not agree.
    """
    for network in networks:
        _check_chain(network)
        if lost:
            _check_order(network)
    if len(networks) == 1:
        symbol = networks[0].symbol
        return Arrangement([networks], None if symbol is None else (symbol,))
    heads = _heads(networks)
    parts = [p for p in range(len(heads[0])) if len({head[p] for head in heads}) > 1]
    keys = [tuple(head[p] for p in parts) for head in heads]
    members = [networks[k : k + count] for k in range(0, len(networks), count)]
    inner = [key[-1] for key in keys[:count]]
    outer = list(dict.fromkeys(key[:-1] for key in keys))
    symbols: tuple[str, ...] | None = None
    if count == 1 and len(parts) == 1:  # members of one element
        if _numbers([key[0] for key in keys]) is None:
            raise _beside(networks, heads)
        symbols = None if networks[0].symbol is None else (networks[0].symbol,)
    else:
        if len(parts) > 2 or keys != [(*o, i) for o in outer for i in inner]:
            named = [_symbol(part) for part in {key[-1] for key in keys}]
            if len(parts) <= 2 and None not in named and len(named) == count:
                raise PotentialError("its members have networks for different elements, or orders")
            raise _beside(networks, heads)
        if len(members) != len(outer) or (
            len(parts) == 2 and _numbers([key[0] for key in outer]) is None
        ):
            raise _beside(networks, heads)
        symbols = _symbols(inner)
        numbers = _numbers(inner)
        if symbols is None and len(parts) == 2 and _numbers(inner, bare=True) is None:
            raise _beside(networks, heads)
        if symbols is None and numbers is not None:
            symbols = _atomic_numbers(inner, numbers, heads[0])
    for member in members:
        _check_alike(member, len(heads[0]))
    _check_complete(networks, len(heads[0]))
    return Arrangement(members, symbols)


def _heads(networks: list[Network]) -> list[_Path]:
    """For every network the shortest beginning of a name that its modules, and they alone, have."""
    found = [[tuple(m.path.split(".")) for m in n.modules] for n in networks]
    depth = min(len(path) for paths in found for path in paths)
    plain: Callable[[str], str] = str
    # Layers may have the element in their own names: fc1_H, fc2_H, fc1_C, ...
    for word in (plain, lambda part: _symbol(part) or part):
        for length in range(1, depth + 1):
            heads = [{tuple(map(word, path[:length])) for path in paths} for paths in found]
            if all(len(h) == 1 for h in heads) and len(set.union(*heads)) == len(networks):
                return [h.pop() for h in heads]
    raise _beside(networks, None)


def _symbol(part: str) -> str | None:
    """The element in a part of a name: ``H``, ``net_H``, ``h_net``, ``hydrogen``."""
    words = re.split(r"[_-]", part)
    for one in (
        [w for w in words if w in SYMBOLS[1:]],
        [s for w in words if (s := _SYMBOL_OF_NAME.get(w.lower())) in SYMBOLS[1:]],
        [w.capitalize() for w in words if w.islower() and w.capitalize() in SYMBOLS[1:]],
    ):
        if one:
            return one[0] if len(one) == 1 else None
    return None


def _symbols(keys: Sequence[str]) -> tuple[str, ...] | None:
    """Return the elements if every key names a different one, else None."""
    found = [s for key in keys if (s := _symbol(key)) is not None]
    return tuple(found) if len(set(found)) == len(keys) else None


def _atomic_numbers(
    keys: Sequence[str], numbers: Sequence[int], head: _Path
) -> tuple[str, ...] | None:
    """Elements, where networks have atomic numbers for names; None for networks that are counted.

    Raises PotentialError for numbers that are neither.
    """
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    bare = _numbers(keys, bare=True) is not None
    gaps = sorted(numbers) != list(range(min(numbers), min(numbers) + len(numbers)))
    if bare and gaps and all(0 < n < len(SYMBOLS) for n in numbers):
        return tuple(SYMBOLS[n] for n in numbers)
    raise PotentialError(
        f"its networks are numbered {', '.join(keys)} ({'.'.join(head)}, ...), which is no order "
        "of elements; save the state dict as model.state_dict() gives it"
    )


def _beside(networks: list[Network], heads: list[_Path] | None) -> PotentialError:
    """An error that names modules which are networks by their shapes, but not by their names."""
    if heads is None:  # the layers of some network stand under different names, or all in one
        apart = [n for n in networks if len({m.path.rpartition(".")[0] for m in n.modules}) > 1]
        paths = [m.path for n in apart[:1] or networks for m in n.modules]
    else:
        paths = [".".join(head) for head in heads]
        together = [p for p, head in zip(paths, heads, strict=True) if head[:-1] == heads[0][:-1]]
        paths = together if len(together) > 1 else paths
    shown = ", ".join(paths[:4]) + (", ..." if len(paths) > 4 else "")
    return PotentialError(
        f"by their shapes {shown} would be networks or layers of one, but their names do not tell "
        f"which belongs to which element; {_WAY_OUT}"
    )


# ---- one network ---------------------------------------------------------------------------------


def _check_chain(network: Network) -> None:
    """Raise PotentialError if the names contradict a plain chain of layers."""
    layers = [m for m in network.modules if not m.norm]
    for layer in layers:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", layer.path)
        if no_chain := [w for w in words if w.lower() in _NO_CHAIN]:
            raise PotentialError(
                f"{layer.path} has the shape of a plain layer, but by its name ({no_chain[0]}) it "
                f"is none; {_WAY_OUT}"
            )
    for first, second in itertools.pairwise(network.modules):
        a, b = (m.path.rpartition(".") for m in (first, second))
        if a[0] == b[0] and a[2].isdigit() and b[2].isdigit() and int(a[2]) >= int(b[2]):
            raise PotentialError(
                f"{second.path} stands behind {first.path}; save the state dict as "
                "model.state_dict() gives it"
            )
    for one, two in itertools.pairwise(layers):
        beside = one.path.rpartition(".")[0] != two.path.rpartition(".")[0]
        if len(one.weight) == 1 and beside and not two.path.endswith(f".{_LAST}"):
            raise PotentialError(
                f"{one.path} gives one value, as the end of a network, but {two.path} is left over "
                f"and reads one; {_WAY_OUT}"
            )


def _check_order(network: Network) -> None:
    """Raise PotentialError if the order of layers with equal shapes is unknown."""
    first: dict[tuple[int, ...], str] = {}
    for layer in network.modules:
        shape = tuple(layer.tensors["running_mean" if layer.norm else "weight"].shape)
        other = first.setdefault(shape, layer.path)
        parts = zip(other.split("."), layer.path.split("."), strict=False)
        differing = next(((a, b) for a, b in parts if a != b), None)
        if differing is not None and _numbers(differing) is None:
            raise PotentialError(
                f"its tensors are sorted by name, so which of {other} and {layer.path} comes first "
                "is lost; save the state dict as model.state_dict() gives it"
            )


def _check_alike(member: list[Network], length: int) -> None:
    """The networks of a member must have names of the same kind behind that of the element."""
    kinds = [
        {re.sub(r"\d+", "0", ".".join(m.path.split(".")[length:])) for m in network.modules}
        for network in member
    ]
    largest = max(kinds, key=len)
    for network, kind in zip(member, kinds, strict=True):
        if not kind <= largest:
            raise PotentialError(
                f"{network.path} does not have the names that the layers of other networks have; "
                f"{_WAY_OUT}"
            )


def _check_complete(networks: list[Network], length: int) -> None:
    """Networks with the same layers must have biases (and weights of norms) in the same layers."""
    first: dict[tuple[_Path, ...], Network] = {}
    for network in networks:
        rest = tuple(tuple(m.path.split(".")[length:]) for m in network.modules)
        for module, other in zip(
            network.modules, first.setdefault(rest, network).modules, strict=True
        ):
            if different := set(module.tensors) ^ set(other.tensors):
                name = min(different)
                has, lacks = (module, other) if name in module.tensors else (other, module)
                raise PotentialError(
                    f"{has.path}.{name} is there, but {lacks.path}.{name} is not; a part of the "
                    "state dict is missing"
                )
