"""The evaluation without autograd against the model's own derivatives by autograd."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import evaluate_batch, random_cell, random_conformers

import anipot.potential.stepper
from anipot.aev.computer import load_engine
from anipot.aev.settings import AEVSettings
from anipot.data import conformers as conformers_module
from anipot.data import views as views_module
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.elements import numbers_of
from anipot.errors import DataError, SettingsError
from anipot.networks.atomic import activations
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.inference import Evaluator, chunks
from anipot.potential.model import ANIModel
from anipot.training.trainer import evaluate

ENGINES = ["reference"]
if load_engine("auto")[0] == "native":
    ENGINES.append("native")


def make(elements: str = "HCNO", seed: int = 0, **options) -> ANIModel:
    model = ANIModel.create(
        elements, seed=seed, **{"hidden": [24, 12], "dtype": "float64", **options}
    )
    values = np.random.default_rng(seed).uniform(-80, 0, len(model.elements))
    model.self_energies = SelfEnergies(model.elements, values)
    return model


def molecules(elements: str = "HCNO", sizes=(1, 2, 5, 12, 0, 7)) -> Conformers:
    return random_conformers(np.random.default_rng(1), sizes, elements)


def crystals(elements: str = "HCNO") -> Conformers:
    rng = np.random.default_rng(2)
    cells = np.stack([random_cell(rng, length) for length in (3.0, 5.5, 7.0, 6.0)])
    pbc = np.ones((4, 3), dtype=bool)
    pbc[2] = [True, False, True]
    return random_conformers(rng, [2, 6, 9, 4], elements, cells=cells, pbc=pbc)


def assert_like(found, expected, rtol: float) -> None:
    """Equal to ``rtol`` of the largest entry; NaN in the same places."""
    scale = np.nanmax(np.abs(expected), initial=1e-300)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * scale)


def assert_prediction(found, expected, rtol: float) -> None:
    for name in ("energies", "forces", "stress", "atomic_energies"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if b is not None:
            assert_like(a, b, rtol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", activations)
def test_predictions_are_those_of_autograd(engine, activation):
    for output in (None, activation):
        model = make(activation=activation, output_activation=output, engine=engine, dropout=0.2)
        model.eval()
        for data in (molecules(), crystals()):
            want = {"forces": True, "atomic": True, "stress": data.periodic}
            expected = evaluate_batch(model, model.batch(data), **want)
            assert_prediction(model.predict(data, **want), expected, 1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_single_precision_is_off_by_rounding_only(engine):
    double, single = (
        make(dtype=dtype, engine=engine, hidden=None) for dtype in ("float64", "float32")
    )
    data = molecules(sizes=[3, 8, 20, 30])
    exact = double.predict(data, forces=True)
    by_autograd = evaluate_batch(single, single.batch(data), forces=True)
    found = single.predict(data, forces=True)
    assert found.forces.dtype == np.float32
    for name in ("energies", "forces"):
        error = np.abs(getattr(found, name) - getattr(exact, name)).max()
        autograds = np.abs(getattr(by_autograd, name) - getattr(exact, name)).max()
        assert error <= 2 * autograds + 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_absent_elements_are_left_out_exactly(engine):
    model = make("HCNOSFCl", aev="ani2x", engine=engine)
    for present in ("HO", "C", "NCl", "HCNOSFCl"):
        data = molecules(present, [4, 9])
        expected = evaluate_batch(model, model.batch(data), forces=True)
        assert_prediction(model.predict(data, forces=True), expected, 1e-12)


@pytest.mark.parametrize("present", [(0, 3), (1,), (0, 1, 2, 3)])
def test_columns_are_those_of_settings_for_fewer_elements(present):
    """Against the AEVs themselves: no other column is anything but zero."""
    model = make()
    few = "".join("HCNO"[e] for e in present)
    data = molecules(few, [9])
    whole = model.aev(model.batch(data))
    reduced = ANIModel.create(few, dtype="float64")
    aevs = reduced.aev(reduced.batch(data))
    columns = AEVSettings.ani1x().columns(present)
    torch.testing.assert_close(whole[:, columns], aevs, rtol=1e-13, atol=1e-15)
    rest = np.setdiff1d(np.arange(384), columns)
    assert not whole[:, rest].any()


def test_chunks_hold_every_conformer_once_and_one_kind_of_elements():
    data = random_conformers(np.random.default_rng(4), np.random.default_rng(5).integers(0, 5, 300))
    composition = data.composition("HCNO")
    for batch_size in (None, 1, 7, 1000):
        parts = list(chunks(composition, batch_size))
        assert sorted(np.concatenate(parts).tolist()) == list(range(300))
        for part in parts:
            assert len(np.unique(composition[part] > 0, axis=0)) == 1
            assert batch_size is None or len(part) <= batch_size
    with pytest.raises(SettingsError, match="at least 1"):
        list(chunks(composition, 0))


def test_chunks_are_limited_in_atoms(monkeypatch):
    monkeypatch.setattr("anipot.data.batches.CHUNK_ATOMS", 100)
    composition = np.random.default_rng(0).integers(1, 9, (500, 2))
    sizes = [int(composition[part].sum()) for part in chunks(composition, None)]
    assert max(sizes) <= 100 + 16
    assert len(sizes) < 1.3 * composition.sum() / 100


def test_order_and_batch_size_do_not_matter(monkeypatch):
    monkeypatch.setattr("anipot.potential.inference.BLOCK_ROWS", 16)
    data = molecules(sizes=[3, 8, 1, 12, 70, 7, 5])
    model = make()
    expected = evaluate_batch(model, model.batch(data), forces=True, atomic=True)
    for batch_size in (1, 3, None):
        found = model.predict(data, forces=True, atomic=True, batch_size=batch_size)
        assert_prediction(found, expected, 1e-12)


def test_nothing_to_predict():
    nothing = random_conformers(np.random.default_rng(0), [])
    prediction = make().predict(nothing, forces=True, stress=True, atomic=True)
    assert prediction.energies.shape == (0,)
    assert prediction.forces.shape == (0, 3)
    assert prediction.stress.shape == (0, 3, 3)


def test_stress_without_a_cell_is_refused():
    with pytest.raises(DataError, match="periodic cell"):
        make().predict(molecules(), stress=True)


def test_members_must_go_together():
    with pytest.raises(SettingsError, match="member 1 has other elements"):
        Evaluator([make("HCNO"), make("HCON")])
    with pytest.raises(SettingsError, match=r"member 1 is in torch\.float32"):
        Evaluator([make(), make(dtype="float32")])
    with pytest.raises(SettingsError, match="at least one"):
        Evaluator([])


# ---- one system, step after step -------------------------------------------------------------


@pytest.fixture(params=["compiled", "stacked"])
def way(request, monkeypatch) -> str:
    """Both implementations of the networks of a small system."""
    if request.param == "stacked":
        monkeypatch.setattr(anipot.potential.stepper, "available", lambda: False)
    return request.param


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ["celu", "gelu"])
def test_steps_are_those_of_autograd(way, engine, activation):
    model = make(engine=engine, activation=activation)
    for data in (molecules(), crystals()):
        for k in range(len(data)):
            one = data.take([k])
            cell = None if one.cells is None else one.cells[0]
            pbc = False if one.pbc is None else one.pbc[0]
            whole = one.pbc is not None and bool(one.pbc.all())
            step = model.stepper(one.atomic_numbers, pbc)
            rng = np.random.default_rng(k)
            for _ in range(3):  # arrays are used again: nothing may be left of a step before
                x = one.coordinates + rng.normal(scale=0.1, size=one.coordinates.shape)
                here = Conformers(one.atomic_numbers, x, one.offsets, cells=one.cells, pbc=one.pbc)
                point = step(x, cell, stress=whole)
                expected = evaluate_batch(model, model.batch(here), forces=True, stress=whole)
                assert point.energy == pytest.approx(expected.energies[0], rel=1e-13)
                assert_like(point.forces, expected.forces, 1e-12)
                if whole:
                    assert_like(point.stress, expected.stress[0], 1e-12)
                else:
                    assert point.stress is None


def test_a_large_system_steps_in_blocks(monkeypatch):
    monkeypatch.setattr("anipot.potential.inference.BLOCK_ROWS", 64)
    data = molecules(sizes=[300])
    model = make()
    point = model.stepper(data.atomic_numbers)(data.coordinates)
    expected = evaluate_batch(model, model.batch(data), forces=True)
    assert point.energy == pytest.approx(expected.energies[0], rel=1e-13)
    assert_like(point.forces, expected.forces, 1e-12)


def test_forces_of_a_step_are_not_overwritten_by_the_next(way):
    data = molecules(sizes=[5])
    step = make().stepper(data.atomic_numbers)
    first = step(data.coordinates)
    forces, energies = first.forces.copy(), first.member_energies.copy()
    step(data.coordinates * 1.1)
    assert (first.forces == forces).all()
    assert (first.member_energies == energies).all()


def test_a_stepper_is_a_snapshot(way):
    model, data = make(), molecules(sizes=[5])
    step = model.stepper(data.atomic_numbers)
    before = step(data.coordinates).energy
    for p in model.networks.parameters():
        p.data.zero_()
    assert step(data.coordinates).energy == before
    assert model.stepper(data.atomic_numbers)(data.coordinates).energy != before


def test_bad_steps_are_refused():
    model = make()
    water = numbers_of(("O", "H", "H"))
    good = np.random.default_rng(0).normal(size=(3, 3))
    step, periodic = model.stepper(water), model.stepper(water, True)
    with pytest.raises(DataError, match="3 atoms need"):
        step(good[:2])
    with pytest.raises(DataError, match="no cell was given"):
        periodic(good)
    with pytest.raises(DataError, match="the cell has shape"):
        periodic(good, np.ones(3))
    with pytest.raises(DataError, match="stress needs"):
        step(good, stress=True)
    for atom in range(3):
        bad = good.copy()
        bad[atom, 2] = np.nan
        with pytest.raises(DataError, match=f"^atom {atom} has coordinates"):
            step(bad)
    with pytest.raises(DataError, match="no volume"):
        periodic(good, np.ones((3, 3)))
    with pytest.raises(DataError, match=r"atom 1 of .* S"):
        model.stepper([1, 16])


def test_a_stepper_keeps_its_digits_far_from_the_origin():
    model = ANIModel.create("HCNO", hidden=[16, 8], seed=2)
    exact = ANIModel.create("HCNO", hidden=[16, 8], seed=2, dtype="float64")
    exact.networks.load_state_dict({k: v.double() for k, v in model.networks.state_dict().items()})
    rng = np.random.default_rng(0)
    x = random_conformers(rng, [6]).coordinates
    numbers = [6, 1, 8, 7, 1, 6]
    truth = exact.stepper(numbers)(x).forces
    step = model.stepper(numbers)
    near, far = (np.abs(step(x + shift).forces - truth).max() for shift in (0.0, 1000.0))
    assert far <= 2 * near + 1e-12
    cell = random_cell(rng, 9.0)
    in_cell = model.stepper(numbers, pbc=True)
    images = rng.integers(-40, 40, (6, 3)) @ cell
    np.testing.assert_allclose(
        in_cell(x + images, cell, stress=True).forces,
        in_cell(x, cell, stress=True).forces,
        atol=1e-5 * np.abs(truth).max(),
    )
    with pytest.raises(DataError, match="real numbers"):
        step(x + 1j)


def test_one_stepper_in_several_threads():
    step = ANIModel.create("HCNO", hidden=[16], seed=2).stepper([6, 1, 8])
    rng = np.random.default_rng(1)
    frames = [random_conformers(rng, [3]).coordinates for _ in range(40)]
    expected = [step(x).energy for x in frames]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda x: step(x).energy, frames * 20)) == expected * 20


def test_predictions_of_a_store_are_those_of_memory(tmp_path, monkeypatch):
    """Read part by part: every atom's numbers stand where they belong, those of views too."""
    rng = np.random.default_rng(4)
    data = random_conformers(rng, rng.integers(2, 9, 60))
    data = replace(
        data, energies=rng.normal(size=60), forces=rng.normal(size=data.coordinates.shape)
    )
    data.save(tmp_path / "data.npz")
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)
    monkeypatch.setattr(conformers_module, "READ_AT_ONCE", 7)
    store = load_dataset(pack([tmp_path / "data.npz"], tmp_path / "store", progress=False))
    members = [ANIModel.create("HCNO", hidden=[8], seed=s, dtype="float64") for s in range(3)]
    ensemble = ANIEnsemble(members)
    index = rng.permutation(60)[:40]
    for here, there in ((data, store), (data.take(index), store.take(index))):
        assert there.streams
        asked = {"forces": True, "atomic": True, "forces_std": True}
        a, b = ensemble.predict(here, **asked), ensemble.predict(there, **asked)
        for name, values in vars(a).items():
            if values is not None:
                np.testing.assert_allclose(getattr(b, name), values, rtol=1e-9, atol=1e-12)
        assert np.abs(a.forces).max() > 1e-6
        of_a, of_b = evaluate(members[0], here), evaluate(members[0], there)
        assert of_a.forces is not None
        assert of_b.forces is not None
        assert of_a.forces.components(1.0).mae == pytest.approx(of_b.forces.components(1.0).mae)
        assert of_a.forces.cosine == pytest.approx(of_b.forces.cosine)
    with pytest.raises(DataError, match="does not know"):
        ANIModel.create("HC", hidden=[4]).predict(store)
