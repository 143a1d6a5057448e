"""State dicts of notebooks: held against the notebook's own modules, in evaluation mode."""

from __future__ import annotations

import io
import itertools
import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_padded, exact_torchani_aev, random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anipot
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.errors import DataError, PotentialError, SettingsError
from anipot.formats.notebook import is_notebook, read_notebook
from anipot.formats.torchani_format import is_torchani
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

pytest.importorskip("torchani")

SELF_ENERGIES = {"H": -0.6, "C": -38.1, "N": -54.7, "O": -75.2}


# ---- what a notebook has -------------------------------------------------------------------------


class AEVComputer(nn.Module):
    """The buffers of TorchANI 2.2.4's AEVComputer, in its shapes; it computes as TorchANI 2 does,
    in float64."""

    def __init__(self, settings: AEVSettings) -> None:
        super().__init__()
        for name, values, shape in (
            ("EtaR", settings.radial_eta, (-1, 1)),
            ("ShfR", settings.radial_shifts, (1, -1)),
            ("EtaA", settings.angular_eta, (-1, 1, 1, 1)),
            ("Zeta", settings.zeta, (1, -1, 1, 1)),
            ("ShfA", settings.angular_shifts, (1, 1, -1, 1)),
            ("ShfZ", settings.angle_shifts, (1, 1, 1, -1)),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(shape))
        n = settings.n_elements
        self.register_buffer("triu_index", torch.zeros(n, n, dtype=torch.int64))
        self.register_buffer("default_cell", torch.eye(3))
        self.register_buffer("default_shifts", torch.zeros(0, 3, dtype=torch.int64))
        self.exact = [exact_torchani_aev(settings)]  # in a list: no part of the state dict

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0], self.exact[0](*pair)


class ANINet(nn.ModuleDict):
    """TorchANI 2.2.4's ANIModel: networks by number, or by name."""

    def __init__(self, networks: Sequence[nn.Module] | dict[str, nn.Module]) -> None:
        if not isinstance(networks, dict):
            networks = {str(k): n for k, n in enumerate(networks)}
        super().__init__(networks)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        species, aevs = pair
        energies = torch.zeros(species.shape, dtype=torch.float64)
        for k, network in enumerate(self.values()):
            if (mask := species == k).any():
                energies[mask] = network(aevs[mask]).flatten().double()
        return species, energies.sum(1)


class AtomicNet(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def source(depth: int) -> list[nn.Module]:
    """The layers of the source notebook, and of deeper ones: 384, 128, ReLU, (64, ReLU,) 1."""
    widths = [384, 128, 64, 32, 16][: depth + 1]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return [*layers, nn.Linear(widths[-1], 1)]


def notebook(
    make: Callable[[], nn.Module],
    constants: AEVSettings | None = None,
    names: Sequence[str] | None = None,
) -> nn.Sequential:
    """``nn.Sequential(aev_computer, ani_net)`` with weights and statistics that are not trivial."""
    constants = constants or AEVSettings.ani1x()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        networks = [make() for _ in constants.elements]
        model = nn.Sequential(
            AEVComputer(constants),
            ANINet(networks if names is None else dict(zip(names, networks, strict=True))),
        ).double()
        for name, tensor in model[1].state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.2, 3)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.normal_(std=0.5)
    return model.eval()


def energies(model: nn.Module, conformers: Conformers, elements: Sequence[str] = "HCNO") -> Any:
    """(M,) hartree: what the notebook's networks say."""
    with torch.no_grad():
        return model(as_padded(conformers, elements))[1].numpy()


def molecules(elements: str = "HCNO", sizes: Sequence[int] = (1, 2, 7, 12, 20)) -> Conformers:
    return random_conformers(np.random.default_rng(0), sizes, elements)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Its state dict; the AEV computer's constants in float32, as they were made."""
    return {
        k: v.float() if k.startswith("0.") and v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }


def saved(model: nn.Module, path: Path) -> Path:
    torch.save(state_of(model), path)
    return path


def difference(potential: Any, model: nn.Module, elements: str = "HCNO") -> float:
    """Largest difference of the networks' energies, hartree."""
    conformers = molecules(elements)
    zero = potential[0] if isinstance(potential, ANIEnsemble) else potential
    ours = potential.predict(conformers).energies - zero.self_energies.of(conformers)
    return float(np.abs(ours - energies(model, conformers, potential.elements)).max())


