"""Constraints: what is held stays, what is left has the right temperature, the rest is refused."""

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    Hookean,
)

from anipot.errors import SettingsError, SimulationError
from anipot.simulation import Coordinate, relax, run_md, scan, vibrations
from anipot.simulation.constraints import held_in_dynamics
from anipot.simulation.dynamics import degrees_of_freedom, draw_velocities

SKEWED = [[12.0, 0, 0], [4, 11, 0], [2, 3, 12]]


def lj() -> LennardJones:
    return LennardJones(epsilon=0.0104, sigma=3.4, rc=10.0, smooth=True)


def cluster(cell=None) -> ase.Atoms:
    """Five argon atoms near a minimum."""
    sites = [[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.29, 0.82], [0.5, 0.29, -0.82]]
    return ase.Atoms("Ar5", 3.8 * np.array(sites), cell=cell, pbc=cell is not None)


def quantities(kind):
    """A constraint, the cell it is for, and what of a frame must not change."""
    return {
        "FixAtoms": (FixAtoms([0, 3]), None, lambda a: a.positions[[0, 3]]),
        "FixCartesian": (
            FixCartesian([1, 2], [True, False, True]), None, lambda a: a.positions[1:3, ::2]
        ),
        "FixBondLengths": (
            FixBondLengths([(0, 1), (1, 2)]), None,
            lambda a: [a.get_distance(0, 1), a.get_distance(1, 2)],
        ),
        "two FixBondLengths": (
            [FixBondLengths([(0, 1)]), FixBondLengths([(1, 2)])], None,
            lambda a: [a.get_distance(0, 1), a.get_distance(1, 2)],
        ),
        "FixedPlane": (FixedPlane([4], [1, 1, 0]), None, lambda a: a.positions[4, :2].sum()),
        "FixedLine": (FixedLine([4], [0, 1, 0]), None, lambda a: a.positions[4, ::2]),
        "FixScaled, one": (
            FixScaled([0, 2], [False, True, False]), SKEWED,
            lambda a: a.cell.scaled_positions(a.positions)[[0, 2], 1],
        ),
        "FixScaled, two": (
            FixScaled([0, 2], [True, True, False]), SKEWED,
            lambda a: a.cell.scaled_positions(a.positions)[[0, 2], :2],
        ),
    }[kind]  # fmt: skip


KINDS = {
    # Motions that are left of 15, drawn in nve: 6 or 3 fewer where the whole can move.
    "FixAtoms": 9, "FixCartesian": 11, "FixBondLengths": 7, "two FixBondLengths": 7,
    "FixedPlane": 14, "FixedLine": 13, "FixScaled, one": 13, "FixScaled, two": 11,
}  # fmt: skip


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
@pytest.mark.parametrize("kind", KINDS)
def test_held_in_dynamics(tmp_path, kind, ensemble):
    constraint, cell, held = quantities(kind)
    atoms = cluster(cell)
    atoms.set_constraint(constraint)
    options = {"temperature": 30, "timestep": 4, "time": 400, "every": 5, "ensemble": ensemble}
    result = run_md(atoms, lj(), tmp_path / "a.traj", **options)
    frames = ase.io.read(tmp_path / "a.traj", ":")
    assert len(frames) == 21
    assert np.ptp(frames[-1].positions - atoms.positions) > 0.05
    for frame in frames:
        np.testing.assert_allclose(held(frame), held(atoms), atol=1e-7)
    if ensemble == "nve":
        assert abs(result.drift) < 2e-4
        assert np.ptp([row.total_ev for row in result.rows]) < 2e-4


