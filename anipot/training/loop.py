"""TrainingLoop: one training from its first update to its last, in the order things happen."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anipot import units
from anipot.config import TrainingSettings
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.errors import SettingsError, TrainingError
from anipot.evaluation.history import EpochRecord, History
from anipot.networks.atomic import AtomicNet
from anipot.potential.model import ANIModel
from anipot.potential.outputs import outputs_of
from anipot.system.interruption import Interruption
from anipot.system.threads import threads, useful_threads
from anipot.training.aev_cache import AEVSource
from anipot.training.checkpoint_content import fitting, training_form
from anipot.training.checkpoints import CheckpointFile
from anipot.training.gpu.captured import CapturedStep, portable_state, set_rate
from anipot.training.losses import Term, forces_of, loss_terms, loss_unit, weights
from anipot.training.normalization import normalize_inputs
from anipot.training.precision import matrix_products
from anipot.training.progress import Progress
from anipot.training.ranks import ranks
from anipot.training.schedules import learning_rate
from anipot.training.step import TrainingStep
from anipot.training.targets import network_targets

#: Conformers in a batch when nothing is trained.
EVALUATION_BATCH = 1024

OPTIMIZERS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}

#: On a GPU losses are looked at once in so many updates: each look waits for the device.
GPU_CHECK_EVERY = 64


@dataclass
class Place:
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


class Part:
    """A data set made ready: batches with what the networks are to learn, and the loss's terms."""

    def __init__(
        self,
        data: Conformers,
        model: ANIModel,
        settings: TrainingSettings,
        batch_size: int = EVALUATION_BATCH,
        shuffle: bool = False,
    ) -> None:
        self.data = data
        self.loader = BatchLoader(
            data, batch_size, model.elements, shuffle=shuffle, seed=settings.seed,
            dtype=model.dtype, device=model.device, labels={"energies", *weights(settings)},
            prepare=partial(network_targets, model),
        )  # fmt: skip
        self.terms: list[Term] = loss_terms(settings, data, model.device, self.loader.streams)


class Validation(NamedTuple):
    """Errors in kcal/mol (forces: per angstrom) and the loss, of a validation set."""

    mae: float
    rmse: float
    loss: float
    force_mae: float | None = None
    force_rmse: float | None = None


