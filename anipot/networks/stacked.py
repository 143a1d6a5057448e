"""Stack: the networks of one element in several members, forward and backward without autograd.

Members of equal shape become batched matrix products. The first layer, whose input all members
share, is one product with all their weights side by side, and so is its backward pass, which adds
up the members on the way. Weights are kept in both orders, since small products are twice as fast
on the order they want.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anipot.errors import SettingsError
from anipot.networks.atomic import AtomicNet, RegisteredNet, make_activation

# ---- activations and their slopes ----------------------------------------------------------------

#: z (free to be overwritten), whether the slope is wanted -> activation, slope or None.
Activation = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]


def _relu(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    return z.clamp_min(0), (z > 0).to(z.dtype) if slope else None


def _celu(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """CELU with alpha 1: max(z, exp(min(z, 0)) - 1); see ``CELU_SCALE``.

    expm1, which torch's own takes, costs as much as the matrix products do.
    """
    e = z.clamp_max(0).exp_()
    return torch.maximum(z, e - 1, out=z), e if slope else None


def _gelu(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    d = torch.ops.aten.gelu_backward(z.new_ones(()).expand_as(z), z) if slope else None
    return torch.nn.functional.gelu(z), d


def _silu(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    s = torch.sigmoid(z)
    y = z * s
    return y, s.addcmul_(y, 1 - s) if slope else None  # s + z s (1 - s)


def _tanh(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    y = z.tanh_()
    return y, 1 - y * y if slope else None


def _sigmoid(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    y = z.sigmoid_()
    return y, y * (1 - y) if slope else None


def _gaussian(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    y = torch.exp(-z * z)
    return y, z.mul_(y).mul_(-2) if slope else None


ACTIVATIONS: dict[str, Activation] = {
    "relu": _relu,
    "celu": _celu,
    "gelu": _gelu,
    "silu": _silu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "gaussian": _gaussian,
}

#: CELU(0.1) of x is 0.1 CELU(1) of 10 x: hidden layers compute ten times their values, which the
#: first layer's weights and all biases put in and the last layer takes out.
CELU_SCALE = 10.0


def _activation(name: str) -> Activation:
    return ACTIVATIONS.get(name) or _by_autograd(make_activation(name))


def _by_autograd(module: nn.Module) -> Activation:
    """A registered activation, whose slope autograd finds."""

    def activation(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
        if not slope:
            return module(z), None
        with torch.enable_grad():
            x = z.detach().requires_grad_()
            y = module(x)
            (d,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), d

    return activation


def _output_activation(name: str) -> Activation:
    plain = _activation(name)
    if name != "celu":
        return plain

    def celu(z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
        y, d = plain(z.mul_(CELU_SCALE), slope)
        return y.div_(CELU_SCALE), d

    return celu


# ---- networks ------------------------------------------------------------------------------------


def shape_of(net: AtomicNet | RegisteredNet) -> tuple[object, ...]:
    """Properties two networks must share to be evaluated in one stack."""
    return type(net), net.hidden, net.activation_name, net.output_activation


class Stack:
    """Networks of one element in K members of equal shape.

    ``columns`` are those of the AEV that are given to it (None: all of them). ``seeds`` (K,) is
    what each member's atomic energies are multiplied by before the gradient is taken, and summed
    over: -unit/K for the forces of the mean. Weights are copied: later changes of the networks are
    not seen.
    """

    def __init__(
        self, nets: Sequence[AtomicNet], columns: Tensor | None, seeds: Sequence[float]
    ) -> None:
        if len({shape_of(net) for net in nets}) != 1:
            raise SettingsError("networks of a stack must have equal widths and activations")
        one = nets[0]
        self.n_members = len(nets)
        self._act = _activation(one.activation_name)
        self._act_out = _output_activation(one.output_activation) if one.output_activation else None
        scale = CELU_SCALE if one.activation_name == "celu" and one.hidden else 1.0
        weights, biases = [], []
        for k in range(len(one.layers)):
            layers = [x for net in nets if isinstance(x := net.layers[k], nn.Linear)]
            weights.append(torch.stack([layer.weight.detach() for layer in layers]))
            biases.append(torch.stack([layer.bias.detach() for layer in layers]))
        if columns is not None:
            weights[0] = weights[0][:, :, columns]
        if scale != 1.0:
            weights[0] = weights[0] * scale
            biases[:-1] = [b * scale for b in biases[:-1]]
            weights[-1] = weights[-1] / scale
        self._hidden = tuple(one.hidden)
        # (K H, L) and its transpose, all members side by side; copies in any case
        self._first = weights[0].flatten(0, 1).clone()
        self._first_t = self._first.t().contiguous()
        self._first_bias = biases[0].flatten().clone()
        # (K, out, in), (K, in, out), (K, 1, out)
        self._rest = [
            (w.contiguous(), w.transpose(1, 2).contiguous(), b.unsqueeze(1).contiguous())
            for w, b in zip(weights[1:], biases[1:], strict=True)
        ]
        seed = torch.tensor(seeds, dtype=torch.float64, device=self._first.device)
        self.seeds = tuple(seeds)
        # (K, 1, in): gradient of the seeded sum by the input of the last layer
        self._last = (weights[-1].double() * seed[:, None, None]).to(self._first.dtype)

    def __call__(
        self, x: Tensor, gradient: Tensor | None = None, by_member: Tensor | None = None
    ) -> Tensor:
        """(K, n) atomic energies of AEVs ``x`` (n, L), in the networks' unit.

        ``gradient`` (n, L) is filled with the gradient of the seeded sum, ``by_member`` (K, n, L)
        with that of each member's part of it.
        """
        want = gradient is not None or by_member is not None
        n, k = len(x), self.n_members
        slopes: list[Tensor | None] = []
        z = torch.addmm(self._first_bias, x, self._first_t)
        if self._hidden:
            y, slope = self._act(z, want)
            slopes.append(slope)
            y = y.view(n, k, -1).transpose(0, 1)
            for _, weight_t, bias in self._rest[:-1]:
                y, slope = self._act(torch.baddbmm(bias, y, weight_t), want)
                slopes.append(slope)
            _, weight_t, bias = self._rest[-1]
            z = torch.baddbmm(bias, y, weight_t)
        else:
            z = z.t().unsqueeze(2)
        out = z
        slope_out = None
        if self._act_out is not None:
            out, slope_out = self._act_out(z, want)
        if want:
            self._backward(slopes, slope_out, n, gradient, by_member)
        return out.squeeze(2)

    def _backward(
        self,
        slopes: list[Tensor | None],
        slope_out: Tensor | None,
        n: int,
        gradient: Tensor | None,
        by_member: Tensor | None,
    ) -> None:
        k = self.n_members
        g = self._last if slope_out is None else self._last * slope_out  # (K, 1 or n, H)
        if not self._hidden:
            if gradient is not None:
                gradient.copy_(g.sum(0))
            if by_member is not None:
                by_member.copy_(g)
            return
        for (weight, _, _), slope in zip(self._rest[-2::-1], slopes[:0:-1], strict=True):
            assert slope is not None
            g = torch.bmm(slope.mul_(g), weight)
        slope = slopes[0]
        assert slope is not None
        # By row first, as the first layer has it: (n, K, H).
        g = slope.view(n, k, -1).mul_(g.transpose(0, 1))
        if gradient is not None:
            torch.mm(g.view(n, -1), self._first, out=gradient)
        if by_member is not None:
            torch.bmm(g.transpose(0, 1), self._first.view(k, g.shape[2], -1), out=by_member)


class AutogradStack:
    """As ``Stack``, for registered networks: by autograd, one after another."""

    def __init__(
        self, nets: Sequence[RegisteredNet], columns: Tensor | None, seeds: Sequence[float]
    ) -> None:
        self.n_members, self.seeds, self._columns = len(nets), tuple(seeds), columns
        self._nets = [copy.deepcopy(net).eval().requires_grad_(False) for net in nets]

    def __call__(
        self, x: Tensor, gradient: Tensor | None = None, by_member: Tensor | None = None
    ) -> Tensor:
        want = gradient is not None or by_member is not None
        energies = []
        if gradient is not None:
            gradient.zero_()
        for k, (net, seed) in enumerate(zip(self._nets, self.seeds, strict=True)):
            with torch.set_grad_enabled(want):
                own = x.detach().requires_grad_(want)
                found = net(own, self._columns)
                total = found.sum() * seed
            energies.append(found.detach())
            if want:
                (slope,) = torch.autograd.grad(total, own)
                if gradient is not None:
                    gradient += slope
                if by_member is not None:
                    by_member[k] = slope
        return torch.stack(energies)


def make_stack(
    nets: Sequence[AtomicNet | RegisteredNet], columns: Tensor | None, seeds: Sequence[float]
) -> Stack | AutogradStack:
    """Return the stack of networks that are alike (see ``shape_of``)."""
    plain = [net for net in nets if isinstance(net, AtomicNet)]
    if len(plain) == len(nets):
        return Stack(plain, columns, seeds)
    registered = [net for net in nets if isinstance(net, RegisteredNet)]
    return AutogradStack(registered, columns, seeds)


def group_alike(members: Sequence[Sequence[AtomicNet | RegisteredNet]]) -> list[list[int]]:
    """Members (each the networks of a model) whose networks have equal shapes, in groups."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for k, nets in enumerate(members):
        groups.setdefault(tuple(shape_of(net) for net in nets), []).append(k)
    return list(groups.values())
