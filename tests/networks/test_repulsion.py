"""The repulsion of nuclei: against TorchANI, hand values, finite differences and supercells."""

import itertools
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from helpers import evaluate_batch, random_cell, random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st

import anipot
from anipot.aev.computer import load_engine
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.elements import number_of
from anipot.errors import DataError, PotentialError, SettingsError
from anipot.evaluation.description import describe
from anipot.networks.repulsion import SCREENING, SKIN, THOMAS_FERMI, Repulsion, RepulsionStepper
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.hessian import hessian
from anipot.potential.inference import Evaluator
from anipot.potential.model import ANIModel

ENGINES = ["reference"]
if load_engine("auto")[0] == "native":
    ENGINES.append("native")


def dimer(first: str, second: str, distances) -> Conformers:
    """A conformer for each distance (M,) angstrom."""
    distances = np.atleast_1d(distances)
    x = np.zeros((len(distances), 2, 3))
    # Along no axis of its own, so that all components count.
    x[:, 1] = distances[:, None] * np.array([2.0, -1.0, 2.0]) / 3
    numbers = np.tile([number_of(first), number_of(second)], len(distances))
    return Conformers(numbers, x.reshape(-1, 3), 2 * np.arange(len(distances) + 1))


def crowded(sizes=(1, 2, 5, 0, 9)) -> Conformers:
    return random_conformers(np.random.default_rng(0), sizes, "HCNO", min_distance=0.3, density=1.0)


def crystals(pbc=True) -> Conformers:
    """Cells down to a third of the reach of the repulsion, atoms outside of them too."""
    rng = np.random.default_rng(1)
    cells = np.stack([random_cell(rng, length) for length in (0.35, 0.6, 1.2, 3.0)])
    three = np.ones((4, 3), bool) if pbc is True else np.tile(pbc, (4, 1))
    data = random_conformers(rng, [1, 2, 4, 8], "HCNO", 0.3, 1.0, cells=cells, pbc=three)
    return replace(data, coordinates=data.coordinates + rng.normal(scale=2, size=(15, 1)))


def reference(repulsion: Repulsion, data: Conformers, coordinates=None, cells=None) -> np.ndarray:
    """(M,) hartree by the definition: every pair with every image, one after the other."""
    coordinates = data.coordinates if coordinates is None else coordinates
    cells = data.cells if cells is None else cells
    energies = np.zeros(len(data))
    for m in range(len(data)):
        own = range(data.offsets[m], data.offsets[m + 1])
        for i, j in itertools.product(own, own):
            vectors = coordinates[j] - coordinates[i] + np.zeros((1, 3))
            if cells is not None:
                near = -np.round(np.linalg.solve(cells[m].T, vectors[0])) * data.pbc[m]
                images = list(itertools.product(*(range(-8 * p, 8 * p + 1) for p in data.pbc[m])))
                vectors = vectors + (near + np.array(images)) @ cells[m]
            r = np.linalg.norm(vectors, axis=1)
            zi, zj = (int(data.atomic_numbers[k]) for k in (i, j))
            for distance in r[(r > 1e-9) & (r < 1.5)]:
                energies[m] += by_hand(zi, zj, distance, repulsion.inner, repulsion.outer) / 2
    return energies


def by_hand(zi: int, zj: int, r: float, inner: float, outer: float) -> float:
    """Hartree, in plain arithmetic (lengths in bohr where the source has them so)."""
    radii = covalent_radii[zi] + covalent_radii[zj]
    t = (r / radii - inner) / (outer - inner)
    switch = 1.0 if t <= 0 else 0.0 if t >= 1 else 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
    bohr = r / 0.52917721067
    x = bohr * (zi**0.23 + zj**0.23) / 0.8853413770
    phi = (
        0.18175 * math.exp(-3.19980 * x)
        + 0.50986 * math.exp(-0.94229 * x)
        + 0.28022 * math.exp(-0.40290 * x)
        + 0.02817 * math.exp(-0.20162 * x)
    )
    return zi * zj / bohr * phi * switch


# ---- the formula -----------------------------------------------------------------------------