class TrainingLoop:
    """All that a running training consists of.

    ``settings.epochs`` must be a number. ``run`` leaves the best weights in the model.
    """

    def __init__(
        self, model: ANIModel, settings: TrainingSettings, train: Conformers, val: Conformers
    ) -> None:
        assert settings.epochs is not None
        self.model, self.settings = model, settings
        self.epochs = settings.epochs
        self.ranks = ranks()
        self.train = Part(train, model, settings, settings.batch_size, shuffle=True)
        self.val = Part(val, model, settings)
        self.aevs = AEVSource(model.aev, [self.train.loader, self.val.loader], settings.aev_cache)
        if settings.normalize_aevs:
            normalize_inputs(model, self.train.loader, self.aevs)
        self.total = min(self.epochs * len(self.train.loader), settings.updates or sys.maxsize)
        self.patience = settings.patience or -(-self.epochs // 2)
        self.to_target = units.hartree_to(settings.target_unit) / units.hartree_to(
            model.output_unit
        )
        self.step = TrainingStep(
            model,
            self.train.loader,
            self.aevs,
            self.train.terms,
            self.to_target,
        )
        self.trainable = self._freeze()
        kind = OPTIMIZERS[settings.optimizer]
        for p in self.trainable:
            p.grad = torch.zeros_like(p)
        self.optimizer = kind(
            self.trainable, settings.learning_rate, weight_decay=settings.l2, fused=True
        )
        self.captured: CapturedStep | None = None
        #: How updates are made on a GPU, for people.
        self.updates_report = ""
        if self.device.type == "cuda":
            reason = CapturedStep.why_not(self.step) if settings.cuda_graph else "cuda_graph=false"
            self.updates_report = f"updates are not captured: {reason}"
            if not reason:
                self.captured = CapturedStep(
                    self.step,
                    self.optimizer,
                    train.composition(model.elements),
                    settings.clip,
                    settings.precision,
                )
                self.updates_report = self.captured.report
        self.average: AveragedModel | None = None
        if settings.ema:
            averaging = get_ema_multi_avg_fn(settings.ema)
            self.average = AveragedModel(model.networks, multi_avg_fn=averaging)
        self.place = Place(history=History(loss_unit=loss_unit(settings)))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def run(
        self,
        checkpoint: CheckpointFile | None,
        resume_from: dict[str, Any] | None,
        early_stop: bool,
        on_epoch: Callable[[History], None] | None,
        quiet: bool,
    ) -> History:
        """Train to the end, to the end of patience, or until interrupted."""
        settings = self.settings
        cuda = [self.device] if self.device.type == "cuda" else []
        share = self.train.loader.atoms_per_batch / self.ranks.size
        wanted = settings.threads or useful_threads(share)
        with (
            torch.random.fork_rng(devices=cuda),
            threads(wanted),
            Interruption() as interruption,
        ):
            torch.manual_seed(settings.seed + self.ranks.rank)  # each drops other neurons
            if resume_from is not None:
                with checkpoint.content() if checkpoint is not None else nullcontext():
                    self.restore(resume_from)
            place, history = self.place, self.place.history

            def save() -> None:
                if checkpoint is not None:
                    state = self.state()  # of all ranks: each has random numbers of its own
                    if self.ranks.first:
                        checkpoint.write(state)

            try:
                with Progress(self.epochs, self.total, place.updates, not quiet) as progress:
                    while history.stopped == "running":
                        saved, stop = time.monotonic(), False
                        for rate in self._updates():
                            progress.update(self._mean_loss(), rate)
                            if place.pending:  # on a GPU; and ranks agree where they meet anyway
                                continue
                            late = time.monotonic() - saved > settings.checkpoint_minutes * 60
                            stop, late = self._agreed(interruption.requested, late)
                            if stop:
                                break
                            if late:
                                save()
                                saved = time.monotonic()
                        if place.step == len(self.train.loader) or place.updates == self.total:
                            progress.epoch(self._end_epoch())
                            if on_epoch is not None:
                                on_epoch(history)
                            if place.updates == self.total:
                                history.stopped = "finished"
                            elif early_stop and place.since_best >= self.patience:
                                history.stopped = "patience"
                        if history.stopped == "running" and stop:
                            history.stopped = "interrupted"
                        save()
            finally:
                self.step.leave()
                self.model.networks.requires_grad_(True)
                if place.best_weights is not None:
                    self.model.networks.load_state_dict(place.best_weights)
                self.model.networks.fold()
                self.model.eval()
        return history

    def _updates(self) -> Iterator[float]:
        """The updates that are left in the epoch; yields the learning rate after each."""
        settings, model, place, part = self.settings, self.model, self.place, self.train
        check_every = 1 if self.device.type == "cpu" else GPU_CHECK_EVERY
        began = time.monotonic() - place.seconds
        model.train()
        indices = part.loader.indices(place.epoch, place.step)
        captured = self.captured
        for index, fits in captured.batches(indices) if captured else zip(indices, repeat(False)):
            if place.updates == self.total:  # options ask for no more, within the epoch
                break
            rate = learning_rate(settings, place.updates, self.total)
            set_rate(self.optimizer, rate)
            if captured and fits:
                loss = captured(index)
            else:
                # Zeros and not None: a network without atoms in the batch has a gradient, too, and
                # a graph knows gradients by where they lie.
                self.optimizer.zero_grad(set_to_none=not (self.step.divides or captured))
                with matrix_products(settings.precision, self.device):
                    loss = self.step(index)
            place.step += 1
            place.pending.append(loss)
            last = place.step == len(part.loader) or place.updates + 1 == self.total
            if len(place.pending) == check_every or last:
                self._look_at_losses()  # on the CPU before the weights are touched
            if not fits:
                if settings.clip is not None:
                    nn.utils.clip_grad_norm_(self.trainable, settings.clip)
                self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(model.networks)
            place.updates += 1
            place.seconds = time.monotonic() - began
            yield rate

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Whether any rank wishes each of these."""
        if self.ranks.size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        return [bool(n) for n in self.ranks.sum(votes).tolist()]

    def _mean_loss(self) -> float | None:
        """Of the batches of this epoch whose losses have been looked at, for people."""
        seen = self._seen(self.place.step - len(self.place.pending))
        return self.place.loss_sum / seen if seen else None

    def _look_at_losses(self) -> None:
        """Add up the losses of the last updates, in order; stop at one that is not finite."""
        place, part = self.place, self.train
        if not place.pending:
            return
        first = place.step - len(place.pending)
        values = self.ranks.sum(torch.stack(place.pending)).tolist()
        place.pending.clear()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                members = next(part.loader.indices(place.epoch, step))
                targets = part.loader.batch(members).energies
                assert targets is not None
                far = torch.argsort(targets.abs().nan_to_num(), descending=True)[:3]
                far = far.to(members.device)  # where the data is not on the GPU
                names = "; ".join(part.data.describe(int(i)) for i in members[far])
                raise TrainingError(
                    f"the loss is {value} in epoch {place.epoch + 1}, batch {step + 1} of "
                    f"{len(part.loader)}, after {place.updates} updates. Its {len(members)} "
                    f"conformers include (highest energies first) {names}. {WHAT_TO_TRY}"
                )
            place.loss_sum += value * (self._seen(step + 1) - self._seen(step))

    def _seen(self, step: int) -> int:
        """Conformers in the first ``step`` batches of an epoch."""
        return min(len(self.train.data), step * self.settings.batch_size)

    def _end_epoch(self) -> EpochRecord:
        """Validate, remember the weights if they are the best, and move to the next epoch."""
        place = self.place
        networks = self.model.networks if self.average is None else self.average.module
        found = self._validate(networks)
        # With forces or stress the loss says which weights are best; else the errors of energies.
        error = found.loss if self.step.derivatives else found.mae
        if not math.isfinite(error):
            raise TrainingError(
                f"the validation error is {error} after epoch {place.epoch + 1}: the weights are "
                f"no longer finite. {WHAT_TO_TRY}"
            )
        better = error < place.best_error
        place.since_best = 0 if better else place.since_best + 1
        if better:
            place.best_error = error
            place.best_weights = copy.deepcopy(networks.state_dict())
        record = EpochRecord(
            epoch=place.epoch + 1,
            updates=place.updates,
            learning_rate=learning_rate(self.settings, place.updates - 1, self.total),
            train_loss=place.loss_sum / self._seen(place.step),
            val_loss=found.loss,
            val_mae=found.mae,
            val_rmse=found.rmse,
            seconds=place.seconds,
            best=better,
            val_force_mae=found.force_mae,
            val_force_rmse=found.force_rmse,
        )
        place.history.epochs.append(record)
        place.epoch, place.step = place.epoch + 1, 0
        place.loss_sum = place.seconds = 0.0
        return record

    def _validate(self, networks: nn.Module) -> Validation:
        """Errors of given networks on the validation set, in evaluation mode."""
        val, scale = self.val, units.hartree_to(self.settings.target_unit)
        networks.eval()
        losses, counts = torch.zeros(2, len(val.terms), dtype=torch.float64, device=self.device)
        # n, sum of |error|, sum of error^2
        energies, forces = torch.zeros(2, 3, dtype=torch.float64, device=self.device)
        for k, index in enumerate(val.loader.indices()):
            if k % self.ranks.size != self.ranks.rank:
                continue
            batch = val.loader.batch(index)
            with torch.no_grad():
                outputs = outputs_of(
                    lambda x, slices=batch.counts: networks(x, slices),  # type: ignore[misc]
                    self.model.aev,
                    batch,
                    self.aevs(val.loader, batch),
                    self.to_target,
                    derivatives=self.step.derivatives,
                    graph=False,
                )
                losses += torch.stack([term.sum(outputs, batch) for term in val.terms])
                counts += torch.stack([term.items(index).sum() for term in val.terms])
                assert batch.energies is not None
                energies += _error_sums(outputs.energies, batch.energies * scale)
                if batch.forces is not None and outputs.forces is not None:
                    forces += _error_sums(*forces_of(outputs, batch, scale))
        rows = [losses, counts, energies, forces]
        sums = self.ranks.sum(torch.cat(rows)).split([len(row) for row in rows])
        of_losses, of_counts, of_energies, of_forces = (x.tolist() for x in sums)
        loss = sum(
            value / max(count, 1.0) * term.weight
            for value, count, term in zip(of_losses, of_counts, val.terms, strict=True)
        )
        to_kcal = units.HARTREE_TO_KCALMOL / scale
        mae, rmse = _mean_errors(of_energies, to_kcal)
        return Validation(
            mae, rmse, loss, *(_mean_errors(of_forces, to_kcal) if of_forces[0] else ())
        )

    def _freeze(self) -> list[nn.Parameter]:
        """Freeze the layers that are to stay as they are; returns what is trained."""
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

    # ---- checkpoints -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on with the same bits, as plain data.

        All ranks must ask for it together.
        """
        self._look_at_losses()
        cuda = self.device.type == "cuda"
        random = {
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        return {
            "place": {**vars(self.place), "history": self.place.history.to_dict()},
            "networks": self.model.networks.state_dict(),
            "self_energies": torch.as_tensor(self.model.self_energies.values),
            "self_energies_note": self.model.self_energies.note,
            "optimizer": portable_state(self.optimizer),
            "average": None if self.average is None else self.average.state_dict(),
            **random,
            "random_of_other_ranks": self.ranks.gather(random)[1:],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where a state was taken (its self energies must be the model's already).

        Raises ValueError, before anything is changed, for what is no state of this training.
        """
        average = None if self.average is None else self.average.state_dict()
        networks, n = self.model.networks.state_dict(), len(self.model.elements)
        state = fitting(state, training_form(networks, n, self.optimizer, average))
        history = History.from_dict(state["place"]["history"])
        place = Place(**{**state["place"], "history": history})
        if history.stopped == "interrupted":
            history.stopped = "running"
        made = place.epoch * len(self.train.loader) + place.step
        going_on = history.stopped == "running"
        if (
            (len(history), place.updates) != (place.epoch, min(made, self.total))
            or place.step > len(self.train.loader)
            or (going_on and place.updates == self.total and not place.step)
            or history.stopped not in ("running", "finished", "patience")
        ):
            raise ValueError("its place is none that the training has passed")
        self.place = place
        self.model.networks.load_state_dict(state["networks"])
        # What the groups of an optimizer say is decided by the options, which are the same.
        groups = portable_state(self.optimizer)["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        random = [state, *state.get("random_of_other_ranks", [])]
        if self.ranks.rank < len(random):  # others, of which there were none, begin anew
            own = random[self.ranks.rank]
            torch.set_rng_state(own["random"])
            if own["cuda_random"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda_random"], self.device)


def _error_sums(predicted: Tensor, reference: Tensor) -> Tensor:
    """(3,) float64: n, sum of |error| and of error^2, of what is labelled."""
    error = (predicted.double() - reference)[~torch.isnan(reference)]
    n = error.new_tensor(error.numel())
    return torch.stack([n, error.abs().sum(), error.square().sum()])


def _mean_errors(sums: list[float], scale: float) -> tuple[float, float]:
    """Mean absolute and root mean square error, times ``scale``, from ``_error_sums``."""
    n, absolute, square = sums
    return absolute / n * scale, math.sqrt(square / n) * scale


#: With this every message ends that says a training has diverged.
WHAT_TO_TRY = (
    "Try a smaller learning_rate, clip=10 or loss=huber, and look at the data with "
    "'anipot data check'"
)
