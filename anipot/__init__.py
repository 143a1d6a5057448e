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
    from anipot.data.batches import Batch, BatchLoader
    from anipot.data.conformers import Conformers
    from anipot.data.load import load_dataset
    from anipot.data.published.bundled import load_bundled
    from anipot.errors import AnipotError
    from anipot.experiments.search.search import search
    from anipot.experiments.table.iterate import iterate
    from anipot.formats.load import load
    from anipot.formats.torchani_format import from_torchani
    from anipot.networks.atomic import AtomicNet
    from anipot.networks.repulsion import Repulsion
    from anipot.networks.self_energies import SelfEnergies
    from anipot.potential.calculator import ANICalculator
    from anipot.potential.ensemble import ANIEnsemble
    from anipot.potential.model import ANIModel
    from anipot.potential.prediction import Prediction
    from anipot.training.trainer import ANITrainer, evaluate

_HOMES = {
    "AEVComputer": "anipot.aev",
    "AEVSettings": "anipot.aev",
    "ANICalculator": "anipot.potential.calculator",
    "ANIEnsemble": "anipot.potential.ensemble",
    "ANIModel": "anipot.potential.model",
    "ANITrainer": "anipot.training.trainer",
    "AnipotError": "anipot.errors",
    "AtomicNet": "anipot.networks.atomic",
    "Batch": "anipot.data.batches",
    "BatchLoader": "anipot.data.batches",
    "Conformers": "anipot.data.conformers",
    "Prediction": "anipot.potential.prediction",
    "Repulsion": "anipot.networks.repulsion",
    "SelfEnergies": "anipot.networks.self_energies",
    "evaluate": "anipot.training.trainer",
    "from_torchani": "anipot.formats.torchani_format",
    "iterate": "anipot.experiments.table.iterate",
    "load": "anipot.formats.load",
    "load_bundled": "anipot.data.published.bundled",
    "load_dataset": "anipot.data.load",
    "search": "anipot.experiments.search.search",
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
