"""ANITrainer: trains a model on energies, and evaluates it on data it did not see."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from anipot.config import MACHINE_OPTIONS, TrainingSettings
from anipot.data.batches import check_known
from anipot.data.conformers import LABELS, Conformers
from anipot.errors import DataError
from anipot.evaluation.history import History
from anipot.evaluation.metrics import Evaluation
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential
from anipot.potential.model import ANIModel
from anipot.report.figures import plots
from anipot.system.devices import pick_device
from anipot.system.options import checked
from anipot.training.checkpoint_content import fitting
from anipot.training.checkpoints import CheckpointFile
from anipot.training.loop import TrainingLoop
from anipot.training.losses import OPTION, weights
from anipot.training.ranks import ranks
from anipot.training.targets import with_isolated_atoms, without_repulsion

log = logging.getLogger("anipot")


class ANITrainer:
    """Trains an ``ANIModel`` on energies and evaluates it on data it did not see.

    ``ANITrainer(model, batch_size=256, epochs=50, ...)``: the keywords are the fields of
    ``anipot.config.TrainingSettings``, which owns their defaults; a settings object may be given
    too, and keywords change it. Raises SettingsError for an unknown keyword or a wrong value.

    A model that was loaded goes on from its weights (fine-tuning): ``freeze_layers`` keeps the
    first layers as they are, and its self energies are kept unless ``self_energies="fit"``.
    """

    def __init__(
        self, model: ANIModel, settings: TrainingSettings | None = None, **options: Any
    ) -> None:
        given = settings.model_dump() if settings is not None else {}
        self.settings = checked(TrainingSettings, {**given, **options})
        self.device = pick_device(self.settings.device)
        self.model = model.to(self.device)
        self.history = History()
        self.curve: Figure | None = None
        self.parity: Figure | None = None

    def train(
        self,
        train: Conformers,
        val: Conformers,
        early_stop: bool = True,
        draw_curve: bool = False,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[History], None] | None = None,
        quiet: bool = False,
    ) -> History:
        """Train on ``train``, watch ``val``, leave the best weights (by validation MAE).

        ``early_stop``: end after ``patience`` epochs without a better one (the best weights are
        restored either way). ``draw_curve``: draw the losses (``self.curve``; shown in a notebook).
        ``checkpoint``: a file to write every epoch and every few minutes; with ``resume`` the
        training goes on from it and ends, on the CPU, with the same bits as if it had never
        stopped. ``on_epoch`` is called with the history after each epoch. Ctrl-C ends the training
        at the next update, with the best weights so far. Where torch.distributed has joined several
        processes, each takes its share of every batch; all must call this with the same data.

        Raises DataError for data that cannot be trained on (no energies, an element that the
        training part lacks), TrainingError when a loss is not finite, naming the conformers, or
        when the checkpoint does not belong to this training.
        """
        model = self.model
        settings, train, val = with_isolated_atoms(self.settings, train, val, model.elements)
        self._check_data(train, val)
        settings = settings.resolved(len(train))
        file, state = None, None
        if checkpoint is not None:
            fingerprint = self._fingerprint(settings, train, val)
            file = CheckpointFile(Path(checkpoint), fingerprint, self._engine)
            if resume:  # the file is where the first rank is
                state = ranks().tell(file.read() if ranks().first else None)
        if file is not None and state is not None:
            with file.content():
                like = torch.zeros(len(model.elements), dtype=torch.float64)
                values = fitting(state["self_energies"], like, "self_energies").numpy()
                note = fitting(state["self_energies_note"], "", "self_energies_note")
                model.self_energies = SelfEnergies(model.elements, values, note)
        elif isinstance(settings.self_energies, dict):
            model.self_energies = SelfEnergies.given(model.elements, settings.self_energies)
        elif settings.self_energies == "fit" or (
            settings.self_energies == "auto" and not model.self_energies.values.any()
        ):
            less = partial(without_repulsion, model)
            model.self_energies = SelfEnergies.fit(train, model.elements, less)
        loop = TrainingLoop(model, settings, train, val)
        quiet = quiet or not ranks().first
        self.history = loop.state.history
        if not quiet:
            print(model.self_energies.table())
            print(f"{loop.aevs.report}; {self._engine} AEV engine on {self.device}")
            if loop.updates.report:
                print(loop.updates.report)
        try:
            loop.run(file, state, early_stop, on_epoch, quiet)
        finally:
            self.history = loop.state.history
            if self.history.best is not None:
                self._sign(settings, train, val)
        if draw_curve and len(self.history):
            self.curve = plots.loss_curve(self.history)
            plots.show(self.curve)
        return self.history

    def evaluate(self, data: Conformers, draw_plot: bool = False) -> Evaluation:
        """Errors of the model on exactly the conformers given, in evaluation mode.

        ``draw_plot``: draw predicted against true energies (``self.parity``; shown in a notebook).
        """
        evaluation = compare(self.model, data)
        if draw_plot:
            self.parity = plots.parity(evaluation)
            plots.show(self.parity)
        return evaluation

    @property
    def _engine(self) -> str:
        return self.model.aev.engine_on(self.device)

    def _check_data(self, train: Conformers, val: Conformers) -> None:
        for name, data in (("training", train), ("validation", val)):
            if len(data) == 0:
                raise DataError(f"the {name} set is empty")
            check_known(data, self.model.elements)
            self._check_labels(name, data)
        lacking_elements = [e for e in val.elements if e not in train.elements]
        if lacking_elements:
            raise DataError(
                f"the validation set contains {', '.join(lacking_elements)}, which no training "
                "conformer does: its network would never be trained. Use another split, or "
                "select(elements=...)"
            )

    def _check_labels(self, name: str, data: Conformers) -> None:
        """Check that every conformer has some label, and every label some conformer."""
        if not data.has("energies").any():
            unread = ", ".join(data.not_read[:12])
            raise DataError(
                f"no {name} conformer has an energy to train on"
                + (f"; not read from the files: {unread}" if unread else "")
                + ". Name the energies with energy_key=, or read them from the comments of XYZ "
                "files with energy_from=comment"
            )
        trained = weights(self.settings)
        for label in trained:
            option = f"{OPTION[label]}_weight"
            if not data.has(label).any():
                raise DataError(
                    f"no {name} conformer has {label}, which {option}={trained[label]} needs; "
                    f"set {option}=0 or give data with {label}"
                )
        lacking = 0
        for start, part in data.blocks():
            for label in trained:
                self._check_values(name, label, part, start)
            lacking += int((~np.any([part.has(label) for label in trained], axis=0)).sum())
        if lacking:
            raise DataError(
                f"{lacking:,} of {len(data):,} {name} conformers have no "
                f"{' or '.join(trained)} to train on; leave them out with "
                "data.take(data.has('energies'))"
            )

    def _check_values(self, name: str, label: str, data: Conformers, first: int) -> None:
        """Labels of a piece of the data, which begins with conformer number ``first``."""
        has, values = data.has(label), np.asarray(getattr(data, label))
        wrong: np.ndarray = np.any(~np.isfinite(values).reshape(len(values), -1), axis=1)
        if LABELS[label] == "A":
            atoms = np.repeat(np.arange(len(data)), data.n_atoms)
            wrong = np.bincount(atoms[wrong], minlength=len(data)).astype(bool)
        if (bad := np.flatnonzero(wrong & has)).size:
            noun = {"energies": "the energy", "forces": "a force"}.get(label, "the stress")
            raise DataError(f"{noun} of {name} {data.describe(bad[0], first)} is not finite")
        if label == "stress" and (flat := np.flatnonzero(has & ~whole_cells(data))).size:
            raise DataError(
                f"{name} {data.describe(flat[0], first)} has a stress, but no cell that is "
                "periodic in all three directions"
            )

    def _fingerprint(self, settings: TrainingSettings, train: Conformers, val: Conformers) -> str:
        """Values that must be equal for a checkpoint to belong to this training."""
        repulsion = self.model.repulsion
        about = {
            # Without what version 0.1.0 did not have, so that its checkpoints fit.
            "settings": settings.model_dump(
                exclude=MACHINE_OPTIONS | (set() if settings.loss_terms else {"loss_terms"})
            ),
            "aev": self.model.aev.settings.to_dict(),
            "networks": self.model.networks.options(),
            "output_unit": self.model.output_unit,
            "repulsion": None if repulsion is None else repulsion.to_dict(),
            "dtype": str(self.model.dtype),
            "data": [train.identity(), val.identity()],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _sign(self, settings: TrainingSettings, train: Conformers, val: Conformers) -> None:
        """Write into the model where its weights come from; it is saved with them."""
        model, best = self.model, self.history.best
        assert best is not None
        model.trained = tuple(
            e for e in model.elements if e in train.elements or e in model.trained
        )
        before = model.about
        model.about = {
            "level_of_theory": train.level_of_theory,
            "data": {
                part: {"conformers": len(data), "sha256": data.content_hash()}
                for part, data in (("train", train), ("validation", val))
            },
            "training": settings.model_dump(exclude=MACHINE_OPTIONS),
            "best_epoch": best.epoch,
            "best_updates": best.updates,
            "errors_kcalmol": {
                "validation": {"n": len(val), "mae": best.val_mae, "rmse": best.val_rmse}
            },
        }
        if before:
            model.about["started_from"] = before


def whole_cells(data: Conformers) -> np.ndarray:
    """(M,) bool: periodic in all three directions."""
    if data.pbc is None:
        return np.zeros(len(data), dtype=bool)
    return np.asarray(data.pbc.all(axis=1))


def evaluate(model: Potential, data: Conformers, progress: bool = False) -> Evaluation:
    """Errors of a potential on the conformers given, in evaluation mode.

    Energies of the conformers that have one, and forces and stress where some have them. Raises
    DataError when none has an energy, or an element is not known to the potential. Logs a warning
    where forces or stress look as if they had another sign or unit in the data.
    """
    evaluation = compare(model, data, progress)
    for label, found in (("forces", evaluation.forces), ("stress", evaluation.stress)):
        if found is not None and (suspicion := found.suspicion(label)) is not None:
            log.warning("WARNING, %s", suspicion)
    return evaluation


def compare(model: Potential, data: Conformers, progress: bool = False) -> Evaluation:
    """As ``evaluate``, without a judgement of the data: for a model that was trained on it."""
    labelled = data.has("energies")
    if not labelled.any():
        raise DataError("there is nothing to evaluate on: no conformer has an energy")
    chosen = data if labelled.all() else data.take(labelled)
    predicted = model.predict(
        chosen,
        forces=bool(chosen.has("forces").any()),
        stress=bool((chosen.has("stress") & whole_cells(chosen)).any()),
        progress=progress,
    )
    evaluation = Evaluation.of(
        chosen,
        predicted.energies,
        model.self_energies.of(chosen),
        predicted.forces,
        predicted.stress,
    )
    return replace(evaluation, conformer=np.flatnonzero(labelled)[evaluation.conformer])
