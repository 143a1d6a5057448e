"""The ASE calculator: derivatives against finite differences, committees against their members."""

import copy
import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import ase
import ase.build
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError

from anipot.data.readers.extxyz import conformers_from_atoms
from anipot.errors import AnipotError, DataError, DisagreementError, SettingsError
from anipot.potential.calculator import ANICalculator
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.units import HARTREE_TO_EV, HARTREE_TO_KCALMOL


def member(seed: int, **options) -> ANIModel:
    # tanh: smooth, where CELU's second derivative jumps and finite differences see it.
    return ANIModel.create(
        "HCNO", seed=seed, **{"hidden": [12, 8], "activation": "tanh", "dtype": "float64"} | options
    )


POTENTIALS = {
    "model": lambda: member(0),
    "ensemble": lambda: ANIEnsemble([member(k) for k in range(3)]),
}


@pytest.fixture(params=POTENTIALS)
def potential(request):
    return POTENTIALS[request.param]()


def rattled(name: str = "CH3OH", seed: int = 0) -> ase.Atoms:
    atoms = ase.build.molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def crystal(pbc: bool | list[bool] = True) -> ase.Atoms:
    """A skewed cell smaller than the cutoff."""
    cell = [[4.6, 0.1, 0], [0.4, 4.2, 0.2], [-0.3, 0.5, 4.4]]
    atoms = ase.Atoms("OH2NC", [[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6], [2, 2, 2], [2, 2.2, 3.2]])
    atoms.set_cell(cell)
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(
    "atoms", [rattled(), crystal(), crystal([True, False, True])], ids=["molecule", "3d", "2d"]
)
def test_forces_and_hessian_are_derivatives(potential, atoms):
    atoms.calc = potential.calculator()
    forces, second = atoms.get_forces(), atoms.calc.get_hessian(atoms)
    n, h = 3 * len(atoms), 1e-4
    gradient, numerical = np.zeros(n), np.zeros((n, n))
    for k in range(n):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.reshape(-1)[k] += sign * h
            moved.calc = atoms.calc
            gradient[k] += sign * moved.get_potential_energy() / (2 * h)
            numerical[k] -= sign * moved.get_forces().reshape(-1) / (2 * h)
    np.testing.assert_allclose(forces.reshape(-1), -gradient, atol=1e-6 * np.abs(gradient).max())
    np.testing.assert_allclose(second, numerical, atol=1e-5 * np.abs(second).max())
    assert np.abs(second).max() > 1e-3


def test_a_hessian_is_in_double_precision_whatever_the_potential():
    atoms = rattled()
    exact, rough = member(0), member(0).float()
    rounded = rough.calculator().get_property("hessian", atoms)
    expected = exact.calculator().get_property("hessian", atoms)
    np.testing.assert_array_equal(rounded, expected)  # the weights are the same numbers
    assert str(rough.dtype) == "torch.float32"  # the potential itself is as it was


def test_stress_is_the_derivative_by_strain(potential):
    atoms = crystal()
    atoms.calc = potential.calculator()
    stress = atoms.get_stress(voigt=False)
    numerical, h = np.zeros((3, 3)), 1e-5
    for i, j in np.ndindex(3, 3):
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            moved.calc = atoms.calc
            numerical[i, j] += sign * moved.get_potential_energy() / (2 * h * atoms.get_volume())
    np.testing.assert_allclose(stress, numerical, atol=1e-6 * np.abs(stress).max())
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    assert not np.allclose(atoms.get_stress(), stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])


def test_atomic_energies_add_up(potential):
    atoms = rattled()
    atoms.calc = potential.calculator()
    np.testing.assert_allclose(
        atoms.get_potential_energies().sum(), atoms.get_potential_energy(), rtol=1e-12
    )


def test_committee_results_are_those_of_the_members():
    members = [member(k) for k in range(3)]
    calc = ANIEnsemble(members).calculator()
    atoms = rattled()
    each = []
    for m in members:
        twin = atoms.copy()
        twin.calc = m.calculator()
        each.append((twin.get_potential_energy(), twin.get_forces()))
    energies, forces = (np.array(v) for v in zip(*each, strict=True))
    std = energies.std(ddof=1)
    np.testing.assert_allclose(calc.get_property("energy", atoms), energies.mean())
    np.testing.assert_allclose(calc.get_property("energy_std", atoms), std)
    np.testing.assert_allclose(calc.get_property("disagreement", atoms), std / np.sqrt(len(atoms)))
    found = calc.get_property("forces_std", atoms)
    np.testing.assert_allclose(found, forces.std(axis=0, ddof=1), atol=1e-10)


