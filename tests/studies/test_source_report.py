"""Protocol as-written: each defect of the source's notebook is there, as it is said to be."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from anipot.config import RunSettings
from anipot.errors import SettingsError
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.report.figures import plots
from anipot.runs.run import make_model
from anipot.studies.source_report.defects import defects
from anipot.studies.source_report.page import in_terminal, to_csv, to_html, to_markdown
from anipot.studies.source_report.recipe import FrozenBatches, NotebookTrainer, draw_as_torch
from anipot.studies.source_report.run import _settings, run_as_written
from anipot.units import HARTREE_TO_KCALMOL

BASE = {"heavy_atoms": 2, "per_molecule": 12, "batch_size": 50, "epochs": 3, "threads": 1}


def touch(figure, stem):
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.png").touch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("as_written") / "w"


@pytest.fixture(scope="module")
def table(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", touch)
        return run_as_written(BASE, folder=folder)


def model_of(table, run):
    """The potential that a row ended with."""
    settings = run.row.settings
    elements = "".join(table.self_energies[0].elements)
    named = settings.model.model_copy(update={"elements": elements})
    model = make_model(settings.model_copy(update={"model": named}), table.data)
    model.networks.load_state_dict(run.weights)
    model.self_energies = table.self_energies[0]
    return model


def maes(model, data):
    errors = model.predict(data).energies - data.energies
    return np.abs(errors).mean() * HARTREE_TO_KCALMOL


def first_training_batch(table):
    """The conformers that the notebook's evaluate scores."""
    train = table.division.take(table.data)[0]
    order = np.random.default_rng(0).permutation(len(train))
    return train.take(order[: table.batch_size])


# ---- the trainer ---------------------------------------------------------------------------------


def test_the_trainer_is_the_loop_of_the_notebook():
    """Losses of every epoch against the notebook's lines on networks made here, atom by atom."""
    import anipot

    data = anipot.load_bundled().select(heavy_atoms=1, per_molecule=8)
    data = data.take(np.random.default_rng(0).permutation(24))  # all elements in every batch
    model = ANIModel.create(data.elements, hidden=[5], activation="relu", output_unit="hartree")
    model.self_energies = SelfEnergies.fit(data, data.elements)
    draw_as_torch(model, 3)
    nets = [nn.Sequential(nn.Linear(384, 5), nn.ReLU(), nn.Linear(5, 1)) for _ in model.elements]
    for mine, theirs in zip(nets, model.networks.values(), strict=True):
        mine[0].load_state_dict(theirs.layers[0].state_dict())
        mine[2].load_state_dict(theirs.layers[1].state_dict())
    train, val = data.take(slice(0, 18)), data.take(slice(18, None))
    size, epochs, rate, l2 = 10, 4, 1e-3, 1e-2
    frozen = [FrozenBatches(part, model, size) for part in (train, val)]
    trainer = NotebookTrainer(model, frozen[0], 3, rate, epochs, l2)

    def energies(conformers):
        batch = model.batch(conformers)
        aevs = model.aev(batch).detach()
        atoms = torch.stack(
            [nets[s](x).squeeze() for s, x in zip(batch.species, aevs, strict=True)]
        )
        return torch.zeros(len(conformers)).index_add(0, batch.conformer, atoms)

    true = torch.as_tensor(train.energies - model.self_energies.of(train)).float()
    optimizer = torch.optim.Adam([p for n in nets for p in n.parameters()], rate, weight_decay=l2)
    loss_func = nn.MSELoss()
    batches = [slice(0, 10), slice(10, 18)]
    expected = []
    for _ in range(epochs):
        train_epoch_loss = 0.0
        for part in batches:
            batch_loss = loss_func(true[part], energies(train.take(part)))
            optimizer.zero_grad()
            batch_loss.backward()
            optimizer.step()
            train_epoch_loss += batch_loss.item() * len(true[part]) / 18
        with torch.no_grad():
            first = loss_func(true[batches[0]], energies(train.take(batches[0]))).item()
        expected.append((train_epoch_loss, math.ceil(len(val) / size) * first * 10 / len(val)))
    found = trainer.train(frozen[1])
    assert np.transpose(found) == pytest.approx(np.array(expected), rel=2e-4)
    assert trainer.updates == 8


