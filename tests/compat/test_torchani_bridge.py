"""The bridge to TorchANI 2.2 against TorchANI, its legacy code, and loops written out."""

import pickle
import random
import re
import warnings
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import as_padded, exact_torchani_aev, random_cell, random_conformers
from hypothesis import given
from hypothesis import strategies as st
from torchani import legacy_data

import anipot
import anipot.compat.torchani as torchani
from anipot.aev import AEVSettings
from anipot.errors import AnipotError, DataError, SettingsError

SETTINGS = {"ani1x": AEVSettings.ani1x(), "ani2x": AEVSettings.ani2x()}
HCNO = ["H", "C", "N", "O"]


def computer(settings, dtype=torch.float64):
    """The bridge's AEVComputer, made as a notebook makes it."""
    s = settings

    def tensor(values):
        return torch.tensor(values, dtype=dtype)

    return torchani.AEVComputer(
        s.radial_cutoff, s.angular_cutoff, tensor(s.radial_eta), tensor(s.radial_shifts),
        tensor(s.angular_eta), tensor(s.zeta), tensor(s.angular_shifts), tensor(s.angle_shifts),
        s.n_elements,
    )  # fmt: skip


def networks(length, n, seed=0):
    torch.manual_seed(seed)
    return [
        torch.nn.Sequential(
            torch.nn.Linear(length, 8 + i), torch.nn.CELU(0.1), torch.nn.Linear(8 + i, 1)
        ).double()
        for i in range(n)
    ]


# ---- AEVs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("sizes", [[1], [5], [7, 1, 12, 2]], ids=str)
def test_aevs_and_derivatives_are_those_of_torchani(name, sizes):
    settings = SETTINGS[name]
    conformers = random_conformers(np.random.default_rng(sum(sizes)), sizes, settings.elements)
    species, x = as_padded(conformers, settings.elements)
    x.requires_grad_()
    aev = computer(settings)
    assert aev.aev_length == settings.length
    same, aevs = aev((species, x))
    assert same is species
    assert aevs.shape == (*species.shape, settings.length)
    assert not aevs[species < 0].any()
    y = x.detach().clone().requires_grad_()
    truth = exact_torchani_aev(settings)(species, y)
    assert torch.allclose(aevs, truth, rtol=0, atol=1e-10)
    weights = torch.randn(truth.shape, dtype=torch.float64)
    (aevs * weights).sum().backward()
    (truth * weights).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-9, atol=1e-9)


def test_periodic_aevs_are_those_of_torchani():
    rng = np.random.default_rng(1)
    cell = torch.as_tensor(random_cell(rng, 6.0))
    species, x = as_padded(random_conformers(rng, [14]), HCNO)
    pbc = torch.tensor([True] * 3)
    truth = exact_torchani_aev(SETTINGS["ani1x"])(species, x, cell, pbc)
    # TorchANI 2.2 held one cell for all conformers of a batch.
    twice = (species.repeat(2, 1), x.repeat(2, 1, 1))
    aevs = computer(SETTINGS["ani1x"])(twice, cell, pbc).aevs
    assert torch.allclose(aevs, truth.repeat(2, 1, 1), rtol=0, atol=1e-10)
    alone = computer(SETTINGS["ani1x"])((species, x), cell, ~pbc).aevs
    assert torch.allclose(alone, computer(SETTINGS["ani1x"])((species, x)).aevs)
    assert not torch.allclose(alone, truth)


def test_padding_may_stand_anywhere():
    species, x = as_padded(random_conformers(np.random.default_rng(2), [4, 6]), HCNO)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    aev = computer(SETTINGS["ani1x"])
    moved = aev((species[:, order], x[:, order])).aevs
    assert torch.allclose(moved, aev((species, x)).aevs[:, order], rtol=0, atol=1e-12)


def test_buffers_are_those_of_2_2():
    from torchani.aev import AEVComputer

    ours = torchani.AEVComputer.cover_linearly(5.2, 3.5, 16.0, 8.0, 16, 4, 32.0, 8, 4)
    theirs = AEVComputer.like_1x().legacy_state_dict()
    state = ours.state_dict()
    assert set(state) == set(theirs)
    for name, values in state.items():
        assert values.shape == theirs[name].shape, name
        assert torch.allclose(values, theirs[name]), name


