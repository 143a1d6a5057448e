"""Checkpoints: all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anipot.errors import TrainingError
from anipot.files import atomic_write

FORMAT = "anipot checkpoint 1"


@dataclass
class CheckpointFile:
    """The checkpoint of one training.

    ``fingerprint`` identifies options and data, ``engine`` the AEV engine: another one gives other
    bits, so a training goes on only with its own.
    """

    path: Path
    fingerprint: str
    engine: str
    failed: str = ""

    def write(self, state: dict[str, Any]) -> None:
        """Write a checkpoint (atomic: the one before it survives until the new one is complete).

        A disk that is full must not end a training of hours: what went wrong is said, once, and
        the training goes on.
        """
        buffer = io.BytesIO()  # torch.save to a full disk raises errors that do not say so
        head = {"format": FORMAT, "fingerprint": self.fingerprint, "engine": self.engine}
        torch.save({**head, **state}, buffer)
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as e:
            if str(e) != self.failed:
                print(
                    f"anipot: the checkpoint {self.path} could not be written ({e.strerror}); the "
                    "training goes on without, and tries again",
                    file=sys.stderr,
                )
            self.failed = str(e)

    def read(self) -> dict[str, Any]:
        """Read the checkpoint. Nothing in it is executed (``weights_only``).

        Raises TrainingError when the file is missing or damaged, belongs to other options or data,
        or was made with another AEV engine.
        """
        path = self.path
        if not path.exists():
            raise TrainingError(
                f"{path}: no checkpoint there; the run stopped before its first one"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as e:
            raise TrainingError(f"{path}: the checkpoint is damaged ({e})") from e
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise TrainingError(f"{path}: not a checkpoint of this version of anipot")
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{path}: the checkpoint belongs to other options or other data; a run can only be "
                "resumed with the options and the data files it began with"
            )
        if state["engine"] != self.engine:
            raise TrainingError(
                f"{path}: the training began with the {state['engine']} AEV engine and would go on "
                f"with the {self.engine} engine, to another result; see 'anipot info' for why the "
                "first is not available here"
            )
        return state
