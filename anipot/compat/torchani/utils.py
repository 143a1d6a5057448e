"""torchani.utils of TorchANI 2.2: what today's TorchANI still has, and where the rest is."""

from __future__ import annotations

from typing import Any

import torchani.utils

from anipot.compat.torchani.units import hartree2kcalmol

ChemicalSymbolsToInts = torchani.utils.ChemicalSymbolsToInts
EnergyShifter = torchani.utils.EnergyShifter
PERIODIC_TABLE = torchani.utils.PERIODIC_TABLE

__all__ = ["PERIODIC_TABLE", "ChemicalSymbolsToInts", "EnergyShifter", "hartree2kcalmol"]

_INSTEAD = {
    "hessian": "torchani.grad.hessians, or the command 'anipot vibrations'",
    "vibrational_analysis": "torchani.grad.vibrational_analysis, or 'anipot vibrations'",
}


def __getattr__(name: str) -> Any:
    try:
        return getattr(torchani.utils, name)
    except AttributeError:
        instead = _INSTEAD.get(name, "anipot itself")
        raise AttributeError(
            f"neither anipot.compat.torchani nor today's TorchANI has utils.{name}; use {instead}"
        ) from None
