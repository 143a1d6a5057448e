import io
import itertools
import re
from dataclasses import replace

import ase.neighborlist
import numpy as np
import pytest
from ase import Atoms
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from anipot import units
from anipot.data.check import _near_another, check_conformers, check_file, duplicates
from anipot.data.conformers import Conformers
from anipot.data.describe import describe
from anipot.data.load import load_dataset
from anipot.data.problems import problem as check_module
from anipot.data.problems.geometry import close_atoms, lone_atoms, odd_bonds, short_cells
from anipot.data.problems.labels import (
    forces_against_energies,
    large_stress,
    odd_electrons,
    wrong_unit,
)
from anipot.data.published.bundled import bundled_path, load_bundled
from anipot.data.readers.extxyz import conformers_from_atoms


@pytest.fixture(scope="module")
def data():
    return load_bundled()


def test_good_data_has_no_problem(data, shared_data):
    assert check_file(bundled_path()) == []
    for name in ("ani_gdb_s01.h5", "ani_gdb_s02_hydrocarbons.h5"):
        assert check_conformers(load_dataset(shared_data / name, high_energy=True)) == []
    for name in ("Li_training", "Si_training"):  # pseudopotentials: energies of another size
        assert check_file(shared_data / "materials" / f"{name}.extxyz") == []


@given(st.integers(0, 10**6), st.booleans(), st.floats(1.0, 6.0))
@settings(max_examples=40, deadline=None)
def test_close_atoms_are_those_that_ase_finds(seed, periodic, size):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(5):
        n = rng.integers(1, 6)
        cell = size * np.eye(3) + rng.uniform(0, 0.3 * size, size=(3, 3)) if periodic else None
        pbc = rng.random(3) < 0.7 if periodic else False
        frames.append(Atoms("H" * n, rng.normal(size=(n, 3)) * size / 2, cell=cell, pbc=pbc))
    bad = []
    for frame in frames:
        # ASE lists an atom's own images too; those are no pair here.
        i, j = ase.neighborlist.neighbor_list("ij", frame, 0.3)
        bad.append(bool((i != j).any()))
    problems = close_atoms(conformers_from_atoms(frames))
    assert sum(p.count for p in problems) == sum(bad)
    if any(bad):
        assert f"conformer {bad.index(True)} " in problems[0].message


def test_close_atoms_are_named(data):
    x = data.coordinates.copy()
    first = data.offsets[500]
    x[first + 1] = x[first] + 0.1
    (problem,) = check_conformers(replace(data, coordinates=x))
    assert problem.kind == "close atoms"
    assert f"atoms 0 and 1 of {data.describe(500)} are 0.173 angstrom apart" in problem.message
    (problem,) = close_atoms(replace(data, coordinates=data.coordinates / 10))
    assert "length_unit=" in problem.message


@pytest.mark.parametrize("unit", ["eV", "kcal/mol", "kJ/mol", "rydberg", "meV"])
def test_energies_in_another_unit_are_recognised(data, unit):
    wrong = replace(data, energies=data.energies * units.hartree_to(unit))
    (problem,) = check_conformers(wrong)
    assert problem.kind == "unit"
    assert problem.count == len(data)
    said = f"look like {unit}; if so, give energy_unit={unit!r} (or --energy-unit {unit})"
    assert said in problem.message
    # Hartree in a file that was read as if it were in that unit.
    shrunk = replace(data, energies=data.energies / units.hartree_to(unit))
    (problem,) = wrong_unit(replace(shrunk, file_units={"energy": unit}))
    assert "they look like hartree; if so, give energy_unit='hartree'" in problem.message
    # No unit makes them right where the file was read as hartree already.
    assert "energy_unit" not in wrong_unit(shrunk)[0].message


@pytest.mark.parametrize("read_as", units.ENERGY_UNITS)
@pytest.mark.parametrize("factor", [23.06**2, 27.2114 * 627.5, 1 / 27.2114**2, 2.0, 0.7, 13.3])
def test_a_unit_that_is_named_mends_the_energies(data, read_as, factor):
    """Following the hint must end the problem; it must not lead to the next hint."""
    few = data.select(per_molecule=2)
    wrong = replace(few, energies=few.energies * factor, file_units={"energy": read_as})
    for problem in wrong_unit(wrong):
        said = re.search(r"energy_unit='([^']+)'", problem.message)
        if said is not None:
            scale = units.hartree_to(read_as) / units.hartree_to(said[1])
            assert wrong_unit(replace(wrong, energies=wrong.energies * scale)) == []