def test_bare_formula_is_that_of_torchani():
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    from torchani.potentials import RepulsionZBL

    symbols = ["H", "C", "N", "O", "Si"]
    ours = Repulsion(tuple(symbols), inner=100, outer=101)
    theirs = RepulsionZBL(symbols, k=THOMAS_FERMI).double()
    # TorchANI makes its constants in float32; its bohr differs in the tenth digit.
    theirs._coeffs = torch.tensor([[c for c, _ in SCREENING]], dtype=torch.float64)
    theirs._exponents = torch.tensor([[d for _, d in SCREENING]], dtype=torch.float64)
    distances = np.linspace(0.05, 2.0, 30)
    for pair in itertools.combinations_with_replacement(symbols, 2):
        data = dimer(*pair, distances)
        numbers = torch.as_tensor(data.atomic_numbers.astype(np.int64)).reshape(-1, 2)
        expected = theirs(numbers, torch.as_tensor(data.coordinates).reshape(-1, 2, 3))
        np.testing.assert_allclose(ours.of(data)[0], expected.numpy(), rtol=1e-8)


def test_length_of_screening_is_that_of_lammps():
    # LAMMPS, pair_style zbl: a = 0.46850 / (Zi^0.23 + Zj^0.23) angstrom.
    assert abs(THOMAS_FERMI * 0.52917721067 - 0.46850) < 5e-6
    assert sum(c for c, _ in SCREENING) == pytest.approx(1, abs=1e-12)


def test_two_nuclei_that_touch_have_their_coulomb_energy():
    energy = Repulsion("CO").of(dimer("C", "O", 1e-7))[0][0]
    assert energy == pytest.approx(48 * 0.52917721067 / 1e-7, rel=1e-5)


@pytest.mark.parametrize(("pair", "inner", "outer"), [("HH", 0.4, 0.7), (["C", "Si"], 0.2, 0.9)])
def test_switch_is_smooth_and_ends_exactly(pair, inner, outer):
    repulsion = Repulsion(tuple(dict.fromkeys(pair)), inner, outer)
    radii = sum(covalent_radii[number_of(e)] for e in pair)
    for edge in (inner * radii, outer * radii):
        jumps = []
        for h in (1e-3, 1e-4):
            _, forces, _ = repulsion.of(dimer(*pair, edge + h * np.array([-2, -1, 0, 1, 2])))
            radial = forces[1::2] @ np.array([2.0, -1.0, 2.0]) / 3
            jumps.append(abs((radial[4] - radial[3]) - (radial[1] - radial[0])) / h)
        # The second derivative to the left and right of the edge: the nearer, the more alike.
        assert jumps[1] < 0.15 * jumps[0]
    beyond = dimer(*pair, [outer * radii, outer * radii + 1e-9, 5.0])
    assert not any(array.any() for array in repulsion.of(beyond))
    inside = dimer(*pair, np.linspace(0.02, 0.99 * outer * radii, 300))
    energies, forces, _ = repulsion.of(inside)
    assert (np.diff(energies) < 0).all()
    assert (forces[1::2] @ np.array([2.0, -1.0, 2.0]) > 0).all()


def test_off_at_bonds_of_real_molecules():
    data = anipot.load_bundled()
    data = data.take(slice(0, None, 5))
    assert not Repulsion("HCNO").of(data)[0].any()


# ---- sums over pairs and images --------------------------------------------------------------


