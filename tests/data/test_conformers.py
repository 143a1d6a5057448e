from dataclasses import replace

import numpy as np
import pytest
from helpers import random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import conformers

from anipot.data import pieces
from anipot.data import views as views_module
from anipot.data.conformers import LABELS, Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.errors import DataError, SettingsError
from anipot.units import HARTREE_TO_KCALMOL

ARRAYS = ("atomic_numbers", "coordinates", "offsets", "energies", "forces", "cells", "pbc",
"stress",
          "molecule")  # fmt: skip


def assert_equal(a: Conformers, b: Conformers) -> None:
    for name in ARRAYS:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, err_msg=name)
    assert a.molecule_names == b.molecule_names
    assert a.masks.keys() == b.masks.keys()
    for label, mask in a.masks.items():
        np.testing.assert_array_equal(mask, b.masks[label])
    for name in ("grouped_by", "level_of_theory", "sources"):
        assert getattr(a, name) == getattr(b, name)


def one(data: Conformers, i: int) -> tuple:
    """Conformer i as plain lists, taken out by hand."""
    atoms = slice(data.offsets[i], data.offsets[i + 1])
    parts = [data.atomic_numbers[atoms], data.coordinates[atoms]]
    parts.append(None if data.forces is None else data.forces[atoms])
    for name in ("energies", "cells", "pbc", "stress"):
        array = getattr(data, name)
        parts.append(None if array is None else array[i])
    parts.append(data.molecule_names[data.molecule[i]])
    return tuple(p if p is None or isinstance(p, str) else repr(p.tolist()) for p in parts)


@given(conformers(), st.data())
@settings(max_examples=60, deadline=None)
def test_take_gives_the_conformers_asked_for_in_that_order(data, draw):
    index = draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=20))
    taken = data.take(np.array(index, dtype=int))
    assert [one(taken, k) for k in range(len(index))] == [one(data, i) for i in index]
    for label in LABELS:
        np.testing.assert_array_equal(taken.has(label), data.has(label)[index])
    mask = np.zeros(len(data), dtype=bool)
    mask[index] = True
    assert_equal(data.take(mask), data.take(np.flatnonzero(mask)))


@given(conformers(), conformers())
@settings(max_examples=40, deadline=None)
def test_concatenate_keeps_every_conformer(a, b):
    whole = Conformers.concatenate([a, b])
    assert len(whole) == len(a) + len(b)
    np.testing.assert_array_equal(whole.n_atoms, np.concatenate([a.n_atoms, b.n_atoms]))
    np.testing.assert_array_equal(whole.energies, np.concatenate([a.energies, b.energies]))
    for part, start in ((a, 0), (b, len(a))):
        back = whole.take(slice(start, start + len(part)))
        np.testing.assert_array_equal(back.atomic_numbers, part.atomic_numbers)
        np.testing.assert_array_equal(back.coordinates, part.coordinates)
        for label in LABELS:
            np.testing.assert_array_equal(back.has(label), part.has(label))
        assert [back.molecule_names[i] for i in back.molecule] == [
            part.molecule_names[i] for i in part.molecule
        ]
        if part.pbc is None:
            assert not back.periodic
        else:
            np.testing.assert_array_equal(back.pbc, part.pbc)
            np.testing.assert_array_equal(back.cells, part.cells)


@given(conformers())
@settings(max_examples=30, deadline=None)
def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("saved") / "data.npz"
    data.save(path)
    back = Conformers.load(path)
    assert_equal(back, data)
    assert back.content_hash() == data.content_hash()


@given(conformers())
@settings(max_examples=30, deadline=None)
def test_composition_and_heavy_atoms_count_atoms(data):
    counts = data.composition(["C", "H", "O"])
    for i in range(len(data)):
        z = data.atomic_numbers[data.offsets[i] : data.offsets[i + 1]].tolist()
        assert counts[i].tolist() == [z.count(6), z.count(1), z.count(8)]
        assert data.heavy_atoms[i] == len(z) - z.count(1)


def test_counting_in_blocks_gives_the_same(monkeypatch):
    from anipot.data import conformers as module

    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, size=50)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    numbers = rng.choice([1, 6, 8], size=offsets[-1])
    data = Conformers(numbers, np.zeros((len(numbers), 3)), offsets)
    whole, groups = data.composition(), data.formulas()
    blocks = module.runs
    monkeypatch.setattr(module, "runs", lambda offsets: blocks(offsets, atoms=7))
    np.testing.assert_array_equal(data.composition(), whole)
    np.testing.assert_array_equal(data.formulas()[0], groups[0])
    assert data.formulas()[1] == groups[1]
    assert whole.sum() == len(numbers)


def small() -> Conformers:
    """H2 twice, H2O twice (one unlabelled), CH4 once."""
    numbers = [1, 1, 1, 1, 8, 1, 1, 8, 1, 1, 6, 1, 1, 1, 1]
    return Conformers(
        numbers,
        np.arange(45.0).reshape(15, 3),
        [0, 2, 4, 7, 10, 15],
        energies=[-1.17, -1.10, -76.4, np.nan, -40.5],
        molecule=[0, 0, 1, 1, 2],
        molecule_names=("x/h2", "x/water", "x/methane"),
        masks={"energies": np.array([True, True, True, False, True])},
    )