@pytest.mark.parametrize(("kind", "degrees"), KINDS.items())
def test_degrees_of_freedom_share_the_kinetic_energy(kind, degrees):
    constraint, cell, _ = quantities(kind)
    atoms = cluster(cell)
    atoms.set_constraint(constraint)
    atoms.set_constraint(held_in_dynamics(atoms))
    assert degrees_of_freedom(atoms) == degrees
    rng, kinetic = np.random.default_rng(1), []
    for _ in range(400):
        draw_velocities(atoms, 100.0, rng)
        kinetic.append(atoms.get_kinetic_energy())
        # Nothing that is forbidden is left: the constraints change nothing more.
        before = atoms.get_momenta()
        atoms.set_momenta(before)
        np.testing.assert_allclose(atoms.get_momenta(), before, atol=1e-9)
    expected = degrees / 2 * units.kB * 100.0
    assert np.mean(kinetic) == pytest.approx(expected, rel=4 * np.sqrt(2 / degrees / 400))


def test_the_thermostat_with_fixed_atoms_and_bonds(tmp_path):
    for k, constraint in enumerate([FixAtoms([0]), FixBondLengths([(0, 1), (2, 3)])]):
        atoms = cluster()
        atoms.set_constraint(constraint)
        result = run_md(
            atoms, lj(), tmp_path / f"{k}.traj", ensemble="nvt", time=6400, timestep=16,
            temperature=20, friction=0.02, every=2, save_every=5000,
        )  # fmt: skip
        assert result.temperature == pytest.approx(20, rel=0.3)


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
@pytest.mark.parametrize("kind", ["FixAtoms", "FixBondLengths", "FixScaled, two"])
def test_a_run_goes_on_to_the_same_bits(tmp_path, kind, ensemble):
    constraint, cell, _ = quantities(kind)
    atoms = cluster(cell)
    atoms.set_constraint(constraint)
    options = {"temperature": 30, "timestep": 4, "ensemble": ensemble, "every": 2}
    run_md(atoms, lj(), tmp_path / "w.traj", time=80, **options)
    run_md(atoms, lj(), tmp_path / "a.traj", time=32, **options)
    run_md(atoms, lj(), tmp_path / "a.traj", time=80, resume=True, **options)
    # In a cell, ASE's Lennard-Jones adds up neighbours in the order that its list has by then.
    tolerance = 0.0 if cell is None else 1e-12
    whole, again = (ase.io.read(tmp_path / f"{name}.traj", ":") for name in "wa")
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_allclose(other.positions, one.positions, rtol=0, atol=tolerance)
        np.testing.assert_allclose(other.get_momenta(), one.get_momenta(), rtol=0, atol=tolerance)


def test_a_run_goes_on_with_its_own_constraints_only(tmp_path):
    atoms = cluster()
    atoms.set_constraint(FixAtoms([0]))
    run_md(atoms, lj(), tmp_path / "a.extxyz", time=10)
    for other in (None, FixAtoms([1])):
        atoms.set_constraint(other)
        with pytest.raises(SimulationError, match=r"held FixAtoms \(1 atom\), the structure given"):
            run_md(atoms, lj(), tmp_path / "a.extxyz", time=20, resume=True)


def test_velocities_that_are_kept_obey(tmp_path):
    atoms = cluster()
    draw_velocities(atoms, 30, np.random.default_rng(0))
    atoms.set_constraint(FixAtoms([0]))
    run_md(atoms, lj(), tmp_path / "a.traj", time=10, velocities="keep")
    assert not ase.io.read(tmp_path / "a.traj", 0).get_momenta()[0].any()


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ([Hookean(0, 1, 5.0, 3.0)], "Hookean cannot be held in molecular dynamics; these can"),
        ([FixInternals(bonds=[[3.8, [0, 1]]])], "FixInternals cannot be held"),
        ([FixBondLengths([(0, 1)], bondlengths=[3.0])], "atoms 0 and 1 has 3.8000 angstrom"),
        ([FixBondLengths([(0, 1)]), FixAtoms([1])], "atom 1 is held by FixAtoms and FixBond"),
        ([FixedLine([0], [1, 0, 0]), FixedPlane([0], [1, 0, 0])], "atom 0 is held by FixedLine"),
        ([FixCom(), FixAtoms([1])], "FixCom cannot hold"),
        ([FixAtoms([0, 1, 2, 3, 4])], "all atoms are fixed"),
        ([FixAtoms([7])], "holds atom 7; there are 5 atoms"),
    ],
)
def test_refused_in_dynamics(tmp_path, constraints, message):
    atoms = cluster()
    atoms.set_constraint(constraints)
    with pytest.raises(SimulationError, match=message):
        run_md(atoms, lj(), tmp_path / "a.extxyz", time=10)
    assert not list(tmp_path.iterdir())


