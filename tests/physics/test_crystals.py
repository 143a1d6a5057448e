"""What must hold of any potential in crystals, with a repulsion too, by every way to ask it.

``test_model_physics`` has finite differences, symmetries and batches of a model without repulsion;
here are supercells and wrapped atoms, and the ensemble, the calculator and the stepper.
"""

from collections.abc import Callable
from dataclasses import replace

import ase
import numpy as np
import pytest
from helpers import random_cell, random_conformers

from anipot.data.conformers import Conformers
from anipot.networks.repulsion import Repulsion
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.training.trainer import ANITrainer
from anipot.units import HARTREE_TO_EV

#: Energy (hartree), forces (N, 3) and stress (3, 3) of one crystal, by one of the ways to ask.
Said = tuple[float, np.ndarray, np.ndarray]

#: Reaches to the atoms that ``random_conformers`` puts 0.7 angstrom apart and beyond.
REPULSION = {"inner": 0.4, "outer": 1.5}


def crystals() -> Conformers:
    """Triclinic crystals, most of them with cells smaller than the radial cutoff of 5.2."""
    rng = np.random.default_rng(1)
    cells = np.stack([random_cell(rng, length) for length in (2.2, 3.0, 4.0, 5.5, 7.0)])
    return random_conformers(rng, [1, 2, 4, 7, 10], "HCO", cells=cells, pbc=np.ones((5, 3), bool))


def random_model(seed: int = 4, hidden: tuple[int, ...] = (12, 8)) -> ANIModel:
    """Random weights, a repulsion that is felt in these crystals, float64."""
    model = ANIModel.create(
        "HCO", dtype="float64", seed=seed, hidden=list(hidden), activation="gelu",
        repulsion=Repulsion(("H", "C", "O"), **REPULSION),
    )  # fmt: skip
    model.self_energies = SelfEnergies(model.elements, np.array([-0.6, -38.1, -75.2]))
    return model.eval()


def trained_model() -> ANIModel:
    """Trained for a few updates on energies, forces and stress that another model gives."""
    teacher, data = random_model(seed=7), crystals()
    said = teacher.predict(data, forces=True, stress=True)
    data = replace(data, energies=said.energies, forces=said.forces, stress=said.stress)
    model = random_model()
    trainer = ANITrainer(
        model, batch_size=2, epochs=4, force_weight=1.0, stress_weight=1.0, target_unit="eV",
        normalize_aevs=True, per_atom=True, seed=0, learning_rate=1e-2,
    )  # fmt: skip
    before = trainer.evaluate(data).energy.rmse
    trainer.train(data, data, quiet=True)
    assert trainer.evaluate(data).energy.rmse < before
    return model


@pytest.fixture(scope="module", params=["random", "trained", "ensemble"])
def potential(request) -> ANIModel | ANIEnsemble:
    if request.param == "ensemble":
        return ANIEnsemble([random_model(), random_model(5, (9,)), random_model(6)]).eval()
    return random_model() if request.param == "random" else trained_model()


def by_predict(potential: ANIModel | ANIEnsemble, crystal: Conformers) -> Said:
    said = potential.predict(crystal, forces=True, stress=True)
    return said.energies[0], said.forces, said.stress[0]


def by_stepper(potential: ANIModel | ANIEnsemble, crystal: Conformers) -> Said:
    stepper = potential.stepper(crystal.atomic_numbers, True)
    point = stepper(crystal.coordinates, crystal.cells[0], stress=True)
    return point.energy, point.forces, point.stress


def by_calculator(potential: ANIModel | ANIEnsemble, crystal: Conformers) -> Said:
    atoms = as_atoms(crystal)
    atoms.calc = potential.calculator()
    found = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    return tuple(a / HARTREE_TO_EV for a in found)


def as_atoms(crystal: Conformers) -> ase.Atoms:
    return ase.Atoms(crystal.atomic_numbers, crystal.coordinates, cell=crystal.cells[0], pbc=True)


@pytest.fixture(params=[by_predict, by_stepper, by_calculator])
def ask(request) -> Callable[[ANIModel | ANIEnsemble, Conformers], Said]:
    return request.param


def singles() -> list[Conformers]:
    data = crystals()
    return [data.take([i]) for i in range(len(data))]


