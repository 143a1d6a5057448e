"""Networks without autograd, in torch and compiled, against autograd."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anipot.errors import SettingsError
from anipot.networks import native
from anipot.networks.atomic import AtomicNet, activations
from anipot.networks.native import AVX2, BASE, BEST, SmallNetworks, Weights
from anipot.networks.stacked import Stack, group_alike

SEEDS = [-0.5, 0.25, 2.0]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}

compiled = pytest.mark.skipif(not native.available(), reason="not compiled")


def make(
    hidden: tuple[int, ...],
    activation: str,
    output: str | None = None,
    dtype: torch.dtype = torch.float64,
    length: int = 19,
    dropout: float = 0.0,
) -> list[AtomicNet]:
    generator = torch.Generator().manual_seed(3)
    nets = []
    for _ in SEEDS:
        net = AtomicNet(length, hidden, activation, dropout, output).double()
        net.initialize(generator)
        for layer in net.layers:  # biases matter: CELU's are rescaled
            layer.bias.data.normal_(generator=generator)
        nets.append(net.to(dtype).eval())
    return nets


def truth(nets: list[AtomicNet], x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (K, n), and the gradients (K, n, L) of what ``seeds`` weigh, by autograd."""
    whole = x.new_zeros(len(x), nets[0].aev_length)
    whole[:, columns] = x
    outputs, gradients = [], []
    for net, seed in zip(nets, SEEDS, strict=True):
        given = whole.clone().requires_grad_()
        out = net(given)
        (gradient,) = torch.autograd.grad(seed * out.sum(), given)
        outputs.append(out.detach())
        gradients.append(gradient[:, columns])
    return torch.stack(outputs), torch.stack(gradients)