def test_loaded_constants_count():
    one, two = computer(SETTINGS["ani1x"]), computer(SETTINGS["ani1x"])
    two.ShfR += 0.1
    two.EtaA *= 2
    species, x = as_padded(random_conformers(np.random.default_rng(3), [8]), HCNO)
    assert not torch.allclose(one((species, x)).aevs, two((species, x)).aevs)
    one.load_state_dict(two.state_dict())
    assert torch.equal(one((species, x)).aevs, two((species, x)).aevs)


def test_aevs_in_single_precision_have_single_precision_constants():
    species, x = as_padded(random_conformers(np.random.default_rng(4), [9]), HCNO)
    aevs = computer(SETTINGS["ani1x"], torch.float32)((species, x.float())).aevs
    assert aevs.dtype == torch.float32
    truth = computer(SETTINGS["ani1x"])((species, x)).aevs
    assert torch.allclose(aevs.double(), truth, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("species", "shape", "message"),
    [
        ([[0, 4]], (1, 2, 3), "species 4 .* num_species=4"),
        ([[0, 1]], (1, 3, 3), r"\(1, 2\) and coordinates \(1, 3, 3\)"),
        ([0, 1], (2, 3), "must be"),
    ],
)
def test_wrong_input_is_refused(species, shape, message):
    with pytest.raises(SettingsError, match=message):
        computer(SETTINGS["ani1x"])((torch.tensor(species), torch.zeros(shape)))


# ---- networks ------------------------------------------------------------------------------------


def energies_by_hand(nets, species, aevs):
    """Loops over conformers and atoms."""
    return torch.stack(
        [
            sum(
                (nets[s](aevs[c, a])[0] for a, s in enumerate(row) if s >= 0),
                torch.zeros((), dtype=aevs.dtype),
            )
            for c, row in enumerate(species.tolist())
        ]
    )


def test_energies_are_those_of_a_loop_over_atoms():
    nets = networks(384, 4)
    aev = computer(SETTINGS["ani1x"])
    species, x = as_padded(random_conformers(np.random.default_rng(5), [3, 9, 1, 6]), HCNO)
    truth = energies_by_hand(nets, species, aev((species, x)).aevs)
    model = torch.nn.Sequential(aev, torchani.ANIModel(nets))
    out = model((species, x))
    assert torch.allclose(out.energies, truth, rtol=0, atol=1e-12)
    assert torch.equal(out.species, species)
    assert "1.0.0.weight" in model.state_dict()
    assert "0.EtaR" in model.state_dict()
    named = torchani.ANIModel(OrderedDict(zip(HCNO, nets, strict=True)))
    assert torch.equal(named(aev((species, x))).energies, out.energies)
    assert "O.2.bias" in named.state_dict()
    assert torch.equal(torchani.nn.Sequential(aev, named)((species, x)).energies, out.energies)


def test_only_networks_of_present_elements_are_called():
    nets = networks(384, 3)
    nets.append(torch.nn.BatchNorm1d(384))  # would refuse a batch without atoms
    species, x = as_padded(random_conformers(np.random.default_rng(6), [4], "HCN"), HCNO)
    model = torch.nn.Sequential(computer(SETTINGS["ani1x"]), torchani.ANIModel(nets))
    model((species, x)).energies.sum().backward()
    assert all(p.grad is None for p in nets[3].parameters())


def test_a_species_without_network_is_refused():
    aevs = torch.zeros(1, 3, 384, dtype=torch.float64)
    with pytest.raises(SettingsError, match=r"2 networks.*species 2"):
        torchani.ANIModel(networks(384, 2))((torch.tensor([[0, 1, 2]]), aevs))
    with pytest.raises(SettingsError, match="not of the same atoms"):
        torchani.ANIModel(networks(384, 2))((torch.tensor([[0, 1]]), aevs))


def test_ensemble_is_the_mean_and_converter_takes_atomic_numbers():
    aev = computer(SETTINGS["ani1x"])
    members = [torchani.ANIModel(networks(384, 4, seed)) for seed in range(3)]
    species, x = as_padded(random_conformers(np.random.default_rng(7), [5, 2]), HCNO)
    numbers = torch.tensor([1, 6, 7, 8, -1])[species]
    model = torchani.nn.Sequential(torchani.SpeciesConverter(HCNO), aev, torchani.Ensemble(members))
    out = model((numbers, x))
    truth = sum(member(aev((species, x))).energies for member in members) / 3
    assert torch.equal(out.species, species)
    assert torch.allclose(out.energies, truth, rtol=0, atol=1e-12)


# ---- data ----------------------------------------------------------------------------------------


