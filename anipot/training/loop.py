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
from typing import Any

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
from anipot.system.interruption import Interruption
from anipot.system.threads import threads, useful_threads
from anipot.training.aev_cache import AEVSource
from anipot.training.checkpoint_content import fitting, training_form
from anipot.training.checkpoints import CheckpointFile
from anipot.training.gpu.captured import portable_state
from anipot.training.losses import Term, labels_of, loss_terms, loss_unit
from anipot.training.normalization import normalize_inputs
from anipot.training.progress import Progress
from anipot.training.ranks import ranks
from anipot.training.schedules import learning_rate
from anipot.training.step import TrainingStep
from anipot.training.targets import network_targets
from anipot.training.updates import choose_updates
from anipot.training.validation import Validation, validate

#: Conformers in a batch when nothing is trained.
EVALUATION_BATCH = 1024

#: Number of updates between checks of the losses on a GPU, each of which waits for the device.
GPU_CHECK_EVERY = 64


@dataclass
class TrainingState:
    """Progress of a training; with weights, optimizer and random state it is a checkpoint."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_error: float = math.inf
    best_weights: dict[str, Tensor] | None = None
    since_best: int = 0
    history: History = field(default_factory=History)
    #: Losses not yet checked and added to loss_sum (on a GPU each check waits for the device).
    pending: list[Tensor] = field(default_factory=list)


class PreparedData:
    """A data set with its batches, whose labels are what the networks learn, and loss terms."""

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
            dtype=model.dtype, device=model.device, labels=labels_of(settings),
            prepare=partial(network_targets, model),
        )  # fmt: skip
        self.terms: list[Term] = loss_terms(settings, data, model.device, self.loader.streams)


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
        self.train = PreparedData(train, model, settings, settings.batch_size, shuffle=True)
        self.val = PreparedData(val, model, settings)
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
        for p in self.trainable:
            p.grad = torch.zeros_like(p)
        self.updates = choose_updates(
            self.step, self.trainable, settings, partial(train.composition, model.elements)
        )
        self.optimizer = self.updates.optimizer
        self.average: AveragedModel | None = None
        if settings.ema:
            averaging = get_ema_multi_avg_fn(settings.ema)
            self.average = AveragedModel(model.networks, multi_avg_fn=averaging)
        self.state = TrainingState(history=History(loss_unit=loss_unit(settings)))

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
            now, history = self.state, self.state.history

            def save() -> None:
                if checkpoint is not None:
                    state = self.checkpoint()  # of all ranks: each has random numbers of its own
                    if self.ranks.first:
                        checkpoint.write(state)

            try:
                with Progress(self.epochs, self.total, now.updates, not quiet) as progress:
                    while history.stopped == "running":
                        saved, stop = time.monotonic(), False
                        for rate in self._updates():
                            progress.update(self._mean_loss(), rate)
                            if now.pending:  # on a GPU; and ranks agree where they meet anyway
                                continue
                            late = time.monotonic() - saved > settings.checkpoint_minutes * 60
                            stop, late = self._agreed(interruption.requested, late)
                            if stop:
                                break
                            if late:
                                save()
                                saved = time.monotonic()
                        if now.step == len(self.train.loader) or now.updates == self.total:
                            progress.epoch(self._end_epoch())
                            if on_epoch is not None:
                                on_epoch(history)
                            if now.updates == self.total:
                                history.stopped = "finished"
                            elif early_stop and now.since_best >= self.patience:
                                history.stopped = "patience"
                        if history.stopped == "running" and stop:
                            history.stopped = "interrupted"
                        save()
            finally:
                self.step.leave()
                self.model.networks.requires_grad_(True)
                if now.best_weights is not None:
                    self.model.networks.load_state_dict(now.best_weights)
                self.model.networks.fold()
                self.model.eval()
        return history

    def _updates(self) -> Iterator[float]:
        """Make the updates that are left in the epoch; yield the learning rate after each."""
        now, loader = self.state, self.train.loader
        check_every = 1 if self.device.type == "cpu" else GPU_CHECK_EVERY
        began = time.monotonic() - now.seconds
        self.model.train()
        for index in self.updates.batches(loader.indices(now.epoch, now.step)):
            if now.updates == self.total:  # options ask for no more, within the epoch
                break
            rate = learning_rate(self.settings, now.updates, self.total)
            now.pending.append(self.updates.loss(index, rate))
            now.step += 1
            last = now.step == len(loader) or now.updates + 1 == self.total
            if len(now.pending) == check_every or last:
                self._check_losses()  # on the CPU before the weights are changed
            self.updates.apply()
            if self.average is not None:
                self.average.update_parameters(self.model.networks)
            now.updates += 1
            now.seconds = time.monotonic() - began
            yield rate

    def _agreed(self, *wishes: bool) -> list[bool]:
        """For each of ``wishes``, whether any rank has it."""
        if self.ranks.size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        return [bool(n) for n in self.ranks.sum(votes).tolist()]

    def _mean_loss(self) -> float | None:
        """Of the batches of this epoch whose losses have been looked at, for people."""
        seen = self._seen(self.state.step - len(self.state.pending))
        return self.state.loss_sum / seen if seen else None

    def _check_losses(self) -> None:
        """Add up the losses of the last updates, in order; stop at one that is not finite."""
        now, part = self.state, self.train
        if not now.pending:
            return
        first = now.step - len(now.pending)
        values = self.ranks.sum(torch.stack(now.pending)).tolist()
        now.pending.clear()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                members = next(part.loader.indices(now.epoch, step))
                targets = part.loader.batch(members).energies
                assert targets is not None
                far = torch.argsort(targets.abs().nan_to_num(), descending=True)[:3]
                far = far.to(members.device)  # where the data is not on the GPU
                names = "; ".join(part.data.describe(int(i)) for i in members[far])
                raise TrainingError(
                    f"the loss is {value} in epoch {now.epoch + 1}, batch {step + 1} of "
                    f"{len(part.loader)}, after {now.updates} updates. Its {len(members)} "
                    f"conformers include (highest energies first) {names}. {WHAT_TO_TRY}"
                )
            now.loss_sum += value * (self._seen(step + 1) - self._seen(step))

    def _seen(self, step: int) -> int:
        """Conformers in the first ``step`` batches of an epoch."""
        return min(len(self.train.data), step * self.settings.batch_size)

    def validate(self, networks: nn.Module) -> Validation:
        """Return the errors of ``networks`` on the validation set."""
        return validate(
            networks,
            self.model.aev,
            self.val.loader,
            self.val.terms,
            self.aevs,
            self.to_target,
            self.settings.target_unit,
            self.step.derivatives,
        )

    def _end_epoch(self) -> EpochRecord:
        """Validate, remember the weights if they are the best, and move to the next epoch."""
        now = self.state
        networks = self.model.networks if self.average is None else self.average.module
        found = self.validate(networks)
        # With forces or stress the loss says which weights are best; else the errors of energies.
        error = found.loss if self.step.derivatives else found.mae
        if not math.isfinite(error):
            raise TrainingError(
                f"the validation error is {error} after epoch {now.epoch + 1}: the weights are "
                f"no longer finite. {WHAT_TO_TRY}"
            )
        better = error < now.best_error
        now.since_best = 0 if better else now.since_best + 1
        if better:
            now.best_error = error
            now.best_weights = copy.deepcopy(networks.state_dict())
        record = EpochRecord(
            epoch=now.epoch + 1,
            updates=now.updates,
            learning_rate=learning_rate(self.settings, now.updates - 1, self.total),
            train_loss=now.loss_sum / self._seen(now.step),
            val_loss=found.loss,
            val_mae=found.mae,
            val_rmse=found.rmse,
            seconds=now.seconds,
            best=better,
            val_force_mae=found.force_mae,
            val_force_rmse=found.force_rmse,
        )
        now.history.epochs.append(record)
        now.epoch, now.step = now.epoch + 1, 0
        now.loss_sum = now.seconds = 0.0
        return record

    def _freeze(self) -> list[nn.Parameter]:
        """Freeze the layers that are to stay as they are; returns what is trained."""
        frozen = self.settings.freeze_layers
        for symbol, net in self.model.networks.items():
            if not isinstance(net, AtomicNet):
                if frozen:
                    raise SettingsError("freeze_layers needs network=mlp")
                continue
            if frozen >= len(net.layers):
                raise SettingsError(
                    f"freeze_layers={frozen} leaves nothing to train: the network of {symbol} has "
                    f"{len(net.layers)} layers"
                )
            for layer in net.layers[:frozen]:
                layer.requires_grad_(False)
        return [p for p in self.model.networks.parameters() if p.requires_grad]

    # ---- checkpoints -------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on with the same bits, as plain data.

        All ranks must ask for it together.
        """
        self._check_losses()
        cuda = self.device.type == "cuda"
        random = {
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        return {
            "place": {**vars(self.state), "history": self.state.history.to_dict()},
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
        now = TrainingState(**{**state["place"], "history": history})
        if history.stopped == "interrupted":
            history.stopped = "running"
        made = now.epoch * len(self.train.loader) + now.step
        going_on = history.stopped == "running"
        if (
            (len(history), now.updates) != (now.epoch, min(made, self.total))
            or now.step > len(self.train.loader)
            or (going_on and now.updates == self.total and not now.step)
            or history.stopped not in ("running", "finished", "patience")
        ):
            raise ValueError("its place is none that the training has passed")
        self.state = now
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


#: With this every message ends that says a training has diverged.
WHAT_TO_TRY = (
    "Try a smaller learning_rate, clip=10 or loss=huber, and look at the data with "
    "'anipot data check'"
)
