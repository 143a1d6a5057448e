"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from anipot.evaluation.history import EpochRecord

#: About how many lines a training prints where there is no terminal.
LINES = 20


class Progress:
    """A tqdm bar over all updates when standard error is a terminal, otherwise a line now and
    then.
    """

    def __init__(self, epochs: int, updates: int, done: int, show: bool) -> None:
        self.epochs, self.show = epochs, show
        self.bar = None
        if show and sys.stderr.isatty():
            self.bar = tqdm(total=updates, initial=done, unit=" updates", dynamic_ncols=True)
        self.every = max(1, epochs // LINES)
        self.last_line = time.monotonic()
        self.text = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, loss: float | None, rate: float) -> None:
        """After each update."""
        if self.bar is not None:
            shown = "" if loss is None else f"loss {loss:.3g}  "
            self.bar.set_postfix_str(f"{shown}lr {rate:.1e}{self.text}", refresh=False)
            self.bar.update()

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""
        if self.bar is not None:
            self.text = f"  val MAE {record.val_mae:.3f} kcal/mol"
            self.bar.set_description_str(f"epoch {record.epoch}/{self.epochs}", refresh=False)
            return
        now = time.monotonic()
        last = record.epoch == self.epochs
        if self.show and (record.epoch % self.every == 0 or last or now - self.last_line > 30):
            self.last_line = now
            print(
                f"epoch {record.epoch:4d}/{self.epochs}  loss {record.train_loss:9.4g}  "
                f"val MAE {record.val_mae:8.4f}  RMSE {record.val_rmse:8.4f} kcal/mol  "
                f"lr {record.learning_rate:.1e}" + ("  *" if record.best else ""),
                flush=True,
            )