def write_ani(path, molecules, seed=0, forces=False):
    """An ANI-1 file: molecules (list of symbols, number of conformers)."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for k, (symbols, n) in enumerate(molecules):
            group = file.create_group(f"gdb_s0/molecule-{k}")
            group["species"] = np.array(symbols, dtype="S")
            group["coordinates"] = rng.normal(size=(n, len(symbols), 3)).astype(np.float32)
            group["energies"] = -40.0 * len(symbols) + rng.normal(size=n)
            if forces:
                group["forces"] = rng.normal(size=(n, len(symbols), 3)).astype(np.float32)
    return path


MOLECULES = [
    (list("CHHHH"), 13), (list("OHH"), 8), (list("NHHH"), 11), (list("CO"), 5), (list("CCHHHH"), 9),
]  # fmt: skip
TOTAL = 46


@pytest.fixture
def file(tmp_path):
    return write_ani(tmp_path / "ani.h5", MOLECULES, forces=True)


def same(one, two):
    one, two = list(one), list(two)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert set(a) == set(b)
        for key in a:
            x, y = (torch.as_tensor(np.asarray(s[key])) for s in (a, b))
            assert x.dtype == y.dtype, key
            assert torch.equal(x, y), key


def chain(data, shifter):
    return (
        data.subtract_self_energies(shifter, HCNO)
        .species_to_indices(HCNO)
        .shuffle()
        .split(0.8, 0.1, None)
    )


def test_batches_are_those_of_the_legacy_code(file, monkeypatch):
    """Same seed, same order, same numbers as TorchANI's own copy of 2.2, forces too."""
    monkeypatch.setattr(legacy_data, "verbose", False)
    ours, theirs = torchani.EnergyShifter(None), torchani.EnergyShifter(None)
    random.seed(5)
    parts = chain(torchani.data.load(file, additional_properties=("forces",)), ours)
    random.seed(5)
    truth = chain(legacy_data.load(file, additional_properties=("forces",)), theirs)
    assert torch.allclose(ours.self_energies, theirs.self_energies, rtol=1e-10)
    for part, expected in zip(parts, truth, strict=True):
        assert len(part) == len(expected)
        batches, wanted = part.collate(7).cache(), list(expected.collate(7))
        assert len(batches) == len(wanted)
        for batch, want in zip(batches, wanted, strict=True):
            assert list(batch) == list(want)
            for key in want:
                assert batch[key].dtype == want[key].dtype, key
                assert torch.allclose(batch[key], want[key], rtol=0, atol=1e-9), key


def test_samples_are_those_of_the_file(file):
    data = torchani.data.load(file)
    assert len(data) == TOTAL
    first = next(iter(data))
    assert list(first["species"]) == list("CHHHH")
    with h5py.File(file) as f:
        assert np.array_equal(first["coordinates"], f["gdb_s0/molecule-0/coordinates"][0])
        assert first["energies"] == f["gdb_s0/molecule-0/energies"][0]


def test_high_energy_extras_of_ani_1_are_left_out_as_in_2_2(shared_data):
    data = torchani.data.load(shared_data / "ani_gdb_s02_hydrocarbons.h5")
    assert len(data) == 17109
    assert {len(sample["species"]) for sample in data} == {4, 6, 8}


def test_every_pass_reads_the_same(file):
    """2.2 subtracted the self energies of samples in memory again at each pass."""
    raw = torchani.data.load(file).cache()
    energies = [sample["energies"] for sample in raw]
    data = raw.subtract_self_energies(dict.fromkeys(HCNO, -10.0)).species_to_indices(HCNO)
    same(data, data)
    assert [sample["energies"] for sample in raw] == energies
    assert next(iter(data))["energies"] == energies[0] + 50.0
    batches = data.collate(10)
    same(batches, batches)
    same(batches, batches.cache())
    same(batches.pin_memory(), batches)


def test_order_of_the_chain_does_not_matter(file):
    one, two = torchani.EnergyShifter(None), torchani.EnergyShifter(None)
    data = torchani.data.load(file)
    usual = data.subtract_self_energies(one, HCNO).species_to_indices(HCNO)
    other = data.species_to_indices(HCNO).subtract_self_energies(two, HCNO)
    same(usual, other)
    assert torch.equal(one.self_energies, two.self_energies)
    random.seed(1)
    early = data.shuffle().species_to_indices(HCNO)
    random.seed(1)
    same(early, data.species_to_indices(HCNO).shuffle())
    batches = data.collate(4)
    for late in (
        batches.species_to_indices,
        batches.remove_outliers,
        lambda: batches.collate(2),
        lambda: batches.subtract_self_energies({}),
    ):
        with pytest.raises(SettingsError, match="before collate"):
            late()


