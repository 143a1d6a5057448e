"""``aev=`` for files of networks alone: a name, a .params file, or all constants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import anipot
from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError, SettingsError
from anipot.formats.state_dict.model import given_constants

PARAMS = """TM = 1
Rcr = 4.6000e+00
Rca = 3.1000e+00
EtaR = [1.6000000e+01]
ShfR = [9.0000000e-01,2.1000000e+00,3.3]
Zeta = [3.2000000e+01]
ShfZ = [1.9634954e-01,1.3744468e+00]
EtaA = [8.0000000e+00]
ShfA = [9.0000000e-01,1.5500000e+00]
Atyp = [O,H]
"""
SETTINGS = AEVSettings(
    ("O", "H"), 4.6, 3.1, (16.0,), (0.9, 2.1, 3.3), (8.0,), (32.0,), (0.9, 1.55),
    (0.19634954, 1.3744468),
)  # fmt: skip
HINTS = {"activation": "relu", "self_energies": [-75.2, -0.6]}


@pytest.fixture
def networks(tmp_path) -> Path:
    """Two networks without names, and ``own.params`` beside."""
    nets = nn.ModuleList(
        nn.Sequential(nn.Linear(SETTINGS.length, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(2)
    )
    torch.save(nets.state_dict(), tmp_path / "n.pt")
    (tmp_path / "own.params").write_text(PARAMS)
    return tmp_path / "n.pt"


def test_all_ways_give_the_same_constants_and_elements(networks):
    params = networks.with_name("own.params")
    values = {k: v for k, v in SETTINGS.to_dict().items() if k != "elements"}
    short = {
        "Rcr": 4.6, "Rca": 3.1, "EtaR": 16.0, "ShfR": [0.9, 2.1, 3.3], "EtaA": [8.0], "Zeta": 32.0,
        "ShfA": [0.9, 1.55], "ShfZ": [0.19634954, 1.3744468], "Atyp": ["O", "H"],
    }  # fmt: skip
    for given in (params, str(params), SETTINGS, {**values, "elements": "OH"}, short):
        potential = anipot.load(networks, aev=given, **HINTS)
        assert potential.aev.settings == SETTINGS
    about = anipot.load(networks, aev=params, **HINTS).about
    assert not any("elements" in a for a in about["assumed"])  # the file says them
    # The names of elements in the file or in elements= go first.
    assert anipot.load(networks, aev=params, elements="HO", **HINTS).elements == ("H", "O")


def test_a_file_that_contradicts_the_names_is_refused(networks, tmp_path):
    nets = torch.load(networks)
    named = {k.replace("0.", "H.", 1) if k[0] == "0" else f"O{k[1:]}": v for k, v in nets.items()}
    torch.save(named, tmp_path / "named.pt")
    with pytest.raises(PotentialError, match=r"networks are for H O, in this order.* says O H"):
        anipot.load(tmp_path / "named.pt", aev=networks.with_name("own.params"), **HINTS)
    # Constants alone may be of any elements.
    assert anipot.load(tmp_path / "named.pt", aev=SETTINGS, **HINTS).elements == ("H", "O")


def test_a_byte_order_mark_does_no_harm(networks):
    params = networks.with_name("own.params")
    params.write_bytes(b"\xef\xbb\xbf" + params.read_bytes())
    assert given_constants(params) == SETTINGS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PARAMS.replace("Rcr", "Rxx"), r"own\.params: Rcr missing"),
        (PARAMS.replace("16", "1x6", 1).replace("1.6", "1.x"), r"own\.params: EtaR must be"),
        (PARAMS + "é", r"own\.params: not a text in ASCII"),
        (PARAMS.replace(",3.3", ""), r"n\.pt: .* for no number of elements"),
    ],
)
def test_files_that_do_not_fit_are_named(content, message, networks):
    params = networks.with_name("own.params")
    params.write_text(content, encoding="utf-8")
    with pytest.raises(PotentialError, match=message):
        anipot.load(networks, aev=params, **HINTS)


def test_names_files_and_constants_that_are_none(networks):
    for given, message in (
        ("ani9", "unknown AEV settings 'ani9'"),
        ({"Rcr": 5.2}, r"wrong or missing: angle_shifts, angular_cutoff"),
        ({**SETTINGS.to_dict(), "rcr": 5}, "wrong or missing: rcr"),
        ({**SETTINGS.to_dict(), "zeta": "many"}, "aev="),
    ):
        with pytest.raises(SettingsError, match=message):
            anipot.load(networks, aev=given, **HINTS)
    with pytest.raises(PotentialError, match=r"none\.params: there is no such file"):
        anipot.load(networks, aev="none.params", **HINTS)