def test_weights_are_drawn_as_torch_draws_them():
    model = ANIModel.create("HC", hidden=[7])
    draw_as_torch(model, 5)
    torch.manual_seed(5)
    assert torch.equal(model.networks["H"].layers[0].weight, nn.Linear(128, 7).weight)


# ---- the defects, in a table ---------------------------------------------------------------------


def test_validation_equals_test_and_is_that_of_a_training_batch(table):
    batch = first_training_batch(table)
    for run in table.runs:
        if run.name == "5":
            assert run.said["validation"][1] != run.said["test"][1]
            continue
        assert run.said["validation"][1] == run.said["test"][1]
        assert run.said["test"][1] == pytest.approx(maes(model_of(table, run), batch), rel=1e-4)


def test_honest_errors_are_those_of_the_potential_on_the_parts(table):
    _, validation, test = table.division.take(table.data)
    for run in table.runs:
        model = model_of(table, run)
        assert run.found["validation"].mae == pytest.approx(maes(model, validation), rel=1e-9)
        assert run.found["test"].mae == pytest.approx(maes(model, test), rel=1e-9)
        assert run.found["test"].n == len(test)


def test_losses_carry_the_weight_of_a_whole_batch(table):
    for part in ("validation", "test"):
        n = len(getattr(table.division, part))
        assert n < 50  # one batch
        assert table["2"].said[part][0] == pytest.approx(table["2"].last * 50 / n, rel=1e-6)


def test_restoring_changes_nothing(table):
    assert [run.restoring_changed for run in table.runs] == [0.0] * 7


def test_a_best_epoch_before_the_last_is_lost():
    import anipot

    data = anipot.load_bundled().select(heavy_atoms=1, per_molecule=8)
    model = ANIModel.create(data.elements, hidden=[5], output_unit="hartree")
    model.self_energies = SelfEnergies.fit(data, data.elements)
    frozen = FrozenBatches(data, model, 10)
    trainer = NotebookTrainer(model, frozen, 10, 1.0, 3, 0.0)  # far too high a rate
    _, losses = trainer.train(frozen)
    assert trainer.best_epoch == 1 + int(np.argmin(losses)) < 3
    assert trainer.restoring_changed == 0.0
    weights = model.networks.state_dict()
    assert not torch.equal(weights["H.layers.0.weight"], trainer.best_weights["H.layers.0.weight"])


def test_iteration_1_starts_where_the_original_ended(table):
    assert table["1"].first == table["original"].last != table["original"].first
    assert table.controls["1 from fresh weights"].first == table["original"].first


def test_the_batch_size_has_no_effect(table):
    six, again = table["6"], table.controls["6, with the loaders' batch size"]
    assert six.row.settings.training.batch_size == 512
    assert all(torch.equal(six.weights[name], again.weights[name]) for name in six.weights)
    batches = math.ceil(len(table.division.train) / 50)
    assert {run.updates for run in table.runs} == {3 * batches}


def test_the_output_of_row_5_and_its_dropout(table):
    five = table["5"]
    model = model_of(table, five)
    batch = first_training_batch(table)
    atomic = model.predict(batch, atomic=True).atomic_energies
    own = dict(zip(model.elements, table.self_energies[0].values, strict=True))
    symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
    atomic = atomic - np.array([own[symbols[z]] for z in batch.atomic_numbers.tolist()])
    assert five.extra["lowest atomic energy"] == pytest.approx(atomic.min(), rel=1e-4)
    assert five.extra["highest atomic energy"] == pytest.approx(atomic.max(), rel=1e-4)
    assert 0 < atomic.min() < atomic.max() < 1
    assert five.extra["dropout off"] == pytest.approx(maes(model, batch), rel=1e-4)
    assert five.extra["dropout on"] != five.extra["dropout off"]


def test_self_energies_are_of_the_whole_file(table):
    data, (whole, own) = table.data, table.self_energies
    fitted = np.linalg.lstsq(data.composition(whole.elements).astype(float), data.energies)[0]
    assert whole.values == pytest.approx(fitted, abs=1e-7)
    assert np.abs(whole.values - own.values).max() > 0
    test = data.take(table.division.test)
    shift = np.abs(whole.of(test) - own.of(test)).mean() * HARTREE_TO_KCALMOL
    assert table.shift == pytest.approx(shift)