def test_shuffle_is_a_function_of_the_seed(file):
    data = torchani.data.load(file).species_to_indices(HCNO)
    random.seed(3)
    one = data.shuffle()
    random.seed(3)
    same(one, data.shuffle())
    another = [s["energies"] for s in data.shuffle()]
    first = [s["energies"] for s in one]
    assert another != first
    assert sorted(another) == sorted(first) == sorted(s["energies"] for s in data)


@given(
    total=st.integers(0, 50),
    parts=st.lists(st.one_of(st.integers(0, 12), st.floats(0, 0.2)), max_size=4),
    place=st.one_of(st.none(), st.integers(0, 4)),
)
def test_splits_are_consecutive_and_of_the_sizes_asked_for(total, parts, place):
    data = torchani.data.TransformableIterable([{"energies": float(i)} for i in range(total)])
    sizes = [n if isinstance(n, int) else int(n * total) for n in parts]
    nums = list(parts)
    if place is not None:
        nums.insert(place, None)
        sizes.insert(place, total - sum(sizes))
    if sum(sizes) > total or min(sizes, default=0) < 0:
        with pytest.raises(SettingsError, match="does not work out"):
            data.split(*nums)
        return
    found = data.split(*nums)
    assert [len(part) for part in found] == sizes
    assert [s["energies"] for part in found for s in part] == list(range(sum(sizes)))


def test_splits_that_say_nothing_are_refused(file):
    data = torchani.data.load(file)
    for nums in [(None, None), (0.5, -0.1), (-3, None)]:
        with pytest.raises(SettingsError, match="does not work out"):
            data.split(*nums)
    assert [len(p) for p in data.split(0.8, 0.1, 0.1)] == [36, 4, 4]
    assert [len(p) for p in data.split(10, None)] == [10, 36]


# ---- self energies -------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
def test_self_energies_are_a_least_squares_fit(file, intercept):
    shifter = torchani.utils.EnergyShifter(None, fit_intercept=intercept)
    data = torchani.data.load(file)
    shifted = data.subtract_self_energies(shifter, HCNO).species_to_indices(HCNO)
    conformers = anipot.load_dataset(file)
    x = np.stack([(conformers.composition(HCNO)[:, i]) for i in range(4)], axis=1).astype(float)
    if intercept:
        x = np.hstack([x, np.ones((TOTAL, 1))])
    truth, *_ = np.linalg.lstsq(x, conformers.energies, rcond=None)
    assert np.allclose(shifter.self_energies.numpy(), truth, rtol=0, atol=1e-9)
    batch = next(iter(shifted.collate(TOTAL)))
    assert np.allclose(batch["energies"], conformers.energies - x @ truth, rtol=0, atol=1e-9)
    # And back: the shifter adds what was taken away, padding left out.
    assert np.allclose(shifter.sae(batch["species"]), x @ truth, rtol=0, atol=1e-9)
    total = shifter((batch["species"], batch["energies"])).energies
    assert np.allclose(total, conformers.energies, rtol=0, atol=1e-9)


def test_an_element_that_is_absent_keeps_its_place(tmp_path):
    path = write_ani(tmp_path / "no-nitrogen.h5", [(list("CHHHH"), 4), (list("OHH"), 4)])
    write_ani(path, [(list("CHHHH"), 4), (list("OHH"), 4), (list("HH"), 4)])
    given_order, default = torchani.EnergyShifter(None), torchani.EnergyShifter(None)
    data = torchani.data.load(path)
    data.subtract_self_energies(given_order, HCNO)
    assert given_order.self_energies[2] == 0
    data.subtract_self_energies(default)
    assert torch.equal(default.self_energies, given_order.self_energies)
    batch = next(iter(data.species_to_indices().collate(12)))
    means = batch["energies"].reshape(3, 4).mean(1)
    assert torch.allclose(default.sae(batch["species"]).reshape(3, 4).mean(1), means)


def test_elements_outside_the_order_are_named(file):
    data = torchani.data.load(file)
    with pytest.raises(DataError, match=r"O is in the data.*\['H', 'C', 'N'\]"):
        data.subtract_self_energies(torchani.EnergyShifter(None), ["H", "C", "N"])
    with pytest.raises(DataError, match="'O' is in the data"):
        list(data.species_to_indices(["H", "C", "N"]))
    with pytest.raises(DataError, match="no self energy of 'O'"):
        list(data.subtract_self_energies({"H": -0.6, "C": -38.0, "N": -54.0}))
    numbers = next(iter(data.species_to_indices("periodic_table")))["species"]
    assert numbers.tolist() == [6, 1, 1, 1, 1]