def test_relative_energies_are_above_the_lowest_of_the_same_molecule():
    expected = [0.0, 0.07 * HARTREE_TO_KCALMOL, 0.0, np.nan, 0.0]
    np.testing.assert_allclose(small().relative_energies(), expected, atol=1e-9)
    # A group that holds two formulas has two lowest energies.
    mixed = small().take([0, 1, 4])
    mixed = replace(mixed, molecule=[0] * 3, molecule_names=("all",))
    np.testing.assert_allclose(mixed.relative_energies()[2], 0.0)


def test_select():
    data = small()
    assert len(data.select(elements="H")) == 2
    assert len(data.select(elements="HO")) == 4
    assert len(data.select(heavy_atoms=0)) == 2
    assert len(data.select(heavy_atoms=(1, 1))) == 3
    assert len(data.select(max_energy=10.0)) == 3  # a conformer without a label meets no limit
    assert len(data.select(molecules=["h2", "x/methane"])) == 3
    picked = data.select(per_molecule=1, seed=4)
    assert sorted(picked.molecule) == [0, 1, 2]
    assert_equal(picked, data.select(per_molecule=1, seed=4))
    with pytest.raises(DataError, match="no conformer of 5 meets"):
        data.select(elements="N")
    with pytest.raises(DataError, match="no conformer of 5 meets"):
        data.select(elements="N", per_molecule=2)
    with pytest.raises(DataError, match="needs energies"):
        Conformers([1], np.zeros((1, 3)), [0, 1]).select(max_energy=1)


def test_a_molecule_is_found_by_its_last_name_where_that_is_unique():
    data = small()
    assert data.molecule_indices(["water"]).tolist() == [1]
    with pytest.raises(DataError, match="'watr' is not in the data; did you mean"):
        data.molecule_indices(["watr"])
    names = ("a/h", "b/h")
    twice = Conformers([1, 1], np.zeros((2, 3)), [0, 1, 2], molecule=[0, 1], molecule_names=names)
    with pytest.raises(DataError, match="'h' is not unique"):
        twice.molecule_indices(["h"])


def test_without_groups_conformers_are_grouped_by_formula():
    data = Conformers([1, 8, 1, 1, 1, 8], np.zeros((6, 3)), [0, 3, 6])
    assert data.grouped_by == "formula"
    assert data.molecule_names == ("H2O",)
    assert small().by_formula().grouped_by == "formula"
    assert set(small().by_formula().molecule_names) == {"H2", "H2O", "CH4"}


def test_concatenating_what_does_not_belong_together():
    a = small()
    b = small().by_formula()
    with pytest.raises(DataError, match="by_formula"):
        Conformers.concatenate([a, b])
    assert len(Conformers.concatenate([a.by_formula(), b])) == 10
    theories = [replace(a, level_of_theory=t) for t in ("MP2/cc-pVDZ", "PM6")]
    with pytest.raises(DataError, match="MP2/cc-pVDZ; PM6"):
        Conformers.concatenate(theories)
    with pytest.raises(DataError, match="nothing to concatenate"):
        Conformers.concatenate([])


