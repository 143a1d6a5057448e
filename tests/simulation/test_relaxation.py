"""Relaxation: known minima, honest reports of what did not converge."""

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from anipot.errors import DataError, SettingsError
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.simulation import relax
from anipot.simulation.structures import extxyz

LJ = {"epsilon": 0.01, "sigma": 3.0, "rc": 12.0, "smooth": False}


def pair(distance: float) -> ase.Atoms:
    return ase.Atoms("Ar2", [[0, 0, 0], [0, 0, distance]])


@pytest.mark.parametrize("optimizer", ["BFGS", "lbfgs", "FIRE"])
def test_a_lennard_jones_pair(optimizer):
    start = pair(3.6)
    before = start.positions.copy()
    found = relax(start, LennardJones(**LJ), optimizer=optimizer, fmax=1e-5)
    assert found.converged
    assert found.atoms.get_distance(0, 1) == pytest.approx(2 ** (1 / 6) * 3.0, abs=1e-3)
    # ASE shifts the potential to zero at rc, which changes the depth a little.
    assert found.energy_after == pytest.approx(-0.01, abs=1e-5)
    assert found.max_force < 1e-5
    assert found.energy_before > found.energy_after
    np.testing.assert_array_equal(start.positions, before)
    assert start.calc is None


def test_a_cell_relaxes_to_no_stress():
    copper = ase.build.bulk("Cu", a=3.7)
    found = relax(copper, EMT(), cell=True, fmax=1e-3)
    assert found.converged
    assert np.abs(found.atoms.get_stress()).max() < 1e-4
    volume = ase.build.bulk("Cu", a=3.59).get_volume()  # EMT's lattice constant
    assert found.atoms.get_volume() == pytest.approx(volume, rel=5e-3)
    with pytest.raises(SettingsError, match="all directions are periodic"):
        relax(pair(4), LennardJones(**LJ), cell=True)


def test_out_of_steps_is_not_converged_and_interruption_is_told():
    slow = relax(pair(5.0), LennardJones(**LJ), steps=2, fmax=1e-6)
    assert not slow.converged
    assert slow.steps == 2
    assert not slow.interrupted
    assert slow.max_force > 1e-6
    calls = []
    cut = relax(
        pair(5.0), LennardJones(**LJ), fmax=1e-6, stop=lambda: calls.append(1) or len(calls) > 2
    )
    assert cut.interrupted
    assert not cut.converged
    assert cut.steps == 2


def test_a_frame_holds_what_the_report_says():
    found = relax(pair(3.6), LennardJones(**LJ))
    frame = found.frame()
    assert frame.info["converged"] is True
    assert frame.info["energy_after"] == found.energy_after == frame.get_potential_energy()
    np.testing.assert_array_equal(frame.get_forces(), found.atoms.get_forces())


def test_frames_survive_their_file(tmp_path):
    calc = LennardJones(**LJ)  # one for all, as in a command
    found = [relax(pair(d), calc, fmax=1e-3) for d in (3.4, 3.6)]
    assert found[0].energy_after != found[1].energy_after
    (tmp_path / "f.extxyz").write_text("".join(extxyz(f.frame()) for f in found))
    frames = ase.io.read(tmp_path / "f.extxyz", ":")
    assert [f.info["steps"] for f in frames] == [f.steps for f in found]
    for frame, f in zip(frames, found, strict=True):
        assert frame.get_potential_energy() == pytest.approx(f.energy_after, rel=1e-12)
        fresh = f.atoms.copy()
        fresh.calc = LennardJones(**LJ)
        np.testing.assert_allclose(frame.get_forces(), fresh.get_forces(), atol=1e-7)


def test_disagreement_ends_a_relaxation_with_the_last_structure():
    members = [ANIModel.create("HCNO", seed=k, hidden=[8], dtype="float64") for k in range(3)]
    atoms = ase.build.molecule("CH3OH")
    atoms.rattle(0.02, seed=0)
    calc = ANIEnsemble(members).calculator(max_disagreement=1e-6, on_disagreement="stop")
    found = relax(atoms, calc)
    assert "the members disagree by" in found.problem
    assert (found.converged, found.interrupted, found.steps) == (False, False, 0)
    np.testing.assert_array_equal(found.atoms.positions, atoms.positions)
    assert found.frame().info["problem"] == found.problem


def test_nonsense_is_refused():
    with pytest.raises(SettingsError, match="BFGS, LBFGS, FIRE"):
        relax(pair(4), LennardJones(**LJ), optimizer="newton")
    with pytest.raises(SettingsError, match="fmax must be above 0"):
        relax(pair(4), LennardJones(**LJ), fmax=0)
    with pytest.raises(DataError, match="is Ar, which this model does not know"):
        relax(pair(4), ANIModel.create("HCNO", hidden=[4]).calculator())