def test_outliers_are_those_of_the_legacy_code(tmp_path, monkeypatch):
    monkeypatch.setattr(legacy_data, "verbose", False)
    path = write_ani(tmp_path / "far.h5", MOLECULES)
    with h5py.File(path, "r+") as f:
        f["gdb_s0/molecule-0/energies"][3] += 500  # beyond the first threshold
        f["gdb_s0/molecule-1/energies"][2] += 18  # beyond the second
    energies = {"H": -40.0, "C": -40.0, "N": -40.0, "O": -40.0}

    def chain(data):
        data = data.subtract_self_energies(dict(energies)).species_to_indices(HCNO)
        # In memory, or the legacy code would read its generators anew.
        data = type(data)(list(data))
        return list(data.remove_outliers(15.0, 4.0))

    ours, theirs = chain(torchani.data.load(path)), chain(legacy_data.load(path))
    assert len(ours) == TOTAL - 2
    same(ours, theirs)


# ---- around the edges ----------------------------------------------------------------------------


def test_other_samples_and_tools_fit_in(file):
    data = torchani.data.load(file).species_to_indices(HCNO)
    small = torchani.data.TransformableIterable(s for s in data if len(s["species"]) < 4)
    assert len(small) == 13
    assert len(list(small)) == len(list(small)) == 13
    same(pickle.loads(pickle.dumps(data)), data)
    loader = torch.utils.data.DataLoader(
        list(data), batch_size=9, collate_fn=torchani.data.collate_fn
    )
    same(loader, data.collate(9))
    batch = next(iter(data.collate(30, padding={"coordinates": 7.0})))
    assert (batch["coordinates"][batch["species"] < 0] == 7.0).all()


def test_folders_and_bad_paths(tmp_path, file):
    (tmp_path / "more").mkdir()
    write_ani(tmp_path / "more" / "b.hdf5", [(["O", "O"], 3)])
    assert len(torchani.data.load(str(tmp_path))) == TOTAL + 3
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "no.h5"):
        with pytest.raises(DataError, match=path.name):
            torchani.data.load(path)
    with pytest.raises(DataError, match="'dipoles'"):
        torchani.data.load(file, additional_properties=("dipoles",))
    with pytest.raises(DataError, match="has no forces"):
        torchani.data.load(tmp_path / "more", additional_properties=("forces",))


def test_units_and_symbols():
    assert torchani.units.hartree2kcalmol(1.0) == pytest.approx(627.5094738898777, abs=1e-9)
    assert torchani.utils.hartree2kcalmol is torchani.units.hartree2kcalmol
    to_ints = torchani.utils.ChemicalSymbolsToInts(HCNO)
    assert to_ints(["C", "H", "O"]).tolist() == [1, 0, 3]
    assert re.match(r"2\.2\.4\+anipot\..*\.torchani\.2\.", torchani.__version__)


@pytest.mark.parametrize(
    ("ask", "instead"),
    [
        (lambda: torchani.models, r"anipot\.load\("),
        (lambda: torchani.neurochem, r"anipot\.load\("),
        (lambda: torchani.ase, "calculator"),
        (lambda: torchani.ignite, "ANITrainer"),
        (lambda: torchani.anything, "import torchani"),
        (lambda: torchani.utils.hessian, "anipot vibrations"),
        (lambda: torchani.data.load_ani_dataset, r"anipot\.load_dataset"),
        (lambda: torchani.data.TransformableIterable([]).batch, "load_dataset"),
    ],
)
def test_what_is_not_there_names_what_to_use(ask, instead):
    with pytest.raises(AttributeError, match=instead):
        ask()


def test_import_says_nothing_and_errors_are_anipots():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchani.ANIModel(networks(384, 1))
        computer(SETTINGS["ani1x"])((torch.tensor([[0]]), torch.zeros(1, 1, 3)))
    with pytest.raises(AnipotError, match="radial_cutoff"):
        torchani.AEVComputer.cover_linearly(3.0, 5.0, 16.0, 8.0, 16, 4, 32.0, 8, 4)


def test_nothing_in_anipot_leans_on_the_bridge():
    package = Path(anipot.__file__).parent
    users = [
        path.relative_to(package)
        for path in package.rglob("*.py")
        if "compat" in path.read_text() and package / "compat" not in path.parents
        if re.search(r"(from|import) anipot\.compat", path.read_text())
    ]
    assert users == []
