"""What errors of forces and stress say about the data as a whole."""

import numpy as np
import pytest

from anipot import units
from anipot.evaluation.vector_errors import VectorErrors

RNG = np.random.default_rng(0)
FORCES = RNG.normal(size=(200, 3)) * 0.02
PREDICTED = FORCES + RNG.normal(size=FORCES.shape) * 0.002


@pytest.mark.parametrize(("reference", "said"), [
    (FORCES, None),
    (-FORCES, "forces_sign='gradient'"),
    (FORCES * units.BOHR_TO_ANGSTROM, "by a factor of 1.9"),
    (FORCES * units.HARTREE_TO_EV, "force_unit="),
    (RNG.permutation(FORCES), None),  # a poor potential, perhaps
    (FORCES[:5], None),  # too few to judge by
    (FORCES * 0, None),  # no direction
])  # fmt: skip
def test_suspicion_of_forces(reference, said):
    found = VectorErrors(reference, PREDICTED[: len(reference)]).suspicion("forces")
    assert (found is None) == (said is None)
    assert said is None or said in found


def test_suspicion_of_stress():
    stress = np.repeat(np.diag([0.01, -0.02, 0.005])[None], 20, axis=0)
    assert VectorErrors(stress, stress).suspicion("stress") is None
    assert "stress_sign='negative'" in VectorErrors(-stress, stress).suspicion("stress")
    assert "stress_unit=" in VectorErrors(stress * 160.2, stress).suspicion("stress")
