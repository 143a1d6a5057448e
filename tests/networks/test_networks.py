"""Atomic networks against formulas written out, and what training relies on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from anipot.errors import SettingsError
from anipot.networks.atomic import AtomicNet, AtomicNetworks, activations, make_activation

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "celu": lambda x: x if x > 0 else 0.1 * math.expm1(x / 0.1),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "gaussian": lambda x: math.exp(-x * x),
}


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and biases all different from zero, so that nothing is left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net.double()


def by_hand(net: AtomicNet, x: np.ndarray, activation: str, output: str | None) -> np.ndarray:
    layers = [(la.weight.detach().numpy(), la.bias.detach().numpy()) for la in net.layers]
    for w, b in layers[:-1]:
        x = np.vectorize(FORMULAS[activation])(x @ w.T + b)
    w, b = layers[-1]
    y = (x @ w.T + b)[:, 0]
    return np.vectorize(FORMULAS[output])(y) if output else y


@pytest.mark.parametrize("name", activations)
def test_activations_are_their_formulas(name):
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = [FORMULAS[name](v) for v in x.tolist()]
    np.testing.assert_allclose(make_activation(name)(x).numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("activation", activations)
@pytest.mark.parametrize("output", [None, "sigmoid", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (7, 3)])
def test_a_network_is_its_layers_written_out(activation, output, hidden):
    net = seeded(AtomicNet(6, hidden, activation, output_activation=output))
    x = np.random.default_rng(1).normal(size=(11, 6))
    found = net(torch.as_tensor(x))
    assert found.shape == (11,)
    np.testing.assert_allclose(
        found.detach().numpy(), by_hand(net, x, activation, output), rtol=1e-12, atol=1e-13
    )


def test_dropout_acts_in_training_alone_and_before_the_activation():
    plain = seeded(AtomicNet(6, (40, 20), "relu"))
    net = AtomicNet(6, (40, 20), "relu", dropout=0.5)
    net.load_state_dict(plain.state_dict())
    net.double()
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net.eval()
    assert torch.equal(net(x), plain(x))
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = net(x), net(x)
        assert not torch.equal(a, b)
        torch.manual_seed(0)
        h = x
        for layer in net.layers[:-1]:
            h = torch.relu(nn.functional.dropout(layer(h), 0.5))
        assert torch.equal(a, net.layers[-1](h).squeeze(-1))


def test_dropout_of_the_output_is_there_when_asked_for():
    for wanted in (False, True):
        net = seeded(AtomicNet(3, (), dropout=0.5, output_dropout=wanted)).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            out = net(torch.ones(200, 3, dtype=torch.float64))
        zeros = int((out == 0).sum())
        assert 60 < zeros < 140 if wanted else zeros == 0
    # Before the output activation: a dropped output is sigmoid(0), not 0.
    net = seeded(AtomicNet(3, (), "relu", 0.5, "sigmoid", True)).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = net(torch.ones(200, 3, dtype=torch.float64))
    assert 60 < int((out == 0.5).sum()) < 140


def test_each_element_has_its_own_widths_and_reads_its_own_slice():
    widths = {"H": [5], "C": [7, 3], "O": []}
    nets = seeded(AtomicNetworks(["O", "H", "C"], 4, widths))
    assert list(nets) == ["O", "H", "C"]
    shapes = {e: [tuple(la.weight.shape) for la in net.layers] for e, net in nets.items()}
    assert shapes == {"O": [(1, 4)], "H": [(5, 4), (1, 5)], "C": [(7, 4), (3, 7), (1, 3)]}
    x = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = nets(x, [2, 4, 3])
    expected = torch.cat([nets["O"](x[:2]), nets["H"](x[2:6]), nets["C"](x[6:])])
    assert torch.equal(found, expected)
    assert nets.options()["hidden"] == widths
    with pytest.raises(ValueError, match="zip"):
        nets(x, [2, 7])


def test_options_build_the_same_networks_again():
    nets = AtomicNetworks("HC", 4, {"H": [3], "C": []}, "silu", 0.25, "sigmoid", True)
    again = AtomicNetworks("HC", 4, **nets.options())
    assert str(again) == str(nets)
    assert again.options() == nets.options()


def test_an_absent_element_gets_zero_gradients_and_not_none():
    nets = seeded(AtomicNetworks("HCN", 4, [5, 3], dropout=0.2))
    for counts in ([3, 0, 2], [5, 0, 0], [0, 0, 0]):
        nets.zero_grad()
        out = nets(torch.ones(sum(counts), 4, dtype=torch.float64), counts)
        assert out.shape == (sum(counts),)
        out.sum().backward()
        for net, n in zip(nets.values(), counts, strict=True):
            grads = [p.grad for p in net.parameters()]
            assert all(g is not None for g in grads)
            assert any(bool(g.any()) for g in grads) == (n > 0)


def test_weights_are_a_function_of_the_seed_in_every_precision():
    def weights(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(torch.initial_seed() % 1000 + 1)  # the global state must not matter
        nets = AtomicNetworks("HC", 10, [8, 4]).to(dtype)
        nets.initialize(seed)
        return list(nets.state_dict().values())

    with torch.random.fork_rng():
        a, b, c = weights(1, torch.float64), weights(1, torch.float64), weights(2, torch.float64)
        single = weights(1, torch.float32)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])
    assert all(torch.equal(x.float(), y) for x, y in zip(a, single, strict=True))


def test_fresh_weights_keep_the_scale_of_the_signal():
    """He et al. 2015: for ReLU the mean square of the activations is that of the input."""
    net = AtomicNet(400, (400, 400, 400), "relu")
    net.initialize(torch.Generator().manual_seed(0))
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h = x
        for layer in net.layers[:-1]:
            h = layer(h)
            assert 1.8 < float(h.square().mean() / x.square().mean()) < 2.2
            h = torch.relu(h)
        assert 0.7 < float(net.layers[-1](h).square().mean()) < 1.4
    assert not any(bool(layer.bias.any()) for layer in net.layers)


def test_what_makes_no_network_is_refused():
    with pytest.raises(SettingsError, match=r"unknown activation 'relo'; known: relu"):
        AtomicNet(3, (4,), "relo")
    with pytest.raises(SettingsError, match="unknown activation 'softmax'"):
        AtomicNet(3, (4,), output_activation="softmax")
    with pytest.raises(SettingsError, match="must be positive"):
        AtomicNet(3, (4, 0))
    for dropout in (1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="dropout"):
            AtomicNet(3, (4,), dropout=dropout)
    with pytest.raises(SettingsError, match=r"lacking: C; unknown: N"):
        AtomicNetworks("HC", 3, {"H": [3], "N": [3]})


def test_output_dropout_without_dropout_is_refused():
    with pytest.raises(SettingsError, match="output_dropout does nothing without dropout"):
        AtomicNet(4, [3], output_dropout=True)
