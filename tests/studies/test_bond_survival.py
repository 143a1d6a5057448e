"""Molecules in dynamics together move as each alone would, and a bond that breaks is noticed."""

import ase
import ase.build
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import all_changes

from anipot.errors import SimulationError
from anipot.potential.inference import Evaluator
from anipot.potential.model import ANIModel
from anipot.studies import bond_survival
from anipot.studies.bond_survival import Apart, Dynamics, bonds_of, survival_times


def molecules() -> list[ase.Atoms]:
    return [ase.build.molecule(name) for name in ("CH3OH", "H2O", "NH3", "C2H6")]


def test_forces_of_molecules_together_are_those_of_each_alone():
    model = ANIModel.create("HCNO", seed=1, hidden=[16, 8], dtype="float64")
    apart = molecules()
    system = ase.Atoms()
    for molecule in apart:
        system += molecule  # on top of each other: they must not feel it
    system.calc = Apart(Evaluator([model]), apart)
    alone = []
    for molecule in apart:
        molecule.calc = model.calculator()
        alone.append(molecule.get_forces())
    np.testing.assert_allclose(system.get_forces(), np.concatenate(alone), atol=1e-12)


def test_bonds_are_those_of_the_formula():
    expected = {"CH3OH": 5, "H2O": 2, "NH3": 3, "C2H6": 7, "C6H6": 12, "CO2": 2}
    for name, number in expected.items():
        i, j = bonds_of(ase.build.molecule(name))
        assert len(i) == number, name
        assert (i < j).all()


class Repelled(Apart):
    """Atoms of every second molecule fly apart at once; the others feel nothing."""

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        ends = self.batch.offsets.numpy()
        for k in range(len(self.batch)):
            own = slice(ends[k], ends[k + 1])
            numbers = self.atoms.numbers[own]
            x = self.atoms.positions[own]
            pushed = 1.0 if 8 in numbers else 0.0
            self.results["forces"][own] = pushed * (x - x.mean(0))


def test_what_breaks_is_taken_out_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(bond_survival, "Apart", Repelled)
    model = ANIModel.create("HCNO", seed=1, hidden=[4])
    steps = []
    cold = Dynamics(time=200.0, temperature=0.0)
    times = survival_times(model, molecules(), cold, on_step=steps.append)
    assert np.isfinite(times).tolist() == [True, True, False, False]  # methanol and water
    assert (times[:2] > 5).all()
    assert (times[:2] < 150).all()
    assert steps == list(range(1, 401))


def test_the_time_of_a_break_is_that_of_the_equations_of_motion(monkeypatch):
    # Two atoms pushed apart by a constant force f each: the distance grows by f t^2 / m (and
    # friction as good as none).
    force = 0.5

    class Pushed(Apart):
        def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["forces"][...] = np.outer([-force, force], [1.0, 0.0, 0.0])

    monkeypatch.setattr(bond_survival, "Apart", Pushed)
    pair = ase.Atoms("H2", [[0, 0, 0], [0.74, 0, 0]])
    how = Dynamics(time=100.0, temperature=0.0, friction=1e-9)
    found = survival_times(ANIModel.create("HCNO", seed=1, hidden=[4]), [pair], how)[0]
    expected = np.sqrt(0.37 * pair.get_masses()[0] / force) / units.fs
    assert found == pytest.approx(expected, abs=1.0)


def test_the_seed_decides_and_a_number_that_is_none_is_a_break(monkeypatch):
    model = ANIModel.create("HCNO", seed=1, hidden=[16, 8])
    how = Dynamics(time=300.0, temperature=3000.0, stretch=1.2)
    first, again, other = (survival_times(model, molecules(), how, seed=s) for s in (0, 0, 1))
    assert (first == again).all()
    assert np.isfinite(first).any()
    assert (first != other).any()

    calls = []

    class Broken(Apart):
        def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            calls.append(0)
            if len(calls) == 5:
                self.results["forces"][-1] = np.nan

    monkeypatch.setattr(bond_survival, "Apart", Broken)
    times = survival_times(model, molecules(), Dynamics(time=10.0, temperature=0.0))
    assert times.tolist() == [np.inf, np.inf, np.inf, 2.0]  # the fourth step of half a fs


def test_what_has_no_bond_to_break_is_refused():
    model = ANIModel.create("HCNO", seed=1, hidden=[4])
    with pytest.raises(SimulationError, match=r"molecule 1 \(C\)"):
        survival_times(model, [ase.build.molecule("H2O"), ase.Atoms("C")])
