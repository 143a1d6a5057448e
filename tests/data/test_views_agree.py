"""A store gives the numbers of the same data in memory, whatever of it is looked at.

Everything here is asked of data in memory and of a store of which even one conformer is streamed,
in pieces that hold a few conformers or atoms.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers

from anipot import ANIModel, ANITrainer
from anipot.aev import resolution as resolution_module
from anipot.aev.settings import AEVSettings
from anipot.config import DataSettings, RunSettings, TrainingSettings
from anipot.data import concatenation, pieces, views
from anipot.data import conformers as conformers_module
from anipot.data import views as views_module
from anipot.data.batches import Batch, BatchLoader
from anipot.data.check import check_conformers, lone_atoms
from anipot.data.conformers import Conformers
from anipot.data.describe import describe
from anipot.data.division import divide
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.provenance import divide_again, provenance
from anipot.data.views import ConformersView
from anipot.errors import DataError
from anipot.evaluation import metrics as metrics_module
from anipot.evaluation.calibration import beyond, calibrate, in_words
from anipot.evaluation.trained_on import part_of
from anipot.networks import repulsion
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.report.structures import with_structures, xyz
from anipot.simulation.structures import structures
from anipot.studies.environments import environments
from anipot.system.options import checked
from anipot.training.losses import loss_terms
from anipot.training.normalization import normalize_inputs
from anipot.training.targets import network_targets, without_repulsion
from anipot.training.trainer import evaluate

ELEMENTS = ("H", "C", "N", "O")
FREE = {"H": -0.5, "C": -37.8, "N": -54.5, "O": -75.0}
N = 60
Two = tuple[Conformers, Conformers]


def made() -> Conformers:
    """60 conformers of 1 to 8 atoms: the first 14 molecules, then crystals among them.

    The conformers of a molecule stand apart, and some lack energy, forces or stress.
    """
    rng = np.random.default_rng(11)
    sizes = rng.integers(1, 9, N)
    sizes[7], sizes[30] = 1, 1
    kinds = rng.integers(0, 9, N)  # of equal composition: molecules with several conformers
    sizes = np.where(kinds < 4, kinds + 3, sizes)
    plain = random_conformers(rng, sizes, "HCNO", min_distance=0.75)
    numbers = plain.atomic_numbers.copy()
    for m in np.flatnonzero(kinds < 4):
        own = slice(plain.offsets[m], plain.offsets[m + 1])
        numbers[own] = np.random.default_rng(kinds[m]).choice([1, 6, 7, 8], sizes[m])
    crystal = (np.arange(N) >= 14) & (rng.random(N) < 0.5)
    cells = np.where(crystal[:, None, None], [random_cell(rng, 7.0) for _ in range(N)], 0.0)
    stressed, forced = crystal & (rng.random(N) < 0.8), rng.random(N) < 0.7
    stress = rng.normal(scale=1e-3, size=(N, 3, 3))
    stress[~stressed] = np.nan
    forces = rng.normal(scale=0.02, size=(len(numbers), 3))
    forces[np.repeat(~forced, sizes)] = np.nan
    data = replace(plain, atomic_numbers=numbers)
    energies = data.composition(ELEMENTS) @ [FREE[e] for e in ELEMENTS]
    energies = energies + rng.normal(scale=0.05, size=N)
    energetic = ~forced | (rng.random(N) < 0.9)  # every conformer has a label
    energies[~energetic] = np.nan
    return Conformers(
        numbers,
        data.coordinates,
        data.offsets,
        energies=energies,
        forces=forces,
        cells=cells,
        pbc=np.repeat(crystal[:, None], 3, axis=1),
        stress=stress + stress.transpose(0, 2, 1),
        molecule=kinds,
        molecule_names=tuple(f"group/molecule-{k}" for k in range(12)),
        masks={"energies": energetic, "forces": forced, "stress": stressed},
        level_of_theory="made up",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``data.npz`` and ``store``, of the same conformers."""
    folder = tmp_path_factory.mktemp("views")
    made().save(folder / "data.npz")
    pack([folder / "data.npz"], folder / "store", progress=False)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Even one conformer is streamed, and nothing is gone over in one piece."""
    monkeypatch.setattr(views_module, "VIEW_FROM", 0)
    monkeypatch.setattr(pieces, "ROWS", 4)
    monkeypatch.setattr(conformers_module, "READ_AT_ONCE", 7)
    monkeypatch.setattr(metrics_module, "ROWS", 4)
    monkeypatch.setattr(views, "PIECE", 5)
    monkeypatch.setattr(concatenation, "PIECE", 6)
    monkeypatch.setattr(repulsion, "ATOMS_AT_ONCE", 20)
    monkeypatch.setattr(resolution_module, "ATOMS_AT_ONCE", 20)
    monkeypatch.setattr(pieces.runs, "__defaults__", (11,))
    for kind in (Conformers, ConformersView):
        whole = kind.blocks

        def blocks(
            self: Any, atoms: int = 1 << 20, whole: Callable = whole
        ) -> Iterator[tuple[int, Conformers]]:
            return whole(self, 13 if self.mapped else atoms)

        monkeypatch.setattr(kind, "blocks", blocks)


def some(kind: str, data: Conformers) -> Conformers:
    """Some conformers of a data set, chosen in one of several ways."""
    rng = np.random.default_rng(5)
    mixed = rng.permutation(N)[:45]
    chosen: dict[str, Callable[[], Conformers]] = {
        "all": lambda: data,
        "permuted": lambda: data.take(mixed),
        "repeated": lambda: data.take(rng.integers(-N, N, 50)),
        "bool": lambda: data.take(rng.random(N) < 0.7),
        "view of view": lambda: data.take(mixed).take(slice(40, 3, -1)).take(rng.permutation(37)),
        "by formula": lambda: data.take(mixed[:20]).by_formula(),
        "of formulas": lambda: data.by_formula().take(mixed),
        "selected": lambda: data.select(max_energy=60.0, per_molecule=4, seed=3),
    }
    return chosen[kind]()


KINDS = ("all", "permuted", "repeated", "bool", "view of view", "by formula", "of formulas",
         "selected")  # fmt: skip


#: For what takes long.
few = pytest.mark.parametrize(
    "both", ["all", "repeated", "view of view", "by formula"], indirect=True
)


@pytest.fixture(scope="module")
def opened(folder) -> Two:
    return load_dataset(folder / "data.npz", keep_unlabelled=True), load_dataset(folder / "store")


@pytest.fixture(params=KINDS)
def both(request, opened) -> Two:
    """The same conformers, in memory and of a store."""
    memory, store = (some(request.param, data) for data in opened)
    assert store.streams
    assert not memory.mapped
    if request.param != "all":
        assert isinstance(store, ConformersView)
    return memory, store


@pytest.fixture
def mixed(opened) -> Two:
    memory, store = (some("permuted", data) for data in opened)
    return memory, store


def same(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-10, where: str = "") -> None:
    """Equal in all their parts, floats but for rounding."""
    if is_dataclass(a) and not isinstance(a, type | Conformers):
        for f in fields(a):
            same(getattr(a, f.name), getattr(b, f.name), rtol, atol, f"{where}.{f.name}")
    elif isinstance(a, Conformers):
        for f in fields(Conformers):
            same(getattr(a, f.name), getattr(b, f.name), rtol, atol, f"{where}.{f.name}")
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True, msg=where or None)
    elif isinstance(a, np.ndarray):
        assert a.dtype.kind == b.dtype.kind, where
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=where)
        else:
            np.testing.assert_array_equal(b, a, err_msg=where)
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], rtol, atol, f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, rtol, atol, f"{where}[{k}]")
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=rtol, abs=atol, nan_ok=True), where
    else:
        assert a == b, where


def agree(both: Two, ask: Callable[[Conformers], Any], **tolerances: float) -> None:
    """``ask`` gives the same of both, or raises the same."""
    found = []
    for data in both:
        try:
            found.append(ask(data))
        except DataError as e:
            found.append(str(e))
    same(*found, **tolerances)


def with_masks(data: Conformers) -> Conformers:
    """With a mask of every label: what is joined leaves out those that are true throughout."""
    return replace(data, masks={name: data.has(name) for name in ("energies", "forces", "stress")})


# ---- the data set itself -------------------------------------------------------------------------


def test_arrays_and_what_is_said_of_them(both):
    agree(both, lambda c: c, rtol=0, atol=0)
    for name in ("n_atoms", "elements", "n_molecules", "total_atoms", "periodic", "heavy_atoms"):
        agree(both, lambda c, name=name: getattr(c, name))
    agree(both, len)
    agree(both, repr)
    agree(both, lambda c: c.content_hash())
    agree(both, lambda c: [c.describe(k, 100) for k in range(len(c))])
    agree(both, lambda c: c.composition())
    agree(both, lambda c: c.composition("CH"))
    agree(both, lambda c: c.formulas())
    agree(both, lambda c: c.by_formula())
    agree(both, lambda c: c.by_formula().content_hash())
    agree(both, lambda c: c.relative_energies())
    for by in ("conformer", "molecule", "formula"):
        agree(both, lambda c, by=by: c.groups(by))
    index = np.random.default_rng(0).permutation(len(both[0]))[:9]
    for label in ("energies", "forces", "stress"):
        agree(both, lambda c, label=label: c.has(label))
        agree(both, lambda c, label=label: c.has_at(label, index))
    agree(both, lambda c: c.atoms_at(index))
    for part in (index, slice(3, 12), slice(None)):
        agree(both, lambda c, part=part: c.gather(part))
        agree(both, lambda c, part=part: c.elements_of(part))
        agree(both, lambda c, part=part: c.molecules_of(part))
    own = np.unique(both[0].molecule)
    agree(both, lambda c: c.of_molecules(np.isin(np.arange(len(c.molecule_names)), own[::2])))
    agree(both, lambda c: c.without_conformers(np.arange(len(c.molecule_names))))


def test_pieces_are_all_of_it(both):
    _, store = both
    starts, parts = zip(*store.blocks(), strict=True)
    assert len(parts) > 5
    assert list(starts) == [0, *np.cumsum([len(p) for p in parts])[:-1]]
    same(with_masks(Conformers.concatenate(parts)), with_masks(both[0]))


def test_identity_tells_parts_apart(opened):
    _, store = opened
    index = np.random.default_rng(1).permutation(N)
    parts = [store.take(i) for i in (index, index[::-1], index[:20], index[20:])]
    assert len({p.identity() for p in parts}) == len(parts)
    assert store.take(index).identity() == parts[0].identity()
    # Formulas are other groups: other data, for a split and so for a training.
    assert parts[0].by_formula().identity() != parts[0].identity()


@pytest.mark.parametrize(
    "options",
    [
        {"elements": "HC"},
        {"heavy_atoms": 3},
        {"heavy_atoms": (2, 4)},
        {"max_energy": 40.0},
        {"per_molecule": 2, "seed": 4},
        {"molecules": ["molecule-1", "group/molecule-4"]},
        {"elements": "HCN", "heavy_atoms": 4, "max_energy": 80.0, "per_molecule": 3},
        {"elements": "H", "heavy_atoms": (5, 5)},
        {"molecules": ["molecule-99"]},
    ],
)
def test_selections(both, options):
    agree(both, lambda c: c.select(**options), rtol=0, atol=0)


def test_splits(both):
    for by in ("conformer", "molecule", "formula"):
        agree(both, lambda c, by=by: c.split_indices(0.7, 0.2, 0.1, seed=2, by=by))
        agree(both, lambda c, by=by: c.split(0.7, 0.2, seed=3, by=by))
        agree(both, lambda c, by=by: [list(pair) for pair in c.folds(3, seed=1, by=by)])
    names = [both[0].molecule_names[k] for k in np.unique(both[0].molecule)]
    agree(both, lambda c: c.split_molecules(names[:2], names[2:4]))
    agree(both, lambda c: c.split_molecules(names[:1], ["nothing"]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "molecule", "seed": 3},
        {"split": "formula"},
        {"folds": 3, "fold": 2, "split": "molecule", "validation": 0.2},
    ],
)
def test_divisions_and_what_is_kept_of_them(both, options):
    settings = DataSettings(files=["data.npz"], **options)

    def told(c: Conformers) -> Any:
        division = divide(c, settings)
        known = provenance(c, division, settings)
        return division, known, division.take(c), divide_again(c, known), division.groups_of(c)

    agree(both, told)


def test_divisions_by_lists(both, tmp_path):
    for by in ("molecule", "formula"):
        data = both[0] if by == "molecule" else both[0].by_formula()
        names = [data.molecule_names[k] for k in np.unique(data.molecule)]
        (tmp_path / f"{by}.txt").write_text("\n".join(names[::4]))
        (tmp_path / f"{by}2.txt").write_text("\n".join([*names[::4], "CH400"]))
        for name in (f"{by}.txt", f"{by}2.txt"):
            settings = DataSettings(
                files=["data.npz"], split=by, test_molecules=str(tmp_path / name)
            )
            agree(both, lambda c, s=settings: divide(c, s))


def test_descriptions_and_checks(both):
    agree(both, lambda c: replace(describe(c), nbytes=0))
    agree(both, check_conformers)
    agree(both, lambda c: lone_atoms(c, 1.5))


def test_together_and_written(both, opened, tmp_path):
    memory, store = both
    agree(both, lambda c: Conformers.concatenate([c, c.take(slice(2, 9))]))
    same(Conformers.concatenate([memory, store]), Conformers.concatenate([store, memory]))
    memory.save(tmp_path / "memory.npz")
    store.save(tmp_path / "store.npz")
    a, b = (
        load_dataset(tmp_path / f"{name}.npz", keep_unlabelled=True) for name in ("memory", "store")
    )
    same(memory, b)
    same(a, b)
    again = load_dataset(pack([tmp_path / "store.npz"], tmp_path / "again", progress=False))
    same(with_masks(memory), with_masks(again))
    assert memory.content_hash() == again.content_hash()
    for one, other in zip(*map(structures, both), strict=True):
        assert one == other
        assert one.info == other.info


@few
def test_self_energies(both):
    agree(both, lambda c: SelfEnergies.fit(c, ELEMENTS), rtol=1e-8)
    agree(both, lambda c: SelfEnergies.given(ELEMENTS, FREE).of(c))
    model = ANIModel.create(ELEMENTS, hidden=[4], repulsion="zbl")

    def less(c: Conformers) -> Conformers:
        return without_repulsion(model, c)

    agree(both, lambda c: SelfEnergies.fit(c, ELEMENTS, less), rtol=1e-8)


# ---- batches -------------------------------------------------------------------------------------


def test_messages_name_the_conformer_of_the_data(opened, tmp_path):
    memory, store = opened
    loader = BatchLoader(store, 8, "HCO", shuffle=True, seed=1)
    with pytest.raises(DataError, match="is N, which this model does not know") as found:
        list(loader.epoch())
    number = int(str(found.value).split("conformer ")[1].split(" ")[0])
    assert memory.describe(number) in str(found.value)
    # The last crystal of several atoms: without a volume, and with two atoms in one place.
    last = int(np.flatnonzero(memory.pbc.any(axis=1) & (memory.n_atoms > 1))[-1])
    assert last >= conformers_module.READ_AT_ONCE
    cells, coordinates = memory.cells.copy(), memory.coordinates.copy()
    cells[last, 1] = cells[last, 0]
    coordinates[memory.offsets[last]] = coordinates[memory.offsets[last] + 1]
    spoilt = [replace(memory, cells=cells), replace(memory, coordinates=coordinates)]
    model = a_model(repulsion="zbl")
    for k, data in enumerate(spoilt):
        data.save(tmp_path / f"{k}.npz")
        both = data, load_dataset(pack([tmp_path / f"{k}.npz"], tmp_path / str(k), progress=False))
        for ask in (model.predict, model.repulsion.of):
            with pytest.raises(DataError, match=rf"conformer {last}\b"):
                ask(both[1])
            agree(both, ask)


@few
@pytest.mark.parametrize("repelled", [False, True])
def test_batches(both, repelled):
    model = ANIModel.create(ELEMENTS, hidden=[4], repulsion="zbl" if repelled else None)

    def batches(c: Conformers) -> list[dict[str, Any]]:
        loader = BatchLoader(
            c, 8, ELEMENTS, shuffle=True, seed=2, dtype=torch.float64,
            prepare=lambda part: network_targets(model, part),
        )  # fmt: skip
        found = []
        for batch in loader.epoch(1, 2):
            counts = loader.composition(batch.index)
            found.append({**vars(batch), "composition": counts, "data_atoms": None})
        return found

    agree(both, batches)
    agree(both, lambda c: vars(Batch.of(c, ELEMENTS, torch.float64)))
    agree(both, lambda c: Batch.of(c, "HC"))


@few
def test_the_repulsion_of_nuclei(both):
    """Asked of all conformers at once: forces and virials stand at their own atoms and cells."""
    model = ANIModel.create(ELEMENTS, hidden=[4], repulsion="zbl")
    assert model.repulsion is not None
    agree(both, model.repulsion.of)
    agree(both, lambda c: without_repulsion(model, c))
    agree(both, lambda c: network_targets(model, c))
    assert np.abs(model.repulsion.of(both[1])[1]).max() > 1e-3


@few
def test_environments_and_resolution(both):
    agree(both, environments, rtol=1e-5, atol=1e-6)
    settings = AEVSettings.ani1x(ELEMENTS)
    agree(both, lambda c: str(resolution_module.resolution(settings, c)))
    agree(both, lambda c: resolution_module.resolution(settings, c, sample=20, seed=1))


# ---- what a potential says -----------------------------------------------------------------------


def a_model(seed: int = 0, **options: Any) -> ANIModel:
    model = ANIModel.create(ELEMENTS, hidden=[6], seed=seed, dtype="float64", **options)
    model.self_energies = SelfEnergies.given(ELEMENTS, FREE)
    return model


def an_ensemble(**options: Any) -> ANIEnsemble:
    return ANIEnsemble([a_model(s, **options) for s in range(3)])


ASKED = {"forces": True, "stress": True, "atomic": True, "forces_std": True}


@few
def test_predictions(both, monkeypatch):
    monkeypatch.setattr("anipot.data.batches.CHUNK_ATOMS", 40)
    ensemble = an_ensemble(repulsion="zbl")
    agree(both, lambda c: ensemble.predict(c, **ASKED))
    agree(both, lambda c: ensemble[0].predict(c, forces=True, batch_size=3))
    told = ensemble.predict(both[1], **ASKED)
    assert np.abs(told.forces).max() > 1e-6
    assert np.isfinite(told.stress).all(axis=(1, 2)).any()
    # Each conformer alone, of data in memory.
    for k in range(0, len(both[0]), 13):
        alone = ensemble.predict(both[0].gather(np.array([k])), forces=True, atomic=True)
        own = slice(both[0].offsets[k], both[0].offsets[k + 1])
        np.testing.assert_allclose(told.forces[own], alone.forces, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(told.atomic_energies[own], alone.atomic_energies, rtol=1e-12)


@few
def test_predictions_as_tables_and_files(both, tmp_path):
    ensemble = an_ensemble()
    ensemble.about = {
        "calibrated": {"largest_molecule_atoms": 5, "disagreement_kcalmol": 1e-3, "scale": 2.0}
    }
    memory, store = both
    a, b = (ensemble.predict(c, **ASKED) for c in both)
    same(a.rows(memory), b.rows(store), atol=1e-7)
    assert a.table(memory) == b.table(store)
    same(a.disagreement(memory), b.disagreement(store))
    assert in_words(ensemble, a.disagreement(memory), memory) == in_words(
        ensemble, b.disagreement(store), store
    )
    assert beyond(ensemble, b.disagreement(store), store.n_atoms) != []
    for ending in ("csv", "extxyz"):
        a.write(memory, tmp_path / f"a.{ending}")
        a.write(store, tmp_path / f"b.{ending}")
        assert (tmp_path / f"a.{ending}").read_text() == (tmp_path / f"b.{ending}").read_text()
    a.write(memory, tmp_path / "a.json")
    a.write(store, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    frames = ase.io.read(tmp_path / "b.extxyz", ":")
    assert [len(f) for f in frames] == memory.n_atoms.tolist()


def test_stress_of_molecules_alone(opened):
    """Where no conformer is periodic there is no stress, and none is made up of others' cells."""
    molecules = opened[0].pbc.any(axis=1) == np.zeros(N, bool)
    parts = tuple(data.take(molecules) for data in opened)
    agree(parts, lambda c: c.periodic)
    agree(parts, lambda c: a_model().predict(c, stress=True))
    agree(parts, lambda c: evaluate(a_model(), c))


