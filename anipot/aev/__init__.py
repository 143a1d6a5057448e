"""Atomic environment vectors: what describes an atom to its network."""

from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings

__all__ = ["AEVComputer", "AEVSettings"]
