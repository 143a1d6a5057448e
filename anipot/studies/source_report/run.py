"""Protocol as-written of the source: its rows in its order, and what shows each of its defects."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anipot.config import RunSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division, divide, read_data
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.experiments.table.presets import SOURCE_EPOCHS, source
from anipot.experiments.table.settings import (
    RowSettings,
    TableSettings,
    base_sections,
    row_settings,
    table_settings,
)
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.runs.run import make_model, new_folder
from anipot.studies.source_report.page import write_as_written
from anipot.studies.source_report.recipe import (
    FrozenBatches,
    NotebookTrainer,
    draw_as_torch,
    largest_difference,
)
from anipot.studies.source_report.rows import NotebookRun, NotebookTable
from anipot.system.devices import pick_device
from anipot.system.files import only_process
from anipot.system.threads import threads, useful_threads
from anipot.training.trainer import evaluate
from anipot.units import HARTREE_TO_KCALMOL

#: What may be changed without its being another notebook; all options of data may.
CHANGEABLE = (
    "model.elements",
    "model.engine",
    "training.epochs",
    "training.batch_size",
    "training.seed",
    "training.device",
    "training.threads",
)


def run_as_written(
    base: Mapping[str, Any] | None = None,
    updates: int | None = None,
    folder: str | Path | None = None,
) -> NotebookTable:
    """Do what the source's notebook does, and write its table with each defect in numbers.

        run_as_written({"files": ["ani_gdb_s01.h5"]}, folder="as-written")

    ``base``: options of data, ``epochs`` (default 30, as the notebook; ``updates`` decides them
    instead), ``batch_size`` (default 8192: that of the notebook's loaders), ``seed``, ``device``,
    ``threads``. One run a row, as the notebook has it. Raises SettingsError for options that would
    make it another notebook and for a folder that is not empty, DataError for data without
    energies.
    """
    settings = _settings(base or {}, updates)
    if folder is None:
        found = train_as_written(settings, updates)
        write_as_written(found, new_folder(name="as-written"))
        return found
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with only_process(folder):
        if any(folder.iterdir()):
            raise SettingsError(
                f"{folder} exists and is not empty; as-written takes minutes and is not resumed: "
                "name another folder"
            )
        try:
            found = train_as_written(settings, updates)
            write_as_written(found, folder)
        finally:
            with suppress(OSError):  # not empty: what was found is there
                folder.rmdir()
    return found


def _settings(base: Mapping[str, Any], updates: int | None) -> TableSettings:
    parts = source("controlled", 1)
    del parts["updates"], parts["claims"]
    as_it_is = table_settings(parts)
    named = base_sections(base)
    given = table_settings({**parts, "base": named}).base.model_dump()
    merged = as_it_is.base.model_dump()
    for section, options in named.items():
        for key in options:
            name = f"{section}.{key}"
            if section != "data" and name not in CHANGEABLE:
                raise SettingsError(
                    f"{name} cannot be changed: as-written does what the notebook does. It takes "
                    f"options of data, and {', '.join(n.split('.')[1] for n in CHANGEABLE)}"
                )
            merged[section][key] = given[section][key]
    if updates is not None and merged["training"]["epochs"] is not None:
        raise SettingsError("updates and epochs decide the same: leave out one of them")
    return table_settings({**parts, "base": merged})


def train_as_written(settings: TableSettings, updates: int | None = None) -> NotebookTable:
    """The rows of a table of the source, trained and measured; nothing is written."""
    began = time.monotonic()
    base = RunSettings(**dict(settings.base))
    data = read_data(base.data)
    if not data.has("energies").all():
        raise DataError("as-written needs an energy of every conformer; leave out the others")
    division = divide(data, base.data)
    if not len(division.test):
        raise DataError("as-written needs a test part; give data.test a fraction")
    # Defect 8: the notebook subtracts self energies before it divides the data.
    elements = make_model(base, data).elements
    whole = SelfEnergies.fit(data, elements)
    work = _Work(base, data, division, whole)
    batches = len(work.parts["train"])
    epochs = base.training.epochs or SOURCE_EPOCHS
    if updates is not None:
        epochs = math.ceil(updates / batches)
    rows = {row.name: row for row in row_settings(settings)}
    runs: dict[str, NotebookRun] = {}
    controls: dict[str, NotebookRun] = {}
    model: ANIModel | None = None
    with torch.random.fork_rng(), threads(work.threads):
        for name, row in rows.items():
            # Defect 3: iteration 1 wraps the networks again that the original has trained.
            runs[name], model = work.run(row, epochs, started=model if name == "1" else None)
            print(_told(f"row {name}", runs[name]), flush=True)
        original = rows["original"]
        for what, row, changed in (
            ("6, with the loaders' batch size", rows["6"], {"batch_size": work.batch_size}),
            ("original without L2", original, {"l2": 0.0}),
            ("original, another seed", original, {"seed": work.seed + 1}),
            ("1 from fresh weights", rows["1"], {}),
        ):
            controls[what], _ = work.run(row, epochs, **changed)
            print(_told(f"to compare, {what}", controls[what]), flush=True)
    train, _, test = division.take(data)
    own = SelfEnergies.fit(train, elements)
    shift = np.abs(whole.of(test) - own.of(test)).mean() * HARTREE_TO_KCALMOL
    return NotebookTable(
        tuple(runs.values()),
        controls,
        division,
        data,
        work.batch_size,
        {part: len(frozen) for part, frozen in work.parts.items()},
        data.energies - whole.of(data) if data.energies is not None else np.zeros(0),
        data.n_atoms,
        (whole, own),
        float(shift),
        str(work.device),
        time.monotonic() - began,
    )


class _Work:
    """Inputs shared by the rows: data in frozen batches, and the conformers for honest errors."""

    def __init__(
        self, base: RunSettings, data: Conformers, division: Division, own: SelfEnergies
    ) -> None:
        self.self_energies = own
        self.seed, self.batch_size = base.training.seed, base.training.batch_size
        self.device = pick_device(base.training.device)
        train, validation, test = division.take(data)
        # The notebook shuffles before it divides; here the parts come in the order of the file.
        shuffled = np.random.default_rng(self.seed).permutation(len(train))
        self.conformers = {"train": train.take(shuffled), "validation": validation, "test": test}
        model = self._model(base)
        self.parts = {
            part: FrozenBatches(conformers, model, self.batch_size)
            for part, conformers in self.conformers.items()
        }
        atoms = int(train.n_atoms.sum()) / len(self.parts["train"])
        self.threads = base.training.threads or useful_threads(atoms)

    def _model(self, settings: RunSettings) -> ANIModel:
        elements = "".join(self.self_energies.elements)
        named = settings.model.model_copy(update={"elements": elements})
        model = make_model(settings.model_copy(update={"model": named}), self.conformers["train"])
        model.self_energies = self.self_energies
        return model.to(self.device)

    def run(
        self,
        row: RowSettings,
        epochs: int,
        started: ANIModel | None = None,
        batch_size: int | None = None,
        l2: float | None = None,
        seed: int | None = None,
    ) -> tuple[NotebookRun, ANIModel]:
        """Train a row as the notebook does, from ``started`` where given, and measure it."""
        settings = row.settings
        assert settings is not None
        training = settings.training
        model = started or self._model(settings)
        if started is None:
            draw_as_torch(model, self.seed if seed is None else seed)
        trainer = NotebookTrainer(
            model,
            self.parts["train"],
            batch_size=batch_size or training.batch_size,
            learning_rate=training.learning_rate,
            epochs=epochs,
            l2=training.l2 if l2 is None else l2,
        )
        first, _ = trainer.first_batch()
        train_losses, val_losses = trainer.train(self.parts["validation"])
        if not all(map(math.isfinite, train_losses + val_losses)):
            raise TrainingError(f"the loss of row {row.name!r} is not finite; look at the data")
        said = {part: trainer.evaluate(self.parts[part]) for part in ("validation", "test")}
        extra = self._with_dropout(trainer) if settings.model.dropout else {}
        found = {p: evaluate(model, self.conformers[p]).energy for p in ("validation", "test")}
        weights = {k: v.detach().clone() for k, v in model.networks.state_dict().items()}
        run = NotebookRun(
            row,
            train_losses,
            val_losses,
            said,
            found,
            first,
            trainer.first_batch()[0],
            trainer.updates,
            trainer.seconds,
            trainer.best_epoch,
            trainer.restoring_changed,
            largest_difference(weights, trainer.best_weights),
            sum(float(w.square().sum()) for w in weights.values()),
            model.n_parameters,
            weights,
            extra,
        )
        return run, model

    @staticmethod
    def _with_dropout(trainer: NotebookTrainer) -> dict[str, float]:
        """MAE of the first training batch with dropout and without; atomic energies without."""
        _, on = trainer.first_batch()
        trainer.model.networks.eval()
        _, off = trainer.first_batch()
        atomic = trainer.atomic_energies()
        trainer.model.networks.train()
        return {
            "dropout on": on,
            "dropout off": off,
            "lowest atomic energy": float(atomic.min()),
            "highest atomic energy": float(atomic.max()),
        }


def _told(what: str, run: NotebookRun) -> str:
    said, found = run.said["validation"][1], run.found
    return (
        f"{what}: the notebook says MAE {said:.2f} kcal/mol; held out: validation "
        f"{found['validation'].mae:.2f}, test {found['test'].mae:.2f}; {run.updates} updates, "
        f"{sum(run.seconds):.0f} s"
    )
