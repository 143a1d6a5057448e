"""MLatom's ANI models: weights and constants are read, pickled objects beside them are not."""

from __future__ import annotations

import copy
import logging
import os
import sys
import types
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_conformers
from torch import nn

import anipot
from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.evaluation.description import describe
from anipot.networks.atomic import AtomicNetworks
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

ORDER = ("C", "H", "O")  # MLatom sorts the symbols of its data
ENERGIES = (-38.1, -0.6, -75.2)
SETTINGS = AEVSettings.cover(ORDER, 4.0, 3.0, 4, 2, 2)


class Shifter(nn.Module):
    """Of a module that whoever reads the file does not have."""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch) -> None:
    module = types.ModuleType("made_elsewhere")
    module.Shifter = Shifter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_elsewhere", module)
    monkeypatch.setattr(Shifter, "__module__", "made_elsewhere")


def network(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Linear(SETTINGS.length, 5), activation, nn.Linear(5, 3), activation, nn.Linear(3, 1)
    )


def contents(activation: nn.Module | None = None, members: int = 1) -> dict[str, Any]:
    """What ``mlatom.models.ani.save`` writes, in its types."""
    activation = activation or nn.GELU()
    networks: Any = [OrderedDict((e, network(activation)) for e in ORDER) for _ in range(members)]
    state = OrderedDict(
        (f"{k}.{e}.{name}" if members > 1 else f"{e}.{name}", tensor)
        for k, member in enumerate(networks)
        for e, net in member.items()
        for name, tensor in net.state_dict().items()
    )
    s = SETTINGS
    args = {
        "species_order": [np.str_(e) for e in ORDER],
        "self_energies": torch.tensor(ENERGIES, dtype=torch.float64),
        "property": "energy",
        "Rcr": s.radial_cutoff,
        "Rca": s.angular_cutoff,
        "EtaR": torch.tensor([s.radial_eta]),
        "ShfR": torch.tensor([s.radial_shifts]),
        "Zeta": torch.tensor([[[s.zeta]]]),
        "ShfZ": torch.tensor(s.angle_shifts).view(1, 1, 1, -1),
        "EtaA": torch.tensor([[[s.angular_eta]]]),
        "ShfA": torch.tensor(s.angular_shifts).view(1, 1, -1, 1),
    }
    return {
        "network": networks if members > 1 else networks[0],
        "args": args,
        "nn": state,
        "AEV_computer": Shifter(),
        "energy_shifter": Shifter(),
    }


def saved(path: Path, what: Any) -> Path:
    torch.save(what, path)
    return path


def energies(file: dict[str, Any], members: int = 1) -> Any:
    """What the networks themselves say of some molecules, hartree."""
    data = random_conformers(np.random.default_rng(0), (1, 3, 6), "CHO")
    networks = file["network"] if members > 1 else [file["network"]]
    result = []
    for member in networks:
        own = AtomicNetworks(ORDER, SETTINGS.length, {e: [5, 3] for e in ORDER}, "gelu")
        own.load_state_dict(
            {
                f"{e}.layers.{int(name.split('.')[0]) // 2}.{name.split('.')[1]}": tensor
                for e, net in member.items()
                for name, tensor in net.state_dict().items()
            }
        )
        model = ANIModel(
            anipot.AEVComputer(SETTINGS),
            own,
            anipot.SelfEnergies(ORDER, np.array(ENERGIES)),
            "hartree",
        )
        result.append(model.eval().predict(data).energies)
    return data, np.mean(result, axis=0)


@pytest.mark.parametrize("members", [1, 2])
def test_it_says_what_the_networks_say(members, tmp_path, monkeypatch, caplog):
    file = contents(members=members)
    path = saved(tmp_path / "ani.pt", file)
    monkeypatch.delitem(sys.modules, "made_elsewhere")
    with caplog.at_level(logging.WARNING, "anipot"):
        potential = anipot.load(path)
    data, expected = energies(file, members)
    assert isinstance(potential, ANIEnsemble) == (members > 1)
    assert potential.elements == ORDER
    assert np.abs(potential.predict(data).energies - expected).max() < 1e-5
    assert potential.aev.settings.radial_shifts == pytest.approx(SETTINGS.radial_shifts, abs=1e-7)
    text = describe(potential)
    assert "left unread (network, AEV_computer, energy_shifter)" in text.replace("\n", " ")
    assert "activation gelu, after the class GELU of its modules" in text
    assert "left unread" in caplog.text


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.CELU(0.1), "celu"),
        (nn.ReLU(), "relu"),
        (nn.CELU(1.0), None),
        (nn.GELU(approximate="tanh"), None),
        (nn.Softplus(), None),
    ],
)
def test_the_activation_is_known_only_where_it_is_anipots(activation, name, tmp_path):
    path = saved(tmp_path / "ani.pt", contents(activation))
    if name is None:
        with pytest.raises(PotentialError, match="give activation="):
            anipot.load(path)
        potential = anipot.load(path, activation="tanh")
    else:
        potential = anipot.load(path)
    assert isinstance(potential, ANIModel)
    assert potential.networks.options()["activation"] == (name or "tanh")


