"""ANITrainer: trains a model on energies, in the order in which things happen."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anipot import plots, units
from anipot.batches import BatchLoader, check_known
from anipot.config import MACHINE_OPTIONS, TrainingSettings, checked
from anipot.conformers import Conformers
from anipot.elements import index_table
from anipot.errors import DataError, SettingsError, TrainingError
from anipot.model import ANIModel
from anipot.networks import AtomicNet
from anipot.self_energies import SelfEnergies
from anipot.training.aev_cache import AEVSource
from anipot.training.checkpoints import read_checkpoint, write_checkpoint
from anipot.training.history import EpochRecord, History
from anipot.training.interruption import Interruption
from anipot.training.losses import energy_loss, loss_unit
from anipot.training.metrics import Evaluation
from anipot.training.progress import Progress
from anipot.training.schedules import learning_rate
from anipot.training.threads import threads, useful_threads

#: Conformers in a batch when nothing is trained.
EVALUATION_BATCH = 1024

#: On a GPU losses are looked at once in so many updates: each look waits for the device.
GPU_CHECK_EVERY = 64


@dataclass
class _Place:
    """Where a training stands; with weights, optimizer and random state it is a checkpoint."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_error: float = math.inf
    best_weights: dict[str, Tensor] | None = None
    since_best: int = 0
    history: History = field(default_factory=History)
    #: Losses not yet looked at and added to loss_sum (on a GPU each look waits for the device).
    pending: list[Tensor] = field(default_factory=list)


