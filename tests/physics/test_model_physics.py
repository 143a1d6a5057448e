"""What must hold of any potential, whatever its weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import as_padded, exact_torchani_aev, random_cell, random_conformers

from anipot.data.conformers import Conformers
from anipot.errors import DataError
from anipot.formats.load import load
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel

ACTIVATIONS = ["celu", "gelu", "tanh"]


def make(elements: str = "HCNO", dtype: str = "float64", **options) -> ANIModel:
    model = ANIModel.create(elements, dtype=dtype, seed=4, **{"hidden": [12, 8], **options})
    values = np.random.default_rng(0).uniform(-80, 0, len(model.elements))
    model.self_energies = SelfEnergies(model.elements, values)
    return model.eval()


@pytest.fixture(params=["molecules", "crystals"])
def conformers(request) -> Conformers:
    rng = np.random.default_rng(1)
    sizes = [1, 2, 5, 12, 7]
    if request.param == "molecules":
        return random_conformers(rng, sizes)
    cells = np.stack([random_cell(rng, length) for length in (3.0, 4.0, 5.5, 7.0, 6.0)])
    return random_conformers(rng, sizes, cells=cells, pbc=np.ones((5, 3), dtype=bool))


def moved(c: Conformers, coordinates: np.ndarray, cells: np.ndarray | None = None) -> Conformers:
    return replace(c, coordinates=coordinates, cells=c.cells if cells is None else cells)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forces_are_the_negative_gradient(conformers, activation):
    model = make(activation=activation)
    forces = model.predict(conformers, forces=True).forces
    h = 1e-5
    rng = np.random.default_rng(2)
    for atom in rng.choice(len(conformers.atomic_numbers), 8, replace=False):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                x = conformers.coordinates.copy()
                x[atom, axis] += sign * h
                energies.append(model.predict(moved(conformers, x)).energies)
            numerical = -(energies[0] - energies[1]).sum() / (2 * h)
            assert forces[atom, axis] == pytest.approx(numerical, abs=1e-6)


def test_stress_is_the_derivative_with_respect_to_strain():
    rng = np.random.default_rng(3)
    cells = np.stack([random_cell(rng, length) for length in (3.0, 5.0, 6.5)])
    crystals = random_conformers(rng, [2, 6, 9], cells=cells, pbc=np.ones((3, 3), dtype=bool))
    model = make()
    stress = model.predict(crystals, stress=True).stress
    volume = np.abs(np.linalg.det(cells))
    h = 1e-5
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[a, b] += sign * h / 2
                strain[b, a] += sign * h / 2
                deform = np.eye(3) + strain
                strained = moved(crystals, crystals.coordinates @ deform, cells @ deform)
                energies.append(model.predict(strained).energies)
            numerical = (energies[0] - energies[1]) / (2 * h) / volume
            np.testing.assert_allclose(stress[:, a, b], numerical, atol=1e-7)


def test_stress_of_a_molecule_is_an_error():
    model = make()
    with pytest.raises(DataError, match="periodic cell"):
        model.predict(random_conformers(np.random.default_rng(0), [3]), stress=True)


def test_invariant_under_translation_rotation_and_reflection(conformers):
    model = make()
    before = model.predict(conformers, forces=True)
    rng = np.random.default_rng(5)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    x = conformers.coordinates @ rotation + rng.uniform(-9, 9, 3)
    cells = None if conformers.cells is None else conformers.cells @ rotation
    for turn in (1, -1):  # -1: its mirror image
        after = model.predict(
            moved(conformers, turn * x, None if cells is None else turn * cells), forces=True
        )
        np.testing.assert_allclose(after.energies, before.energies, rtol=0, atol=1e-9)
        np.testing.assert_allclose(after.forces, turn * before.forces @ rotation, atol=1e-9)


def test_invariant_under_permutation_of_atoms(conformers):
    model = make()
    before = model.predict(conformers, forces=True)
    rng = np.random.default_rng(6)
    starts = zip(conformers.offsets[:-1], conformers.offsets[1:], strict=True)
    order = np.concatenate([a + rng.permutation(b - a) for a, b in starts])
    shuffled = replace(
        conformers,
        atomic_numbers=conformers.atomic_numbers[order],
        coordinates=conformers.coordinates[order],
    )
    after = model.predict(shuffled, forces=True)
    np.testing.assert_allclose(after.energies, before.energies, rtol=0, atol=1e-10)
    np.testing.assert_allclose(after.forces, before.forces[order], atol=1e-10)


def test_batch_equals_singles(conformers):
    model = make()
    want = {"forces": True, "atomic": True, "stress": conformers.periodic}
    whole = model.predict(conformers, **want)
    for i in range(len(conformers)):
        single = model.predict(conformers.take([i]), **want)
        own = slice(conformers.offsets[i], conformers.offsets[i + 1])
        assert single.energies[0] == pytest.approx(whole.energies[i], abs=1e-10)
        np.testing.assert_allclose(single.forces, whole.forces[own], atol=1e-10)
        np.testing.assert_allclose(single.atomic_energies, whole.atomic_energies[own], atol=1e-10)
        if whole.stress is not None:
            np.testing.assert_allclose(single.stress[0], whole.stress[i], atol=1e-10)
    small_batches = model.predict(conformers, forces=True, batch_size=2)
    np.testing.assert_allclose(small_batches.forces, whole.forces, atol=1e-10)


def test_no_gradient_crosses_from_one_conformer_to_another():
    model = make()
    batch = model.batch(random_conformers(np.random.default_rng(7), [4, 5, 3]))
    coordinates = batch.coordinates.clone().requires_grad_()
    aevs = model.aev(batch, coordinates)
    energies = batch.sum_atoms(model.networks(aevs, batch.counts))
    (gradient,) = torch.autograd.grad(energies[1], coordinates)
    touched = gradient.abs().sum(dim=1) > 0
    assert (touched == (batch.conformer == 1)).all()


def test_far_molecules_are_independent():
    model = make()
    parts = random_conformers(np.random.default_rng(8), [6, 9])
    x = parts.coordinates.copy()
    x[6:] += [20.0, 0, 0]
    together = Conformers(parts.atomic_numbers, x, np.array([0, 15]))
    apart = model.predict(parts, forces=True)
    joined = model.predict(together, forces=True)
    assert joined.energies[0] == pytest.approx(apart.energies.sum(), abs=1e-10)
    np.testing.assert_allclose(joined.forces, apart.forces, atol=1e-12)


def test_a_lone_atom_is_its_self_energy_and_its_network_at_the_zero_aev():
    model = make(output_unit="hartree")
    atoms = Conformers(np.array([1, 6, 7, 8]), np.zeros((4, 3)), np.arange(5))
    prediction = model.predict(atoms, forces=True)
    zero = torch.zeros(1, model.aev.length, dtype=torch.float64)
    for i, symbol in enumerate("HCNO"):
        expected = model.networks[symbol](zero).item() + model.self_energies.values[i]
        assert prediction.energies[i] == pytest.approx(expected, abs=1e-12)
    assert not prediction.forces.any()


def test_forces_equal_those_of_torchanis_aevs():
    """The same networks on TorchANI's AEVs (its constants made exact), forces by autograd."""
    ragged = random_conformers(np.random.default_rng(11), [1, 3, 8, 20, 40])
    model = make()
    species, coordinates = as_padded(ragged, model.elements)
    coordinates.requires_grad_()
    aevs = exact_torchani_aev(model.aev.settings)(species, coordinates)
    energy = (
        sum(net(aevs[species == i]).sum() for i, net in enumerate(model.networks.values()))
        / 627.5094738898777
    )
    (gradient,) = torch.autograd.grad(energy, coordinates)
    expected = -gradient[species >= 0].numpy()
    forces = model.predict(ragged, forces=True).forces
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("cutoff", [3.5, 5.2])
def test_energy_and_force_are_smooth_at_the_cutoffs(cutoff):
    """A third atom crosses a cutoff of the other two: no step in energy, none in force."""
    model = make()
    h = 1e-4
    distances = cutoff + h * np.array([-2.0, -1.0, 1.0, 2.0])
    frames = [np.array([[0, 0, 0], [0.6, 0.8, 0.1], [d, 0, 0]]) for d in distances]
    series = Conformers(
        np.tile([6, 1, 8], 4).astype(np.uint8), np.concatenate(frames), np.arange(0, 13, 3)
    )
    prediction = model.predict(series, forces=True)
    assert np.abs(np.diff(prediction.energies)).max() < 1e-4
    assert np.abs(np.diff(prediction.forces.reshape(4, 3, 3), axis=0)).max() < 3e-3