def stacked(nets: list[AtomicNet], x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.full_like(x, torch.nan)
    with torch.no_grad():
        return Stack(nets, columns, SEEDS)(x, gradient), gradient


def small(variant: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def evaluate(nets: list[AtomicNet], x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.full_like(x, torch.nan)
        out = x.new_full((len(nets), len(x) + 2), torch.nan)
        part = (Weights(nets, columns, SEEDS), slice(0, len(x)))
        SmallNetworks([part], x, gradient, out, variant)()
        assert out[:, len(x) :].isnan().all()
        return out[:, : len(x)], gradient

    return evaluate


WAYS = [
    pytest.param(stacked, id="stack"),
    pytest.param(small(BEST), id="compiled", marks=compiled),
    pytest.param(small(AVX2), id="compiled-avx2", marks=compiled),
    pytest.param(small(BASE), id="compiled-base", marks=compiled),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", activations)
def test_outputs_and_gradients_are_autograds(way, dtype, activation):
    columns = torch.arange(1, 19, 2)
    for hidden in [(), (5,), (20, 17, 33)]:
        for output in (None, activation):
            nets = make(hidden, activation, output, dtype)
            for n in (1, 6, 13):
                x = torch.randn(n, 9, generator=torch.Generator().manual_seed(n)).to(dtype)
                expected_out, by_member = truth(nets, x, columns)
                out, gradient = way(nets, x, columns)
                expected = by_member.sum(0)
                assert (out - expected_out).abs().max() <= TOLERANCE[dtype] * max(
                    1.0, float(expected_out.abs().max())
                )
                assert (gradient - expected).abs().max() <= TOLERANCE[dtype] * max(
                    1.0, float(expected.abs().max())
                )


@pytest.mark.parametrize("hidden", [(), (5,), (20, 17)])
def test_gradients_by_member(hidden):
    nets = make(hidden, "celu", "tanh")
    columns = torch.arange(19)
    x = torch.randn(4, 19, dtype=torch.float64)
    by_member = torch.full((3, 4, 19), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        Stack(nets, None, SEEDS)(x, None, by_member)
    torch.testing.assert_close(by_member, truth(nets, x, columns)[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_large_inputs_of_the_exponentials_stay_finite(way):
    """Where exp would overflow, or its argument is beyond the exponents of floats."""
    columns = torch.arange(19)
    for activation in activations:
        nets = make((6,), activation, None, torch.float32)
        x = 1e4 * torch.randn(5, 19, generator=torch.Generator().manual_seed(0))
        expected_out, by_member = truth(nets, x, columns)
        out, gradient = way(nets, x, columns)
        torch.testing.assert_close(out, expected_out, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient, by_member.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_dropout_is_not_active(way):
    x = torch.randn(5, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns = torch.arange(19)
    nets = make((8, 8), "gelu", dropout=0.9)
    expected, _ = truth(nets, x, columns)
    for net in nets:
        net.train()
    torch.testing.assert_close(way(nets, x, columns)[0], expected, rtol=1e-12, atol=1e-13)


def test_weights_are_a_snapshot():
    nets = make((8,), "relu")
    x = torch.randn(5, 19, dtype=torch.float64)
    stack = Stack(nets, None, SEEDS)
    before = stack(x)
    for net in nets:
        for p in net.parameters():
            p.data.zero_()
    assert torch.equal(stack(x), before)
    assert before.abs().max() > 0


def test_networks_of_different_shape_do_not_stack():
    with pytest.raises(SettingsError, match="equal widths"):
        Stack([make((8,), "relu")[0], make((7,), "relu")[0]], None, [1.0, 1.0])


def test_groups_of_members_that_are_alike():
    a, b, c = make((8,), "relu")[0], make((7,), "relu")[0], make((8,), "tanh")[0]
    assert group_alike([[a, a], [b, a], [a, a], [a, c]]) == [[0, 2], [1], [3]]


@compiled
def test_weights_that_are_not_finite_are_refused():
    nets = make((8,), "relu")
    nets[1].layers[0].weight.data[2, 3] = torch.nan
    with pytest.raises(SettingsError, match="not finite"):
        Weights(nets, None, SEEDS)


@compiled
def test_a_stale_library_is_no_library(monkeypatch, tmp_path):
    """It lacks the functions: as one compiled from other sources would."""
    other = next(iter((Path(native.__file__).parents[1] / "aev").glob("_engine*.so")), None)
    if other is None:
        pytest.skip("no other library")
    shutil.copy(other, tmp_path / "_networks.so")
    native._library.cache_clear()
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    try:
        assert not native.available()
        with pytest.raises(SettingsError, match="other sources"):
            native._library()
    finally:
        monkeypatch.undo()
        native._library.cache_clear()
    assert native.available()


def test_celu_has_an_exact_backward_in_double():
    """torch.celu's backward takes 1 / alpha in single precision: wrong by 1e-8."""
    x = torch.linspace(-1, 1, 41, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activations["celu"]()(x).sum(), x)
    exact = torch.where(x > 0, 1.0, torch.exp(10 * x))
    torch.testing.assert_close(gradient, exact.detach(), rtol=1e-14, atol=0)


@compiled
def test_compiled_networks_give_the_same_bits_with_any_number_of_threads():
    """Work enough for several threads: blocks of rows, two elements."""
    nets = make((160, 128, 96), "celu", None, torch.float32, length=64)
    x = torch.randn(290, 64, generator=torch.Generator().manual_seed(0))
    weights = Weights(nets, None, SEEDS)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out, gradient = torch.zeros(3, 290), torch.full_like(x, torch.nan)
            parts = [(weights, slice(0, 131)), (weights, slice(131, 290))]
            SmallNetworks(parts, x, gradient, out)()
            found.append((out, gradient))
    finally:
        torch.set_num_threads(before)
    for out, gradient in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(gradient, found[0][1])
    expected, by_member = truth(nets, x, torch.arange(64))
    torch.testing.assert_close(found[0][0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0][1], by_member.sum(0), rtol=1e-4, atol=1e-4)
