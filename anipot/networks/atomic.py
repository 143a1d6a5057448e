"""AtomicNet: the network of one element. AtomicNetworks: one for each element of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from anipot.errors import SettingsError
from anipot.registry import Registry

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


#: Activations by the name of the option ``activation``: functions that return a module.
activations: Registry[Callable[[], nn.Module]] = Registry("activation", "anipot.activations")
for _name, _kind in {
    "relu": nn.ReLU, "celu": CELU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid, "gaussian": Gaussian,
}.items():  # fmt: skip
    activations.register(_name)(_kind)


def make_activation(name: str) -> nn.Module:
    """Return the activation of that name. Raises SettingsError for an unknown name."""
    return activations[name]()


#: Networks by the name of the option ``network``, besides "mlp": functions (aev_length, hidden,
#: activation, dropout) that return a module from AEVs (n, aev_length) to atomic energies (n,).
#: ``activation`` is the name of one; see ``make_activation``.
networks: Registry[Callable[[int, tuple[int, ...], str, float], nn.Module]] = Registry(
    "network", "anipot.networks"
)


class NormalizedLinear(nn.Linear):
    """A linear layer whose weights are those of (x - centre) / scale.

    It trains faster where inputs are far from mean 0 and spread 1. ``weight`` and ``bias`` are
    those of the same function of x, as for any other layer; what is trained is ``own_weight`` and
    ``own_bias``. One scale for all inputs: to divide each by its own spread would blow up columns
    that hardly vary, and networks would fit noise in them.
    """

    own_weight: Tensor
    own_bias: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, like: nn.Linear, centre: Tensor, scale: float, same: bool) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make weights of its own
        self.in_features, self.out_features = like.in_features, like.out_features
        weight, bias = like.weight.detach(), like.bias.detach()
        own = (weight * scale, bias + weight @ centre.to(weight)) if same else (weight, bias)
        self.own_weight, self.own_bias = (nn.Parameter(x.clone()) for x in own)
        self.register_buffer("centre", centre.to(weight))
        self.register_buffer("scale", torch.tensor(scale, dtype=weight.dtype, device=weight.device))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in)"""
        return self.own_weight / self.scale

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        """(out,)"""
        return self.own_bias - self.weight @ self.centre

    def folded(self) -> nn.Linear:
        """An ordinary layer, the same function."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight = nn.Parameter(self.weight.detach())
        layer.bias = nn.Parameter(self.bias.detach())
        return layer


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

    def normalize(self, centre: Tensor, scale: float, same: bool) -> None:
        """Make the first layer one of (AEV - centre) / scale, until ``fold``.

        ``same``: its weights change so that it stays the same function; else they stay as drawn.
        """
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        self.layers[0] = NormalizedLinear(first, centre, scale, same)

    def fold(self) -> None:
        """Make the first layer an ordinary one again, the same function."""
        first = self.layers[0]
        if isinstance(first, NormalizedLinear):
            self.layers[0] = first.folded()

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


class RegisteredNet(nn.Module):
    """A network that was registered in ``networks``, with the interface of AtomicNet.

    It is evaluated by autograd. ``normalize_aevs`` and ``freeze_layers`` need an AtomicNet.
    """

    def __init__(
        self, kind: str, aev_length: int, hidden: Sequence[int], activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.kind, self.aev_length, self.hidden = kind, aev_length, tuple(hidden)
        self.activation_name, self.dropout = activation, dropout
        self.output_activation, self.output_dropout = None, False
        self.net = networks[kind](aev_length, self.hidden, activation, dropout)

    def forward(self, aevs: Tensor, columns: Tensor | None = None) -> Tensor:
        """Atomic energies (n,). ``columns``: those of the whole AEV that are given."""
        if columns is not None:
            whole = aevs.new_zeros(len(aevs), self.aev_length)
            aevs = whole.index_copy(1, columns, aevs)
        found: Tensor = self.net(aevs)
        return found.reshape(len(aevs))

    def fold(self) -> None:
        """There is nothing to fold."""

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights with the ``reset_parameters`` of all layers that have one."""
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.net.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()


def _narrow(layer: nn.Module, x: Tensor, columns: Tensor) -> Tensor:
    """A linear layer on some columns of its input, where the others are zero."""
    assert isinstance(layer, nn.Linear)
    return nn.functional.linear(x, layer.weight.index_select(1, columns), layer.bias)


class AtomicNetworks(nn.ModuleDict):
    """The networks of a model, by symbol, in the model's order of elements.

    ``hidden`` is a list of widths for all elements or a mapping from symbol to widths; ``network``
    is "mlp" (``AtomicNet``) or the name of a registered one.
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
        network: str = "mlp",
    ) -> None:
        if network != "mlp" and (output_activation or output_dropout):
            raise SettingsError("output_activation and output_dropout need network=mlp")
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
        output = (output_activation, output_dropout)
        super().__init__(
            {
                e: AtomicNet(aev_length, widths[e], activation, dropout, *output)
                if network == "mlp"
                else RegisteredNet(network, aev_length, widths[e], activation, dropout)
                for e in elements
            }
        )
        self.network = network

    def forward(self, aevs: Tensor, counts: Sequence[int]) -> Tensor:
        """Atomic energies (N,) of AEVs (N, length) sorted by element, ``counts`` atoms of each.

        Every network is called, also for no atoms: its gradients are then zeros and not None.
        """
        slices = aevs.split(list(counts))
        return torch.cat([net(x) for net, x in zip(self.values(), slices, strict=True)])

    def fold(self) -> None:
        """Make ordinary layers of those that normalize AEVs, the same functions."""
        for net in self.values():
            assert isinstance(net, AtomicNet | RegisteredNet)
            net.fold()

    def initialize(self, seed: int) -> None:
        """Fresh weights for all networks, a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        for net in self.values():
            assert isinstance(net, AtomicNet | RegisteredNet)
            net.initialize(generator)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def options(self) -> dict[str, object]:
        """Options that build these networks again, as plain data."""
        nets = {e: n for e, n in self.items() if isinstance(n, AtomicNet | RegisteredNet)}
        first = next(iter(nets.values()))
        kind = {} if self.network == "mlp" else {"network": self.network}
        return {
            **kind,
            "hidden": {e: list(net.hidden) for e, net in nets.items()},
            "activation": first.activation_name,
            "dropout": first.dropout,
            "output_activation": first.output_activation,
            "output_dropout": first.output_dropout,
        }
