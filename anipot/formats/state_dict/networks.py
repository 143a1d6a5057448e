"""Find the networks in a state dict by order and shape of its tensors, and fold batch norms.

A state dict holds no program. What is known: tensors stand in the order in which the modules were
made, every network reads an AEV and gives one value, and the numbers in the names of an
``nn.Sequential`` leave gaps where modules without tensors (activations, dropout) stand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from anipot.elements import SYMBOLS
from anipot.errors import PotentialError

#: Where batch norm stands: before or after the activation of its layer.
Side = Literal["before", "after"]

#: torch's default for what a batch norm adds to the variance; it is not in a state dict.
EPSILON = 1e-5

_LEAVES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


class Linear(NamedTuple):
    """weight (out, in) and bias (out,)."""

    weight: Tensor
    bias: Tensor


class _Module(NamedTuple):
    path: str
    tensors: dict[str, Tensor]

    @property
    def norm(self) -> bool:
        return "running_mean" in self.tensors

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]


@dataclass(frozen=True)
class Network:
    """The modules of one element's network, in their order, without those that have no tensors."""

    modules: tuple[_Module, ...]

    @property
    def path(self) -> str:
        return self.modules[0].path

    @property
    def inputs(self) -> int:
        """Columns of the AEV that it reads."""
        return next(m.weight.shape[1] for m in self.modules if not m.norm)

    @property
    def symbol(self) -> str | None:
        """The element in its name (``1.H.0.weight``, ``net_H.0.weight``), if there is one."""
        words = [part.split("_")[-1] for part in self.path.split(".")]
        found = [w for w in words if w in SYMBOLS[1:]]
        return found[0] if len(found) == 1 else None

    @property
    def biased(self) -> bool:
        return any("bias" in m.tensors for m in self.modules)

    @property
    def linear(self) -> bool:
        """Whether it is one layer, which has no activation."""
        return sum(not m.norm for m in self.modules) == 1

    @property
    def normalized(self) -> bool:
        return any(m.norm for m in self.modules)

    def undecided(self) -> str | None:
        """Return the first batch norm whose names do not tell its side of the activation."""
        for k, module in enumerate(self.modules):
            if module.norm and self._side(k) is None:
                return module.path
        return None

    def linears(self, side: Side | None = None) -> list[Linear]:
        """Its linear layers in float64, with every batch norm folded, as it is in evaluation.

        A batch norm before the activation becomes part of the layer before it; one after it, or on
        the AEV, of the layer behind it. ``side`` says which where the names do not.
        """
        result: list[Linear] = []
        scale = shift = None  # of what the next layer reads
        for k, module in enumerate(self.modules):
            if not module.norm:
                weight = module.weight.double()
                bias = module.tensors.get("bias")
                bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
                if scale is not None and shift is not None:
                    weight, bias, scale, shift = weight * scale, bias + weight @ shift, None, None
                result.append(Linear(weight, bias))
                continue
            mean, variance = module.tensors["running_mean"], module.tensors["running_var"]
            factor = 1 / torch.sqrt(variance.double() + EPSILON)
            if "weight" in module.tensors:
                factor = factor * module.weight.double()
            offset = -mean.double() * factor
            if "bias" in module.tensors:
                offset = offset + module.tensors["bias"].double()
            if (self._side(k) or side) == "after":
                if scale is not None and shift is not None:
                    factor, offset = scale * factor, shift * factor + offset
                scale, shift = factor, offset
            else:
                weight, bias = result[-1]
                result[-1] = Linear(weight * factor[:, None], bias * factor + offset)
        return result

    def _side(self, k: int) -> Side | None:
        """Return the side of batch norm ``k``; None if the names do not tell."""
        if not any(not m.norm for m in self.modules[:k]):
            return "after"  # it reads the AEV: there is no layer before it
        if k + 1 == len(self.modules):
            return "before"  # of the output
        before = _gap(self.modules[k - 1].path, self.modules[k].path)
        after = _gap(self.modules[k].path, self.modules[k + 1].path)
        if before == 0 and after != 0:
            return "before"
        return "after" if after == 0 and before != 0 else None


def _gap(first: str, second: str) -> int | None:
    """Number of modules without tensors between two in an ``nn.Sequential``; None if unknown."""
    a, b = first.rpartition("."), second.rpartition(".")
    if a[0] != b[0] or not (a[2].isdigit() and b[2].isdigit()):
        return None
    return int(b[2]) - int(a[2]) - 1


def find_networks(tensors: dict[str, Tensor]) -> list[Network]:
    """The networks among ``tensors``, in their order.

    Raises PotentialError, naming the tensor, for what is no stack of linear layers and batch norms
    that ends in one value.
    """
    networks: list[list[_Module]] = []
    width: int | None = None  # of what the network gives so far
    for module in _modules(tensors):
        reads = len(module.tensors["running_mean"]) if module.norm else module.weight.shape[1]
        if not networks or (width == 1 and reads != 1):
            if networks:
                _finish(networks[-1])
            networks.append([])
            width = None
        if width is not None and reads != width:
            raise PotentialError(
                f"{module.path} reads {reads} values, but {networks[-1][-1].path} before it gives "
                f"{width}; only plain networks of layers one after another can be read"
            )
        networks[-1].append(module)
        width = reads if module.norm else len(module.weight)
    if networks:
        _finish(networks[-1])
    return [Network(tuple(n)) for n in networks]


def _finish(modules: list[_Module]) -> None:
    """Check that a network has an end, and layers with room for activations between them."""
    layers = [m for m in modules if not m.norm]
    if not layers or len(layers[-1].weight) != 1:
        found = f"ends with {len(layers[-1].weight)} values" if layers else "has no linear layer"
        raise PotentialError(f"the network {modules[0].path} {found}; an atomic energy is one")
    pairs = [(a.path, b.path) for a, b in itertools.pairwise(modules) if not (a.norm or b.norm)]
    gaps = [_gap(a, b) for a, b in pairs]
    if 0 in gaps and any(gaps):  # an nn.Sequential, and not a list with activations in between
        a, b = pairs[gaps.index(0)]
        raise PotentialError(f"between {a} and {b} there is no room for an activation")
    if modules[-1].norm and _gap(modules[-2].path, modules[-1].path):
        raise PotentialError(f"{modules[-1].path} normalizes the output behind another layer")


def _modules(tensors: dict[str, Tensor]) -> list[_Module]:
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        if leaf not in _LEAVES:
            raise PotentialError(
                f"{name} belongs to no linear layer, batch norm or AEV computer; such a model "
                "cannot be read"
            )
        grouped.setdefault(path, {})[leaf] = tensor
    modules = [_Module(path, leaves) for path, leaves in grouped.items()]
    for path, leaves in modules:
        vectors = [t for leaf, t in leaves.items() if leaf not in ("weight", "num_batches_tracked")]
        if "running_mean" in leaves:
            vectors += [leaves["weight"]] if "weight" in leaves else []
            size = len(leaves["running_mean"].reshape(-1))
            fine = "running_var" in leaves and bool((leaves["running_var"] >= 0).all())
        else:
            weight = leaves.get("weight")
            fine = weight is not None and weight.ndim == 2 and min(weight.shape) > 0
            size = len(weight) if fine and weight is not None else 0
        if not fine or any(tuple(v.shape) != (size,) for v in vectors):
            shapes = ", ".join(f"{leaf} {tuple(t.shape)}" for leaf, t in leaves.items())
            raise PotentialError(f"{path} is no linear layer and no batch norm: {shapes}")
    return modules
