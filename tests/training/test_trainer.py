"""ANITrainer: it learns, keeps the best, is a function of its seed, and says what goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anipot.config import RunSettings, TrainingSettings
from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.formats.load import load
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.system.devices import pick_device
from anipot.system.options import checked, read_yaml, to_yaml, with_words
from anipot.system.threads import useful_threads
from anipot.training.trainer import ANITrainer, evaluate
from anipot.units import HARTREE_TO_KCALMOL


def new_model(seed: int = 0, **options) -> ANIModel:
    return ANIModel.create("HCNO", seed=seed, **{"hidden": [24, 16], **options})


def new_trainer(seed: int = 0, model: ANIModel | None = None, **options) -> ANITrainer:
    options = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, **options}
    return ANITrainer(model or new_model(seed), seed=seed, **options)


def weights(model: ANIModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.networks.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_learns_what_a_constant_cannot(small):
    train, val, test = small
    trainer = new_trainer(epochs=60)
    trainer.train(train, val, quiet=True)
    errors = trainer.evaluate(test)
    above = errors.reference_above * HARTREE_TO_KCALMOL
    spread = np.abs(above - above.mean()).mean()
    assert errors.energy.mae < 0.35 * spread
    assert len(errors) == len(test)


def test_the_best_weights_are_in_the_model_when_it_ends(small):
    train, val, _ = small
    trainer = new_trainer(epochs=15, schedule="constant", learning_rate=0.03)
    history = trainer.train(train, val, quiet=True)
    maes = history["val_mae"]
    assert history.best.val_mae == min(maes)
    assert min(maes) < maes[-1]  # a constant high rate: the last epoch is not the best one
    assert trainer.evaluate(val).energy.mae == pytest.approx(min(maes), rel=1e-6)


def test_with_averaged_weights_the_best_average_is_kept(small):
    train, val, _ = small
    trainer = new_trainer(epochs=8, ema=0.95)
    history = trainer.train(train, val, quiet=True)
    assert trainer.evaluate(val).energy.mae == pytest.approx(history.best.val_mae, rel=1e-6)
    plain = new_trainer(epochs=8)
    plain.train(train, val, quiet=True)
    assert not same(weights(plain.model), weights(trainer.model))


def test_one_seed_one_result(small):
    train, val, _ = small
    runs = []
    for seed in (3, 3, 4):
        trainer = new_trainer(seed, model=new_model(seed, dropout=0.1))
        history = trainer.train(train, val, quiet=True)
        runs.append((weights(trainer.model), history["train_loss"]))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


def test_the_random_state_of_the_caller_is_left_alone(small):
    train, val, _ = small
    trainer = new_trainer(epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.train(train, val, quiet=True)
    assert torch.equal(torch.rand(3), expected)


def test_training_changes_no_data(small):
    train, val, _ = small
    before = train.content_hash(), val.content_hash()
    new_trainer(epochs=2).train(train, val, quiet=True)
    assert (train.content_hash(), val.content_hash()) == before


def test_stops_after_patience_epochs_without_a_better_one(small):
    train, val, _ = small
    options = {"epochs": 40, "schedule": "constant", "learning_rate": 0.05, "patience": 3}
    history = new_trainer(**options).train(train, val, quiet=True)
    assert history.stopped == "patience"
    assert len(history) == history.best.epoch + 3 < 40
    whole = new_trainer(**{**options, "epochs": 12}).train(train, val, early_stop=False, quiet=True)
    assert whole.stopped == "finished"
    assert len(whole) == 12


def test_patience_is_at_least_half_of_the_epochs_by_default(small):
    train, val, _ = small
    # A learning rate too small to change anything: no epoch after the first is better.
    history = new_trainer(epochs=9, learning_rate=1e-30).train(train, val, quiet=True)
    assert history.stopped == "patience"
    assert len(history) == 1 + 5


def test_evaluation_is_of_the_data_given_and_without_dropout(small):
    train, val, test = small
    model = new_model(dropout=0.5)
    trainer = new_trainer(model=model, epochs=2)
    trainer.train(train, val, quiet=True)
    model.train()  # even if somebody left it so
    for data in (val, test):
        evaluation = trainer.evaluate(data)
        predicted = model.predict(data).energies
        np.testing.assert_array_equal(evaluation.reference, data.energies)
        np.testing.assert_array_equal(evaluation.predicted, predicted)
        error = (predicted - data.energies) * HARTREE_TO_KCALMOL
        assert evaluation.energy.mae == pytest.approx(np.abs(error).mean())
        assert evaluation.energy.rmse == pytest.approx(np.sqrt((error**2).mean()))
    assert model.training


def test_evaluate_leaves_out_conformers_without_energy(small):
    _, _, test = small
    energies = test.energies.copy()
    energies[3] = np.nan
    mask = np.isfinite(energies)
    partly = replace(test, energies=energies, masks={"energies": mask})
    evaluation = evaluate(new_model(), partly)
    assert len(evaluation) == len(test) - 1
    assert 3 not in evaluation.conformer
    with pytest.raises(DataError, match="no conformer has an energy"):
        evaluate(new_model(), replace(test, energies=None))


def test_self_energies_come_from_the_training_part_alone(small):
    train, val, _ = small
    trainer = new_trainer(epochs=1)
    trainer.train(train, val, quiet=True)
    expected = SelfEnergies.fit(train, "HCNO").values
    np.testing.assert_array_equal(trainer.model.self_energies.values, expected)
    both = SelfEnergies.fit(Conformers.concatenate([train, val]), "HCNO").values
    assert np.abs(expected - both).max() > 0


def test_the_first_loss_is_that_of_the_untrained_networks(small):
    train, val, _ = small
    model = new_model()
    trainer = new_trainer(model=model, epochs=1, batch_size=len(train), learning_rate=1e-12)
    model.self_energies = SelfEnergies.fit(train, model.elements)
    with torch.no_grad():
        error = (model(model.batch(train)).numpy() - train.energies) * HARTREE_TO_KCALMOL
    history = trainer.train(train, val, quiet=True)
    assert history["train_loss"][0] == pytest.approx((error**2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({"target_unit": "hartree"}, lambda e, n: (e / HARTREE_TO_KCALMOL) ** 2),
        ({"loss": "mse/sqrt(n)"}, lambda e, n: e**2 / np.sqrt(n)),
        (
            {"loss": "huber", "huber_delta": 2.0},
            lambda e, n: np.where(abs(e) < 2, e**2 / 2, 2 * (abs(e) - 1)),
        ),
    ],
)
def test_losses(small, options, loss):
    train, val, _ = small
    model = new_model()
    trainer = new_trainer(model=model, epochs=1, learning_rate=1e-12, **options)
    history = trainer.train(train, val, quiet=True)
    errors = evaluate(model, val).errors
    assert history["val_loss"][0] == pytest.approx(loss(errors, val.n_atoms).mean(), rel=1e-5)


def test_optimizers_and_their_l2_are_torchs(small):
    """One update by hand, with the L2 term in the gradient (Adam, SGD) or not (AdamW)."""
    train, val, _ = small
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    for optimizer, kind in kinds.items():
        model, twin = new_model(), new_model()
        options = {"epochs": 1, "batch_size": len(train), "schedule": "constant", "warmup": 0}
        trainer = new_trainer(model=model, optimizer=optimizer, l2=0.1, **options)
        trainer.train(train, val, quiet=True)
        twin.self_energies = model.self_energies
        by_hand = kind(twin.networks.parameters(), 3e-3, weight_decay=0.1)
        error = twin(twin.batch(train)) - torch.as_tensor(train.energies)
        (error * HARTREE_TO_KCALMOL).square().mean().backward()
        by_hand.step()
        for a, b in zip(weights(model), weights(twin), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_aevs_from_a_cache_or_anew_are_the_same_training(small, engine):
    train, val, _ = small
    results = []
    for where in ("off", "ram", "device", "auto"):
        trainer = new_trainer(model=new_model(engine=engine), aev_cache=where)
        results.append(trainer.train(train, val, quiet=True)["val_mae"])
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, rtol=1e-3)


def test_the_cache_says_what_it_does(small, capsys, monkeypatch):
    train, val, _ = small

    def said(**options) -> str:
        new_trainer(model=new_model(engine="reference"), epochs=1, **options).train(train, val)
        return capsys.readouterr().out

    assert "kept in memory" in said()
    assert "computed anew in every epoch (aev_cache=off)" in said(aev_cache="off")
    monkeypatch.setattr("anipot.training.aev_cache.free_memory", lambda device: 1000)
    assert "would not fit" in said()


def test_threads_follow_the_size_of_the_batches_and_are_given_back(small):
    train, val, _ = small
    seen = []
    torch.set_num_threads(2)
    try:
        for options in ({}, {"batch_size": 512}, {"threads": 2}):
            new_trainer(epochs=1, **options).train(
                train, val, on_epoch=lambda _: seen.append(torch.get_num_threads()), quiet=True
            )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 1, 2]
    assert useful_threads(499) == useful_threads(1) == 1


def test_fine_tuning_keeps_frozen_layers_and_self_energies(small):
    train, val, _ = small
    model = new_model()
    model.self_energies = SelfEnergies(model.elements, np.array([-0.6, -38.1, -54.7, -75.2]))
    before = model.networks.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    trainer = new_trainer(model=model, freeze_layers=1, epochs=3)
    trainer.train(train, val, quiet=True)
    np.testing.assert_array_equal(model.self_energies.values, [-0.6, -38.1, -54.7, -75.2])
    for name, value in model.networks.state_dict().items():
        assert torch.equal(value, before[name]) == (".layers.0." in name)
    assert all(p.requires_grad for p in model.networks.parameters())
    refitted = new_trainer(model=model, self_energies="fit", epochs=1)
    refitted.train(train, val, quiet=True)
    np.testing.assert_array_equal(
        model.self_energies.values, SelfEnergies.fit(train, "HCNO").values
    )
    with pytest.raises(SettingsError, match="leaves nothing to train"):
        new_trainer(freeze_layers=3).train(train, val, quiet=True)


def test_fine_tuning_starts_where_the_first_training_ended(small):
    train, val, _ = small
    first = new_trainer(epochs=10)
    ended = first.train(train, val, quiet=True).best.val_mae
    again = new_trainer(model=first.model, epochs=1, learning_rate=1e-9)
    assert again.train(train, val, quiet=True)["val_mae"][0] == pytest.approx(ended, rel=1e-4)


def test_a_loss_that_is_not_finite_names_the_batch(small):
    train, val, _ = small
    trainer = new_trainer(learning_rate=1e18, schedule="constant", warmup=0, epochs=5)
    with pytest.raises(
        TrainingError, match=r"the loss is (inf|nan) in epoch \d+, batch \d+ of"
    ) as e:
        trainer.train(train, val, quiet=True)
    message = str(e.value)
    assert "conformer" in message
    assert "learning_rate" in message
    for p in trainer.model.networks.parameters():
        assert p.requires_grad


def test_gradient_clipping_limits_a_step(small):
    train, val, _ = small
    moved = []
    for clip in (None, 1e-9):
        model = new_model()
        before = weights(model)
        # Adam's eps makes a tiny gradient a tiny step.
        options = {"clip": clip, "schedule": "constant", "warmup": 0}
        new_trainer(model=model, epochs=1, **options).train(train, val, quiet=True)
        changes = zip(weights(model), before, strict=True)
        moved.append(max(float((a - b).abs().max()) for a, b in changes))
    assert moved[1] < 0.5 * moved[0]


def test_bad_data_is_refused_with_the_reason(small):
    train, val, _ = small
    nothing = train.take([])
    with pytest.raises(DataError, match="training set is empty"):
        new_trainer().train(nothing, val)
    with pytest.raises(DataError, match="validation set is empty"):
        new_trainer().train(train, nothing)
    unnamed = replace(train, energies=None, not_read=("U0", "comment"))
    with pytest.raises(
        DataError, match=r"no training conformer has an energy.*: U0, comment.*energy_key="
    ):
        new_trainer().train(unnamed, val)
    energies = train.energies.copy()
    energies[7] = np.nan
    with pytest.raises(DataError, match="energy of training conformer 7"):
        new_trainer().train(replace(train, energies=energies), val)
    with pytest.raises(DataError, match="contains N, O, which no training conformer does"):
        new_trainer().train(train.select(elements="CH"), val)
    with pytest.raises(DataError, match="is O, which this model does not know; it knows H, C, N"):
        ANITrainer(ANIModel.create("HCN", hidden=[4]), epochs=1).train(train, val)


def test_options_are_checked_where_they_are_given():
    with pytest.raises(SettingsError, match="did you mean epochs"):
        ANITrainer(new_model(), epoch=3)
    with pytest.raises(SettingsError, match="batch_size"):
        ANITrainer(new_model(), batch_size=0)
    with pytest.raises(SettingsError, match="device 'cuda:99' cannot be used"):
        pick_device("cuda:99")
    with pytest.raises(SettingsError, match="device 'gpu'"):
        pick_device("gpu")


def test_degenerate_data_trains(small):
    train, _, _ = small
    one = train.take([0])
    new_trainer(epochs=2).train(one, one, quiet=True)  # one conformer
    same_energy = replace(train, energies=np.full(len(train), -40.0))
    trainer = new_trainer(epochs=2)
    trainer.train(same_energy, same_energy, quiet=True)
    atoms = Conformers(
        np.array([8, 1, 8]), np.zeros((3, 3)), np.arange(4), energies=np.array([-75.0, -0.5, -75.1])
    )
    trainer = new_trainer(epochs=2)
    trainer.train(atoms, atoms, quiet=True)  # molecules of one atom
    assert np.isfinite(trainer.evaluate(atoms).errors).all()


def test_figures_are_drawn_when_asked_for(small):
    train, val, test = small
    trainer = new_trainer(epochs=2)
    trainer.train(train, val, draw_curve=True, quiet=True)
    trainer.evaluate(test, draw_plot=True)
    assert trainer.curve is not None
    assert trainer.parity is not None


def test_default_epochs_follow_the_size_of_the_data():
    defaults = TrainingSettings()
    assert defaults.resolved(5_935).epochs == 301
    assert defaults.resolved(22_327).epochs == 80
    assert defaults.resolved(692_000).epochs == 20
    assert defaults.resolved(10).epochs == 500
    assert TrainingSettings(epochs=7).resolved(10).epochs == 7


def test_networks_that_were_never_trained_are_not_used(small, tmp_path):
    train, val, test = small
    hydrocarbons = [part.select(elements="CH") for part in (train, val)]
    water = test.select(elements="OH")
    trainer = new_trainer(epochs=1)
    trainer.train(*hydrocarbons, quiet=True)
    assert trainer.model.trained == ("H", "C")
    trainer.model.save(tmp_path / "p.safetensors")
    for model in (trainer.model, load(tmp_path / "p.safetensors")):
        with pytest.raises(DataError, match="is O, which this model does not know; it knows H, C"):
            model.predict(water)
    # Fine-tuning on others adds to what it knows and forgets nothing.
    again = new_trainer(model=load(tmp_path / "p.safetensors"), epochs=1)
    again.train(water, water, quiet=True)
    assert again.model.trained == ("H", "C", "O")
    again.model.predict(hydrocarbons[0])


def test_a_trained_model_says_where_it_comes_from(small):
    train, val, test = small
    trainer = new_trainer(epochs=3)
    history = trainer.train(train, val, quiet=True)
    about = trainer.model.about
    assert about["data"]["train"] == {"conformers": len(train), "sha256": train.content_hash()}
    assert about["errors_kcalmol"]["validation"]["mae"] == history.best.val_mae
    assert about["level_of_theory"] == train.level_of_theory != ""
    ANITrainer(trainer.model, epochs=1).train(test, val, quiet=True)
    assert trainer.model.about["data"]["train"]["sha256"] == test.content_hash()
    assert trainer.model.about["started_from"] == about


def test_a_trainer_can_be_used_again_for_data_of_another_size(small):
    train, val, _ = small
    trainer = ANITrainer(new_model(), batch_size=16)
    trainer.train(train, val, quiet=True, on_epoch=_stop)
    assert trainer.settings.epochs is None


def _stop(history):
    history.stopped = "interrupted"


def test_a_validation_error_that_is_not_finite_is_an_error(small):
    train, val, _ = small
    options = {"learning_rate": 1e38, "schedule": "constant", "warmup": 0, "batch_size": 512}
    with pytest.raises(TrainingError, match="validation error is nan after epoch 1"):
        new_trainer(epochs=1, **options).train(train, val, quiet=True)


def test_self_energies_can_be_given(small, tmp_path):
    train, val, _ = small
    given = {"H": -0.5, "C": -37.9, "N": -54.6, "O": -75.1}
    model = new_model()
    ANITrainer(model, epochs=1, self_energies=given).train(train, val, quiet=True)
    assert dict(zip(model.elements, model.self_energies.values, strict=True)) == given
    with pytest.raises(SettingsError, match="given for H, the model has H, C, N, O"):
        ANITrainer(new_model(), epochs=1, self_energies={"H": -0.5}).train(train, val, quiet=True)
    with pytest.raises(SettingsError, match="self_energies"):
        ANITrainer(new_model(), self_energies="none")
    words = with_words({}, ["self_energies={H: -0.5, O: -75}"])
    settings = checked(RunSettings, words)
    assert settings.training.self_energies == {"H": -0.5, "O": -75.0}
    (tmp_path / "o.yaml").write_text(to_yaml(settings))
    assert checked(RunSettings, read_yaml(tmp_path / "o.yaml")) == settings


def test_an_optimizer_is_registered_in_one_line(small, monkeypatch):
    from anipot.training.updates import optimizers

    monkeypatch.setattr(optimizers, "_known", dict(optimizers._known))
    made = []

    @optimizers.register("rprop")
    def rprop(weights, settings):
        made.append(torch.optim.Rprop(weights, settings.learning_rate))
        return made[-1]

    model = ANIModel.create("HCNO", hidden=[4], seed=1)
    ANITrainer(model, optimizer="rprop", epochs=1).train(*small[:2], quiet=True)
    assert made[0].state
    with pytest.raises(SettingsError, match="unknown optimizer 'adamv'; known: adam"):
        ANITrainer(model, optimizer="adamv")
