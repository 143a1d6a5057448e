"""The potential that comes with anipot: its card tells the truth."""

import numpy as np
import pytest
from ase.build import molecule
from ase.optimize import BFGS

import anipot
from anipot.evaluation.calibration import beyond, calibrated
from anipot.evaluation.trained_on import part_of


@pytest.fixture(scope="module")
def shipped():
    return anipot.load("anipot-hcno")


def test_it_is_an_ensemble_with_a_card(shipped):
    assert len(shipped) >= 4
    assert shipped.elements == tuple("HCNO") == shipped.trained
    assert "wB97X" in shipped.about["level_of_theory"]
    known, unknown = shipped.about["errors_kcalmol"].values()
    assert known["mae"] < 0.6 < unknown["mae"]
    assert known["forces"]["mae"] < 3 < unknown["forces"]["mae"]
    assert calibrated(shipped).largest_molecule_atoms == 14


def test_its_errors_are_those_of_its_card(shipped):
    test, _ = part_of(shipped, anipot.load_bundled(), "test")
    found = anipot.evaluate(shipped, test)
    told = shipped.about["errors_kcalmol"]["test conformers of known molecules"]
    assert len(found) == told["n"] == 742
    assert found.energy.mae == pytest.approx(told["mae"], abs=2e-3)
    assert found.energy.rmse == pytest.approx(told["rmse"], abs=2e-3)
    forces = found.forces.components(found.scale)
    assert forces.mae == pytest.approx(told["forces"]["mae"], abs=2e-3)


def test_water_has_its_shape_and_a_strange_molecule_a_warning(shipped):
    water = molecule("H2O")
    water.calc = shipped.calculator()
    assert BFGS(water, logfile=None).run(fmax=0.01, steps=100)
    # wB97X/6-31G(d): 0.965 angstrom, 104 degrees; a potential of 0.2 kcal/mol is near that.
    assert water.get_distance(0, 1) == pytest.approx(0.965, abs=0.005)
    assert water.get_angle(1, 0, 2) == pytest.approx(104.0, abs=1.5)
    assert not beyond(shipped, 1e-6, 3)
    large = molecule("C6H6") + molecule("C6H6")
    large.positions[12:] += 8.0
    large.calc = shipped.calculator()
    large.get_potential_energy()
    assert beyond(shipped, large.calc.results["disagreement"] / 27.2114, np.array(24))