def test_a_label_that_one_part_lacks_is_masked():
    a = small()
    b = Conformers([1], np.zeros((1, 3)), [0, 1], molecule=[0], molecule_names=("x/h",),
                   forces=np.ones((1, 3)), energies=[-0.5])  # fmt: skip
    whole = Conformers.concatenate([a, b])
    assert whole.has("forces").tolist() == [False] * 5 + [True]
    assert np.isnan(whole.forces[:15]).all()
    assert whole.has("energies").tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atomic_numbers": [1, 257]}, "257 among atomic_numbers"),
        ({"atomic_numbers": [1, -1]}, "-1 among"),
        ({"atomic_numbers": [1, 0]}, "0 among"),
        ({"coordinates": np.zeros((3, 3))}, r"coordinates has shape \(3, 3\)"),
        ({"energies": [1.0, 2.0]}, r"energies has shape \(2,\)"),
        ({"forces": np.zeros((1, 3))}, "forces has shape"),
        ({"offsets": [0, 1]}, "offsets must rise"),
        ({"offsets": [0, 3, 2]}, "offsets must rise"),
        ({"offsets": []}, "offsets must rise"),
        ({"pbc": [[True] * 3]}, "no cells"),
        ({"molecule": [3], "molecule_names": ("a",)}, "indices of molecule_names"),
        ({"masks": {"dipoles": np.ones(1)}}, "dipoles"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arrays = {"atomic_numbers": [1, 1], "coordinates": np.zeros((2, 3)), "offsets": [0, 2]} | change
    with pytest.raises(DataError, match=message):
        Conformers(**arrays)


def test_numpy_numbers_do_not_wrap_around():
    with pytest.raises(DataError, match="257"):
        Conformers(np.array([257]), np.zeros((1, 3)), [0, 1])


def test_the_hash_sees_every_array():
    a = small()
    cells = np.tile(9 * np.eye(3), (5, 1, 1))
    pbc = np.ones((5, 3), dtype=bool)
    others = [
        replace(a, coordinates=a.coordinates + 1e-12),
        replace(a, energies=np.nan_to_num(a.energies)),
        replace(a, cells=cells, pbc=pbc),
        replace(a, cells=cells, pbc=~pbc),
    ]
    assert len({d.content_hash() for d in [a, *others]}) == 5
    assert a.content_hash() == replace(a, sources=("elsewhere",)).content_hash()


def test_loading_what_is_not_a_saved_data_set(tmp_path):
    path = tmp_path / "data.npz"
    small().save(path)
    content = path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"data.npz"):
            Conformers.load(path)
    middle = bytearray(content)
    middle[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(middle))
    with pytest.raises(DataError, match=r"data.npz"):
        Conformers.load(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(DataError, match=r"data.npz"):
        Conformers.load(path)
    with pytest.raises(SettingsError, match=r".npz"):
        small().save(tmp_path / "data.h5")


def test_an_empty_selection_and_a_single_atom():
    data = small()
    nothing = data.take([])
    assert len(nothing) == 0
    assert nothing.elements == ()
    atom = Conformers([1], np.zeros((1, 3)), [0, 1])
    assert atom.n_atoms.tolist() == [1]
    assert "H" in atom.describe(0)


def test_two_molecules_of_one_name_are_refused():
    with pytest.raises(DataError, match="two molecules are named 'C'"):
        Conformers([6, 6], np.zeros((2, 3)), [0, 1, 2], molecule=[0, 1], molecule_names=("C", "C"))


def test_no_level_of_theory_is_claimed_for_data_without_one(caplog):
    a = Conformers([1], np.zeros((1, 3)), [0, 1], sources=("known.h5",), level_of_theory="PM6")
    b = replace(a, sources=("unknown.h5",), level_of_theory="")
    assert Conformers.concatenate([a, a]).level_of_theory == "PM6"
    assert Conformers.concatenate([b, b]).level_of_theory == ""
    assert not caplog.text
    assert Conformers.concatenate([a, b]).level_of_theory == ""
    assert "the level of theory of unknown.h5 is unknown, that of known.h5 is PM6" in caplog.text


# ---- piece by piece ------------------------------------------------------------------------------


def test_selections_and_relative_energies_do_not_depend_on_the_pieces(monkeypatch):
    rng = np.random.default_rng(3)
    data = random_conformers(rng, rng.integers(1, 4, 400), "HC")
    energies = rng.normal(size=400)
    energies[::7] = np.nan
    molecule = rng.integers(0, 9, 400)
    has = {"energies": np.isfinite(energies)}
    data = replace(
        data, energies=energies, masks=has, molecule=molecule, molecule_names=tuple("abcdefghi"),
        grouped_by="molecule",
    )  # fmt: skip
    monkeypatch.setattr(pieces, "ROWS", 13)
    formula, _ = data.formulas()
    above = data.relative_energies()
    for g in range(9):
        for f in range(formula.max() + 1):
            own = (molecule == g) & (formula == f)
            if np.isfinite(energies[own]).any():
                expected = (energies[own] - np.nanmin(energies[own])) * HARTREE_TO_KCALMOL
                np.testing.assert_array_equal(above[own], expected)
    # per_molecule: the first so many of each molecule in one random order.
    order = np.random.default_rng(5).permutation(400)
    first = np.concatenate([order[molecule[order] == g][:11] for g in range(9)])
    kept = data.select(per_molecule=11, seed=5)
    np.testing.assert_array_equal(kept.molecule, molecule[np.sort(first)])
    np.testing.assert_array_equal(kept.energies, energies[np.sort(first)])
    np.testing.assert_array_equal(
        data.select(molecules=["c", "h"]).energies, energies[np.isin(molecule, [2, 7])]
    )
    train, val, test = data.split_molecules(["a"], ["b", "i"])
    np.testing.assert_array_equal(test, np.flatnonzero(np.isin(molecule, [1, 8])))
    np.testing.assert_array_equal(val, np.flatnonzero(molecule == 0))
    assert len(train) + len(val) + len(test) == 400


def test_a_view_selects_and_ranks_as_its_copy_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(6)
    data = random_conformers(rng, rng.integers(1, 4, 120), "HC")
    data = replace(
        data, energies=rng.normal(size=120), molecule=rng.integers(0, 4, 120),
        molecule_names=tuple("abcd"), grouped_by="molecule",
    )  # fmt: skip
    data.save(tmp_path / "data.npz")
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)
    store = load_dataset(pack([tmp_path / "data.npz"], tmp_path / "store", progress=False))
    index = rng.permutation(120)[:90]
    copy, view = data.take(index), store.take(index)
    np.testing.assert_array_equal(copy.relative_energies(), view.relative_energies())
    np.testing.assert_array_equal(copy.composition("CH"), view.composition("CH"))
    for options in ({"per_molecule": 12}, {"max_energy": 300.0}, {"molecules": ["b"]}):
        np.testing.assert_array_equal(
            copy.select(**options).coordinates, view.select(**options).coordinates
        )