@few
def test_evaluations(both):
    model = a_model(repulsion="zbl")
    agree(both, lambda c: evaluate(model, c))
    a, b = (evaluate(model, c) for c in both)
    same(a.to_dict(), b.to_dict(), atol=1e-7)
    for name in ("energy", "per_atom", "relative", "errors", "reference_above", "n_groups"):
        same(getattr(a, name), getattr(b, name), atol=1e-7, where=name)
    assert a.summary("test") == b.summary("test")
    assert a.forces is not None
    assert a.stress is not None
    assert a.relative is not None
    assert str(a) == str(b)
    # Against numbers that are worked out one by one.
    k = int(b.worst(1)[0])
    alone = model.predict(both[0].gather(np.array([k]))).energies[0]
    place = int(np.flatnonzero(b.conformer == k)[0])
    assert b.predicted[place] == pytest.approx(alone, abs=1e-9)
    assert b.reference[place] == both[0].energies[k]


def test_worst_conformers_are_drawn_as_they_are(both):
    memory, store = both
    rows = evaluate(a_model(), store).to_dict(worst=8)["worst"]
    drawn = with_structures(rows, store)
    assert drawn == with_structures(rows, memory)
    for row in drawn:
        assert row["xyz"] == xyz(memory.gather(np.array([row["conformer"]])), 0)


