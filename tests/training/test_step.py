"""TrainingStep: a batch divided by elements has the loss and the gradient of the whole."""

import numpy as np
import pytest
import torch
from helpers import random_conformers

from anipot.config import TrainingSettings
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.potential.model import ANIModel
from anipot.training import step as step_module
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import loss_terms
from anipot.training.step import TrainingStep
from anipot.training.trainer import ANITrainer


@pytest.fixture
def mixed() -> Conformers:
    """Conformers of five sets of elements, in no order."""
    rng = np.random.default_rng(0)
    sets = ["HC", "HCO", "HCN", "HCNO", "N"]
    parts = [random_conformers(rng, [3, 5, 4, 6], elements) for elements in sets]
    data = Conformers.concatenate(parts)
    order = rng.permutation(len(data))
    energies = rng.normal(0, 0.1, len(data))
    return Conformers(
        **{
            **{k: getattr(data, k) for k in ("atomic_numbers", "coordinates", "offsets")},
            "energies": energies,
        }
    ).take(order)


def make(model: ANIModel, data: Conformers, **weights: float) -> TrainingStep:
    loader = BatchLoader(data, len(data), model.elements, dtype=model.dtype)
    source = AEVSource(model.aev, [loader], "off")
    terms = loss_terms(TrainingSettings(**weights), data, model.device)
    return TrainingStep(model, loader, source, terms, 1.3)


@pytest.mark.parametrize("hidden", [[7, 5], []])
def test_divided_equals_whole(mixed, hidden, monkeypatch):
    model = ANIModel.create("HCNO", hidden=hidden, dtype="float64", seed=1)
    if model.aev.engine_name != "native":
        pytest.skip("batches are divided with the native engine only")
    index = torch.as_tensor(np.random.default_rng(1).permutation(len(mixed))[:17])
    results = []
    for least in (1 << 40, 1):
        monkeypatch.setattr(step_module, "DIVIDE_FROM", least)
        monkeypatch.setattr(step_module, "SMALLEST_PART", 10)
        step = make(model, mixed)
        assert step.divides == (least == 1)
        model.networks.zero_grad()
        loss = step(index)
        results.append((loss, [p.grad.clone() for p in model.networks.parameters()]))
    parts = [bits for bits, _ in step._parts(index)]
    assert len(parts) > 2
    whole, divided = results
    assert divided[0].item() == pytest.approx(whole[0].item(), rel=1e-13)
    for a, b in zip(whole[1], divided[1], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-13)


def test_every_conformer_is_in_one_part(mixed, monkeypatch):
    monkeypatch.setattr(step_module, "DIVIDE_FROM", 1)
    monkeypatch.setattr(step_module, "SMALLEST_PART", 12)
    step = make(ANIModel.create("HCNO", hidden=[4]), mixed)
    index = torch.arange(len(mixed))
    members = torch.cat([part for _, part in step._parts(index)])
    assert sorted(members.tolist()) == index.tolist()


def test_training_with_divided_batches_is_the_same_training(small, monkeypatch):
    train, val, _ = small
    maes = []
    for least in (1 << 40, 1):
        monkeypatch.setattr(step_module, "DIVIDE_FROM", least)
        monkeypatch.setattr(step_module, "SMALLEST_PART", 30)
        model = ANIModel.create("HCNO", hidden=[16], dtype="float64", seed=3)
        trainer = ANITrainer(model, epochs=4, batch_size=64)
        maes.append(trainer.train(train, val, quiet=True)["val_mae"])
    np.testing.assert_allclose(maes[0], maes[1], rtol=1e-8)
