"""Updates of the weights: loss and gradient of a batch, then a step of the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from anipot.config import TrainingSettings
from anipot.registry import Registry
from anipot.training.gpu.captured import CapturedStep, set_rate
from anipot.training.precision import matrix_products
from anipot.training.step import TrainingStep

#: Makes an optimizer of the weights to be trained. Its parameter groups must have an "lr", which
#: the schedule sets.
MakeOptimizer = Callable[[list[nn.Parameter], TrainingSettings], torch.optim.Optimizer]

#: Optimizers by the name of the option ``optimizer``.
optimizers: Registry[MakeOptimizer] = Registry("optimizer", "anipot.optimizers")


def _from_torch(kind: Callable[..., torch.optim.Optimizer]) -> MakeOptimizer:
    def make(weights: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
        return kind(weights, settings.learning_rate, weight_decay=settings.l2, fused=True)

    return make


optimizers.register("adamw")(_from_torch(torch.optim.AdamW))
optimizers.register("adam")(_from_torch(torch.optim.Adam))
optimizers.register("sgd")(_from_torch(torch.optim.SGD))


class Updates:
    """Updates of the weights, one operation at a time.

    For each batch of ``batches(indices)``: ``loss(index, rate)``, then ``apply()``.
    """

    #: Description for the user, if there is anything to say.
    report = ""

    def __init__(
        self,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        weights: list[nn.Parameter],
        settings: TrainingSettings,
    ) -> None:
        self.step, self.optimizer, self.weights = step, optimizer, weights
        self.settings = settings
        # Zeros and not None where a network without atoms in the batch needs a gradient, too.
        self._to_none = not step.divides

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the batches (B,) of an epoch."""
        yield from indices

    def loss(self, index: Tensor, rate: float) -> Tensor:
        """Return the mean loss over ``index`` (B,), a float64 scalar, and set its gradient."""
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=self._to_none)
        with matrix_products(self.settings.precision, self.step.model.device):
            return self.step(index)

    def apply(self) -> None:
        """Clip the gradient and change the weights."""
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.optimizer.step()


class CapturedUpdates(Updates):
    """Updates as one CUDA graph each; those of batches that do not fit it as in ``Updates``."""

    def __init__(
        self,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        weights: list[nn.Parameter],
        settings: TrainingSettings,
        composition: np.ndarray,
    ) -> None:
        super().__init__(step, optimizer, weights, settings)
        self.captured = CapturedStep(
            step, optimizer, composition, settings.clip, settings.precision
        )
        self.report = self.captured.report
        self._to_none = False  # a graph knows gradients by where they lie
        self._fits = False

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        for index, fits in self.captured.batches(indices):
            self._fits = fits
            yield index

    def loss(self, index: Tensor, rate: float) -> Tensor:
        if not self._fits:
            return super().loss(index, rate)
        set_rate(self.optimizer, rate)
        return self.captured(index)

    def apply(self) -> None:
        if not self._fits:  # else the graph has done so
            super().apply()


def choose_updates(
    step: TrainingStep,
    weights: list[nn.Parameter],
    settings: TrainingSettings,
    composition: Callable[[], np.ndarray],
) -> Updates:
    """Return the updates of a training. ``composition`` (M, E) is that of its conformers."""
    optimizer = optimizers[settings.optimizer](weights, settings)
    if step.model.device.type != "cuda":
        return Updates(step, optimizer, weights, settings)
    reason = CapturedStep.why_not(step) if settings.cuda_graph else "cuda_graph=false"
    if not reason:
        return CapturedUpdates(step, optimizer, weights, settings, composition())
    updates = Updates(step, optimizer, weights, settings)
    updates.report = f"updates are not captured: {reason}"
    return updates