@dataclass
class _Part:
    """A data set made ready: its batches, and its targets (M,) float64 in the target unit."""

    data: Conformers
    loader: BatchLoader
    targets: Tensor


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

    # ---- training ----------------------------------------------------------------------------

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
        """Train on ``train``, watch ``val``, leave the best weights (by validation MAE) in the
        model.

        ``early_stop``: end after ``patience`` epochs without a better one (the best weights are
        restored either way). ``draw_curve``: draw the losses (``self.curve``; shown in a notebook).
        ``checkpoint``: a file to write every epoch and every few minutes; with ``resume`` the
        training goes on from it and ends, on the CPU, with the same bits as if it had never
        stopped. ``on_epoch`` is called with the history after each epoch. Ctrl-C ends the training
        at the next update, with the best weights so far.

        Raises DataError for data that cannot be trained on (no energies, an element that the
        training part lacks), TrainingError when a loss is not finite, naming the conformers.
        """
        self._check_data(train, val)
        self.settings = settings = self.settings.resolved(len(train))
        assert settings.epochs is not None
        model = self.model
        self._fit_self_energies(train, quiet)
        part, val_part = self._part(train, settings.batch_size, True), self._part(val)
        aevs = AEVSource(model.aev, [part.loader, val_part.loader], settings.aev_cache)
        if not quiet:
            print(f"{aevs.report}; {model.aev.engine_name} AEV engine on {self.device}")
        trainable = self._trainable()
        optimizer = self._optimizer(trainable)
        average = self._average()
        place = _Place(history=History(loss_unit=loss_unit(settings)))
        fingerprint = self._fingerprint(train, val) if checkpoint is not None else ""
        total = settings.epochs * len(part.loader)
        patience = settings.patience or -(-settings.epochs // 2)
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=cuda),
            threads(settings.threads or useful_threads(part.loader.atoms_per_batch)),
            Interruption() as interruption,
        ):
            torch.manual_seed(settings.seed)
            if resume and checkpoint is not None:
                place = self._restore(read_checkpoint(checkpoint, fingerprint), optimizer, average)
            self.history = history = place.history

            def save() -> None:
                if checkpoint is not None:
                    self._check_losses(part, place)
                    state = self._state(place, optimizer, average)
                    write_checkpoint(checkpoint, {"fingerprint": fingerprint, **state})

            try:
                with Progress(settings.epochs, total, place.updates, not quiet) as progress:
                    while history.stopped == "running":
                        steps = self._steps(
                            part, aevs, place, optimizer, trainable, average, total, progress
                        )
                        saved = time.monotonic()
                        for _ in steps:
                            if interruption.requested:
                                break
                            if time.monotonic() - saved > settings.checkpoint_minutes * 60:
                                save()
                                saved = time.monotonic()
                        if place.step == len(part.loader):
                            self._end_epoch(part, val_part, aevs, place, average, total)
                            progress.epoch(history.epochs[-1])
                            if on_epoch is not None:
                                on_epoch(history)
                            if place.epoch == settings.epochs:
                                history.stopped = "finished"
                            elif early_stop and place.since_best >= patience:
                                history.stopped = "patience"
                        if history.stopped == "running" and interruption.requested:
                            history.stopped = "interrupted"
                        save()
            finally:
                for p in model.networks.parameters():
                    p.requires_grad_(True)
                if place.best_weights is not None:
                    model.networks.load_state_dict(place.best_weights)
                model.eval()
        if draw_curve and len(history):
            self.curve = plots.loss_curve(history)
            plots.show(self.curve)
        return history

    def _steps(
        self,
        part: _Part,
        aevs: AEVSource,
        place: _Place,
        optimizer: torch.optim.Optimizer,
        trainable: list[nn.Parameter],
        average: AveragedModel | None,
        total: int,
        progress: Progress,
    ) -> Iterator[None]:
        """The updates that are left in the epoch, one each time the generator is advanced."""
        settings, model = self.settings, self.model
        loss_of = energy_loss(settings)
        to_target = units.hartree_to(settings.target_unit) / units.hartree_to(model.output_unit)
        check_every = 1 if self.device.type == "cpu" else GPU_CHECK_EVERY
        began = time.monotonic() - place.seconds
        model.train()
        for batch in part.loader.epoch(place.epoch, place.step):
            rate = learning_rate(settings, place.updates, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            predicted = model.network_energies(batch, aevs(part.loader, batch)) * to_target
            loss = loss_of(predicted - part.targets[batch.index], batch.n_atoms).mean()
            place.step += 1
            place.pending.append(loss.detach())
            if len(place.pending) == check_every or place.step == len(part.loader):
                self._check_losses(part, place)  # on the CPU before the weights are touched
            optimizer.zero_grad()
            loss.backward()
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(trainable, settings.clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(model.networks)
            place.updates += 1
            place.seconds = time.monotonic() - began
            progress.update(place.loss_sum / (place.step * settings.batch_size), rate)
            yield

    def _check_losses(self, part: _Part, place: _Place) -> None:
        """Add up the losses of the last updates, in order; stop the training at one that is not
        finite.
        """
        if not place.pending:
            return
        size, n = self.settings.batch_size, len(part.data)
        first = place.step - len(place.pending)
        values = torch.stack(place.pending).tolist()
        place.pending.clear()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                members = part.loader.order(place.epoch)[step * size : (step + 1) * size].cpu()
                far = torch.argsort(part.targets.cpu()[members].abs(), descending=True)[:3]
                names = "; ".join(part.data.describe(int(i)) for i in members[far])
                raise TrainingError(
                    f"the loss is {value} in epoch {place.epoch + 1}, batch {step + 1} of "
                    f"{len(part.loader)}, after {place.updates} updates. Its "
                    f"{len(members)} conformers "
                    f"include (highest energies first) {names}. Try a smaller "
                    f"learning_rate, clip=10 or "
                    "loss=huber, and look at the data with 'anipot data check'"
                )
            place.loss_sum += value * (min(n, (step + 1) * size) - step * size)

    def _end_epoch(
        self,
        part: _Part,
        val: _Part,
        aevs: AEVSource,
        place: _Place,
        average: AveragedModel | None,
        total: int,
    ) -> None:
        """Validate, remember the weights if they are the best, and move to the next epoch."""
        networks = self.model.networks if average is None else average.module
        error, loss = self._validate(val, aevs, networks)
        mae = float(error.abs().mean())
        better = mae < place.best_error
        place.since_best = 0 if better else place.since_best + 1
        if better:
            place.best_error = mae
            place.best_weights = copy.deepcopy(networks.state_dict())
        record = EpochRecord(
            epoch=place.epoch + 1,
            updates=place.updates,
            learning_rate=learning_rate(self.settings, place.updates - 1, total),
            train_loss=place.loss_sum / len(part.data),
            val_loss=loss,
            val_mae=mae,
            val_rmse=float(error.square().mean().sqrt()),
            seconds=place.seconds,
            best=better,
        )
        place.history.epochs.append(record)
        place.epoch, place.step = place.epoch + 1, 0
        place.loss_sum = place.seconds = 0.0

    def _validate(self, val: _Part, aevs: AEVSource, networks: nn.Module) -> tuple[Tensor, float]:
        """Errors (M,) in kcal/mol and the mean loss, in evaluation mode, of given networks."""
        model, settings = self.model, self.settings
        networks.eval()
        with torch.no_grad():
            predicted = torch.cat(
                [
                    model.network_energies(batch, aevs(val.loader, batch), networks)
                    for batch in val.loader.epoch()
                ]
            )
            to_target = units.hartree_to(settings.target_unit) / units.hartree_to(model.output_unit)
            error = predicted * to_target - val.targets
            n_atoms = torch.as_tensor(val.data.n_atoms, device=error.device)
            loss = float(energy_loss(settings)(error, n_atoms).mean())
        to_kcal = units.HARTREE_TO_KCALMOL / units.hartree_to(settings.target_unit)
        return error * to_kcal, loss

    # ---- evaluation --------------------------------------------------------------------------

    def evaluate(self, data: Conformers, draw_plot: bool = False) -> Evaluation:
        """Errors of the model on exactly the conformers given, in evaluation mode.

        ``draw_plot``: draw predicted against true energies (``self.parity``; shown in a notebook).
        """
        evaluation = evaluate(self.model, data)
        if draw_plot:
            self.parity = plots.parity(evaluation)
            plots.show(self.parity)
        return evaluation

    # ---- preparation -------------------------------------------------------------------------

    def _check_data(self, train: Conformers, val: Conformers) -> None:
        for name, data in (("training", train), ("validation", val)):
            if len(data) == 0:
                raise DataError(f"the {name} set is empty")
            species = index_table(self.model.elements)[data.atomic_numbers]
            check_known(data, species, self.model.elements)
            if not data.has("energies").all():
                lacking = int((~data.has("energies")).sum())
                raise DataError(
                    f"{lacking:,} of {len(data):,} {name} conformers have no energy to train on"
                )
            if data.energies is not None and not np.isfinite(data.energies).all():
                bad = int(np.flatnonzero(~np.isfinite(data.energies))[0])
                raise DataError(f"the energy of {name} {data.describe(bad)} is not finite")
        lacking_elements = [e for e in val.elements if e not in train.elements]
        if lacking_elements:
            raise DataError(
                f"the validation set contains {', '.join(lacking_elements)}, which no "
                f"training conformer does: "
                "its network would never be trained. Use another split, or select(elements=...)"
            )

    def _fit_self_energies(self, train: Conformers, quiet: bool) -> None:
        model = self.model
        wish = self.settings.self_energies
        if wish == "keep" or (wish == "auto" and model.self_energies.values.any()):
            return
        model.self_energies = SelfEnergies.fit(train, model.elements)
        if not quiet:
            print(model.self_energies.table())

    def _part(
        self, data: Conformers, batch_size: int = EVALUATION_BATCH, shuffle: bool = False
    ) -> _Part:
        model, settings = self.model, self.settings
        loader = BatchLoader(
            data, batch_size, model.elements, shuffle=shuffle, seed=settings.seed,
            dtype=model.dtype, device=self.device,
        )  # fmt: skip
        assert data.energies is not None
        above = data.energies - model.self_energies.of(data)
        targets = torch.as_tensor(above * units.hartree_to(settings.target_unit))
        return _Part(data, loader, targets.to(self.device))

    def _trainable(self) -> list[nn.Parameter]:
        frozen = self.settings.freeze_layers
        for symbol, net in self.model.networks.items():
            assert isinstance(net, AtomicNet)
            if frozen >= len(net.layers):
                raise SettingsError(
                    f"freeze_layers={frozen} leaves nothing to train: the network of {symbol} has "
                    f"{len(net.layers)} layers"
                )
            for layer in net.layers[:frozen]:
                layer.requires_grad_(False)
        return [p for p in self.model.networks.parameters() if p.requires_grad]

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        settings = self.settings
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, settings.learning_rate, weight_decay=settings.l2, fused=True)

    def _average(self) -> AveragedModel | None:
        if not self.settings.ema:
            return None
        return AveragedModel(
            self.model.networks, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema)
        )

    # ---- checkpoints -------------------------------------------------------------------------

    def _fingerprint(self, train: Conformers, val: Conformers) -> str:
        """What must be equal for a checkpoint to belong to this training."""
        about = {
            "settings": self.settings.model_dump(exclude=MACHINE_OPTIONS),
            "aev": self.model.aev.settings.to_dict(),
            "networks": self.model.networks.options(),
            "output_unit": self.model.output_unit,
            "dtype": str(self.model.dtype),
            "data": [train.content_hash(), val.content_hash()],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _state(
        self, place: _Place, optimizer: torch.optim.Optimizer, average: AveragedModel | None
    ) -> dict[str, Any]:
        return {
            "place": {**vars(place), "history": place.history.to_dict(), "pending": []},
            "networks": self.model.networks.state_dict(),
            "self_energies": torch.as_tensor(self.model.self_energies.values),
            "optimizer": optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }

    def _restore(
        self,
        state: dict[str, Any],
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
    ) -> _Place:
        place = _Place(
            **{**state["place"], "history": History.from_dict(state["place"]["history"])}
        )
        if place.history.stopped == "interrupted":
            place.history.stopped = "running"
        self.model.networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        return place


def evaluate(model: ANIModel, data: Conformers, progress: bool = False) -> Evaluation:
    """Errors of a model on the conformers given (those that have an energy), in evaluation mode.

    Raises DataError when none has an energy, or an element is not known to the model.
    """
    labelled = data.has("energies")
    if not labelled.any():
        raise DataError("there is nothing to evaluate on: no conformer has an energy")
    chosen = data if labelled.all() else data.take(labelled)
    predicted = np.full(len(data), np.nan)
    predicted[labelled] = model.predict(
        chosen, batch_size=EVALUATION_BATCH, progress=progress
    ).energies
    return Evaluation.of(data, predicted, model.self_energies.of(data))


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises SettingsError for one
    that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise SettingsError(f"device {name!r} cannot be used here: {e}") from None
    return device
