"""Networks and activations that users register: trained, evaluated, saved and loaded as ours."""

import numpy as np
import pytest
import torch
from helpers import evaluate_batch

import anipot
from anipot import ANIEnsemble, ANIModel, ANITrainer
from anipot.errors import SettingsError
from anipot.networks import atomic


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for registry in (atomic.networks, atomic.activations):
        monkeypatch.setattr(registry, "_known", dict(registry._known))

    @atomic.networks.register("residual")
    class Residual(torch.nn.Module):
        def __init__(self, aev_length, hidden, activation, dropout):
            super().__init__()
            self.first = torch.nn.Linear(aev_length, hidden[0])
            self.second = torch.nn.Linear(hidden[0], hidden[0])
            self.last = torch.nn.Linear(hidden[0], 1)
            self.act = atomic.make_activation(activation)

        def forward(self, aevs):
            x = self.act(self.first(aevs))
            return self.last(x + self.act(self.second(x)))

    atomic.activations.register("mish")(torch.nn.Mish)


OPTIONS = [{"network": "residual", "hidden": [6]}, {"activation": "mish", "hidden": [6, 4]}]


@pytest.mark.parametrize("options", OPTIONS, ids=["network", "activation"])
def test_all_ways_of_evaluation_agree(options, small):
    data = small[0].take(np.arange(40))
    members = [ANIModel.create("HCNO", seed=s, dtype="float64", **options) for s in (1, 2)]
    expected = [evaluate_batch(m, m.batch(data), forces=True, atomic=True) for m in members]
    found = ANIEnsemble(members).predict(data, forces=True, atomic=True, forces_std=True)
    np.testing.assert_allclose(
        found.energies, np.mean([e.energies for e in expected], 0), rtol=1e-12
    )
    np.testing.assert_allclose(found.forces, np.mean([e.forces for e in expected], 0), atol=1e-9)
    assert np.isfinite(found.forces_std).all()
    one = data.take([7])
    point = members[0].stepper(one.atomic_numbers)(one.coordinates)
    np.testing.assert_allclose(point.energy, expected[0].energies[7], rtol=1e-12)
    a, b = data.offsets[7:9]
    np.testing.assert_allclose(point.forces, expected[0].forces[a:b], atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=["network", "activation"])
def test_it_is_trained_saved_and_loaded(options, small, tmp_path):
    models = [ANIModel.create("HCNO", seed=3, **options) for _ in range(2)]
    for model in models:
        trainer = ANITrainer(model, epochs=2, force_weight=0.1, threads=1)
        trainer.train(*small[:2], quiet=True)
    assert np.isfinite(trainer.history["val_mae"]).all()
    path = models[0].save(tmp_path / "a.safetensors")
    loaded = anipot.load(path)
    first, second, again = (m.predict(small[2]).energies for m in (*models, loaded))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, again)


def test_what_needs_ordinary_networks_says_so(small):
    model = ANIModel.create("HCNO", network="residual", hidden=[4])
    for options in ({"normalize_aevs": True}, {"freeze_layers": 1}):
        with pytest.raises(SettingsError, match="needs network=mlp"):
            ANITrainer(model, epochs=1, **options).train(*small[:2], quiet=True)
    with pytest.raises(SettingsError, match="unknown network 'residul'; known: residual"):
        ANIModel.create("HCNO", network="residul")
    with pytest.raises(SettingsError, match="unknown activation 'mishh'; known: mish"):
        ANIModel.create("HCNO", activation="mishh")
