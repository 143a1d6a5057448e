"""CapturedStep: the update with fixed shapes is the ordinary update; when it is used."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_conformers
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from anipot.aev import AEVComputer, triton_engine
from anipot.config import TrainingSettings
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.potential.model import ANIModel
from anipot.training.aev_cache import AEVSource
from anipot.training.gpu import captured as captured_module
from anipot.training.gpu.captured import (
    CapturedStep,
    PaddedBatches,
    capacities,
    make_capturable,
    portable_state,
    set_rate,
)
from anipot.training.loop import TrainingLoop
from anipot.training.losses import loss_terms
from anipot.training.precision import matrix_products
from anipot.training.step import TrainingStep
from anipot.training.updates import CapturedUpdates, Updates, optimizers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: What works on any device without lists would be Triton, which a CPU cannot run at this size.
ENGINE = "triton" if DEVICE.type == "cuda" else "reference"


@pytest.fixture
def data() -> Conformers:
    """Conformers of several sizes and elements, with energies and forces, some lacking."""
    rng = np.random.default_rng(0)
    parts = [random_conformers(rng, [3, 1, 5, 4, 6, 2], e) for e in ("HC", "HCO", "HCNO", "N")]
    joined = Conformers.concatenate(parts).take(rng.permutation(24))
    energies, forces = rng.normal(0, 0.1, 24), rng.normal(0, 0.1, (len(joined.atomic_numbers), 3))
    masks = {"energies": np.arange(24) != 3, "forces": np.arange(24) % 5 != 0}
    energies[3] = np.nan
    forces[np.repeat(~masks["forces"], joined.n_atoms)] = np.nan
    return replace(joined, energies=energies, forces=forces, masks=masks)


def make(data, batch_size=9, cache="off", seed=1, **options):
    """A model, and the step of its training."""
    settings = TrainingSettings(batch_size=batch_size, **options)
    model = ANIModel.create("HCNO", hidden=[7, 5], dtype="float64", seed=seed, engine=ENGINE).to(
        DEVICE
    )
    for p in model.networks.parameters():
        p.grad = torch.zeros_like(p)
    loader = BatchLoader(data, batch_size, model.elements, dtype=model.dtype, device=DEVICE)
    source = AEVSource(model.aev, [loader], cache)
    terms = loss_terms(settings, data, model.device)
    return model, TrainingStep(model, loader, source, terms, 1.3)


def composition(data):
    return data.composition("HCNO")


def captured(step, data, kind="sgd", clip=None):
    weights = list(step.model.networks.parameters())
    optimizer = optimizers[kind](weights, TrainingSettings(learning_rate=1e-3, l2=1e-2))
    return CapturedStep(step, optimizer, composition(data), clip)


def gradients(model):
    return [p.grad.clone() for p in model.networks.parameters()]


def test_a_padded_batch_has_the_same_atoms_and_rows_without_neighbours(data):
    model, step = make(data)
    index = torch.tensor([5, 0, 23, 11, 7, 14, 2, 9, 20], device=DEVICE)
    plain = step.loader.batch(index)
    padded = PaddedBatches(step.loader, (32, 32, 64, 32), 9).batch(index)
    n = len(padded.species)
    assert padded.counts == (32, 32, 64, 32)
    assert padded.species.bincount().tolist() == [32, 32, 64, 32]
    assert torch.equal(padded.rows.sort().values, torch.arange(n, device=DEVICE))
    assert torch.equal(padded.atoms[padded.rows], torch.arange(n, device=DEVICE))
    real = padded.conformer < 9
    for name in ("coordinates", "species", "conformer", "data_atoms", "forces"):
        there = getattr(padded, name)[real]
        torch.testing.assert_close(there, getattr(plain, name), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(padded.offsets[:-1], plain.offsets)
    assert int(padded.offsets[-1]) == len(plain.species)
    torch.testing.assert_close(padded.energies, plain.energies, equal_nan=True)
    assert not padded.forces[~real].any()
    aevs = model.aev(padded)
    assert not aevs[~real].any()
    torch.testing.assert_close(aevs[real], model.aev(plain), rtol=1e-13, atol=1e-15)


CASES = {
    "energies": {},
    "per atom": {"per_atom": True},
    "over the root": {"loss": "mse/sqrt(n)"},
    "huber": {"loss": "huber", "huber_delta": 0.05, "force_weight": 0.3},
    "forces": {"force_weight": 0.3},
    "forces only": {"force_weight": 1.0, "energy_weight": 0.0},
    "cached": {"cache": "device"},
    "cached, forces": {"cache": "device", "force_weight": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_ordinary_step(data, case):
    model, step = make(data, **CASES[case])
    index = torch.tensor([3, 0, 23, 11, 5, 14, 2, 9, 20], device=DEVICE)
    loss = step(index)
    wanted = gradients(model)
    model.networks.zero_grad(set_to_none=False)
    padded = captured(step, data).loss(index)
    padded.backward()
    assert float(loss) > 0
    torch.testing.assert_close(padded.detach(), loss, rtol=1e-12, atol=0)
    for a, b in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()) + 1e-300)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_updates_are_those_of_the_ordinary_step(data, kind):
    weights = []
    for fixed in (False, True):
        model, step = make(data, force_weight=0.2)
        update = captured(step, data, kind, clip=0.5)
        for k in range(6):
            index = torch.arange(k, k + 9, device=DEVICE)
            set_rate(update.optimizer, 1e-2 / (k + 1))
            if fixed:
                update(index)
                continue
            update.optimizer.zero_grad(set_to_none=False)
            step(index)
            torch.nn.utils.clip_grad_norm_(model.networks.parameters(), 0.5)
            update.optimizer.step()
        assert not update.failure
        weights.append([p.detach() for p in model.networks.parameters()])
    relative = 1e-9 if DEVICE.type == "cpu" else 1e-6  # a graph's learning rates are in float32
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=relative * float(b.abs().max()) + 1e-15)


@pytest.mark.parametrize("spread", [6.0, 0.0])
def test_a_training_is_the_same_with_fixed_shapes(small, monkeypatch, spread):
    """With capacities at the mean, about half of the batches are left to the ordinary step."""
    monkeypatch.setattr(captured_module, "SPREAD", spread)
    monkeypatch.setattr(captured_module, "ROUND", 1)
    monkeypatch.setattr(captured_module, "LOOK_AHEAD", 4)
    train, val, _ = small
    settings = TrainingSettings(epochs=2, batch_size=32, seed=3, clip=3.0, device=str(DEVICE))
    maes, used = [], []
    for fixed in (False, True):
        model = ANIModel.create("HCNO", hidden=[8], dtype="float64", seed=3, engine=ENGINE)
        model = model.to(DEVICE)
        loop = TrainingLoop(model, settings, train, val)
        given = (loop.step, loop.optimizer, loop.trainable, settings)
        loop.updates = Updates(*given)
        if fixed:
            loop.updates = CapturedUpdates(*given, train.composition(model.elements))
            plain = loop.updates.captured.batches
            monkeypatch.setattr(
                loop.updates.captured,
                "batches",
                lambda indices, plain=plain: (
                    used.append(fits) or (index, fits) for index, fits in plain(indices)
                ),
            )
        history = loop.run(None, None, False, None, True)
        maes.append(history["val_mae"])
        assert history.epochs[-1].updates == 12
    np.testing.assert_allclose(maes[0], maes[1], rtol=1e-9 if DEVICE.type == "cpu" else 1e-5)
    assert len(used) == 12
    assert sum(used) == 10 if spread else 0 < sum(used) < 10  # the last of an epoch is smaller


def test_capacities_hold_nearly_every_batch():
    rng = np.random.default_rng(0)
    composition = rng.poisson([9.0, 4.0, 0.01], (5000, 3))
    limits = np.array(capacities(composition, 256))
    batches = composition[rng.integers(0, 5000, (4000, 256))].sum(1)
    assert (batches <= limits).all()
    assert limits[0] < 1.15 * 256 * 9
    assert not (limits % captured_module.ROUND).any()
    # never more than the largest conformers would need
    assert capacities(np.full((100, 1), 7), 64) == (64 * 7,)


def test_batches_that_do_not_fit_are_told_apart(data):
    _, step = make(data)
    update = captured(step, data)
    atoms = [composition(data)[k : k + 9].sum(0) for k in (0, 9)]
    assert not (atoms[0] <= atoms[1]).all()
    update._limits = torch.tensor(np.array(atoms[1]), device=DEVICE)
    seen = list(update.batches(step.loader.indices()))
    assert [fits for _, fits in seen] == [False, True, False]  # too large, full, too few
    assert torch.equal(torch.cat([i for i, _ in seen]), step.loader.order(0))


def test_nothing_looks_at_what_the_device_has_computed(data, monkeypatch):
    """With tensors that have shapes and no numbers, an update runs from end to end."""
    for options in ({"cache": "device"}, {"force_weight": 0.2}):
        model, step = make(data, **options)
        update = captured(step, data, clip=1.0)
        update.loss(torch.arange(9, device=DEVICE))  # what is made once
        monkeypatch.setattr(
            AEVComputer,
            "forward",
            lambda self, b: b.coordinates.new_zeros(len(b.species), self.length),
        )
        monkeypatch.setattr(AEVComputer, "vjp", lambda self, b, g: (g.sum() * b.coordinates, None))
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
        ):
            step(torch.arange(9, device=DEVICE))  # the ordinary one does
        with FakeTensorMode(allow_non_fake_inputs=True):
            loss = update.loss(torch.arange(9, device=DEVICE))
            assert torch.autograd.grad(loss, list(model.networks.parameters()))
        monkeypatch.undo()


def test_the_triton_engine_reads_padded_batches(data, monkeypatch):
    pytest.importorskip("triton", reason="no triton: pip install triton")
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    few = data.take(np.flatnonzero(data.n_atoms <= 2))
    model, step = make(few, batch_size=3)
    batch = PaddedBatches(step.loader, (4, 5, 3, 7), 3).batch(torch.arange(3, device=DEVICE))
    x = batch.coordinates
    wanted = model.aev(batch)
    settings = model.aev.settings
    torch.testing.assert_close(
        triton_engine._forward(settings, batch, x), wanted, rtol=1e-11, atol=1e-14
    )
    gradient = triton_engine._backward(settings, batch, x, torch.ones_like(wanted))
    assert gradient[batch.conformer < 3].any()
    assert not gradient[batch.conformer == 3].any()


def test_why_it_is_not_used(data, monkeypatch):
    def why(**options):
        return CapturedStep.why_not(make(data, **options)[1])

    assert ("" if ENGINE == "triton" else "engine reference makes lists") in why()
    assert why(cache="device") == ""
    if ENGINE != "triton":
        assert "engine reference makes lists" in why(cache="device", force_weight=1.0)
        monkeypatch.setattr(AEVComputer, "engine_on", lambda self, device: "triton")
    assert why() == ""
    assert "batch_size is larger" in why(batch_size=25)
    with monkeypatch.context() as m:
        m.setattr(triton_engine, "MOST_ATOMS", 5)
        assert "more than 5 atoms" in why()
    _, step = make(data)
    step.loader._coordinates[3, 1] = np.nan
    assert "not finite" in CapturedStep.why_not(step)
    cells = np.tile(np.eye(3) * 9, (24, 1, 1))
    periodic = replace(data, cells=cells, pbc=np.ones((24, 3), bool))
    assert "there are cells" in CapturedStep.why_not(make(periodic)[1])


def test_a_checkpoint_of_a_captured_training_is_any_training_s(data):
    model, step = make(data)
    update = captured(step, data, "adamw")
    plain = copy.deepcopy(portable_state(update.optimizer))
    assert plain == update.optimizer.state_dict()
    make_capturable(update.optimizer)
    set_rate(update.optimizer, 0.25)
    (group,) = update.optimizer.param_groups
    assert group["capturable"]
    assert isinstance(group["lr"], torch.Tensor)
    state = portable_state(update.optimizer)
    assert state["param_groups"][0]["lr"] == 0.25
    assert not state["param_groups"][0]["capturable"]
    assert group["capturable"]  # the running training keeps its own
    other = torch.optim.AdamW(model.networks.parameters())
    other.load_state_dict(state)
    set_rate(other, 0.5)
    assert other.param_groups[0]["lr"] == 0.5


def test_a_capture_that_fails_costs_no_update(data, monkeypatch):
    class Refused:
        def __init__(self, graph): ...

        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing")

        def __exit__(self, *_): ...

    index = torch.arange(9, device=DEVICE)
    weights = []
    for refused in (False, True):
        model, step = make(data)
        update = captured(step, data)
        update._index.copy_(index)
        if refused:
            monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
            monkeypatch.setattr(torch.cuda, "graph", Refused)
            monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
            with pytest.warns(UserWarning, match="could not be captured.*not permitted"):
                update._capture()
            assert "not permitted" in update.failure
        else:
            update._update()
        update(index)  # and goes on without
        assert update._graph is None
        weights.append(torch.cat([p.detach().flatten() for p in model.networks.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-15)


def test_only_updates_are_made_in_tf32(data, monkeypatch):
    """And what the user has set is as it was."""
    seen = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", seen.append)
    for precision in ("tf32", "float32"):
        with matrix_products(precision, torch.device("cuda")):
            seen.append("here")
    with matrix_products("tf32", torch.device("cpu")):
        pass
    assert seen == ["high", "here", "medium", "highest", "here", "medium"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on CUDA devices")
def test_a_captured_graph_makes_the_updates(data):
    _, step = make(data, force_weight=0.2)
    update = captured(step, data, "adamw", clip=0.5)
    losses = [float(update(torch.arange(9, device=DEVICE))) for _ in range(8)]
    assert update._graph is not None
    assert not update.failure
    assert losses == sorted(losses, reverse=True)
