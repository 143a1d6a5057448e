"""Checkpoints: all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from anipot.errors import TrainingError
from anipot.files import atomic_write

FORMAT = "anipot checkpoint 1"


def write_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint (atomic: the one before it survives until the new one is complete)."""
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def read_checkpoint(path: str | Path, fingerprint: str) -> dict[str, Any]:
    """Read a checkpoint of the same training. Nothing in it is executed (``weights_only``).

    Raises TrainingError when the file is missing or damaged, or belongs to other options or data.
    """
    path = Path(path)
    if not path.exists():
        raise TrainingError(f"{path}: no checkpoint there; the run stopped before its first one")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as e:
        raise TrainingError(f"{path}: the checkpoint is damaged ({e})") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a checkpoint of this version of anipot")
    if state["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{path}: the checkpoint belongs to other options or other data; a run can "
            f"only be resumed "
            "with the options and the data files it began with"
        )
    return state