@pytest.mark.parametrize(("sign", "per_hartree", "hint"), [
    (-1, 1.0, "forces_sign='gradient'"),
    (1, units.BOHR_TO_ANGSTROM, "force_unit='hartree/bohr'"),
    (1, units.HARTREE_TO_EV, "force_unit='eV/angstrom'"),
    (1, units.HARTREE_TO_KCALMOL, "force_unit='kcal/mol/angstrom'"),
    (-1, units.BOHR_TO_ANGSTROM, "forces_sign='gradient'"),
])  # fmt: skip
def test_forces_that_energies_contradict(data, sign, per_hartree, hint):
    (problem,) = check_conformers(replace(data, forces=data.forces * sign * per_hartree))
    assert problem.kind == "forces"
    assert hint in problem.message


def test_forces_of_a_trajectory_that_turns(data):
    # A molecule that tumbles: forces turn with it, and the check must not take that for an error.
    one = data.select(molecules=["CO"])
    x, f = (a.reshape(len(one), -1, 3).astype(float) for a in (one.coordinates, one.forces))
    turns = Rotation.random(len(one), rng=1).as_matrix()
    x, f = (np.einsum("max,mxy->may", a, turns).reshape(-1, 3) for a in (x, f))
    assert forces_against_energies(replace(one, coordinates=x, forces=f)) == []
    (problem,) = forces_against_energies(replace(one, coordinates=x, forces=-f))
    assert "gradients" in problem.message


def test_forces_of_crystals(shared_data):
    crystals = load_dataset(shared_data / "materials" / "Si_training.extxyz")
    assert forces_against_energies(crystals) == []
    (problem,) = forces_against_energies(replace(crystals, forces=-crystals.forces))
    assert "gradients" in problem.message


def test_noise_is_no_contradiction(data):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=data.forces.shape) * 0.05
    assert forces_against_energies(replace(data, forces=noise)) == []


@pytest.mark.parametrize(("per_angstrom", "unit"), [
    (1 / units.BOHR_TO_ANGSTROM, "bohr"), (0.1, "nm"),
])  # fmt: skip
def test_lengths_in_another_unit_are_recognised(data, per_angstrom, unit):
    few = data.select(per_molecule=3)
    (problem,) = odd_bonds(replace(few, coordinates=few.coordinates * per_angstrom))
    assert f"length_unit='{unit}'" in problem.message
    shrunk = replace(few, coordinates=few.coordinates / per_angstrom, file_units={"length": unit})
    assert "length_unit='angstrom'" in odd_bonds(shrunk)[0].message


def test_oxygens_of_water_do_not_look_like_bohr():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3) * 2.9] * 3), axis=-1).reshape(-1, 3)
    x = np.concatenate([grid + rng.normal(size=grid.shape) * 0.05 for _ in range(5)])
    data = Conformers(np.full(len(x), 8), x, np.arange(6) * len(grid))
    assert odd_bonds(data) == []