def norm(features: int) -> nn.Module:
    return nn.BatchNorm1d(features)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"source, depth {d}": (lambda d=d: AtomicNet(*source(d))) for d in (1, 2, 3, 4)},  # type: ignore[misc]
    "no class around": lambda: nn.Sequential(*source(2)),
    "dropout": lambda: AtomicNet(
        nn.Linear(384, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4), nn.Dropout(), nn.ReLU(),
        nn.Linear(4, 1),
    ),
    "batch norm before": lambda: AtomicNet(
        nn.Linear(384, 8), norm(8), nn.ReLU(), nn.Linear(8, 4), norm(4), nn.ReLU(), nn.Linear(4, 1)
    ),
    "batch norm after": lambda: AtomicNet(
        nn.Linear(384, 8), nn.ReLU(), norm(8), nn.Linear(8, 4), nn.ReLU(), norm(4), nn.Linear(4, 1)
    ),
    "batch norm on the AEV, after dropout, of the output": lambda: AtomicNet(
        norm(384), nn.Linear(384, 8), nn.ReLU(), nn.Dropout(), norm(8), nn.Linear(8, 1), norm(1)
    ),
    "batch norm without weights": lambda: AtomicNet(
        nn.Linear(384, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 1)
    ),
    "no biases": lambda: AtomicNet(
        nn.Linear(384, 8, bias=False), norm(8), nn.ReLU(), nn.Linear(8, 1, bias=False)
    ),
    "blocks": lambda: AtomicNet(
        nn.Sequential(nn.Linear(384, 8), norm(8), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 4), norm(4), nn.ReLU()),
        nn.Linear(4, 1),
    ),
    "linear": lambda: AtomicNet(nn.Linear(384, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_potential_says_what_the_notebook_says(kind, tmp_path):
    model = notebook(NETWORKS[kind])
    path = saved(model, tmp_path / "model.pt")
    assert is_notebook(path)
    assert not is_torchani(path)
    potential = read_notebook(path, activation="relu", self_energies=SELF_ENERGIES)
    assert potential.aev.settings == AEVSettings.ani1x()
    assert potential.trained == potential.elements == tuple("HCNO")
    assert difference(potential, model) < 1e-10
    assert np.abs(energies(model, molecules())).max() > 0.1  # it is no test of zeros


@pytest.mark.parametrize("depth", [1, 2])
def test_weights_of_the_source_are_kept_to_the_bit(depth, tmp_path):
    model = notebook(lambda: AtomicNet(*source(depth))).float()
    state = model.state_dict()
    assert "1.0.layers.0.weight" in state
    path = saved(model, tmp_path / "model.pt")
    potential = read_notebook(path, activation="relu", self_energies=SELF_ENERGIES)
    assert isinstance(potential, ANIModel)
    assert potential.dtype == torch.float32
    for k, element in enumerate("HCNO"):
        for i in range(depth + 1):
            for kind in ("weight", "bias"):
                ours = potential.networks.state_dict()[f"{element}.layers.{i}.{kind}"]
                assert torch.equal(ours, state[f"1.{k}.layers.{2 * i}.{kind}"])
    assert difference(potential, model.double()) < 1e-5


def test_all_iterations_of_the_source(tmp_path):
    """Its six: sigmoid, and dropout and sigmoid behind the output too, which names do not show."""
    sigmoid = notebook(lambda: AtomicNet(nn.Linear(384, 128), nn.Sigmoid(), nn.Linear(128, 1)))
    path = saved(sigmoid, tmp_path / "4.pt")
    four = read_notebook(path, activation="sigmoid", self_energies=SELF_ENERGIES)
    assert difference(four, sigmoid) < 1e-10
    five = notebook(
        lambda: AtomicNet(
            nn.Linear(384, 128), nn.Dropout(p=0.15), nn.Sigmoid(),
            nn.Linear(128, 1), nn.Dropout(p=0.15), nn.Sigmoid(),
        )
    )  # fmt: skip
    path = saved(five, tmp_path / "5.pt")
    again = read_notebook(
        path, activation="sigmoid", output_activation="sigmoid", self_energies=SELF_ENERGIES
    )
    assert difference(again, five) < 1e-10


def test_what_the_bridge_saves(tmp_path):
    bridge = pytest.importorskip("anipot.compat.torchani")
    settings = AEVSettings.ani1x()
    constants = [
        torch.tensor(values)
        for values in (
            settings.radial_eta, settings.radial_shifts, settings.angular_eta, settings.zeta,
            settings.angular_shifts, settings.angle_shifts,
        )
    ]  # fmt: skip
    model = nn.Sequential(
        bridge.AEVComputer(5.2, 3.5, *constants, 4),
        bridge.ANIModel([AtomicNet(*source(1)) for _ in range(4)]),
    )
    torch.save(model.state_dict(), tmp_path / "model.pt")
    potential = read_notebook(
        tmp_path / "model.pt", activation="relu", self_energies=dict.fromkeys("HCNO", 0.0)
    )
    conformers = molecules()
    with torch.no_grad():
        species, coordinates = as_padded(conformers, "HCNO")
        theirs = model((species, coordinates.float())).energies
    assert np.abs(potential.predict(conformers).energies - theirs.numpy()).max() < 1e-5


# ---- elements, cutoffs, units --------------------------------------------------------------------


def test_elements_in_the_order_of_the_notebook(tmp_path, caplog):
    model = notebook(NETWORKS["dropout"], AEVSettings.ani1x("OCHN"))
    path = saved(model, tmp_path / "m.pt")
    hints: dict[str, Any] = {"activation": "relu", "self_energies": SELF_ENERGIES}
    potential = read_notebook(path, elements="OCHN", **hints)
    assert difference(potential, model) < 1e-10
    assert isinstance(potential, ANIModel)
    assert potential.self_energies.values.tolist() == [SELF_ENERGIES[e] for e in "OCHN"]
    with caplog.at_level(logging.WARNING, "anipot"):
        assumed = read_notebook(path, **hints)
    assert assumed.elements == tuple("HCNO")
    assert "elements H C N O, in this order" in caplog.text
    assert any("H C N O" in a for a in assumed.about["assumed"])
    with pytest.raises(PotentialError, match=r"3 elements \(O C H\), but networks for 4"):
        read_notebook(path, elements="OCH", **hints)


@pytest.mark.parametrize("pattern", ["{}", "net_{}"])
def test_named_networks_tell_their_elements(pattern, tmp_path):
    names = [pattern.format(e) for e in ("S", "H", "Cl")]
    small = AEVSettings.ani2x(["S", "H", "Cl"])
    layers = lambda: AtomicNet(nn.Linear(small.length, 4), nn.ReLU(), nn.Linear(4, 1))  # noqa: E731
    model = notebook(layers, small, names)
    path = saved(model, tmp_path / "m.pt")
    potential = read_notebook(path, activation="relu", self_energies=[-398, -0.6, -460])
    assert potential.elements == ("S", "H", "Cl")
    assert potential.aev.settings == small
    assert difference(potential, model, "SHCl") < 1e-10
    with pytest.raises(PotentialError, match="S H Cl, in this order, but elements= says H S Cl"):
        read_notebook(path, elements="HSCl", activation="relu", self_energies=[-398, -0.6, -460])


def test_networks_without_names_that_are_not_four(tmp_path):
    two = AEVSettings.ani1x("HO")
    model = notebook(lambda: nn.Sequential(nn.Linear(two.length, 1)), two)
    path = saved(model, tmp_path / "m.pt")
    hints: dict[str, Any] = {"activation": "relu", "self_energies": [-0.6, -75.2]}
    with pytest.raises(PotentialError, match="2 networks have no names; give elements="):
        read_notebook(path, **hints)
    assert difference(read_notebook(path, elements="HO", **hints), model, "HO") < 1e-10


def test_an_ensemble_of_a_notebook(tmp_path):
    one, two = notebook(NETWORKS["dropout"]), notebook(NETWORKS["no class around"])
    both = nn.Sequential(one[0], nn.ModuleList([one[1], two[1]]))
    path = saved(both, tmp_path / "m.pt")
    potential = read_notebook(path, activation="relu", self_energies=SELF_ENERGIES)
    assert isinstance(potential, ANIEnsemble)
    assert difference(potential[0], one) < 1e-10
    assert difference(potential[1], two) < 1e-10


def test_cutoffs_of_ones_own(tmp_path):
    path = saved(notebook(NETWORKS["dropout"]), tmp_path / "m.pt")
    hints: dict[str, Any] = {"activation": "relu", "self_energies": SELF_ENERGIES}
    told = read_notebook(path, **hints).about["assumed"]
    assert any(a.startswith("radial_cutoff 5.2 angstrom") for a in told)
    assert any(a.startswith("angular_cutoff 3.5 angstrom") for a in told)
    given = read_notebook(path, radial_cutoff=6.0, angular_cutoff=4.0, **hints)
    assert (given.aev.settings.radial_cutoff, given.aev.settings.angular_cutoff) == (6, 4)
    assert not any("cutoff" in a for a in given.about["assumed"])
    with pytest.raises(PotentialError, match=r"m\.pt: angular_cutoff \(7.*must not exceed"):
        read_notebook(path, angular_cutoff=7.0, **hints)


def test_units(tmp_path):
    path = saved(notebook(NETWORKS["dropout"]), tmp_path / "m.pt")
    hints: dict[str, Any] = {"activation": "relu", "self_energies": dict.fromkeys("HCNO", 0.0)}
    conformers = molecules()
    hartree = anipot.load(path, **hints).predict(conformers).energies
    kcal = anipot.load(path, output_unit="kcal/mol", **hints).predict(conformers).energies
    assert np.allclose(hartree, kcal * 627.5094738898777, rtol=1e-12)


def test_wrappers_and_prefixes(tmp_path):
    model = notebook(NETWORKS["dropout"])
    hints: dict[str, Any] = {"activation": "relu", "self_energies": SELF_ENERGIES}
    state = {f"module.{k}": v for k, v in state_of(model).items()}
    optimizer = torch.optim.Adam(model.parameters())
    contents: Any
    for contents in (
        {
            "model": state,
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "best": torch.tensor(1.0),
        },
        {"state_dict": state},
        {"whatever": state, "loss": 0.1},
    ):
        torch.save(contents, tmp_path / "m.pt")
        assert difference(read_notebook(tmp_path / "m.pt", **hints), model) < 1e-10
    torch.save({"model": state, "average": state}, tmp_path / "m.pt")
    told = read_notebook(tmp_path / "m.pt", **hints).about["assumed"]
    assert "the weights in 'model', and not in average" in told
    torch.save({"a": state, "b": state}, tmp_path / "m.pt")
    with pytest.raises(PotentialError, match=r"several state dicts \(a, b\)"):
        read_notebook(tmp_path / "m.pt", **hints)


def test_networks_alone_and_an_aev_alone(tmp_path):
    model = notebook(NETWORKS["dropout"])
    hints: dict[str, Any] = {"activation": "relu", "self_energies": SELF_ENERGIES}
    torch.save(model[1].state_dict(), tmp_path / "nn.pt")
    with pytest.raises(PotentialError, match=r"no AEV constants.*give aev='ani1x'"):
        read_notebook(tmp_path / "nn.pt", **hints)
    assert difference(read_notebook(tmp_path / "nn.pt", aev="ani1x", **hints), model) < 1e-10
    torch.save(model[0].state_dict(), tmp_path / "aev.pt")
    with pytest.raises(PotentialError, match="an AEV computer but no networks"):
        read_notebook(tmp_path / "aev.pt", **hints)


# ---- what is not in the file ---------------------------------------------------------------------


def test_what_to_give_is_said(tmp_path):
    path = saved(notebook(NETWORKS["dropout"]), tmp_path / "m.pt")
    with pytest.raises(PotentialError) as e:
        read_notebook(path)
    for words in (
        str(path),
        "activation='relu' (or celu, gelu",
        "self_energies={'H': ...",
        "data=",
    ):
        assert words in str(e.value)
    with pytest.raises(PotentialError, match="give activation=") as e:
        read_notebook(path, self_energies=SELF_ENERGIES)
    assert "self_energies=" not in str(e.value)
    with pytest.raises(SettingsError, match="unknown activation 'Relu'"):
        read_notebook(path, activation="Relu", self_energies=SELF_ENERGIES)
    with pytest.raises(SettingsError, match="no value for O"):
        read_notebook(path, activation="relu", self_energies={"H": 0, "C": 0, "N": 0})
    linear = saved(notebook(NETWORKS["linear"]), tmp_path / "l.pt")  # it has no activation
    assert read_notebook(linear, self_energies=SELF_ENERGIES).elements == tuple("HCNO")


class Named(nn.Module):
    """Layers with names, which do not tell where the batch norm stands."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.fc1, self.bn1, self.fc2 = nn.Linear(384, 6), norm(6), nn.Linear(6, 1)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.bn1(torch.tanh(x)) if self.after else torch.tanh(self.bn1(x))
        result: Tensor = self.fc2(x)
        return result


@pytest.mark.parametrize("side", ["before", "after"])
def test_batch_norm_whose_place_the_names_do_not_tell(side, tmp_path):
    model = notebook(lambda: Named(side == "after"))
    path = saved(model, tmp_path / "m.pt")
    hints: dict[str, Any] = {"activation": "tanh", "self_energies": SELF_ENERGIES}
    with pytest.raises(PotentialError, match=r"batch_norm='before' or 'after'.*1\.0\.bn1"):
        read_notebook(path, **hints)
    assert difference(read_notebook(path, batch_norm=side, **hints), model) < 1e-10
    data = labelled(model)
    found = read_notebook(path, data=data, activation="tanh")
    assert difference(found, model) < 1e-10
    assert any(f"tanh, batch norm {side} the activation" in a for a in found.about["assumed"])


def labelled(model: nn.Module) -> Conformers:
    """Data whose energies are those of the notebook's model."""
    rng = np.random.default_rng(3)
    data = random_conformers(rng, rng.integers(2, 9, size=150))
    own = data.composition(list(SELF_ENERGIES)) @ np.array(list(SELF_ENERGIES.values()))
    return Conformers(
        data.atomic_numbers, data.coordinates, data.offsets, energies=own + energies(model, data)
    )


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "celu": lambda: nn.CELU(0.1), "gelu": nn.GELU, "silu": nn.SiLU,
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_self_energies_are_found_from_data(name, tmp_path, caplog):
    make = ACTIVATIONS[name]
    model = notebook(lambda: AtomicNet(nn.Linear(384, 12), make(), nn.Linear(12, 1)))
    path = saved(model, tmp_path / "m.pt")
    with caplog.at_level(logging.WARNING, "anipot"):
        potential = read_notebook(path, data=labelled(model))
    assert isinstance(potential, ANIModel)
    assert potential.networks.options()["activation"] == name
    assert potential.networks.options()["output_activation"] is None
    assert np.allclose(potential.self_energies.values, list(SELF_ENERGIES.values()), atol=1e-8)
    assert difference(potential, model) < 1e-10
    errors = potential.about["errors_kcalmol"]
    assert min(errors, key=errors.__getitem__) == name
    assert errors[name] < 1e-4 < sorted(errors.values())[1]
    assert {"relu", "gaussian", "sigmoid, sigmoid output"} <= set(errors)
    assert f"activation {name}, with a mean absolute error" in caplog.text
    # With self energies given, too.
    again = read_notebook(path, data=labelled(model), self_energies=SELF_ENERGIES)
    assert isinstance(again, ANIModel)
    assert again.networks.options()["activation"] == name


def test_an_activation_of_the_output_is_found_from_data(tmp_path):
    model = notebook(
        lambda: AtomicNet(nn.Linear(384, 12), nn.Sigmoid(), nn.Linear(12, 1), nn.Sigmoid())
    )
    path = saved(model, tmp_path / "m.pt")
    potential = read_notebook(path, data=labelled(model))
    assert isinstance(potential, ANIModel)
    assert potential.networks.options()["output_activation"] == "sigmoid"
    assert difference(potential, model) < 1e-10


def test_data_that_the_networks_do_not_explain_is_told(tmp_path):
    model = notebook(lambda: AtomicNet(nn.Linear(384, 12), nn.Tanh(), nn.Linear(12, 1)))
    path = saved(model, tmp_path / "m.pt")
    wrong = read_notebook(path, elements="ONCH", data=labelled(model))
    assert any("hardly more of the data than self energies" in a for a in wrong.about["assumed"])
    good = read_notebook(path, data=labelled(model))
    assert not any("hardly more" in a for a in good.about["assumed"])


def test_data_without_use(tmp_path):
    model = notebook(NETWORKS["dropout"])
    path = saved(model, tmp_path / "m.pt")
    with pytest.raises(DataError, match="no conformer with an energy"):
        read_notebook(path, data=molecules())
    sulfur = random_conformers(np.random.default_rng(0), [3], "S")
    energy = Conformers(
        sulfur.atomic_numbers, sulfur.coordinates, sulfur.offsets, energies=np.zeros(1)
    )
    with pytest.raises(DataError, match="H C N O alone"):
        read_notebook(path, data=energy)


# ---- broken and hostile files --------------------------------------------------------------------


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(PotentialError, match=reason) as e:
        read_notebook(path, activation="relu", self_energies=SELF_ENERGIES)
    assert str(e.value).startswith(f"{path}: ")
    assert "\n" not in str(e.value)


def test_nothing_in_a_file_is_run(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "m.pt"
    state: dict[str, Any] = dict(notebook(NETWORKS["dropout"]).state_dict())
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(state | {"0.EtaR": Evil(ran)}, path, **options)
        assert is_notebook(path)
        refused(path, r"Python objects.*torch\.save\(model\.state_dict\(\), path\)")
    path.write_bytes(pickle.dumps(Evil(ran)))
    refused(path, "what could run code is not loaded")
    assert not ran.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_whole_model_is_refused_with_the_way_out(tmp_path):
    torch.save(AtomicNet(*source(1)), tmp_path / "m.pt")
    refused(tmp_path / "m.pt", r"AtomicNet.*torch\.save\(model\.state_dict\(\), path\)")
    script = torch.jit.script(nn.Sequential(*source(1)))
    torch.jit.save(script, tmp_path / "s.pt")
    refused(tmp_path / "s.pt", r"TorchScript.*state_dict")


def test_files_cut_short_anywhere(tmp_path):
    whole = saved(notebook(NETWORKS["dropout"]), tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "m.pt"
    for length in [4, 5, 50, 500, *range(5000, len(whole), len(whole) // 12), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert is_notebook(path)
        refused(path, "or damaged|is damaged")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(data, small, tmp_path_factory):
    """No change makes anything but a potential or a PotentialError of one line."""
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(small) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.write_bytes(changed)
    is_torchani(path)
    is_notebook(path)
    try:
        potential = read_notebook(path, activation="relu", self_energies=SELF_ENERGIES)
    except PotentialError as e:
        message = str(e)
    else:
        message = f"{path}: "
        assert all(torch.isfinite(p).all() for p in potential.parameters())
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small notebook's file."""
    path = tmp_path_factory.mktemp("small") / "m.pt"
    return saved(notebook(NETWORKS["linear"]), path).read_bytes()


def test_other_files_are_not_taken_for_notebooks(tmp_path):
    for name, content in (("a", b""), ("b", b"H 0 0 0"), ("c", b"\x89HDF\r\n")):
        (tmp_path / name).write_bytes(content)
        assert not is_notebook(tmp_path / name)
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert not is_notebook(tmp_path / "x.npz")
    assert not is_notebook(tmp_path)
    assert not is_notebook(tmp_path / "missing")
    refused(tmp_path / "missing", "no such file")
    weights = {"a.weight": torch.zeros(1)}
    torch.save({"format": "anipot checkpoint 1", "model": weights}, tmp_path / "d")
    refused(tmp_path / "d", "state of a training")
    torch.save([1, 2], tmp_path / "e")
    refused(tmp_path / "e", "holds a list")
    torch.save({"epoch": 3}, tmp_path / "f")
    refused(tmp_path / "f", "no tensors")


def test_tensors_that_cannot_be_weights(tmp_path):
    state: dict[str, Any] = dict(notebook(NETWORKS["dropout"]).state_dict())
    path, name = tmp_path / "m.pt", "1.2.layers.3.weight"

    def changed(reason: str, **changes: Any) -> None:
        torch.save({k: v for k, v in (state | changes).items() if v is not None}, path)
        refused(path, reason)

    changed("not finite", **{name: torch.full((4, 8), torch.inf)})
    changed("float16", **{name: torch.zeros(4, 8).half()})
    changed("not as many numbers", **{name: torch.zeros(1).expand(1 << 20, 1 << 20)})
    changed("not an ordinary tensor", **{name: torch.zeros(4, 8).to_sparse()})
    changed("not an ordinary tensor", **{name: torch.zeros(4, 8, device="meta")})
    changed("reads 9 values", **{name: torch.zeros(4, 9)})
    changed("no linear layer", **{"1.2.layers.1.weight": torch.zeros(8)})  # a PReLU's, say
    changed("belongs to no linear layer", **{"1.2.layers.1.alpha": torch.zeros(8)})
    changed("which is none", **{"1.2.a\nb.weight": torch.zeros(8, 8)})
    changed("EtaA are missing", **{"0.EtaA": None})
    changed("two AEV computers", **{"9.EtaA": state["0.EtaA"]})


def test_layers_that_are_not_one_after_another_with_room_between(tmp_path):
    two = notebook(
        lambda: nn.Sequential(nn.Linear(384, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 1))
    )
    refused(saved(two, tmp_path / "m.pt"), r"between 1\.0\.2 and 1\.0\.3 there is no room")
    late = notebook(lambda: nn.Sequential(nn.Linear(384, 1), nn.Tanh(), norm(1)))
    refused(saved(late, tmp_path / "m.pt"), r"1\.0\.2 normalizes the output")


def test_a_compressed_archive_is_not_opened(tmp_path):
    buffer = io.BytesIO()
    torch.save(notebook(NETWORKS["dropout"]).state_dict(), buffer)
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refused(path, "compressed")
