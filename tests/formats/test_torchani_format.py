"""TorchANI's models and state dicts: held against TorchANI's own energies, and there and back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_padded, random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st

import anipot
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.errors import PotentialError, SettingsError
from anipot.formats.torchani_format import (
    from_torchani,
    is_torchani,
    read_torchani,
    to_torchani,
)
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

arch = pytest.importorskip("torchani.arch")

WIDTHS: list[Any] = [[7, 5], [6], [], {"H": [4, 3], "C": [5], "N": [], "O": [2, 2, 2]}]


def new_model(elements: str = "HCNO", seed: int = 3, **options: Any) -> ANIModel:
    options = {"hidden": [6, 4], "dtype": "float64", "output_unit": "hartree", **options}
    model = ANIModel.create(elements, seed=seed, **options)
    values = np.linspace(-0.61234567890123, -75.19446356789012, len(model.elements))
    model.self_energies = SelfEnergies(model.elements, values)
    with torch.no_grad():  # biases are zero in a new model
        for p in model.networks.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return model


def molecules(elements: str = "HCNO", seed: int = 0) -> Conformers:
    return random_conformers(np.random.default_rng(seed), [1, 2, 7, 12, 20], elements)


def torchani_energies(model: Any, conformers: Conformers) -> np.ndarray:
    """(M,) hartree, as TorchANI computes them from species indices."""
    species, coordinates = as_padded(conformers, model.symbols)
    model.periodic_table_index = False
    dtype = next(model.neural_networks.parameters()).dtype
    with torch.no_grad():
        energies: np.ndarray = model((species, coordinates.to(dtype))).energies.numpy()
    return energies


def gap(a: np.ndarray, b: Any, conformers: Conformers) -> float:
    """Largest difference, hartree, between energies and a potential's."""
    return float(np.abs(a - b.predict(conformers).energies).max())


def same_weights(a: ANIModel, b: ANIModel) -> bool:
    first, second = a.networks.state_dict(), b.networks.state_dict()
    return list(first) == list(second) and all(
        torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first
    )


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["hartree", "kcal/mol", "eV"])
@pytest.mark.parametrize("aev", ["ani1x", "ani2x"])
def test_torchani_gives_the_same_energies(unit, aev):
    model = new_model(aev=aev, output_unit=unit)
    conformers = molecules()
    theirs = torchani_energies(to_torchani(model), conformers)
    assert theirs.dtype == np.float64
    assert np.abs(theirs - model.predict(conformers).energies).max() < 1e-9


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_there_and_back_is_the_same_to_the_bit(data):
    elements = data.draw(st.permutations(["H", "C", "N", "O", "S", "F", "Cl", "Si"]))
    elements = elements[: data.draw(st.integers(1, 8))]
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    widths = {e: rng.integers(1, 6, size=rng.integers(0, 4)).tolist() for e in elements}
    activation = data.draw(
        st.sampled_from(["relu", "celu", "gelu", "silu", "tanh", "sigmoid", "gaussian"])
    )
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    if not any(widths.values()):
        widths[elements[0]] = [3]
    options = {"hidden": widths, "aev": data.draw(st.sampled_from(["ani1x", "ani2x"]))}
    model = new_model("".join(elements), seed, activation=activation, dtype=dtype, **options)
    again = from_torchani(to_torchani(model))
    assert isinstance(again, ANIModel)
    assert same_weights(model, again)
    assert again.aev.settings == model.aev.settings
    assert again.networks.options() == model.networks.options()
    assert np.array_equal(again.self_energies.values, model.self_energies.values)
    assert again.output_unit == "hartree"
    assert again.trained == again.elements == tuple(elements)
    conformers = molecules("".join(elements), seed)
    before, after = model.predict(conformers, forces=True), again.predict(conformers, forces=True)
    assert np.array_equal(before.energies, after.energies)
    assert before.forces is not None
    assert after.forces is not None
    assert np.array_equal(before.forces, after.forces)


