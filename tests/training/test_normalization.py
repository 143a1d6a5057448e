"""Normalized AEVs: the same functions, folded away at the end."""

import numpy as np
import pytest
import torch

import anipot
from anipot.data.batches import BatchLoader
from anipot.networks.atomic import NormalizedLinear
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.normalization import normalize_inputs
from anipot.training.trainer import ANITrainer


def normalized(model: ANIModel, data) -> torch.Tensor:
    loader = BatchLoader(data, 16, model.elements, dtype=model.dtype)
    normalize_inputs(model, loader, AEVSource(model.aev, [loader], "off"))
    return model.aev(model.batch(data)).detach()


def test_inputs_get_mean_zero_and_a_spread_of_at_most_one(small):
    train, *_ = small
    model = ANIModel.create("HCNO", hidden=[4], dtype="float64")
    batch = model.batch(train)
    aevs = normalized(model, train).split(batch.counts)
    for net, x in zip(model.networks.values(), aevs, strict=True):
        layer = net.layers[0]
        assert isinstance(layer, NormalizedLinear)
        seen = (x - layer.centre) / layer.scale
        torch.testing.assert_close(seen.mean(0), torch.zeros(384).double(), rtol=0, atol=1e-9)
        spread = seen.std(0, correction=0)
        assert float(spread.max()) == pytest.approx(1.0, abs=1e-9)
        # The layer's weights of the AEVs as they are say the same.
        expected = seen @ layer.own_weight.T + layer.own_bias
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(x @ layer.weight.T + layer.bias, expected)


def test_a_trained_model_stays_the_same_function(small):
    train, val, _ = small
    model = ANIModel.create("HCNO", hidden=[8], dtype="float64")
    model.trained = model.elements
    before = model.predict(val, forces=True)
    normalized(model, train)
    during = model.predict(val, forces=True)
    model.networks.fold()
    after = model.predict(val, forces=True)
    assert all(type(net.layers[0]) is torch.nn.Linear for net in model.networks.values())
    for found in (during, after):
        np.testing.assert_allclose(found.energies, before.energies, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.forces, before.forces, rtol=0, atol=1e-10)


def test_an_element_with_one_environment_stays_as_it_is(small):
    train = small[0].select(molecules=["C"])
    one = train.take([0] * 5)
    model = ANIModel.create("HC", hidden=[4])
    normalized(model, one)
    kinds = {e: type(net.layers[0]) for e, net in model.networks.items()}
    assert kinds["C"] is torch.nn.Linear  # five times the same carbon
    assert kinds["H"] is NormalizedLinear


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_ends_with_ordinary_networks_that_are_saved(small, tmp_path, ema):
    train, val, _ = small
    model = ANIModel.create("HCNO", hidden=[12], dtype="float64")
    trainer = ANITrainer(model, epochs=6, normalize_aevs=True, ema=ema)
    seen = []
    history = trainer.train(
        train, val, quiet=True, on_epoch=lambda _: seen.append(model.predict(val).energies)
    )
    assert all(type(net.layers[0]) is torch.nn.Linear for net in model.networks.values())
    assert trainer.evaluate(val).energy.mae == pytest.approx(history.best.val_mae, rel=1e-9)
    path = model.save(tmp_path / "a.safetensors")
    loaded = anipot.load(path).predict(val).energies
    np.testing.assert_array_equal(loaded, model.predict(val).energies)
    if not ema and history.best.epoch == 6:  # what a callback saw were the weights of its epoch
        np.testing.assert_allclose(seen[-1], loaded, rtol=0, atol=1e-9)


def test_a_resumed_training_ends_with_the_same_bits(small, tmp_path):
    train, val, _ = small
    weights = []
    for stop in (None, 3):
        model = ANIModel.create("HCNO", hidden=[12])
        checkpoint = tmp_path / f"{stop}.pt"

        def interrupt(history, stop=stop):
            if len(history) == stop:
                raise KeyboardInterrupt

        options = {"epochs": 5, "normalize_aevs": True, "force_weight": 0.1}
        trainer = ANITrainer(model, **options)
        if stop is None:
            trainer.train(train, val, checkpoint=checkpoint, quiet=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train(train, val, checkpoint=checkpoint, on_epoch=interrupt, quiet=True)
            model = ANIModel.create("HCNO", hidden=[12])
            ANITrainer(model, **options).train(
                train, val, checkpoint=checkpoint, resume=True, quiet=True
            )
        weights.append([w.detach().clone() for w in model.networks.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_potential_saved_in_the_middle_of_a_training(small, tmp_path):
    train, val, _ = small
    model = ANIModel.create("HCNO", hidden=[4], dtype="float64")
    path, said = tmp_path / "p.safetensors", []

    def save(history) -> None:
        model.save(path)
        said.append(model.predict(val).energies)

    options = {"epochs": 1, "normalize_aevs": True, "self_energies": "keep"}
    ANITrainer(model, **options).train(train, val, quiet=True, on_epoch=save)
    found = anipot.load(path).predict(val).energies
    np.testing.assert_allclose(found, said[0], rtol=0, atol=1e-10)