@pytest.mark.parametrize("make", [crowded, crystals, lambda: crystals((True, False, True))])
def test_energies_are_those_of_the_definition(make):
    data, repulsion = make(), Repulsion("OHNC", 0.3, 0.8)
    expected = reference(repulsion, data)
    assert expected.max() > 0.1
    np.testing.assert_allclose(repulsion.of(data)[0], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("make", [crowded, crystals, lambda: crystals((True, False, True))])
def test_forces_and_virials_are_differences_of_energies(make):
    data, repulsion, h = make(), Repulsion("HCNO"), 1e-5
    _, forces, virials = repulsion.of(data)
    scale = np.abs(forces).max()

    def energies(coordinates, cells):
        return repulsion.of(replace(data, coordinates=coordinates, cells=cells))[0].sum()

    for a, c in itertools.product(range(len(forces)), range(3)):
        step = np.zeros_like(data.coordinates)
        step[a, c] = h
        up, down = (energies(data.coordinates + s * step, data.cells) for s in (1, -1))
        assert -(up - down) / (2 * h) == pytest.approx(forces[a, c], abs=1e-6 * scale)
    np.testing.assert_allclose(virials, virials.transpose(0, 2, 1), atol=1e-9 * scale)
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        strain = np.zeros((3, 3))
        strain[a, b] += h / 2
        strain[b, a] += h / 2
        found = [
            energies(
                data.coordinates @ (np.eye(3) + s * strain),
                None if data.cells is None else data.cells @ (np.eye(3) + s * strain),
            )
            for s in (1, -1)
        ]
        total = virials.sum(0)[a, b]
        assert (found[0] - found[1]) / (2 * h) == pytest.approx(total, abs=1e-6 * scale)


def test_a_supercell_has_eight_times_the_energy_and_the_same_forces():
    cell = crystals().take([1])
    n = len(cell.atomic_numbers)
    shifts = np.array(list(itertools.product((0, 1), repeat=3))) @ cell.cells[0]
    large = Conformers(
        np.tile(cell.atomic_numbers, 8),
        (cell.coordinates + shifts[:, None]).reshape(-1, 3),
        np.array([0, 8 * n]),
        cells=2 * cell.cells,
    )
    repulsion = Repulsion("HCNO")
    (one, forces, virial), (eight, many, virials) = repulsion.of(cell), repulsion.of(large)
    assert eight == pytest.approx(8 * one, rel=1e-10)
    np.testing.assert_allclose(virials, 8 * virial, rtol=1e-9, atol=1e-9 * one[0])
    np.testing.assert_allclose(many, np.tile(forces, (8, 1)), atol=1e-9 * np.abs(virial).max())


@pytest.mark.parametrize("make", [crowded, crystals])
def test_a_batch_is_its_conformers_one_by_one(make):
    data, repulsion = make(), Repulsion("HCNO")
    together = repulsion.of(data)
    alone = [repulsion.of(data.take([m])) for m in range(len(data))]
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_those_of_the_forces():
    data, repulsion = crowded([4]), Repulsion("HCNO")
    batch = Batch.of(data, repulsion.elements, torch.float64)

    def energy(x):
        return repulsion.atomic(batch, x).sum()

    (gradient,) = torch.autograd.functional.jacobian(energy, (batch.coordinates,))
    np.testing.assert_allclose(repulsion.evaluate(batch).forces, -gradient, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradgradcheck(energy, batch.coordinates.clone().requires_grad_())


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "outer"), [(0.7, 0.7), (-0.1, 0.5), (0.4, math.inf), (math.nan, 1)]
)
def test_radii_out_of_order_are_refused(inner, outer):
    with pytest.raises(SettingsError, match="0 <= inner < outer"):
        Repulsion("HC", inner, outer)


def test_atoms_in_one_place_are_named():
    along = np.array([0.0, 1.0, 5.0, 2.0, 2.0])
    data = replace(crowded([3, 2]), coordinates=np.stack([along, along, along], axis=1))
    with pytest.raises(DataError, match="atoms 0 and 1 of conformer 1 lie in the same place"):
        Repulsion("HCNO").of(data)
    stepper = RepulsionStepper(Repulsion("HCNO"), data.take([1]))
    with pytest.raises(DataError, match="atoms 0 and 1 of the system lie in the same place"):
        stepper(data.coordinates[3:])
    with pytest.raises(DataError, match="finite"):
        stepper(np.full((2, 3), np.nan))


def test_unknown_kinds_and_other_elements_are_refused():
    with pytest.raises(SettingsError, match="unknown repulsion 'xtb'; known: zbl"):
        Repulsion.named("xtb", "HC")
    with pytest.raises(SettingsError, match=r"'repulsion'.*'zbl'"):
        ANIModel.create("HC", repulsion="xtb")
    with pytest.raises(SettingsError, match="a repulsion of H, but an AEV of H, C"):
        ANIModel.create("HC", repulsion=Repulsion("H"))
    members = [ANIModel.create("HC", hidden=[4], repulsion=kind) for kind in (None, "zbl")]
    with pytest.raises(SettingsError, match=r"member 1 has the repulsion .* members .* share one"):
        ANIEnsemble(members)


