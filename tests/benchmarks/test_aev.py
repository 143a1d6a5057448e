"""Both codes of ``python -m benchmarks aev`` do the same work."""

import pytest
import torch

from anipot.aev import AEVSettings
from anipot.data.batches import Batch
from benchmarks.aev import Anipot, TorchANI, butanes


def test_both_codes_give_the_same_aevs_and_gradients():
    settings, conformers = AEVSettings.ani1x(), butanes(3)
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(len(conformers.atomic_numbers), settings.length, generator=generator)
    ours, theirs = Anipot(settings, conformers, g), TorchANI(settings, conformers, g)
    batch = Batch.of(conformers, settings.elements)
    aevs = batch.conformer_order(ours.forward())
    torch.testing.assert_close(aevs, theirs.forward(chunk=2).flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert ours.gradient().numpy() == pytest.approx(
        theirs.gradient(chunk=2).numpy(), rel=1e-3, abs=1e-3
    )