def test_a_single_model_has_no_committee_results():
    calc = member(0).calculator()
    with pytest.raises(PropertyNotImplementedError, match="energy_std"):
        calc.get_property("energy_std", rattled())
    with pytest.raises(SettingsError, match="needs an ensemble"):
        member(0).calculator(max_disagreement=1.0)


def test_same_numbers_as_predict(potential):
    for atoms in (rattled(), crystal()):
        atoms.calc = potential.calculator()
        data = conformers_from_atoms([atoms])
        found = potential.predict(data, forces=True)
        np.testing.assert_allclose(
            atoms.get_potential_energy(), found.energies[0] * HARTREE_TO_EV, rtol=1e-12
        )
        np.testing.assert_allclose(atoms.get_forces(), found.forces * HARTREE_TO_EV, atol=1e-10)


def test_one_stepper_while_the_atoms_stay_the_same(potential, monkeypatch):
    made = []
    of = type(potential).stepper
    monkeypatch.setattr(type(potential), "stepper", lambda *a: made.append(1) or of(*a))
    calc = potential.calculator()
    atoms = crystal()
    for cell in (4.5, 4.6):
        atoms.set_cell([cell] * 3, scale_atoms=True)
        calc.get_property("energy", atoms)
        calc.get_property("forces", atoms)
    assert len(made) == 1
    fresh = [potential.calculator().get_property("energy", a) for a in (atoms, atoms[:3])]
    made.clear()
    assert [calc.get_property("energy", a) for a in (atoms, atoms[:3])] == fresh
    atoms.pbc = False
    assert calc.get_property("energy", atoms) != fresh[0]
    assert len(made) == 2  # other atoms, other periodic directions


def test_only_what_is_asked_for(potential, monkeypatch):
    calls = []
    step = ANICalculator._step
    monkeypatch.setattr(ANICalculator, "_step", lambda *a: calls.append(a[2]) or step(*a))
    atoms = crystal()
    atoms.calc = potential.calculator()
    atoms.get_potential_energy()
    atoms.get_forces()
    assert calls == [False]
    assert "stress" not in atoms.calc.results
    assert "hessian" not in atoms.calc.results
    atoms.get_stress()
    atoms.get_potential_energy()
    assert calls == [False, True]


def test_stress_of_a_molecule_is_refused_as_ase_expects(potential):
    for atoms in (rattled(), crystal([True, True, False])):
        atoms.calc = potential.calculator()
        with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
            atoms.get_stress()
        atoms.get_forces()


def test_charges_spins_and_unknown_elements_are_refused(potential):
    def refused(change, match: str) -> None:
        atoms = rattled()
        change(atoms)
        atoms.calc = potential.calculator()
        with pytest.raises(DataError, match=match):
            atoms.get_potential_energy()

    refused(lambda a: a.info.update(charge=1), "charge=1")
    refused(lambda a: a.set_initial_charges([1, 0, 0, 0, 0, 0]), "initial charges")
    refused(lambda a: a.set_initial_magnetic_moments([1, 0, 0, 0, 0, 0]), "magnetic moments")
    refused(lambda a: a.info.update(multiplicity=3), "multiplicity=3")
    refused(lambda a: a.symbols.__setitem__(0, "S"), "is S, which this model does not know")