# ---- step after step -------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", [False, True, (False, True, True)])
def test_steps_are_single_evaluations_to_the_last_bit_of_their_own(pbc):
    """However far atoms move between steps, and whatever was before."""
    rng = np.random.default_rng(3)
    periodic = np.any(pbc)
    cell = random_cell(rng, 2.5) if periodic else None
    data = random_conformers(rng, [12], "HCNO", 0.5, 0.8)
    if periodic:
        three = np.broadcast_to(pbc, (1, 3)).copy()
        data = replace(data, cells=cell[None], pbc=three)
    repulsion = Repulsion("HCNO")
    stepper = RepulsionStepper(repulsion, data)
    x, touched = data.coordinates.copy(), 0
    for step in range(30):
        x = x + rng.normal(scale=0.05 if step % 10 else SKIN, size=x.shape)
        if periodic and step % 7 == 3:
            cell = cell * 1.01
        if periodic:
            moved = replace(data, coordinates=x, cells=cell[None])
        else:
            moved = replace(data, coordinates=x)
        energy, forces, virial = repulsion.of(moved)
        found = stepper(x, cell)
        fresh = RepulsionStepper(repulsion, moved)(x, cell)
        if found is None:
            assert fresh is None
            assert not energy.any()
            continue
        touched += 1
        for a, b in zip(found, fresh, strict=True):
            assert np.array_equal(a, b)
        scale = np.abs(forces).max()
        assert found.energy == pytest.approx(energy[0], rel=1e-10)
        np.testing.assert_allclose(found.forces, forces, atol=1e-9 * scale)
        np.testing.assert_allclose(found.virial, virial[0], atol=1e-9 * scale)
    assert touched > 5


# ---- in a model ------------------------------------------------------------------------------


def model_of(engine: str, dtype: str = "float64", seed: int = 0, **options) -> ANIModel:
    # Cutoffs so short that the neighbours in cells much smaller than them are not too many.
    cover = {"aev": "cover", "radial_cutoff": 2.0, "angular_cutoff": 1.5, "radial_terms": 4}
    options = {"hidden": [16, 8], "repulsion": "zbl", **cover, **options}
    return ANIModel.create("HCNO", seed=seed, engine=engine, dtype=dtype, **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [crowded, crystals])