@pytest.mark.parametrize("hidden", WIDTHS)
def test_widths_and_depths(hidden):
    model = new_model(hidden=hidden)
    theirs = to_torchani(model)
    conformers = molecules()
    assert gap(torchani_energies(theirs, conformers), model, conformers) < 1e-9


def test_an_ensemble_with_self_energies_of_its_members():
    members = [new_model(seed=k, hidden=[5 + k, 3]) for k in range(3)]
    for k, member in enumerate(members):
        values = member.self_energies.values + 0.01 * k * np.arange(4)
        member.self_energies = SelfEnergies(member.elements, values)
    ensemble = ANIEnsemble(members)
    theirs = to_torchani(ensemble)
    conformers = molecules()
    ours = ensemble.predict(conformers)
    assert np.abs(torchani_energies(theirs, conformers) - ours.energies).max() < 1e-9
    species, coordinates = as_padded(conformers, theirs.symbols)
    with torch.no_grad():
        each = theirs((species, coordinates), ensemble_values=True).energies
    assert ours.energy_std is not None
    assert np.abs(each.std(0).numpy() - ours.energy_std).max() < 1e-9
    again = from_torchani(theirs)
    assert isinstance(again, ANIEnsemble)
    assert np.abs(again.predict(conformers).energies - ours.energies).max() < 1e-10
    theirs.set_active_members([2])
    one = from_torchani(theirs)
    assert isinstance(one, ANIModel)
    assert gap(one.predict(conformers).energies, members[2], conformers) < 1e-10


def test_total_energies_stay_in_double_precision():
    model = new_model(dtype="float32")
    conformers = molecules()
    theirs = torchani_energies(to_torchani(model), conformers)
    assert theirs.dtype == np.float64
    assert np.abs(theirs - model.predict(conformers).energies).max() < 2e-6


