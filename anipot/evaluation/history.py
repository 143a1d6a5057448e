"""History: what each epoch of a training did, as a table that is also metrics.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from anipot.system.text import csv_text


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. Errors are of the validation set in kcal/mol; losses in the units of the loss.

    Errors of forces, in kcal/mol/angstrom, are there where forces or stress are trained on.
    """

    epoch: int
    updates: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_mae: float
    val_rmse: float
    seconds: float
    best: bool = False
    val_force_mae: float | None = None
    val_force_rmse: float | None = None


@dataclass
class History:
    """The epochs of one training, in order, and how it ended.

    ``stopped`` is ``"finished"``, ``"patience"``, ``"interrupted"`` or ``"running"``. ``loss_unit``
    names the unit of the losses, for example ``"(kcal/mol)^2"``.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    stopped: str = "running"
    loss_unit: str = "(kcal/mol)^2"

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[EpochRecord]:
        return iter(self.epochs)

    def __getitem__(self, name: str) -> list[Any]:
        """A column by name: ``history["val_mae"]``."""
        return [getattr(record, name) for record in self.epochs]

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose weights were kept: the last one that improved on all before it."""
        improved = [record for record in self.epochs if record.best]
        return improved[-1] if improved else None

    def to_csv(self) -> str:
        """A header and a line an epoch."""
        columns = [f.name for f in fields(EpochRecord)]
        return csv_text((asdict(record) for record in self.epochs), columns)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> History:
        epochs = [EpochRecord(**record) for record in data["epochs"]]
        return cls(epochs, data["stopped"], data["loss_unit"])