def same(found: Said, expected: Said, atol: float = 1e-9) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_the_repulsion_is_felt_in_these_crystals():
    """Else the tests below would say nothing of it."""
    energies, forces, virials = random_model().repulsion.of(crystals())
    assert (energies[1:] > 1e-3).all()  # the first is an atom that sees its images only
    assert np.abs(forces).max() > 1e-2
    assert (np.abs(virials[1:]).max(axis=(1, 2)) > 1e-3).all()


def test_each_way_says_what_a_batch_of_different_cells_says(potential, ask):
    data = crystals()
    batch = potential.predict(data, forces=True, stress=True)
    for i in range(len(data)):
        own = slice(data.offsets[i], data.offsets[i + 1])
        expected = batch.energies[i], batch.forces[own], batch.stress[i]
        same(ask(potential, data.take([i])), expected)


def test_a_supercell_is_eight_cells(potential, ask):
    for crystal in singles()[:4]:
        energy, forces, stress = ask(potential, crystal)
        repeated = as_atoms(crystal).repeat((2, 2, 2))
        eight = Conformers(
            repeated.numbers, repeated.positions, np.array([0, len(repeated)]),
            cells=repeated.cell.array[None],
        )  # fmt: skip
        assert np.abs(forces).max() > 1e-3 or len(forces) == 1
        same(ask(potential, eight), (8 * energy, np.tile(forces, (8, 1)), stress), atol=2e-9)


def test_forces_and_stress_are_the_derivatives_of_the_energy(potential, ask):
    h = 1e-5
    for crystal in singles()[1:3]:
        _, forces, stress = ask(potential, crystal)
        volume = abs(np.linalg.det(crystal.cells[0]))
        for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
            energies, moved = [], []
            for sign in (1, -1):
                deform = np.eye(3)
                deform[a, b] += sign * h / 2
                deform[b, a] += sign * h / 2
                strained = replace(
                    crystal,
                    coordinates=crystal.coordinates @ deform,
                    cells=crystal.cells @ deform,
                )
                energies.append(ask(potential, strained)[0])
                x = crystal.coordinates.copy()
                x[0, a] += sign * h
                moved.append(ask(potential, replace(crystal, coordinates=x))[0])
            assert stress[a, b] == pytest.approx(
                (energies[0] - energies[1]) / (2 * h) / volume, abs=1e-7
            )
            assert forces[0, a] == pytest.approx(-(moved[0] - moved[1]) / (2 * h), abs=1e-6)


def test_atoms_moved_by_lattice_vectors_change_nothing(potential, ask):
    rng = np.random.default_rng(3)
    for crystal in singles():
        shifts = rng.integers(-3, 4, crystal.coordinates.shape)
        shifts[0] = 2, -1, 3
        wrapped = replace(crystal, coordinates=crystal.coordinates + shifts @ crystal.cells[0])
        same(ask(potential, wrapped), ask(potential, crystal))


def test_another_cell_of_the_same_lattice_changes_nothing(potential, ask):
    """A lattice vector plus another one: the same crystal in a more oblique cell."""
    change = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
    for crystal in singles()[:4]:
        oblique = replace(crystal, cells=change @ crystal.cells)
        same(ask(potential, oblique), ask(potential, crystal))


def test_one_stepper_serves_one_cell_after_another(potential):
    """What it keeps from a geometry must not be used for the next one, in another cell."""
    crystal = singles()[3]
    stepper = potential.stepper(crystal.atomic_numbers, True)
    for scale in (1.0, 0.8, 1.3, 1.0):
        scaled = replace(
            crystal, coordinates=crystal.coordinates * scale, cells=crystal.cells * scale
        )
        point = stepper(scaled.coordinates, scaled.cells[0], stress=True)
        expected = by_predict(potential, scaled)
        same((point.energy, point.forces, point.stress), expected)


def test_predictions_for_a_batch_of_many_crystals_do_not_depend_on_its_size(potential):
    data = crystals()
    whole = potential.predict(data, forces=True, stress=True)
    parts = potential.predict(data, forces=True, stress=True, batch_size=2)
    same(
        (parts.energies, parts.forces, parts.stress),
        (whole.energies, whole.forces, whole.stress),
        atol=1e-10,
    )