def test_atomic_energies_add_up(conformers):
    prediction = make().predict(conformers, atomic=True)
    sums = np.add.reduceat(prediction.atomic_energies, conformers.offsets[:-1])
    np.testing.assert_allclose(sums, prediction.energies, atol=1e-10)


def test_total_energies_of_float32_models_keep_float64_digits():
    """-10^3 hartree in float32 is good to 6e-5 only; sums here are in float64."""
    rng = np.random.default_rng(9)
    big = random_conformers(rng, [64])
    single, double = make(dtype="float32"), make(dtype="float64")
    double.networks.load_state_dict(
        {k: v.double() for k, v in single.networks.state_dict().items()}
    )
    a, b = single.predict(big).energies[0], double.predict(big).energies[0]
    assert abs(b) > 1000
    assert a == pytest.approx(b, abs=1e-6)


def test_units_of_the_networks_do_not_change_what_comes_out(conformers):
    """The same weights, said to speak in kcal/mol or in hartree, differ by that factor alone."""
    one, other = make(output_unit="kcal/mol"), make(output_unit="hartree")
    own = one.self_energies.of(conformers)
    kcal, hartree = (m.predict(conformers).energies - own for m in (one, other))
    assert np.abs(hartree).max() > 0.1
    np.testing.assert_allclose(kcal * 627.5094738898777, hartree, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_and_loaded_gives_the_same_bits(conformers, tmp_path, dtype):
    model = make(dtype=dtype)
    model.save(tmp_path / "p.safetensors")
    loaded = load(tmp_path / "p.safetensors")
    a, b = (m.predict(conformers, forces=True) for m in (model, loaded))
    np.testing.assert_array_equal(a.energies, b.energies)
    np.testing.assert_array_equal(a.forces, b.forces)


def test_an_element_that_is_not_known_names_the_atom():
    conformers = random_conformers(np.random.default_rng(0), [3, 4], "HO")
    model = make("HC")
    atom = int(np.flatnonzero(conformers.atomic_numbers == 8)[0])
    conformer = int(atom >= 3)
    message = f"atom {atom - 3 * conformer} of conformer {conformer} .* is O, .* it knows H, C"
    with pytest.raises(DataError, match=message):
        model.predict(conformers)


def test_empty_input_gives_empty_output():
    nothing = random_conformers(np.random.default_rng(0), [])
    prediction = make().predict(nothing, forces=True)
    assert prediction.energies.shape == (0,)
    assert prediction.forces.shape == (0, 3)
