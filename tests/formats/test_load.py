"""load: one call for every kind of potential, ensembles among them, and errors that say the way."""

import json

import numpy as np
import pytest
import torch
from helpers import random_conformers

import anipot
from anipot.errors import PotentialError, SettingsError
from anipot.formats import load as potentials
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel


def member(k: int, **options) -> ANIModel:
    model = ANIModel.create("HCNO", seed=k, **{"hidden": [6], **options})
    values = np.random.default_rng(k).uniform(-80, 0, 4)
    model.self_energies = SelfEnergies(model.elements, values, f"fold {k}")
    model.trained, model.about = ("H", "C", "N", "O"), {"seed": k}
    return model


ENSEMBLES = {
    "alike": lambda: [member(k) for k in range(3)],
    "float64, hartree": lambda: [
        member(k, dtype="float64", output_unit="hartree") for k in range(2)
    ],
    "mixed": lambda: [
        member(0),
        member(1, hidden={"H": [3], "C": [5, 4], "N": [], "O": [2]}, activation="tanh"),
        member(2, output_unit="eV", dropout=0.2),
    ],
}


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_an_ensemble_is_saved_and_loaded_to_the_bit(kind, tmp_path):
    data = random_conformers(np.random.default_rng(0), [1, 3, 9, 14])
    ensemble = ANIEnsemble(ENSEMBLES[kind](), {"level_of_theory": "x"})
    path = ensemble.save(tmp_path / "e.safetensors", more=[1, 2])
    again = anipot.load(path)
    assert isinstance(again, ANIEnsemble)
    assert not again.training
    wanted = {"forces": True, "atomic": True, "forces_std": True}
    before, after = ensemble.predict(data, **wanted), again.predict(data, **wanted)
    for name in (
        "energies", "forces", "atomic_energies", "energy_std", "forces_std", "atomic_energies_std"
    ):  # fmt: skip
        a, b = getattr(before, name), getattr(after, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    for a, b in zip(ensemble, again, strict=True):
        assert np.array_equal(a.self_energies.values, b.self_energies.values)
        assert (a.output_unit, a.trained, a.about) == (b.output_unit, b.trained, b.about)
        assert a.self_energies.note == b.self_energies.note
        assert a.networks.options() == b.networks.options()
    assert again.about == {"level_of_theory": "x", "more": [1, 2]}
    assert again.trained == ("H", "C", "N", "O")
    assert again.save(tmp_path / "2.safetensors").read_bytes() != b""
    # Saved again it is the same file.
    assert (tmp_path / "2.safetensors").read_bytes() == path.read_bytes()


def test_an_ensemble_of_one_is_a_model(tmp_path):
    path = ANIEnsemble([member(0)], {"level_of_theory": "x"}).save(tmp_path / "e.safetensors")
    again = anipot.load(path)
    assert isinstance(again, ANIModel)
    assert again.about == {"level_of_theory": "x", "seed": 0}  # and what the member says


def test_weights_of_a_member_that_are_not_finite(tmp_path):
    ensemble = ANIEnsemble([member(0), member(1)])
    with torch.no_grad():
        next(ensemble[1].networks.parameters())[0, 0] = torch.inf
    with pytest.raises(PotentialError, match=r"H\.layers\.0\.weight of member 1"):
        ensemble.save(tmp_path / "e.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_published_ensemble_is_converted_without_loss(shared_potentials, tmp_path, dtype):
    data = random_conformers(np.random.default_rng(0), [1, 5, 12])
    published = anipot.load(shared_potentials / "ani-1x_8x.info", dtype=dtype)
    assert str(published.dtype) == f"torch.{dtype}"
    again = anipot.load(published.save(tmp_path / "ani1x.safetensors"))
    assert len(again) == 8
    assert again[0].output_unit == "hartree"
    before, after = (p.predict(data, forces=True) for p in (published, again))
    assert np.array_equal(before.energies, after.energies)
    assert np.array_equal(before.forces, after.forces)
    assert np.array_equal(before.energy_std, after.energy_std)


def test_precision_as_asked_for(tmp_path):
    path = ANIEnsemble([member(0), member(1)]).save(tmp_path / "e.safetensors")
    data = random_conformers(np.random.default_rng(0), [9])
    single, double = anipot.load(path), anipot.load(path, dtype="float64")
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert double.predict(data, forces=True).forces.dtype == np.float64
    np.testing.assert_allclose(
        single.predict(data).energies, double.predict(data).energies, rtol=0, atol=1e-6
    )
    with pytest.raises(SettingsError, match=r"'half'; known: float32, float64"):
        anipot.load(path, dtype="half")


def test_hints_that_a_format_does_not_take(tmp_path, shared_potentials):
    path = member(0).save(tmp_path / "p.safetensors")
    with pytest.raises(SettingsError, match=r"p\.safetensors: activation= is no hint for anipot's"):
        anipot.load(path, activation="relu")
    with pytest.raises(SettingsError, match="activation= is no hint for NeuroChem"):
        anipot.load(shared_potentials / "ani-1x_8x.info", activation="relu")
    with pytest.raises(SettingsError, match="unknown AEV engine 'none'"):
        anipot.load(path, engine="none")


def test_folders(tmp_path):
    run = tmp_path / "run"
    member(0).save(run / "potential.safetensors")
    assert anipot.load(run).elements == anipot.load(str(run)).elements == ("H", "C", "N", "O")
    (run / "options.yaml").touch()
    (run / "checkpoint.pt").touch()
    with pytest.raises(PotentialError, match=r"state of a training .*potential\.safetensors"):
        anipot.load(run / "checkpoint.pt")
    (run / "potential.safetensors").unlink()
    with pytest.raises(PotentialError, match=r"not saved its potential yet.*--resume"):
        anipot.load(run)
    with pytest.raises(PotentialError, match="folder without a potential"):
        anipot.load(tmp_path)


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PotentialError, match=r"'ani1z' is neither .*did you mean .*ani1x"):
        anipot.load("ani1z")
    with pytest.raises(PotentialError, match=r"Known names: .*ani2x.*anipot-hcno"):
        anipot.load("something")
    with pytest.raises(PotentialError, match=r"some/where: there is no such file"):
        anipot.load("some/where")
    # A file called like a potential is meant by a Path alone.
    member(0).save(tmp_path / "ani1x" / "potential.safetensors")
    assert isinstance(anipot.load(tmp_path / "ani1x"), ANIModel)


def test_the_potential_that_comes_with_anipot(tmp_path, monkeypatch):
    """By its name, wherever the package's data is; and a clear error where it is not."""
    path = ANIEnsemble([member(0), member(1)]).save(tmp_path / "anipot-hcno.safetensors")

    def found(name: str):
        assert name == path.name
        return path

    monkeypatch.setattr(potentials, "bundled_path", found)
    assert len(anipot.load("anipot-hcno")) == 2

    def missing(name: str):
        raise anipot.errors.DataError(f"{name} is not there")

    monkeypatch.setattr(potentials, "bundled_path", missing)
    with pytest.raises(PotentialError, match=r"'anipot-hcno' is not there: anipot-hcno\.safet"):
        anipot.load("anipot-hcno")


@pytest.mark.parametrize(
    "contents",
    [b"", b"\x80\x04.", b"PK\x03\x04" * 20, b"__import__('os').abort()", b"\xff" * 64, b"{}"],
)
@pytest.mark.parametrize("name", ["p.pt", "p.safetensors", "p.info", "p"])
def test_files_that_are_none(tmp_path, contents, name):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(PotentialError, match=name) as e:
        anipot.load(tmp_path / name)
    assert "\n" not in str(e.value)


def test_an_own_file_by_its_contents(tmp_path):
    path = member(0).save(tmp_path / "p.safetensors")
    other = tmp_path / "renamed"
    other.write_bytes(path.read_bytes())
    assert anipot.load(other).about == {"seed": 0}
    assert json.dumps(anipot.load(path).about) == '{"seed": 0}'
