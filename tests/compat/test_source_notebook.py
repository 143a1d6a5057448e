"""The source notebook runs through the bridge, cell by cell, on real ANI-1 data."""

import random
import warnings
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch

import anipot

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).with_name("source_notebook.py")
EPOCHS = 2


def run_cells(names):
    """Run one cell after the other in ``names``, as Jupyter does; yields after each."""
    lines = NOTEBOOK.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        source = "\n" * start + "\n".join(lines[start:end])  # tracebacks show the file's lines
        exec(compile(source, str(NOTEBOOK), "exec"), names)
        yield


@pytest.fixture(scope="module")
def notebook(shared_data):
    """The notebook's names, its trainings in their order, its figures, and what it printed."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    random.seed(0)
    torch.manual_seed(0)
    printed, trainings = [], []
    names = {
        "DATA": shared_data / "ani_gdb_s01.h5",
        "EPOCHS": EPOCHS,
        "print": lambda *values: printed.append(" ".join(map(str, values))),
    }
    with warnings.catch_warnings(), plt.rc_context({"figure.max_open_warning": 0}):
        for _ in run_cells(names):
            if "train_losses" in names and (
                not trainings or names["train_losses"] is not trainings[-1].losses
            ):
                trainings.append(
                    SimpleNamespace(
                        model=names["model"],
                        losses=names["train_losses"],
                        validation=names["val_losses"],
                    )
                )
    figures = [plt.figure(n) for n in plt.get_fignums()]
    plt.close("all")
    return SimpleNamespace(names=names, trainings=trainings, figures=figures, printed=printed)


def test_it_prints_what_it_printed(notebook):
    # Version, length of the AEV, and the numbers of parameters. The last is not 197,636 as in the
    # print: there the session had been started again.
    assert notebook.printed[1].startswith("2.2.4")
    assert notebook.printed[3] == "384"
    parameters = [p.rpartition(" ")[2] for p in notebook.printed if "parameters" in p]
    assert parameters == [
        "197636",
        "197636",
        "308804",
        "230404",
        "197636",
        "197636",
        "230404",
        "230404",
    ]


def test_shapes_are_those_of_ani_1(notebook):
    names = notebook.names
    assert [len(names[f"{part}_data"]) for part in ("train", "val", "test")] == [8640, 1080, 1080]
    assert [len(b["species"]) for b in names["train_data_loader"]] == [8192, 448]
    assert names["coords"].shape == (8192, 5, 3)
    assert names["coords"].dtype == torch.float32
    assert names["true_energies"].shape == names["pred_energies"].shape == (8192,)


def test_every_loss_falls(notebook):
    assert len(notebook.trainings) == 8
    for training in notebook.trainings:
        assert len(training.losses) == len(training.validation) == EPOCHS
        assert np.isfinite(training.losses + training.validation).all()
        assert training.losses[-1] < training.losses[0]


def test_figures_show_losses_and_finite_errors(notebook):
    # A training draws its last validation and its losses, and all but the last are then tested.
    assert len(notebook.figures) == 3 * 8 - 1
    labels = [
        text.get_text()
        for figure in notebook.figures
        for text in figure.axes[0].get_legend().get_texts()
    ]
    errors = [float(t.split()[1]) for t in labels if t.startswith("MAE")]
    assert len(errors) == 15
    assert np.isfinite(errors).all()
    assert labels.count("Train") == labels.count("Validation") == 8


def test_anipot_loads_what_it_saves(notebook, tmp_path):
    shifter = notebook.names["energy_shifter"]
    batch = next(iter(notebook.names["test_data_loader"]))
    there = batch["species"] >= 0
    conformers = anipot.Conformers(
        np.array([1, 6, 7, 8])[batch["species"][there].numpy()],
        batch["coordinates"][there].numpy(),
        np.append(0, there.sum(1).cumsum(0).numpy()),
    )
    hidden = ["relu"] * 4 + ["sigmoid"] * 2 + ["relu"] * 2
    for k, (training, activation) in enumerate(zip(notebook.trainings, hidden, strict=True)):
        path = tmp_path / f"{k}.pt"
        torch.save(training.model.state_dict(), path)
        potential = anipot.load(
            path,
            activation=activation,
            output_activation="sigmoid" if k == 5 else None,
            self_energies=shifter.self_energies.tolist(),
        )
        with torch.no_grad():
            energies = training.model.eval()((batch["species"], batch["coordinates"])).energies
        truth = energies + shifter.sae(batch["species"])
        assert np.abs(potential.predict(conformers).energies - truth.numpy()).max() < 1e-6