def test_large_stress_names_the_unit_that_explains_it():
    cell = 4.0 * np.eye(3)[None]
    stress = np.diag([250.0, 200.0, 180.0])[None] / units.HARTREE_TO_EV  # eV/angstrom^3
    data = Conformers([14, 14], np.array([[0.0, 0, 0], [2.3, 0, 0]]), [0, 2], cells=cell,
                      stress=stress, file_units={"energy": "eV", "length": "angstrom"})  # fmt: skip
    (problem,) = large_stress(data)
    assert "conformer 0" in problem.message
    assert "4.005e+04 GPa" in problem.message
    assert "stress_unit='kbar'" in problem.message
    assert large_stress(replace(data, stress=stress / 1000)) == []
    (problem,) = large_stress(replace(data, stress=stress * 1e9))  # which no unit explains
    assert "says so" not in problem.message


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_short_cells_are_those_with_a_near_image(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * rng.uniform(0.8, 3.0)
    pbc = rng.random(3) < 0.8
    # In flatter cells the nearest image is farther along than the six steps tried here.
    assume(pbc.any() and 1 / np.linalg.norm(np.linalg.pinv(cell[pbc]), axis=0).max() > 0.3)
    frame = Atoms("Li", [[0.0, 0, 0]], cell=cell, pbc=pbc)
    lattice = np.array([p for p in itertools.product(range(-6, 7), repeat=3) if any(p)])
    lattice = lattice[(lattice[:, ~pbc] == 0).all(axis=1)]
    images = np.linalg.norm(lattice @ cell, axis=1)
    problems = short_cells(conformers_from_atoms([frame]))
    assert bool(problems) == bool((images < 1.5).any())
    if problems:
        assert f"is {images.min():.3f} angstrom" in problems[0].message


def test_odd_electrons_name_the_molecule(data):
    frames = [Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
              Atoms("CH3", [[0, 0, 0], [1.08, 0, 0], [-0.5, 0.93, 0], [-0.5, -0.93, 0]]),
              Atoms("H", [[0, 0, 0]]),
              Atoms("Li", [[0, 0, 0]], cell=np.eye(3) * 3, pbc=True)]  # fmt: skip
    (problem,) = odd_electrons(conformers_from_atoms(frames))
    assert problem.count == 1
    assert "conformer 1 (CH3" in problem.message
    assert odd_electrons(data) == []


def test_atomization_energies_are_recognised(data):
    atoms = data.composition("HCNO") @ np.array([-0.5, -37.85, -54.59, -75.07])
    for sign in (1, -1):
        (problem,) = wrong_unit(replace(data, energies=sign * (data.energies - atoms)))
        assert "atomization" in problem.message
        assert problem.count == len(data)


def test_one_molecule_in_another_unit_is_named(data):
    energies = data.energies.copy()
    bad = data.molecule == data.molecule_indices(["CO"])[0]
    energies[bad] *= units.HARTREE_TO_EV
    (problem,) = wrong_unit(replace(data, energies=energies))
    assert problem.count == bad.sum()
    assert "molecule 'gdb_s02/CO'" in problem.message


def test_duplicates_are_found(data):
    twice = Conformers.concatenate([data, data.take([7000, 10])])
    (problem,) = check_conformers(twice)
    assert problem.kind == "duplicates"
    assert problem.count == 2
    assert "coordinates of conformer 10;" in problem.message
    x = twice.coordinates.copy()
    x[-1] += 1e-5
    assert duplicates(replace(twice, coordinates=x))[0].count == 1
    # The same places with other elements are no duplicate.
    pair = Conformers([1, 1, 1, 9], np.eye(4)[:, :3] * 0 + np.arange(2).repeat(3).reshape(2, 3)
                      .repeat(2, axis=0)[[0, 2, 0, 2]], [0, 2, 4])  # fmt: skip
    assert duplicates(pair) == []


def test_duplicates_are_found_beside_one_of_other_elements():
    numbers, place = np.array([6, 1, 14, 1, 6, 1]), np.array([[0.0, 0, 0], [0, 0, 1.1]])
    (problem,) = duplicates(Conformers(numbers, np.tile(place, (3, 1)), [0, 2, 4, 6]))
    assert problem.count == 1
    assert "conformer 2 " in problem.message
    assert "coordinates of conformer 0;" in problem.message


def test_a_file_that_cannot_be_read_is_the_only_problem(tmp_path):
    path = tmp_path / "cut.h5"
    path.write_bytes(bundled_path().read_bytes()[:100_000])
    (problem,) = check_file(path)
    assert problem.kind == "unreadable"
    assert "cut.h5" in str(problem)


def test_data_without_energies_has_a_problem(tmp_path):
    path = tmp_path / "plain.xyz"
    path.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    (problem,) = check_file(path)
    assert problem.kind == "no energies"


def test_describe(data):
    some = describe(data.select(molecules=["C", "N#N"]))
    assert (some.n_molecules, some.atoms_per_conformer, some.heavy_atoms) == (2, (2, 5), (1, 2))
    assert some.elements == ("H", "C", "N")
    chosen = data.select(molecules=["C", "N#N"])
    assert some.energy_range == (chosen.energies.min(), chosen.energies.max())
    spread = max(
        np.ptp(data.select(molecules=[m]).energies) * units.HARTREE_TO_KCALMOL for m in ("C", "N#N")
    )
    assert some.relative_range[1] == pytest.approx(spread)
    assert some.labels == {"energies": len(chosen), "forces": len(chosen), "stress": 0}
    text = str(some)
    assert "energies, forces" in text
    assert "hartree" in text
    assert f"{spread:.2f} kcal/mol" in text
    plain = describe(Conformers([1], np.zeros((1, 3)), [0, 1]))
    assert plain.energy_range is None
    assert "none" in str(plain)
    assert describe(data.take([])).n_conformers == 0


def test_lone_atoms():
    water = Atoms("OHH", [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
    far = water.copy()
    far.positions[2] += [0, 0, 7.0]
    inside = water.copy()
    inside.positions[2] += [0, 0, 4.9]
    cell = far.copy()
    cell.set_cell(6 * np.eye(3))
    cell.pbc = True
    frames = [water, Atoms("H", [[0, 0, 0]]), inside, cell, far, far]
    (problem,) = lone_atoms(conformers_from_atoms(frames), 5.2)
    assert problem.count == 2
    nearest = far.get_distances(2, [0, 1]).min()
    assert "atom 2 of conformer 4 (H2O" in problem.message
    assert f"the nearest is {nearest:.2f} away" in problem.message
    assert "length_unit= (or --length-unit)" in problem.message
    assert lone_atoms(conformers_from_atoms(frames[:4]), 5.2) == []


@pytest.mark.parametrize("periodic", [False, True])
def test_thousands_of_atoms_in_one_frame_are_looked_at_in_parts(periodic, monkeypatch):
    rng = np.random.default_rng(0)
    n, side = 150, 12.0
    x = rng.uniform(0, side, (n, 3))
    x[140] = x[20] + [0.1, -0.1, 0.1]
    if periodic:
        x[140] += [side, -side, 0]
    cell = side * np.eye(3)[None] if periodic else None
    data = Conformers(np.ones(n), x, [0, n], cells=cell)
    shapes = []
    real = np.einsum

    def watched(formula, a, b):
        shapes.append(a.size)
        return real(formula, a, b)

    from anipot.data.problems import geometry as check

    monkeypatch.setattr(check, "BLOCK", 5000)
    monkeypatch.setattr(np, "einsum", watched)
    (problem,) = close_atoms(data)
    assert max(shapes) <= 5000
    frame = Atoms("H" * n, x, cell=cell[0] if periodic else None, pbc=periodic)
    i, j, d = ase.neighborlist.neighbor_list("ijd", frame, 0.3)
    nearest = d.argmin()
    pair = sorted((i[nearest], j[nearest]))
    assert f"atoms {pair[0]} and {pair[1]} of conformer 0" in problem.message
    assert f"are {d[nearest]:.3f} angstrom" in problem.message


def test_problems_are_the_same_in_whatever_pieces_the_data_is_read(monkeypatch):
    data = load_bundled().select(heavy_atoms=2, per_molecule=10)
    energies, coordinates = data.energies.copy(), data.coordinates.copy()
    energies[[40, 130]] *= 627.5
    for i in (60, 140):  # two atoms of one place, nearly
        coordinates[data.offsets[i] + 1] = coordinates[data.offsets[i]] + 0.01
    for i in (20, 150):
        coordinates[data.offsets[i]] += 30.0
    data = replace(data, energies=energies, coordinates=coordinates)
    data = Conformers.concatenate([data, data.take([3, 90])])
    whole = [str(p) for p in (*check_conformers(data), *lone_atoms(data, 5.2))]
    assert [text.split(":")[0] for text in whole] == [
        "close atoms", "unit", "duplicates", "lone atoms",
    ]  # fmt: skip
    assert all(f" {n} " in t for n, t in zip((60, 40, 170, 20), whole, strict=True))
    assert "2 of 172" in whole[0]
    assert "2 of 172" in whole[1]
    assert "2 such in all" in whole[2]
    blocks, summary = Conformers.blocks, describe(data)
    monkeypatch.setattr(Conformers, "blocks", lambda self, atoms=30: blocks(self, 30))
    assert [str(p) for p in (*check_conformers(data), *lone_atoms(data, 5.2))] == whole
    assert describe(data) == summary


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_keys_that_are_near_another_are_found_in_pieces(rows):
    keys = np.array([3.0, 1.0, 2.0, 1.0, 7.0, 2.0 + 1e-10, 1.0, 9.0])
    assert _near_another(keys, rows).tolist() == [1, 2, 3, 5, 6]
    assert _near_another(np.arange(5.0), rows).tolist() == []
    assert _near_another(np.zeros(1), rows).tolist() == []


@pytest.mark.parametrize("long", [True, False])
def test_who_waits_is_shown_how_far_it_is(monkeypatch, data, long):
    bars = []

    class Bar(tqdm):
        def __init__(self, *given, **options):
            bars.append((self, options["disable"]))
            super().__init__(*given, **{**options, "disable": False, "file": io.StringIO()})

    monkeypatch.setattr(check_module, "tqdm", Bar)
    monkeypatch.setattr(check_module, "_LONG", 100 if long else 10_000)
    assert check_conformers(data) == []
    assert len(bars) == 3
    assert all(bar.n == bar.total == len(data) for bar, _ in bars)
    # None: where there is a terminal.
    assert {disable for _, disable in bars} == {None if long else True}
