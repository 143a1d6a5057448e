"""Small real data for trainings that take a second."""

import pytest

from anipot.conformers import Conformers
from anipot.datasets import load_bundled


@pytest.fixture(scope="session")
def small() -> list[Conformers]:
    """Training, validation and test part of 240 conformers of six molecules."""
    names = ["C", "N", "O", "CO", "C=O", "CN"]
    data = load_bundled().select(molecules=names, per_molecule=40)
    return data.split(0.7, 0.15, 0.15, seed=1)