def test_far_from_the_origin_single_precision_keeps_its_digits():
    atoms, model = rattled(), member(0, dtype="float32")
    calc = ANIEnsemble([model, member(1, dtype="float32")]).calculator()
    names = ("energy", "forces", "energies", "forces_std", "hessian")
    here = [calc.get_property(name, atoms) for name in names]
    atoms.positions += 1e4
    for name, expected in zip(names, here, strict=True):
        found = calc.get_property(name, atoms)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_disagreement_warns_now_and_then_or_stops(caplog):
    ensemble = ANIEnsemble([member(k) for k in range(3)])
    atoms = rattled()
    spread = ensemble.calculator().get_property("disagreement", atoms)
    kcalmol = spread / HARTREE_TO_EV * HARTREE_TO_KCALMOL
    ensemble.calculator(max_disagreement=kcalmol * 1.01, on_disagreement="stop").get_property(
        "energy", atoms
    )
    limit = kcalmol * 1e-3
    calc = ensemble.calculator(max_disagreement=limit)
    caplog.set_level(logging.WARNING, "anipot")
    for _ in range(11):
        atoms.positions[0, 0] += 1e-4
        calc.get_property("forces", atoms)
    assert len(caplog.records) == 2  # the first and the tenth
    assert "10 of 10 evaluated" in caplog.messages[1]
    stopping = ensemble.calculator(max_disagreement=limit, on_disagreement="stop")
    with pytest.raises(DisagreementError, match="kcal/mol") as e:
        stopping.get_property("energy", atoms)
    assert isinstance(e.value, AnipotError)
    assert stopping.get_property("energy", atoms) == calc.get_property("energy", atoms)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.positions.__setitem__((0, 0), np.nextafter(a.positions[0, 0], 9)),
        lambda a: a.symbols.__setitem__(0, "N"),
        lambda a: a.set_cell(a.cell * 1.001),
        lambda a: a.set_pbc([True, True, False]),
        lambda a: a.set_initial_charges([0.005, 0, 0, 0, 0]),
        lambda a: a.set_initial_magnetic_moments([1, 0, 0, 0, 0]),
    ],
)
def test_every_change_is_seen(change, potential):
    calc, atoms = potential.calculator(), crystal()
    assert calc.check_state(atoms)
    calc.get_property("energy", atoms)
    assert calc.check_state(atoms.copy()) == []
    change(atoms)
    assert len(calc.check_state(atoms)) == 1


def test_called_directly_it_does_not_repeat_the_results_of_other_atoms(potential):
    calculator, properties = potential.calculator(), ["energy", "forces", "energies"]
    calculator.calculate(rattled(), properties)
    other = rattled(seed=1)
    calculator.calculate(other, properties)
    for name in properties:
        expected = potential.calculator().get_property(name, other)
        np.testing.assert_array_equal(calculator.results[name], expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_used_calculator_can_be_copied(copied, potential):
    """Bands of images and pools of processes do so."""
    atoms, moved = rattled(), rattled(seed=1)
    atoms.calc = potential.calculator()
    atoms.get_forces()
    other = copied(atoms.calc)
    np.testing.assert_array_equal(other.get_property("forces", atoms), atoms.get_forces())
    expected = atoms.calc.get_property("forces", moved)
    np.testing.assert_array_equal(other.get_property("forces", moved), expected)


def test_options_that_make_no_sense():
    ensemble = ANIEnsemble([member(0), member(1)])
    with pytest.raises(SettingsError, match="must be above 0"):
        ensemble.calculator(max_disagreement=-1)
    with pytest.raises(SettingsError, match="'warn' or 'stop'"):
        ensemble.calculator(on_disagreement="explode")


def test_the_published_potential_and_its_hessian(shared_potentials):
    """The CELU's second derivative jumps: differences must be taken over very small steps."""
    from anipot.formats.neurochem import read_neurochem

    calc = read_neurochem(shared_potentials / "ani-1x_8x.info").double().calculator()
    atoms = rattled("C6H6")
    second = calc.get_hessian(atoms)
    for k in (0, 20, 35):
        row = np.zeros(len(second))
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.reshape(-1)[k] += sign * 1e-5
            row -= sign * calc.get_property("forces", moved).reshape(-1) / 2e-5
        np.testing.assert_allclose(second[k], row, atol=1e-4)


def test_threads_may_share_a_calculator():
    """Each has atoms of its own; Python switches between them as often as it can."""

    def work(k):
        atoms = rattled("H2O", seed=k)
        atoms.calc = shared
        found = []
        for step in range(20):
            atoms.positions[0, 0] = 0.01 * step
            found.append((atoms.get_potential_energy(), *atoms.get_forces()[-1]))
        return found

    expected = []
    for k in range(8):
        shared = member(0).calculator()
        expected.append(work(k))
    shared = member(0).calculator()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == expected
    finally:
        sys.setswitchinterval(before)
