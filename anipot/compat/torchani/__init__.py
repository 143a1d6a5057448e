"""TorchANI 2.2's calls on today's TorchANI and torch, so that old notebooks run again.

    import anipot.compat.torchani as torchani

in place of ``import torchani`` is the only change a notebook needs. It finds ``AEVComputer``,
``ANIModel``, ``Ensemble``, ``EnergyShifter``, ``SpeciesConverter`` and the modules ``aev``, ``nn``,
``data``, ``utils`` and ``units``, called as in 2.2. New work should use anipot itself.

What differs from 2.2, everywhere on the side of what a notebook meant:

- AEVs come from anipot's engines: the same numbers, several times sooner;
- transformations of data never change what they are given, so that a second pass over the same data
  reads the same numbers. In 2.2 self energies were subtracted again at each pass over samples that
  were in memory;
- ``len`` of data is right at every point of a chain, and the last conformer is not lost;
- ``EnergyShifter`` gets a self energy for every element of ``species_order``, 0 for one that the
  data lacks, where 2.2 left that one out and moved those behind it;
- an index without a network, and an element without an index, are errors.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

# Before TorchANI is imported: it would warn of compiled extensions that nothing here uses.
os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")

from anipot.compat.torchani import aev, data, nn, units, utils
from anipot.compat.torchani.aev import AEVComputer
from anipot.compat.torchani.nn import ANIModel, Ensemble, SpeciesConverter
from anipot.compat.torchani.utils import EnergyShifter
from anipot.version import __version__ as _anipot

#: The release whose calls are understood, and, as a local version, what answers them.
__version__ = "2.2.4+" + f"anipot.{_anipot}.torchani.{version('torchani')}".replace("+", ".")

__all__ = [
    "AEVComputer",
    "ANIModel",
    "EnergyShifter",
    "Ensemble",
    "SpeciesConverter",
    "__version__",
    "aev",
    "data",
    "nn",
    "units",
    "utils",
]

_INSTEAD = {
    "models": 'anipot.load("ani1x"), "ani1ccx" or "ani2x"',
    "neurochem": 'anipot.load("NAME.info"), which reads NeuroChem files',
    "ase": 'anipot.load("ani1x").calculator(), a calculator for ASE',
    "optim": "torch.optim.AdamW",
    "ignite": "anipot.ANITrainer",
}


def __getattr__(name: str) -> Any:
    instead = _INSTEAD.get(name, "anipot itself, or today's TorchANI with 'import torchani'")
    raise AttributeError(
        f"anipot.compat.torchani does not have TorchANI 2.2's torchani.{name}; use {instead}"
    )
