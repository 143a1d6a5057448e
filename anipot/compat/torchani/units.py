"""torchani.units of TorchANI 2.2, which today's TorchANI still has."""

from __future__ import annotations

from typing import Any

import torchani.units

hartree2kcalmol = torchani.units.hartree2kcalmol


def __getattr__(name: str) -> Any:
    return getattr(torchani.units, name)