def test_l2_and_the_seed_change_the_original(table):
    names = ("original without L2", "original, another seed")
    for name in names:
        assert table.controls[name].found["test"].mae != table["original"].found["test"].mae
    weights = table["original"].weights.values()
    expected = sum(float((w.double() ** 2).sum()) for w in weights)
    assert table["original"].squared_weights == pytest.approx(expected, rel=1e-5)


# ---- what people see -----------------------------------------------------------------------------


def test_each_defect_is_told_with_its_numbers(table):
    text = {d.title: " ".join(d.lines) for d in defects(table)}
    assert len(text) == 10
    assert (
        "exactly 0 kcal/mol in the rows original, 1, 2, 3, 4, 6."
        in text["Evaluation never sees a held-out conformer"]
    )
    n = len(table.division.validation)
    assert (
        f"1 x 50 / {n} = {50 / n:.3f} times" in text["Evaluation never sees a held-out conformer"]
    )
    assert "largest difference over all rows is 0" in text["Early stopping restores nothing"]
    assert "difference 0." in text["Iteration 1 goes on from the original's weights"]
    assert "the largest difference is 0." in text["The batch size of 512 never takes effect"]
    assert (
        "is one of 3.9 beside a loss in (kcal/mol)^2"
        in text["L2 in the gradient of a loss in hartree^2"]
    )


def test_the_last_digit_of_a_mean_is_no_difference(table):
    """As where one part has more batches than the other, each a repeat of the same."""
    run = table["2"]
    loss, mae = run.said["test"]
    said = {**run.said, "test": (loss, float(np.nextafter(np.float32(mae), np.float32(9e9))))}
    other = replace(run, said=said, train_losses=[1.0, 2.0])
    rows = tuple(other if r is run else r for r in table.runs)
    text = {d.title: " ".join(d.lines) for d in defects(replace(table, runs=rows))}
    assert (
        "kcal/mol in the rows original, 1, 2, 3, 4, 6."
        in text["Evaluation never sees a held-out conformer"]
    )
    assert "In row 2 they differ" not in text["Evaluation never sees a held-out conformer"]
    assert (
        "Row 2: from epoch 1 to 2 the training loss rose by 100.0%"
        in text["Iterations 2 to 6 are unfinished, not worse"]
    )


def test_pages_have_all_of_it(table, folder):
    markdown, page = to_markdown(table), to_html(table)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + 7
    assert "| original | 128 | 0.001 | 50 |" in markdown
    assert "| 1.3 |" in markdown  # as reported
    for defect in defects(table):
        assert defect.title in markdown
        assert defect.title in in_terminal(table)
        assert defect.title.replace("'", "&#x27;") in page
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(to_csv(table)))}
    assert float(lines["3"]["test_mae"]) == table["3"].found["test"].mae
    assert float(lines["3"]["reported_mae"]) == 3.91
    assert len(lines) == 7 + 4
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"table.md", "table.html", "table.csv", "table.png", "curves.png"}


@pytest.mark.parametrize(
    ("base", "updates", "message"),
    [
        ({"l2": 0}, None, r"training\.l2 cannot be changed: as-written does what the notebook"),
        ({"hidden": [9]}, None, r"model\.hidden cannot be changed"),
        ({"activation": "celu"}, None, r"model\.activation cannot be"),  # though the default is
        ({"epochs": 3}, 5, "updates and epochs decide the same"),
        ({"epochz": 3}, None, "did you mean training.epochs"),
    ],
)
def test_what_would_be_another_notebook_is_refused(base, updates, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        run_as_written(base, updates, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_an_option_given_as_its_default_is_taken():
    default = RunSettings().training.batch_size
    settings = _settings({"batch_size": default}, None)
    assert settings.base.training.batch_size == default != 8192
    assert _settings({}, None).base.training.batch_size == 8192


def test_a_folder_is_never_overwritten(table, folder):
    with pytest.raises(SettingsError, match="exists and is not empty"):
        run_as_written(BASE, folder=folder)


def test_rows_are_those_of_the_source(table):
    blank = RunSettings()
    assert [run.name for run in table.runs] == ["original", "1", "2", "3", "4", "5", "6"]
    assert table["original"].parameters == 197_636
    assert table["2"].parameters == 308_804
    assert table["6"].parameters == 230_404
    five = table["5"].row.settings.model
    assert (five.dropout, five.output_dropout, five.output_activation) == (0.15, True, "sigmoid")
    assert blank.model.output_unit != five.output_unit == "hartree"
