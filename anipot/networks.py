"""AtomicNet: the network of one element. AtomicNetworks: one for each element of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from anipot.errors import SettingsError

#: Precisions of networks, by name.
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Gaussian(nn.Module):
    """exp(-x^2), the activation of ANI-1's first networks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-x * x)


class CELU(nn.Module):
    """CELU with alpha 0.1, as in ANI-1x and later: x, or 0.1 (exp(10 x) - 1) below 0.

    As an ELU of slope 10: torch's ``celu`` has the same forward bits, but its backward takes the
    inverse of alpha in single precision, which makes float64 gradients wrong by 1e-8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.elu(x, 0.1, 1.0, 10.0)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "celu": CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gaussian": Gaussian,
}


def make_activation(name: str) -> nn.Module:
    """The activation of that name. Raises SettingsError for a name that is not known."""
    if name not in ACTIVATIONS:
        raise SettingsError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class AtomicNet(nn.Module):
    """AEV (n, length) -> atomic energy (n,), a plain multilayer perceptron.

    ``hidden`` are the widths between the AEV and the single output (none: a linear model). Each
    hidden layer is linear, dropout (where it is not 0), activation, in this order. The output
    is linear unless ``output_activation`` names an activation; ``output_dropout`` puts dropout
    before that too (both exist because published course work used them; they limit what energies
    can be reached).
    """

    def __init__(
        self,
        aev_length: int,
        hidden: Sequence[int],
        activation: str = "celu",
        dropout: float = 0.0,
        output_activation: str | None = None,
        output_dropout: bool = False,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise SettingsError(f"hidden widths must be positive: {list(hidden)}")
        if not 0 <= dropout < 1:
            raise SettingsError(f"dropout must be in 0..1 (1 not included), not {dropout}")
        if output_dropout and not dropout:
            raise SettingsError("output_dropout does nothing without dropout; set dropout as well")
        self.aev_length, self.hidden, self.activation_name = aev_length, tuple(hidden), activation
        self.dropout, self.output_activation = dropout, output_activation
        self.output_dropout = output_dropout
        widths = [aev_length, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.activation = make_activation(activation)
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True  # what a layer gives is used for nothing else
        self.drop = nn.Dropout(dropout) if dropout else None
        self.output = make_activation(output_activation) if output_activation else None

    def forward(self, aevs: Tensor, columns: Tensor | None = None) -> Tensor:
        """Atomic energies (n,). ``columns``: which columns of the whole AEV ``aevs`` has, in
        order; the others are zero."""
        x = aevs
        for k, layer in enumerate(self.layers[:-1]):
            x = layer(x) if k or columns is None else _narrow(layer, x, columns)
            if self.drop is not None:
                x = self.drop(x)
            x = self.activation(x)
        last = self.layers[-1]
        x = last(x) if self.hidden or columns is None else _narrow(last, x, columns)
        if self.output_dropout and self.drop is not None:
            x = self.drop(x)
        if self.output is not None:
            x = self.output(x)
        return x.squeeze(-1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights: He's normal distribution for the hidden layers, biases zero.

        A function of the generator's state alone, in float64, so that a seed means the same weights
        in every precision.
        """
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                std = 1.0 / math.sqrt(layer.in_features)
                if layer is not self.layers[-1]:
                    std *= math.sqrt(2.0)
                weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
                layer.weight.copy_(weight * std)
                layer.bias.zero_()


def _narrow(layer: nn.Module, x: Tensor, columns: Tensor) -> Tensor:
    """A linear layer on some columns of its input, where the others are zero."""
    assert isinstance(layer, nn.Linear)
    return nn.functional.linear(x, layer.weight.index_select(1, columns), layer.bias)


class AtomicNetworks(nn.ModuleDict):
    """The networks of a model, by symbol, in the model's order of elements.

    ``hidden`` is a list of widths for all elements or a mapping from symbol to widths.
    """

    def __init__(
        self,
        elements: Sequence[str],
        aev_length: int,
        hidden: Sequence[int] | Mapping[str, Sequence[int]],
        activation: str = "celu",
        dropout: float = 0.0,
        output_activation: str | None = None,
        output_dropout: bool = False,
    ) -> None:
        if isinstance(hidden, Mapping):
            lacking = [e for e in elements if e not in hidden]
            extra = [e for e in hidden if e not in elements]
            if lacking or extra:
                raise SettingsError(
                    f"hidden widths by element must name {', '.join(elements)}"
                    + (f"; lacking: {', '.join(lacking)}" if lacking else "")
                    + (f"; unknown: {', '.join(extra)}" if extra else "")
                )
            widths = {e: tuple(hidden[e]) for e in elements}
        else:
            widths = {e: tuple(hidden) for e in elements}
        super().__init__(
            {
                e: AtomicNet(
                    aev_length, widths[e], activation, dropout, output_activation, output_dropout
                )
                for e in elements
            }
        )

    def forward(self, aevs: Tensor, counts: Sequence[int]) -> Tensor:
        """Atomic energies (N,) of AEVs (N, length) sorted by element, ``counts`` atoms of each.

        Every network is called, also for no atoms: its gradients are then zeros and not None.
        """
        slices = aevs.split(list(counts))
        return torch.cat([net(x) for net, x in zip(self.values(), slices, strict=True)])

    def initialize(self, seed: int) -> None:
        """Fresh weights for all networks, a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        for net in self.values():
            assert isinstance(net, AtomicNet)
            net.initialize(generator)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def options(self) -> dict[str, object]:
        """What is needed to build these networks again, as plain data."""
        nets = {e: net for e, net in self.items() if isinstance(net, AtomicNet)}
        first = next(iter(nets.values()))
        return {
            "hidden": {e: list(net.hidden) for e, net in nets.items()},
            "activation": first.activation_name,
            "dropout": first.dropout,
            "output_activation": first.output_activation,
            "output_dropout": first.output_dropout,
        }
