"""Scans: the coordinate has the value asked for, and only what should move moves."""

import ase
import ase.build
import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from anipot.errors import SettingsError, SimulationError
from anipot.simulation import Coordinate, scan
from anipot.simulation.figures import scan_figure


def calculator() -> LennardJones:
    return LennardJones(epsilon=0.05, sigma=1.2, rc=8.0)


def ethanol() -> ase.Atoms:
    return ase.build.molecule("CH3CH2OH")  # C0-C1-O2-H3


@pytest.mark.parametrize(
    ("indices", "values"),
    [((0, 1, 2, 3), [0, 100, 359]), ((1, 2), [1.2, 1.6]), ((0, 1, 2), [95, 120])],
)
def test_rigid(indices, values):
    atoms, coordinate = ethanol(), Coordinate(indices)
    points = list(scan(atoms, calculator(), coordinate, values))
    assert [p.value for p in points] == values
    bonds = [(0, 1), (1, 2), (2, 3), (1, 4), (0, 7)]
    for p in points:
        assert coordinate.of(p.atoms) == pytest.approx(p.value, abs=1e-6)
        for bond in bonds:
            if bond != indices:
                length = atoms.get_distance(*bond)
                assert p.atoms.get_distance(*bond) == pytest.approx(length, abs=1e-9)
        np.testing.assert_allclose(p.atoms.positions[7], atoms.positions[7], atol=1e-12)
        fresh = p.atoms.copy()
        fresh.calc = calculator()
        assert p.energy == fresh.get_potential_energy() == p.atoms.get_potential_energy()
    np.testing.assert_array_equal(atoms.positions, ethanol().positions)


def test_a_whole_group_turns():
    mask = Coordinate((3, 2, 1, 0)).moving(ethanol())
    assert np.flatnonzero(mask).tolist() == [0, 1, 4, 5, 6, 7, 8]
    mask = Coordinate((0, 1, 2, 3)).moving(ethanol())
    assert np.flatnonzero(mask).tolist() == [2, 3]


def test_relaxed_holds_the_coordinate_and_lowers_the_energy():
    atoms = ase.Atoms("Ar4", [[0, 0, 0], [1.4, 0, 0], [1.6, 1.4, 0], [1.0, 1.6, 1.2]])
    coordinate, values = Coordinate((0, 1)), [1.5, 1.7]
    relaxed = list(scan(atoms, calculator(), coordinate, values, relaxed=True, fmax=1e-4))
    for p in relaxed:
        assert p.converged
        assert coordinate.of(p.atoms) == pytest.approx(p.value, abs=1e-5)
        assert not p.atoms.constraints
        # Without the constraint, the only force left is along the coordinate.
        forces = p.atoms.get_forces()
        along = p.atoms.get_distance(0, 1, vector=True)
        along /= np.linalg.norm(along)
        assert np.linalg.norm(forces[2:], axis=1).max() < 1e-3
        assert np.abs(forces[0] - (forces[0] @ along) * along).max() < 1e-3
    unrelaxed = atoms.copy()
    unrelaxed.calc = calculator()
    assert max(p.energy for p in relaxed) < unrelaxed.get_potential_energy()


def test_a_ring_cannot_be_turned_as_a_whole():
    ring = ase.build.molecule("C6H6")
    with pytest.raises(SettingsError, match="a ring"):
        list(scan(ring, calculator(), Coordinate((0, 1, 2, 3)), [10.0]))
    mask = Coordinate((0, 1, 2, 3)).moving(ring, alone=True)
    assert np.flatnonzero(mask).tolist() == [3]


def test_two_molecules_are_pulled_apart():
    pair = ase.build.molecule("H2O")
    other = pair.copy()
    other.positions += [0, 0, 4]
    points = list(scan(pair + other, calculator(), Coordinate((0, 3)), [3.0, 9.0]))
    for p in points:
        assert p.atoms.get_distance(0, 3) == pytest.approx(p.value)
        assert p.atoms.get_distance(3, 4) == pytest.approx(pair.get_distance(0, 1))


def test_stopping_gives_what_is_done():
    calls = []
    points = list(
        scan(
            ethanol(), calculator(), Coordinate((1, 2)), np.linspace(1.2, 1.6, 9),
            stop=lambda: calls.append(1) or len(calls) > 4,
        )
    )  # fmt: skip
    assert len(points) == 4


@pytest.mark.parametrize(
    ("indices", "match"),
    [((0, 99), "no atom 99; atoms are counted from 0 to 8"), ((1, 1), "named twice")],
)
def test_atoms_that_are_not_there(indices, match):
    with pytest.raises(SettingsError, match=match):
        list(scan(ethanol(), calculator(), Coordinate(indices), [1.0]))


def test_values_that_a_coordinate_cannot_have_are_told():
    acetylene = ase.build.molecule("C2H2")
    with pytest.raises(SimulationError, match="dihedral 2-0-1-3 cannot be 90 degrees here"):
        list(scan(acetylene, calculator(), Coordinate((2, 0, 1, 3)), [90]))
    water = ase.build.molecule("H2O")
    found = scan(water, calculator(), Coordinate((1, 0, 2)), [120, 180], relaxed=True, steps=1)
    assert next(found).value == 120
    with pytest.raises(SimulationError, match="angle 1-0-2 cannot be 180 degrees here"):
        next(found)
    for value in (0.0, -1.0, np.nan):
        with pytest.raises(SettingsError, match="distances must be above 0"):
            list(scan(water, calculator(), Coordinate((0, 1)), [1.0, value]))


def test_the_figure_shows_kcal_per_mol_above_the_lowest():
    coordinate = Coordinate((1, 2))
    points = list(scan(ethanol(), calculator(), coordinate, [1.2, 1.4, 1.6]))
    axes = scan_figure(points, coordinate).axes[0]
    x, y = axes.lines[0].get_data()
    energies = np.array([p.energy for p in points])
    np.testing.assert_allclose(y, (energies - energies.min()) * 23.0605, rtol=1e-4)
    np.testing.assert_allclose(x, [1.2, 1.4, 1.6])
    assert axes.get_xlabel() == "Distance 1–2 (angstrom)"
