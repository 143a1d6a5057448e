"""anipot: ANI-style atomic neural network potentials.

    import anipot
    data = anipot.load_dataset("ani_gdb_s01_to_s04.h5")
    train, val, test = data.split(0.8, 0.1, 0.1, seed=0)
    trainer = anipot.ANITrainer(anipot.ANIModel.create(elements="HCNO"), epochs=50)
    trainer.train(train, val)
    print(trainer.evaluate(test))
    trainer.model.save("my.potential.safetensors")

Names are loaded when they are first used, so that ``import anipot`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anipot.version import __version__

if TYPE_CHECKING:
    from anipot.aev import AEVComputer, AEVSettings
    from anipot.batches import Batch, BatchLoader
    from anipot.calculator import ANICalculator
    from anipot.conformers import Conformers
    from anipot.datasets import load_bundled, load_dataset
    from anipot.ensemble import ANIEnsemble
    from anipot.errors import AnipotError
    from anipot.iterations.iterate import iterate
    from anipot.model import ANIModel
    from anipot.networks import AtomicNet
    from anipot.potentials import load
    from anipot.potentials.torchani_format import from_torchani
    from anipot.prediction import Prediction
    from anipot.repulsion import Repulsion
    from anipot.searches.search import search
    from anipot.self_energies import SelfEnergies
    from anipot.training.trainer import ANITrainer, evaluate

_HOMES = {
    "AEVComputer": "anipot.aev",
    "AEVSettings": "anipot.aev",
    "ANICalculator": "anipot.calculator",
    "ANIEnsemble": "anipot.ensemble",
    "ANIModel": "anipot.model",
    "ANITrainer": "anipot.training.trainer",
    "AnipotError": "anipot.errors",
    "AtomicNet": "anipot.networks",
    "Batch": "anipot.batches",
    "BatchLoader": "anipot.batches",
    "Conformers": "anipot.conformers",
    "Prediction": "anipot.prediction",
    "Repulsion": "anipot.repulsion",
    "SelfEnergies": "anipot.self_energies",
    "evaluate": "anipot.training.trainer",
    "from_torchani": "anipot.potentials.torchani_format",
    "iterate": "anipot.iterations.iterate",
    "load": "anipot.potentials",
    "load_bundled": "anipot.datasets",
    "load_dataset": "anipot.datasets",
    "search": "anipot.searches.search",
}

__all__ = [
    "AEVComputer",
    "AEVSettings",
    "ANICalculator",
    "ANIEnsemble",
    "ANIModel",
    "ANITrainer",
    "AnipotError",
    "AtomicNet",
    "Batch",
    "BatchLoader",
    "Conformers",
    "Prediction",
    "Repulsion",
    "SelfEnergies",
    "__version__",
    "evaluate",
    "from_torchani",
    "iterate",
    "load",
    "load_bundled",
    "load_dataset",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anipot' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
