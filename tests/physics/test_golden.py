"""Energies, forces, stress and a short training, as version 0.1.0 gave them.

``golden.json`` was written by ``python tests/physics/test_golden.py`` before the package was
rearranged. Write it anew only for a change that is meant to change numbers.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import anipot

GOLDEN = Path(__file__).with_name("golden.json")


def results():
    """Everything that is compared, as JSON."""
    data = anipot.load_bundled().select(heavy_atoms=3, per_molecule=6)
    potential = anipot.load("anipot-hcno", dtype="float64")
    predicted = potential.predict(data, forces=True)
    members = [
        anipot.ANIModel.create("HCNO", hidden=[16, 8], seed=s, dtype="float64", repulsion="zbl")
        for s in (1, 2)
    ]
    cell = np.array([[6.1, 0.0, 0.0], [0.4, 5.9, 0.0], [-0.3, 0.2, 6.3]])
    first = data.take([0])
    crystal = anipot.Conformers(
        atomic_numbers=first.atomic_numbers, coordinates=first.coordinates, offsets=first.offsets,
        cells=cell[None], pbc=np.ones((1, 3), dtype=bool),
    )  # fmt: skip
    pressed = anipot.ANIEnsemble(members).predict(crystal, forces=True, stress=True)
    train, val, test = data.split(0.7, 0.15, 0.15, seed=3)
    trainer = anipot.ANITrainer(
        anipot.ANIModel.create("HCNO", hidden=[16, 8], seed=4, dtype="float64"),
        epochs=3, batch_size=16, force_weight=0.1, seed=5, threads=1, device="cpu",
    )  # fmt: skip
    trainer.train(train, val, quiet=True)
    errors = trainer.evaluate(test)
    return {
        "energies": predicted.energies.tolist(),
        "force_norms": np.linalg.norm(predicted.forces, axis=1).tolist(),
        "crystal_energy": pressed.energies.tolist(),
        "crystal_forces": pressed.forces.tolist(),
        "crystal_stress": pressed.stress.tolist(),
        "crystal_std": pressed.energy_std.tolist(),
        "train_loss": list(trainer.history["train_loss"]),
        "val_mae": list(trainer.history["val_mae"]),
        "test_mae": errors.energy.mae,
    }


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()) if GOLDEN.exists() else [])
def test_numbers_are_those_of_version_0_1_0(name, computed):
    expected = json.loads(GOLDEN.read_text())[name]
    np.testing.assert_allclose(computed[name], expected, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def computed():
    return results()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(results(), indent=1) + "\n")
