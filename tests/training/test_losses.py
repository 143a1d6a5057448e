"""Losses on energies, forces and stress: their values, and gradients against differences."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import evaluate_batch, random_cell, random_conformers

from anipot import units
from anipot.aev import native_library, reference
from anipot.config import TrainingSettings
from anipot.data.conformers import Conformers
from anipot.data.labels import Label, labels
from anipot.elements import parse_elements
from anipot.errors import DataError, SettingsError
from anipot.networks.repulsion import Repulsion
from anipot.potential.model import ANIModel
from anipot.training.loop import TrainingLoop
from anipot.training.losses import loss_terms, loss_unit, registered_terms
from anipot.training.trainer import ANITrainer

KCAL = units.HARTREE_TO_KCALMOL

OPTIONS = {
    "energies": {"energy_weight": 1.5},
    "per atom": {"per_atom": True},
    "energies over the root": {"loss": "mse/sqrt(n)"},
    "huber energies": {"loss": "huber", "huber_delta": 20.0},
    "forces": {"energy_weight": 0.0, "force_weight": 0.7},
    "huber forces": {"energy_weight": 0.0, "force_weight": 0.7, "loss": "huber"},
    "stress": {"energy_weight": 0.0, "stress_weight": 2.0},
    "huber stress": {"energy_weight": 0.0, "stress_weight": 2.0, "loss": "huber"},
    "all": {"energy_weight": 0.3, "force_weight": 0.1, "stress_weight": 0.2, "per_atom": True},
}


def labelled(periodic: bool, lacking: bool, seed: int = 0) -> Conformers:
    """Conformers with random labels; some lack one or two of the three where ``lacking``."""
    rng = np.random.default_rng(seed)
    sizes = [4, 7, 1, 6, 5]
    cells = np.array([random_cell(rng, 4.5) for _ in sizes]) if periodic else None
    data = random_conformers(rng, sizes, "HCNO", cells=cells)
    a, m = data.offsets[-1], len(data)
    labels = {"energies": rng.normal(0, 0.2, m), "forces": rng.normal(0, 0.1, (a, 3))}
    if periodic:
        stress = rng.normal(0, 1e-3, (m, 3, 3))
        labels["stress"] = (stress + stress.transpose(0, 2, 1)) / 2
    masks = {}
    if lacking:
        masks = {
            "energies": np.array([1, 0, 1, 1, 1], bool),
            "forces": np.array([1, 1, 0, 0, 1], bool),
        }
        labels["energies"][~masks["energies"]] = np.nan
        labels["forces"][np.repeat(~masks["forces"], data.n_atoms)] = np.nan
        if periodic:
            masks["stress"] = np.array([0, 1, 1, 1, 0], bool)
            labels["stress"][~masks["stress"]] = np.nan
    return replace(data, **labels, masks=masks)


def loop_for(data: Conformers, engine: str = "auto", **options) -> TrainingLoop:
    # Smooth to the second derivative, which a finite difference of a loss on forces sees.
    model = ANIModel.create(
        "HCNO", hidden=[6, 5], activation="silu", dtype="float64", seed=2, engine=engine
    )
    settings = TrainingSettings(epochs=1, batch_size=len(data), device="cpu", **options)
    loop = TrainingLoop(model, settings, data, data)
    model.train()
    return loop


def expected_loss(loop: TrainingLoop, data: Conformers, **options) -> float:
    """The loss from ``evaluate_batch``, by autograd through coordinates, and numpy."""
    settings = loop.settings
    periodic = data.cells is not None
    said = evaluate_batch(loop.model, loop.model.batch(data), forces=True, stress=periodic)
    pairs = {"energy": (said.energies, data.energies), "force": (said.forces, data.forces)}
    if periodic:
        volume = np.abs(np.linalg.det(data.cells)) / data.n_atoms
        pairs["stress"] = tuple(x * volume[:, None, None] for x in (said.stress, data.stress))
    total = 0.0
    for name, (predicted, reference_) in pairs.items():
        error = (predicted - reference_) * KCAL
        there = np.isfinite(error)
        over = np.ones_like(error)
        if name == "energy":
            error = error / data.n_atoms if settings.per_atom else error
            over = np.sqrt(data.n_atoms) if settings.loss == "mse/sqrt(n)" else over
        size, delta = np.abs(error), settings.huber_delta
        if settings.loss == "huber":
            value = np.where(size < delta, error**2 / 2, delta * (size - delta / 2))
        else:
            value = error**2 / over
        total += getattr(settings, f"{name}_weight") * value[there].mean()
    return total


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("lacking", [False, True], ids=["complete", "some labels lack"])
@pytest.mark.parametrize("name", OPTIONS)
def test_value_and_gradient(name, lacking, engine):
    options = OPTIONS[name]
    periodic = bool(options.get("stress_weight"))
    data = labelled(periodic, lacking)
    loop = loop_for(data, engine, **options)
    index = torch.arange(len(data))
    loss = float(loop.step(index))
    assert loss == pytest.approx(expected_loss(loop, data, **options), rel=1e-10)
    weights = list(loop.model.networks.parameters())
    gradients = [w.grad.clone() for w in weights]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        values = []
        for h in (1e-5, -2e-5):  # to the right and then as far to the left
            with torch.no_grad():
                for w, d in zip(weights, direction, strict=True):
                    w += h * d
            values.append(float(loop.step(index)))
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w += 1e-5 * d
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(along, rel=2e-5, abs=1e-6)


def test_validation_says_the_same_as_the_step():
    data = labelled(periodic=True, lacking=True)
    loop = loop_for(data, **OPTIONS["all"])
    found = loop.validate(loop.model.networks)
    assert found.loss == pytest.approx(float(loop.step(torch.arange(len(data)))), rel=1e-12)
    said = loop.model.predict(data, forces=True)
    energy = (said.energies - data.energies) * KCAL
    force = (said.forces - data.forces) * KCAL
    assert found.mae == pytest.approx(np.nanmean(np.abs(energy)), rel=1e-9)
    assert found.rmse == pytest.approx(np.sqrt(np.nanmean(energy**2)), rel=1e-9)
    assert found.force_mae == pytest.approx(np.nanmean(np.abs(force)), rel=1e-9)
    assert found.force_rmse == pytest.approx(np.sqrt(np.nanmean(force**2)), rel=1e-9)


def test_native_training_never_calls_the_reference_engine(monkeypatch):
    try:
        native_library.load()
    except SettingsError as e:
        pytest.skip(str(e))

    def called(*args):
        raise AssertionError("the reference engine was called")

    monkeypatch.setattr(reference, "aev", called)
    data = labelled(periodic=True, lacking=True)
    loop_for(data, **OPTIONS["all"]).step(torch.arange(len(data)))


def test_a_diverged_prediction_is_not_taken_for_a_label_that_lacks():
    data = labelled(periodic=False, lacking=True)
    loop = loop_for(data, force_weight=1.0)
    with torch.no_grad():
        next(iter(loop.model.networks.parameters())).fill_(float("nan"))
    assert np.isnan(float(loop.step(torch.arange(len(data)))))
    assert np.isnan(loop.validate(loop.model.networks).mae)


def test_what_is_asked_for_must_be_there():
    molecules, crystals = labelled(False, False), labelled(True, False)
    model = ANIModel.create("HCNO", hidden=[4])

    def train(data: Conformers, val: Conformers | None = None, **options) -> None:
        ANITrainer(model, epochs=1, **options).train(data, val or data, quiet=True)

    with pytest.raises(DataError, match="no training conformer has forces, which force_weight=1"):
        train(replace(molecules, forces=None), molecules, force_weight=1.0)
    with pytest.raises(DataError, match="no validation conformer has stress"):
        train(crystals, replace(crystals, stress=None), stress_weight=1.0)
    flat = np.ones((len(crystals), 3), bool)
    flat[3, 2] = False
    with pytest.raises(DataError, match=r"training conformer 3 .* no cell that is periodic in all"):
        train(replace(crystals, pbc=flat), stress_weight=1.0)
    forces = molecules.forces.copy()
    forces[6, 1] = np.inf
    with pytest.raises(DataError, match=r"a force of training conformer 1 .* is not finite"):
        train(replace(molecules, forces=forces), force_weight=1.0)
    some = labelled(False, True)
    with pytest.raises(DataError, match="1 of 5 training conformers have no energies to train on"):
        train(some)
    with pytest.raises(SettingsError, match="nothing to train on"):
        train(molecules, energy_weight=0.0)


def test_training_on_forces_makes_forces_better(small):
    train, val, _ = small
    errors = []
    for weight in (0.0, 0.1):
        model = ANIModel.create("HCNO", hidden=[24, 16], seed=0)
        history = ANITrainer(model, epochs=40, batch_size=16, force_weight=weight).train(
            train, val, quiet=True
        )
        said = model.predict(val, forces=True)
        errors.append(float(np.abs(said.forces - val.forces).mean() * KCAL))
        assert (history.best.val_force_mae is not None) == bool(weight)
    assert history.best.val_force_mae == pytest.approx(errors[1], rel=1e-4)
    assert errors[1] < 0.7 * errors[0]


def test_units_of_the_loss():
    assert loss_unit(TrainingSettings()) == "(kcal/mol)^2"
    assert loss_unit(TrainingSettings(per_atom=True)) == "(kcal/mol/atom)^2"
    assert loss_unit(TrainingSettings(force_weight=1.0)) == ""


def test_counting_labels_takes_memory_for_a_part_of_the_atoms():
    m, n = 300_000, 20
    data = Conformers(
        atomic_numbers=np.ones(m * n, dtype=np.uint8),
        coordinates=np.broadcast_to(np.float32(0), (m * n, 3)),
        offsets=np.arange(m + 1) * n,
        forces=np.broadcast_to(np.float32(0), (m * n, 3)),
        molecule=np.zeros(m, dtype=np.int32),
    )
    settings = TrainingSettings(energy_weight=0.0, force_weight=1.0)
    tracemalloc.start()
    try:
        (term,) = loss_terms(settings, data, torch.device("cpu"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert float(term.items(torch.arange(m)).sum()) == 3 * m * n
    assert peak < 8 * m * n  # less than one integer for each atom


def test_a_repulsion_is_added_to_what_the_networks_learn():
    """Loss and errors are those of the whole model, the repulsion included, near contacts too."""
    data = labelled(periodic=True, lacking=True)
    model = ANIModel.create(
        "HCNO",
        hidden=[6],
        activation="silu",
        dtype="float64",
        repulsion=Repulsion(parse_elements("HCNO"), inner=0.8, outer=1.6),
    )
    assert (model.repulsion.of(data)[0] > 1e-3).sum() >= 3
    settings = TrainingSettings(epochs=1, batch_size=len(data), device="cpu", **OPTIONS["all"])
    loop = TrainingLoop(model, settings, data, data)
    loss = float(loop.step(torch.arange(len(data))))
    assert loss == pytest.approx(expected_loss(loop, data), rel=1e-9)


def test_a_loss_term_is_registered_in_a_few_lines(small, monkeypatch):
    """The largest force of each molecule, in a loss of its own beside the energies."""
    monkeypatch.setattr(registered_terms, "_known", {})

    @registered_terms.register("largest_force")
    def largest_force(outputs, batch, scale):
        norms = outputs.forces.double().square().sum(1)
        return norms.new_zeros(len(batch)).scatter_reduce(0, batch.conformer, norms, "amax")

    largest_force.derivatives = True
    model = ANIModel.create("HCNO", hidden=[4], seed=1, dtype="float64")
    found = []
    for weight in (0.0, 2.0):
        settings = TrainingSettings(loss_terms={"largest_force": weight}, epochs=1)
        loop = TrainingLoop(model, settings, small[0], small[1])
        found.append(float(loop.step(torch.arange(9))))
    predicted = evaluate_batch(model, model.batch(small[0].take(np.arange(9))), forces=True)
    forces = predicted.forces * units.hartree_to("kcal/mol")
    parts = np.split(forces, small[0].offsets[1:9])
    largest = [(part**2).sum(1).max() for part in parts]
    assert found[1] - found[0] == pytest.approx(2.0 * np.mean(largest), rel=1e-6)
    with pytest.raises(SettingsError, match="unknown loss term 'smallest'"):
        ANITrainer(model, loss_terms={"smallest": 1.0})


def test_a_loss_term_reads_a_registered_label(small, monkeypatch):
    monkeypatch.setattr(registered_terms, "_known", {})
    monkeypatch.setattr(labels, "_known", dict(labels._known))
    labels.register("weight")(Label("conformer", (), ""))
    data = small[0].replaced(labels={"weight": np.arange(len(small[0]), dtype=float)})

    @registered_terms.register("weighted")
    def weighted(outputs, batch, scale):
        return batch.labels["weight"].double() + 0.0 * outputs.energies

    weighted.labels = ("weight",)
    model = ANIModel.create("HCNO", hidden=[4], seed=1)
    found = []
    for terms in ({}, {"weighted": 1.0}):
        loop = TrainingLoop(model, TrainingSettings(loss_terms=terms, epochs=1), data, data)
        found.append(float(loop.step(torch.tensor([3, 8, 4]))))
    assert found[1] - found[0] == pytest.approx(5.0, rel=1e-4)