@few
def test_calibrations(both):
    agree(both, lambda c: calibrate(an_ensemble(), c, "made up"))


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"force_weight": 0.1, "stress_weight": 0.1},
        {"force_weight": 0.2, "stress_weight": 0.1, "repulsion": "zbl"},
        {"normalize_aevs": True, "loss": "huber", "repulsion": "zbl"},
        {"force_weight": 0.1, "normalize_aevs": True, "per_atom": True},
    ],
)
def test_trainings(opened, options):
    rest = dict(options)
    repelled = rest.pop("repulsion", None)
    found = []
    for source in opened:
        data = source
        if "force_weight" not in options:
            data = data.take(data.has("energies"))
        train, val = data.split(0.75, 0.25, seed=4)
        model = ANIModel.create(ELEMENTS, hidden=[6], seed=1, dtype="float64", repulsion=repelled)
        trainer = ANITrainer(model, batch_size=16, epochs=2, threads=1, aev_cache="off", **rest)
        history = trainer.train(train, val, quiet=True)
        told = [{**asdict(record), "seconds": 0.0} for record in history]
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        found.append((weights, model.self_energies, told, model.about, trainer.evaluate(val)))
    same(*found, rtol=1e-7, atol=1e-8)


def test_a_cache_of_aevs_gives_the_numbers_of_none(opened):
    """Of data in memory alone: of what is streamed there is none."""
    found = []
    for data, cache in zip(opened, ("ram", "off"), strict=True):
        train, val = data.split(0.75, 0.25, seed=4)
        model = ANIModel.create(ELEMENTS, hidden=[6], seed=1, dtype="float64")
        trainer = ANITrainer(
            model, batch_size=16, epochs=2, threads=1, force_weight=0.1, aev_cache=cache
        )
        trainer.train(train, val, quiet=True)
        found.append(dict(model.state_dict()))
    same(*found, rtol=1e-7, atol=1e-8)


