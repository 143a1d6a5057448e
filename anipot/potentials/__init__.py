"""Saved potentials: one file a format."""

from __future__ import annotations

from pathlib import Path

from anipot.model import ANIModel
from anipot.potentials.own import read_potential


def load(path: str | Path, engine: str = "auto") -> ANIModel:
    """Load a saved potential, ready for use (evaluation mode, on the CPU).

    Raises PotentialError that names the file and what is wrong with it.
    """
    return read_potential(path, engine)