def simple(**options: Any) -> Any:
    """A model that TorchANI itself makes, of the kind that anipot can represent."""
    options = {
        "repulsion": False,
        "cutoff_fn": "cosine",
        "bias": True,
        "activation": "celu",
        **options,
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return arch.simple_ani(("H", "C", "O"), "wb97x-631gd", **options)


@pytest.mark.parametrize(
    "options", [{}, {"bias": False, "activation": "gelu"}, {"ensemble_size": 2}]
)
def test_a_model_that_torchani_made(options):
    theirs = simple(**options).double()
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    ours = from_torchani(theirs)
    assert isinstance(ours, ANIEnsemble) == (options.get("ensemble_size", 1) > 1)
    conformers = molecules("HCO")
    assert gap(torchani_energies(theirs, conformers), ours, conformers) < 1e-9
    assert all(torch.equal(v, state[k]) for k, v in theirs.state_dict().items())
    theirs.set_enabled("energy_shifter", False)
    without = from_torchani(theirs)
    assert gap(torchani_energies(theirs, conformers), without, conformers) < 1e-9


def test_what_anipot_cannot_represent_is_refused_by_name():
    smooth = simple(cutoff_fn="smooth")
    with pytest.raises(PotentialError, match="CutoffSmooth"):
        from_torchani(smooth)
    repulsive = simple(repulsion=True)
    with pytest.raises(PotentialError, match="repulsion_xtb"):
        from_torchani(repulsive)
    repulsive.set_enabled("repulsion_xtb", False)  # and is taken when it is switched off
    assert from_torchani(repulsive).elements == ("H", "C", "O")
    with pytest.raises(PotentialError, match="ANISharedNetworks"):
        from_torchani(simple(container="ANISharedNetworks"))
    with pytest.raises(PotentialError, match="SingleNN"):
        from_torchani(simple(container="SingleNN"))
    with pytest.raises(PotentialError, match="BmmEnsemble"):
        from_torchani(simple(ensemble_size=2).to_infer_model())
    with pytest.raises(PotentialError, match="Hardtanh"):
        from_torchani(simple(activation=torch.nn.Hardtanh()))
    with pytest.raises(PotentialError, match="not ANIq"):
        from_torchani(
            arch.simple_aniq(("H", "C"), "wb97x-631gd", repulsion=False, cutoff_fn="cosine")
        )
    with pytest.raises(PotentialError, match="not Linear"):
        from_torchani(torch.nn.Linear(2, 1))


def test_what_torchani_cannot_express_is_refused_by_name():
    with pytest.raises(SettingsError, match="activation of its output, sigmoid"):
        to_torchani(new_model(output_activation="sigmoid"))
    constants = AEVSettings.ani1x().to_dict() | {"zeta": (8.0, 32.0)}
    with pytest.raises(SettingsError, match="one value of zeta"):
        to_torchani(new_model(aev=AEVSettings(**constants)))
    with pytest.raises(SettingsError, match="repulsion"):
        to_torchani(new_model(repulsion="zbl"))


def test_the_random_state_of_the_caller_is_left_alone():
    model = new_model()
    before = torch.get_rng_state()
    from_torchani(to_torchani(model))
    assert torch.equal(torch.get_rng_state(), before)


def test_untrained_networks_are_told(caplog):
    model = new_model()
    model.trained = ("H", "C")
    with caplog.at_level(logging.WARNING, "anipot"):
        to_torchani(model)
    assert "networks of N, O are untrained" in caplog.text


@pytest.mark.parametrize("name", ["ani-1x_8x", "ani-2x_8x"])
def test_published_potentials(name, shared_potentials):
    ours = anipot.load(shared_potentials / f"{name}.info").double()
    theirs = to_torchani(ours)
    conformers = molecules()
    assert gap(torchani_energies(theirs, conformers), ours, conformers) < 1e-9
    again = from_torchani(theirs)
    assert again.aev.settings == ours.aev.settings
    assert gap(again.predict(conformers).energies, ours, conformers) == 0


# ---- files ---------------------------------------------------------------------------------------


def saved(model: Any, path: Path, wrap: str = "", **options: Any) -> Path:
    state = model.state_dict()
    torch.save({wrap: state, "epoch": 3} if wrap else state, path, **options)
    return path


@pytest.mark.parametrize("wrap", ["", "model", "state_dict"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("aev", ["ani1x", "ani2x"])
def test_a_state_dict_is_the_model(wrap, members, aev, tmp_path):
    models = [new_model(seed=k, aev=aev, hidden=[5, 4, 3]) for k in range(members)]
    potential = ANIEnsemble(models) if members > 1 else models[0]
    path = saved(to_torchani(potential), tmp_path / "m.pt", wrap)
    assert is_torchani(path)
    again = anipot.load(path)
    conformers = molecules()
    assert again.aev.settings == potential.aev.settings
    assert np.array_equal(
        again.predict(conformers).energies, potential.predict(conformers).energies
    )
    told = " ".join(again.about["assumed"])
    assert "celu" in told
    assert "cosine" in told
    assert f"radial_cutoff {again.aev.settings.radial_cutoff}" in told


def test_state_dicts_of_the_first_torchani(tmp_path):
    """TorchANI writes them too: ``aev_computer.EtaR``, ``neural_networks.0.H.0.weight``."""
    ensemble = ANIEnsemble([new_model(seed=k, hidden=[5, 4, 3]) for k in range(2)])
    state = to_torchani(ensemble).legacy_state_dict()
    assert state["aev_computer.EtaA"].shape == (1, 1, 1, 1)
    assert "neural_networks.0.H.6.weight" in state
    path = tmp_path / "old.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert is_torchani(path)
    again = read_torchani(path)
    conformers = molecules()
    assert np.array_equal(again.predict(conformers).energies, ensemble.predict(conformers).energies)


def test_float32_constants_have_the_digits_that_were_written(tmp_path):
    path = saved(to_torchani(new_model(dtype="float32")), tmp_path / "m.pt")
    assert read_torchani(path).aev.settings == AEVSettings.ani1x()


def test_given_values_go_before_those_assumed(tmp_path):
    path = saved(to_torchani(new_model(activation="tanh", hidden=[4])), tmp_path / "m.pt")
    energies = {"H": -0.5, "C": -38.0, "N": -54.0, "O": -75.0}
    again = read_torchani(
        path, activation="tanh", self_energies=energies, radial_cutoff=5.5, angular_cutoff=3.75
    )
    assert isinstance(again, ANIModel)
    assert again.networks.options()["activation"] == "tanh"
    assert again.self_energies.values.tolist() == list(energies.values())
    assert (again.aev.settings.radial_cutoff, again.aev.settings.angular_cutoff) == (5.5, 3.75)
    with pytest.raises(SettingsError, match=r"m\.pt: .*no value for O"):
        read_torchani(path, self_energies={"H": 0, "C": 0, "N": 0})


def test_files_of_models_that_anipot_cannot_represent(tmp_path):
    path = tmp_path / "m.pt"
    for options, reason in (
        ({"repulsion": True}, "repulsion_xtb"),
        ({"bias": False}, "activation='gelu' if"),
        ({"container": "ANISharedNetworks"}, "shared"),
        ({"container": "SingleNN"}, "embed"),
    ):
        with pytest.raises(PotentialError, match=reason) as e:
            read_torchani(saved(simple(**options), path))
        assert str(e.value).startswith(f"{path}: ")
    with pytest.raises(PotentialError, match="to_infer_model"):
        read_torchani(saved(simple(ensemble_size=2).to_infer_model(), path))
    assert read_torchani(saved(simple(bias=False), path), activation="gelu").elements == tuple(
        "HCO"
    )


def test_a_state_dict_that_does_not_go_together(tmp_path):
    state = to_torchani(new_model()).state_dict()
    name = "potentials.nnp.neural_networks.atomics.{}"
    aev = "potentials.nnp.aev_computer.{}"

    def refused(reason: str, **changes: Any) -> None:
        changed = {k: v for k, v in (dict(state) | changes).items() if v is not None}
        path = tmp_path / "bad.pt"
        torch.save(changed, path)
        with pytest.raises(PotentialError, match=reason) as e:
            read_torchani(path)
        assert str(e.value).startswith(f"{path}: ")

    first = name.format("C.layers.0.weight")
    refused("not finite", **{first: state[first] * torch.nan})
    refused("reads 383", **{first: state[first][:, 1:]})
    refused("gives 6", **{name.format("C.layers.1.weight"): torch.zeros(4, 5)})
    refused("no linear layer", **{name.format("N.layers.0.bias"): torch.zeros(3)})
    two = {"O.final_layer.weight": torch.zeros(2, 4), "O.final_layer.bias": torch.zeros(2)}
    refused("ends with 2", **{name.format(k): v for k, v in two.items()})
    gone = {k: None for k in state if ".atomics.O." in k}
    refused("3 networks, but the AEV .* 4 elements", **gone)
    refused("Zeta", **{aev.format("angular.zeta"): None})
    refused("zeta", **{aev.format("angular.zeta"): torch.tensor([0.5])})
    refused("no number of elements", **{aev.format("radial.shifts"): torch.arange(1, 4.0)})
    refused("give radial_cutoff=", **{aev.format("radial.shifts"): torch.arange(16.0) ** 2})
    refused("5 self energies .* intercept", **{"energy_shifter.self_energies": torch.zeros(5)})
    refused("atomic numbers are those of", atomic_numbers=torch.tensor([6, 1, 7, 8]))


def test_published_names_are_public():
    assert anipot.from_torchani is from_torchani
    model = new_model()
    assert model.to_torchani().symbols == model.elements
    assert len(ANIEnsemble([model, new_model(seed=4)]).to_torchani()) == 2
