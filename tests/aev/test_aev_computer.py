"""AEVComputer: which engine is used, what is refused, and what a module must be."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import random_conformers

from anipot.aev import AEVComputer, AEVSettings, computer
from anipot.aev.computer import engine_report
from anipot.data.batches import Batch
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError, SettingsError

ANI1X = AEVSettings.ani1x()


@pytest.fixture
def batch() -> Batch:
    conformers = random_conformers(np.random.default_rng(0), [5, 3])
    return Batch.of(conformers, ANI1X.elements, dtype=torch.float64)


def test_auto_takes_the_first_that_is_available(monkeypatch, batch):
    def broken():
        raise ImportError("no compiler was there")

    def marked(settings, batch, coordinates, cells):
        return torch.full((len(coordinates), settings.length), 7.0)

    monkeypatch.setitem(computer.engines._known, "native", broken)
    assert AEVComputer(ANI1X).engine_name == "reference"
    assert ("native", False, "no compiler was there") in engine_report()
    with pytest.raises(SettingsError, match="'native' is not available: no compiler was there"):
        AEVComputer(ANI1X, "native")
    monkeypatch.setitem(computer.engines._known, "native", lambda: marked)
    assert AEVComputer(ANI1X).engine_name == "native"
    assert (AEVComputer(ANI1X)(batch) == 7).all()
    assert ("native", True, "") in engine_report()
    monkeypatch.setattr(computer, "AUTO_ORDER", ("nothing",))
    with pytest.raises(SettingsError, match="none of the AEV engines"):
        AEVComputer(ANI1X)


def test_report_names_every_engine():
    report = engine_report()
    assert [name for name, _, _ in report] == list(computer.engines)
    assert ("reference", True, "") in report
    assert all(available or reason for _, available, reason in report)


def test_an_unknown_engine_is_an_error_that_names_the_known():
    with pytest.raises(SettingsError, match=r"'torchany'; known: torchani, torchani-cuda"):
        AEVComputer(ANI1X, "torchany")


def test_nothing_is_put_into_a_state_dict_and_copies_work(batch):
    for engine in ("reference", "torchani"):
        module = AEVComputer(ANI1X, engine)
        aev = module(batch)
        assert not module.state_dict()
        assert not list(module.parameters())
        assert module.length == aev.shape[1] == 384
        assert engine in repr(module)
        assert torch.equal(copy.deepcopy(module)(batch), aev)
        assert torch.equal(pickle.loads(pickle.dumps(module))(batch), aev)


def test_coordinates_and_cells_given_stand_in_for_those_of_the_batch():
    rng = np.random.default_rng(1)
    cells = np.stack([np.eye(3) * 4.0, np.eye(3) * 5.0])
    one, two = (random_conformers(rng, [5, 3], "H", cells=cells * f) for f in (1, 1.1))
    batch, other = (Batch.of(c, ANI1X.elements, dtype=torch.float64) for c in (one, two))
    module = AEVComputer(ANI1X)
    assert torch.equal(module(batch, other.coordinates, other.cells), module(other))
    assert not torch.equal(module(batch, other.coordinates), module(other))


def test_wrong_shapes_and_elements_are_errors(batch):
    module = AEVComputer(ANI1X)
    with pytest.raises(SettingsError, match="coordinates have shape"):
        module(batch, batch.coordinates[:-1])
    with pytest.raises(SettingsError, match="cells have shape"):
        module(batch, cells=torch.eye(3, dtype=torch.float64))
    with pytest.raises(SettingsError, match="made for 4 elements, the AEV settings have 7"):
        AEVComputer(AEVSettings.ani2x())(batch)


@pytest.mark.parametrize("engine", ["reference", "torchani"])
def test_constants_kept_from_inference_mode_can_be_trained_with(engine, batch):
    # settings of this test's own: nothing is cached for them yet
    settings = AEVSettings(**{**ANI1X.to_dict(), "radial_eta": (15.5 + (engine == "torchani"),)})
    with torch.inference_mode():
        AEVComputer(settings, engine)(batch)
    x = batch.coordinates.clone().requires_grad_()
    AEVComputer(settings, engine)(batch, x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_torchani_refuses_what_it_gets_wrong():
    rng = np.random.default_rng(2)
    module = AEVComputer(ANI1X, "torchani")
    cells = np.stack([np.eye(3) * 4.0, np.zeros((3, 3))])
    pbc = np.array([[True] * 3, [False] * 3])
    mixed = random_conformers(rng, [3, 3], cells=cells, pbc=pbc)
    with pytest.raises(DataError, match="one periodic conformer at a time"):
        module(Batch.of(mixed, "HCNO"))
    assert module(Batch.of(mixed.take([0]), "HCNO")).shape == (3, 384)
    slab = random_conformers(rng, [3], cells=cells[:1], pbc=np.array([[True, True, False]]))
    with pytest.raises(DataError, match="some directions only"):
        module(Batch.of(slab, "HCNO"))


@pytest.mark.parametrize("name", ["radial_eta", "angular_eta", "zeta"])
def test_torchani_refuses_settings_it_cannot_express(name, batch):
    several = AEVSettings(**{**ANI1X.to_dict(), name: (8.0, 16.0)})
    with pytest.raises(SettingsError, match=f"one value of {name}, not 2"):
        AEVComputer(several, "torchani")(batch)
    equal = AEVSettings(**{**ANI1X.to_dict(), "angular_cutoff": 5.2})
    with pytest.raises(SettingsError, match="angular_cutoff below radial_cutoff"):
        AEVComputer(equal, "torchani")(batch)
    assert torch.isfinite(AEVComputer(equal, "reference")(batch)).all()


def test_torchani_is_imported_only_when_asked_for_and_in_silence():
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from anipot.aev import AEVComputer, AEVSettings\n"
        "AEVComputer(AEVSettings.ani1x(), 'reference'); assert 'torchani' not in sys.modules\n"
        "AEVComputer(AEVSettings.ani1x(), 'torchani'); assert 'torchani' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_torchani_that_cannot_be_imported_is_an_engine_that_is_not_available(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchani", None)
    monkeypatch.setitem(sys.modules, "torchani.aev", None)
    ((_, available, reason),) = [row for row in engine_report() if row[0] == "torchani"]
    assert not available
    assert "torchani cannot be imported" in reason
    with pytest.raises(SettingsError, match="torchani cannot be imported"):
        AEVComputer(ANI1X, "torchani")
    assert AEVComputer(ANI1X).engine_name in ("native", "reference")


def test_an_engine_is_registered_in_one_line(monkeypatch):
    monkeypatch.setattr(computer.engines, "_known", dict(computer.engines._known))

    @computer.engines.register("zeros")
    def load_zeros():
        return lambda settings, batch, x, cells: x.new_zeros(len(x), settings.length)

    made = AEVComputer(AEVSettings.ani1x(), "zeros")
    data = load_bundled().take([0])
    found = made(Batch.of(data, made.settings.elements))
    assert found.shape == (len(data.atomic_numbers), 384)
    assert not found.any()
    assert ("zeros", True, "") in computer.engine_report()
