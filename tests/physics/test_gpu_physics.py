"""A GPU gives the CPU's numbers: the gradients of an update, and a training as a whole."""

import numpy as np
import pytest
import torch

from anipot.config import TrainingSettings
from anipot.data.batches import BatchLoader
from anipot.data.published.bundled import load_bundled
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.losses import loss_terms
from anipot.training.step import TrainingStep
from anipot.training.trainer import ANITrainer

GPU = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def data():
    """1,200 conformers of all bundled molecules."""
    whole = load_bundled()
    return whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:1200]))


def gradients(data, device, **options):
    """Of all weights, after the first batch."""
    settings = TrainingSettings(**options)
    model = ANIModel.create("HCNO", hidden=[64, 32], seed=3)
    model.self_energies = model.self_energies.fit(data, model.elements)
    model = model.to(device)
    loader = BatchLoader(data.take(slice(0, 256)), 256, model.elements, device=model.device)
    aevs = AEVSource(model.aev, [loader], "off")
    step = TrainingStep(model, loader, aevs, loss_terms(settings, data, model.device), 627.5)
    step(torch.arange(256, device=model.device))
    return torch.cat([p.grad.flatten().cpu() for p in model.networks.parameters()])


@pytest.mark.parametrize("force_weight", [0.0, 0.1])
def test_the_first_gradients_are_those_of_the_cpu(data, force_weight):
    cpu, gpu = (gradients(data, device, force_weight=force_weight) for device in ("cpu", GPU))
    assert float((gpu - cpu).norm() / cpu.norm()) < 1e-5


@pytest.mark.parametrize("force_weight", [0.0, 0.1])
def test_a_training_comes_to_the_same_error(data, force_weight):
    train, validation = data.split(0.8, 0.2, seed=0)
    errors = []
    for device in ("cpu", GPU):
        trainer = ANITrainer(
            ANIModel.create("HCNO", hidden=[64, 32], seed=3),
            epochs=1, batch_size=64, force_weight=force_weight, device=device,
        )  # fmt: skip
        errors.append(trainer.train(train, validation, quiet=True).epochs[-1].val_mae)
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