def test_labels_are_counted_alike(both):
    """Batch by batch, and once for all, as where a store has been copied to a GPU."""
    settings = TrainingSettings(force_weight=0.1, stress_weight=0.1)
    memory, store = both
    index = torch.as_tensor(np.random.default_rng(2).permutation(len(memory))[:12])

    def counts(data: Conformers, streams: bool | None) -> list[torch.Tensor]:
        terms = loss_terms(settings, data, torch.device("cpu"), streams)
        return [term.items(index) for term in terms]

    expected = counts(memory, None)
    assert len(expected) == 3
    same(expected, counts(store, None))
    same(expected, counts(store, False))


def test_normalized_inputs(mixed):
    found = []
    for data in mixed:
        model = a_model()
        loader = BatchLoader(data, 8, ELEMENTS, dtype=torch.float64)
        normalize_inputs(model, loader, lambda loader, batch, model=model: model.aev(batch))
        found.append(dict(model.state_dict()))
    same(*found)


def test_conformers_that_were_trained_on_are_known(opened):
    """Those of a store, and those of data in memory, of a training without a run's files."""
    notes = []
    for source in opened:
        data = source.take(source.has("energies"))
        train, val = data.split(0.75, 0.25, seed=4)
        model = ANIModel.create(ELEMENTS, hidden=[4], seed=1)
        ANITrainer(model, epochs=1, threads=1).train(train, val, quiet=True)
        notes.append((part_of(model, train)[1], part_of(model, val)[1]))
    assert notes[0] == notes[1]
    assert "exactly these conformers" in notes[1][0]


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but not rendered."""
    from anipot.report.figures import plots

    monkeypatch.setattr(plots, "save_figure", lambda figure, path: None)


def test_runs(folder, tmp_path, quick_figures):
    """Tables, numbers, page and learning curve of a whole run, by molecule, of a selection."""
    from anipot.runs.folder import RunFolder
    from anipot.runs.learning_curve import add_learning_curve
    from anipot.runs.run import start_run

    pages, texts, curves = [], [], []
    for name in ("data.npz", "store"):
        settings = checked(
            RunSettings,
            {
                "data": {"files": [str(folder / name)], "split": "molecule", "max_energy": 90.0},
                "model": {"hidden": [4], "dtype": "float64"},
                "training": {"epochs": 2, "batch_size": 16, "threads": 1, "force_weight": 0.1},
            },
        )
        out = tmp_path / f"run of {name}"
        start_run(settings, out)
        shown = RunFolder.read(out).shown()
        pages.append({k: shown[k] for k in ("part", "results", "groups", "worst", "structures")})
        texts.append((out / "test_predictions.csv").read_text().splitlines())
        curves.append(add_learning_curve(out))
    same(*pages, rtol=1e-6, atol=1e-6)
    same(*curves, rtol=1e-6, atol=1e-6)
    assert len(curves[1]) > 2
    assert [t.split(",")[:3] for t in texts[0]] == [t.split(",")[:3] for t in texts[1]]
    # The structure that the page shows is that of the conformer which it names.
    data = load_dataset(folder / "data.npz").select(max_energy=90.0)
    for row in pages[1]["worst"]:
        assert row["xyz"] == xyz(data, row["conformer"])


def test_commands(folder, tmp_path, monkeypatch, capsys):
    """What is printed and written of a store, and of a file."""
    from anipot import cli

    potential = an_ensemble().save(tmp_path / "potential.safetensors")

    def said(data: Path, *words: object) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["anipot", *map(str, words), str(data)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        out, err = capsys.readouterr()
        return out.replace(str(data), "DATA").replace(data.name, "DATA"), err

    for words in (
        ("evaluate", potential),
        ("predict", potential, "--forces"),
        ("data", "info"),
        ("data", "resolve", "--sample", 20),
    ):
        assert said(folder / "data.npz", *words) == said(folder / "store", *words)