def test_it_is_added_on_every_path(engine, make):
    data, stress = make(), make is crystals
    data = data.take(slice(1, None))  # one atom in a cell of its own has no force to compare
    model, bare = model_of(engine), model_of(engine, repulsion=None)
    energies, forces, virials = model.repulsion.of(data)
    wanted = {"forces": True, "atomic": True, "stress": stress}
    without = bare.predict(data, **wanted)
    batch = model.batch(data)
    for found in (model.predict(data, **wanted), evaluate_batch(model, batch, **wanted)):
        np.testing.assert_allclose(found.energies, without.energies + energies, rtol=1e-10)
        np.testing.assert_allclose(
            found.forces, without.forces + forces, atol=1e-10 * np.abs(forces).max()
        )
        sums = np.add.reduceat(np.append(found.atomic_energies, 0), data.offsets[:-1])
        np.testing.assert_allclose(
            np.where(data.n_atoms, sums, 0), found.energies, rtol=1e-10, atol=1e-12
        )
        if stress:
            part = virials / np.abs(np.linalg.det(data.cells))[:, None, None]
            np.testing.assert_allclose(
                found.stress, without.stress + part, atol=1e-9 * np.abs(part).max()
            )
    np.testing.assert_allclose(model(batch).detach(), without.energies + energies, rtol=1e-10)
    for m in np.flatnonzero(data.n_atoms):
        one = slice(data.offsets[m], data.offsets[m + 1])
        stepper = model.stepper(data.atomic_numbers[one], stress)
        cell = data.cells[m] if stress else None
        point = stepper(data.coordinates[one], cell, stress=stress)
        assert point.energy == pytest.approx(found.energies[m], rel=1e-10)
        assert point.member_energies == pytest.approx([point.energy], rel=1e-12)
        scale = max(np.abs(found.forces[one]).max(), 1e-3)
        np.testing.assert_allclose(point.forces, found.forces[one], atol=1e-9 * scale)
        if stress:
            np.testing.assert_allclose(point.stress, found.stress[m], rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_an_ensemble_every_member_has_it(engine):
    data = crowded()
    ensemble = ANIEnsemble([model_of(engine, seed=k) for k in range(3)])
    parts = [member.predict(data, forces=True) for member in ensemble]
    found = ensemble.predict(data, forces=True, forces_std=True)
    np.testing.assert_allclose(found.energies, np.mean([p.energies for p in parts], 0), rtol=1e-10)
    scale = np.abs(found.forces).max()
    np.testing.assert_allclose(
        found.forces, np.mean([p.forces for p in parts], 0), atol=1e-10 * scale
    )
    np.testing.assert_allclose(
        found.forces_std, np.std([p.forces for p in parts], 0, ddof=1), atol=1e-10 * scale
    )
    outputs = Evaluator(list(ensemble)).evaluate(
        ensemble[0].batch(data), derivatives=True, member_forces=True
    )
    np.testing.assert_allclose(outputs.member_forces.mean(0), outputs.forces, atol=1e-10 * scale)


def test_hessian_is_the_difference_of_forces():
    data, h = crowded([3]), 1e-6
    model = model_of("auto", activation="silu")
    numerical = np.empty((9, 9))
    for k in range(9):
        step = np.zeros(9)
        step[k] = h
        up, down = (
            model.predict(
                replace(data, coordinates=data.coordinates + s * step.reshape(3, 3)), forces=True
            )
            for s in (1, -1)
        )
        numerical[k] = -(up.forces - down.forces).ravel() / (2 * h)
    found = hessian(model, data)
    np.testing.assert_allclose(found, numerical, atol=1e-6 * np.abs(found).max())


def test_saved_and_loaded_it_is_the_same(tmp_path):
    data = crowded()
    model = model_of("auto", repulsion=Repulsion("HCNO", 0.35, 0.65))
    for potential in (
        model,
        ANIEnsemble([model, model_of("auto", seed=1, repulsion=model.repulsion)]),
    ):
        loaded = anipot.load(potential.save(tmp_path / "p.safetensors"))
        assert np.array_equal(loaded.predict(data).energies, potential.predict(data).energies)
    assert loaded[1].repulsion == model.repulsion
    plain = model_of("auto", repulsion=None)
    assert anipot.load(plain.save(tmp_path / "q.safetensors")).repulsion is None


@pytest.mark.parametrize(
    "told",
    [
        {"kind": "zbl", "inner": 0.9, "outer": 0.7},
        {"kind": "wall", "inner": 0.1, "outer": 0.7},
        {},
        "zbl",
    ],
)
def test_what_makes_no_repulsion_is_refused(told):
    with pytest.raises((SettingsError, PotentialError), match="repulsion"):
        Repulsion.from_dict(told, "HC")


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    pair=st.tuples(st.sampled_from("HCNO"), st.sampled_from("HCNO")),
    part=st.floats(0.02, 0.4),
)
def test_two_atoms_pushed_together_repel_whatever_the_networks_say(seed, pair, part):
    model = ANIModel.create("HCNO", hidden=[8], seed=seed, dtype="float64", repulsion="zbl")
    r = part * sum(covalent_radii[number_of(e)] for e in pair)
    forces = model.predict(dimer(*pair, r), forces=True).forces
    outward = forces[1] @ np.array([2.0, -1.0, 2.0]) / 3
    assert outward > 0
    np.testing.assert_allclose(forces[0], -forces[1], atol=1e-9 * outward)


def test_it_is_told_of_and_not_lost_on_the_way_to_torchani():
    model = model_of("auto")
    assert "ZBL, off from 0.7 of the sum of covalent radii on" in describe(model)
    assert "repulsion" not in describe(model_of("auto", repulsion=None))
    with pytest.raises(SettingsError, match="has a repulsion, and TorchANI's are others"):
        model.to_torchani()