@pytest.mark.parametrize("order", [["C", "H", "O"], [6, 1, 8], ["6", "1", "8"]])
def test_elements_as_symbols_or_numbers(order, tmp_path):
    file = contents()
    file["args"]["species_order"] = order
    assert anipot.load(saved(tmp_path / "ani.pt", file)).elements == ORDER


def test_what_is_given_goes_first_and_what_is_missing_is_asked_for(tmp_path):
    file = contents()
    del file["args"]["self_energies"]
    path = saved(tmp_path / "ani.pt", file)
    with pytest.raises(PotentialError, match=r"ani\.pt: .*give self_energies="):
        anipot.load(path)
    given = anipot.load(path, self_energies=dict.fromkeys(ORDER, -1.0))
    assert isinstance(given, ANIModel)
    assert given.self_energies.values.tolist() == [-1, -1, -1]
    file["args"] = {"species_order": list(ORDER), "self_energies_train": [1.0, 2, 3]}
    path = saved(tmp_path / "ani.pt", file)
    with pytest.raises(PotentialError, match="no AEV constants"):
        anipot.load(path)
    potential = anipot.load(path, aev=SETTINGS)
    assert isinstance(potential, ANIModel)
    assert potential.self_energies.values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("Rcr", Shifter(), r"args\['Rcr'\] is no list of numbers.*d\['args'\]\['Rcr'\]"),
        ("self_energies", Shifter(), r"args\['self_energies'\]"),
        ("EtaR", torch.tensor([float("nan")]), "not finite"),
        ("Rca", [1.0, 2.0], "2 numbers instead of one"),
        ("species_order", ["C", "H", "X"], r"args\['species_order'\]: 'X'"),
        ("species_order", [Shifter()], r"args\['species_order'\]: "),
        ("species_order", ["C", "O", "H"], "networks are for C H O.*elements= says C O H"),
        ("self_energies", [1.0], "has 1 values for 3 elements"),
        ("ShfR", None, r"args\['ShfR'\] is no list"),
    ],
)
def test_values_that_cannot_be_used_are_named(key, value, message, tmp_path):
    file = contents()
    file["args"][key] = value
    path = saved(tmp_path / "ani.pt", file)
    with pytest.raises(PotentialError, match=message) as e:
        anipot.load(path)
    assert str(e.value).startswith(f"{path}: ")


def test_another_property_than_the_energy_is_said(tmp_path):
    file = contents()
    file["args"]["property"] = "delta"
    potential = anipot.load(saved(tmp_path / "ani.pt", file))
    assert "its property 'delta' is a total energy" in potential.about["assumed"]


class Evil:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: Path, call: Any = os.mkdir) -> None:
        self.path, self.call = path, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (str(self.path),)


@pytest.mark.parametrize("call", [os.mkdir, Path.mkdir, eval, exec])
def test_nothing_beside_the_weights_is_run(call, tmp_path):
    ran = tmp_path / "ran"
    what: Any = ran if call is not eval else f"__import__('os').mkdir({str(ran)!r})"
    file = contents() | {"energy_shifter": Evil(what, call)}
    path = saved(tmp_path / "ani.pt", file)
    with suppress(PotentialError):  # torch refuses some even to be left unread
        assert anipot.load(path).elements == ORDER
    assert not ran.exists()


def test_objects_among_the_weights_or_as_the_whole_are_refused_with_the_way_out(tmp_path):
    file = contents()
    file["nn"] = {**file["nn"], "extra": Shifter()}
    cases: Sequence[tuple[Any, str]] = (
        (file, "among its tensors are Python objects"),
        (Shifter(), r"holds Python objects \(made_elsewhere\.Shifter\)"),
        ({"model": Shifter(), "epoch": 3}, r"Python objects .* and no state dict"),
    )
    for what, message in cases:
        path = saved(tmp_path / "ani.pt", what)
        with pytest.raises(PotentialError, match=message) as e:
            anipot.load(path, activation="relu")
        assert "torch.save(d['nn'], path)" in str(e.value)


def test_any_state_dict_beside_objects(tmp_path):
    """A checkpoint of a training, not MLatom's."""
    file = contents()
    whole = {"model": copy.copy(file["nn"]), "config": Shifter(), "epoch": 3}
    path = saved(tmp_path / "c.pt", whole)
    told = {"activation": "gelu", "self_energies": list(ENERGIES), "aev": SETTINGS}
    potential = anipot.load(path, **told)
    assert any("left unread (config)" in a for a in potential.about["assumed"])
    data, expected = energies(file)
    assert np.abs(potential.predict(data).energies - expected).max() < 1e-5