def test_relaxed_structures_keep_what_holds_atoms_in_space():
    atoms = cluster()
    atoms.positions[0] += 0.3
    atoms.set_constraint([FixAtoms([0, 3]), FixBondLengths([(1, 2)], bondlengths=[3.7])])
    found = relax(atoms, lj(), fmax=1e-3)
    assert found.converged
    np.testing.assert_array_equal(found.atoms.positions[[0, 3]], atoms.positions[[0, 3]])
    assert found.atoms.get_distance(1, 2) == pytest.approx(3.7, abs=1e-6)
    assert [type(c) for c in found.atoms.constraints] == [FixAtoms]
    # The forces of a file are those of the potential, on fixed atoms too.
    assert np.abs(found.atoms.calc.results["forces"][0]).max() > 0.01


def test_a_relaxed_cell_keeps_fractions_of_fixed_atoms():
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.positions[0] += 0.05
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    atoms.set_constraint(FixAtoms([1]))
    found = relax(atoms, EMT(), cell=True, steps=3)
    assert np.abs(found.atoms.cell - atoms.cell).max() > 0.01
    before, after = (a.cell.scaled_positions(a.positions)[1] for a in (atoms, found.atoms))
    np.testing.assert_allclose(after, before, atol=1e-8)


@pytest.mark.parametrize("method", ["finite-difference"])
@pytest.mark.parametrize(("fixed", "n"), [([0], 9), ([0, 1], 8), ([0, 1, 2], 6)])
def test_vibrations_of_the_atoms_that_are_free(method, fixed, n):
    """Fixed atoms are as heavy as can be: their vibrations are those of very large masses."""
    atoms = relax(cluster(), lj(), fmax=1e-5).atoms
    heavy = atoms.copy()
    masses = heavy.get_masses()
    masses[fixed] = 1e12
    heavy.set_masses(masses)
    expected = vibrations(heavy, lj(), method=method).frequencies
    atoms.set_constraint(FixAtoms(fixed))
    found = vibrations(atoms, lj(), method=method)
    assert len(found.frequencies) == n
    assert len(found.frequencies) + len(found.others) == 15 - 3 * len(fixed)
    assert found.thermochemistry is None
    np.testing.assert_allclose(found.frequencies, expected[-n:], rtol=1e-3)


def test_scans_hold_fixed_atoms():
    ethanol = ase.build.molecule("CH3CH2OH")
    calculator = LennardJones(epsilon=0.05, sigma=1.2, rc=8.0)
    ethanol.set_constraint(FixAtoms([5, 6]))
    for relaxed in (False, True):
        points = scan(
            ethanol, calculator, Coordinate((0, 1, 2, 3)), [100, 140], relaxed=relaxed, steps=5
        )
        for p in points:
            np.testing.assert_array_equal(p.atoms.positions[5:7], ethanol.positions[5:7])
            assert Coordinate((0, 1, 2, 3)).of(p.atoms) == pytest.approx(p.value, abs=1e-4)
    ethanol.set_constraint(FixAtoms([3]))
    with pytest.raises(SettingsError, match=r"atom 3 is fixed and would have to move"):
        list(scan(ethanol, calculator, Coordinate((0, 1, 2, 3)), [100]))


def test_other_constraints_are_refused_where_whole_atoms_are_needed():
    atoms = cluster()
    atoms.set_constraint(FixBondLengths([(0, 1)]))
    with pytest.raises(SimulationError, match="FixBondLengths cannot be held in vibrations"):
        vibrations(atoms, lj())
    with pytest.raises(SimulationError, match="FixBondLengths cannot be held in scans"):
        next(scan(atoms, lj(), Coordinate((0, 1)), [3.7]))
