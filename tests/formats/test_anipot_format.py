"""anipot's own potential file: the same bits back, and every damage noticed."""

import dataclasses
import hashlib
import json
import os
import resource
import signal
import struct

import numpy as np
import pytest
import torch
from helpers import random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import anipot
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.errors import PotentialError
from anipot.evaluation.description import describe
from anipot.formats import anipot_format
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel

KINDS = {
    "float32": {"hidden": [8, 4]},
    "float64": {"hidden": [8, 4], "dtype": "float64"},
    "widths": {"hidden": {"H": [3], "C": [5, 4], "N": [], "O": [2, 2, 2]}, "activation": "gelu"},
    "source": {
        "hidden": [6], "dropout": 0.25, "output_activation": "sigmoid", "output_dropout": True,
        "activation": "relu", "output_unit": "hartree",
    },
    "ani2x": {"hidden": [4], "aev": "ani2x"},
}  # fmt: skip


def new_model(elements: str = "HCNO", **options) -> ANIModel:
    model = ANIModel.create(elements, seed=3, **options)
    values = np.linspace(-0.61234567890123, -75.19446356, len(model.elements))
    model.self_energies = SelfEnergies(model.elements, values, "a note; with ünicode")
    return model


@pytest.fixture(scope="module")
def molecules() -> Conformers:
    return random_conformers(np.random.default_rng(0), [1, 3, 9, 5, 14], "HCNO")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    """A small potential's file."""
    path = tmp_path_factory.mktemp("own") / "p.safetensors"
    new_model("HO", hidden=[2]).save(path, level_of_theory="wB97X/6-31G(d)")
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


# ---- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same_to_the_bit(kind, molecules, tmp_path):
    model = new_model(**KINDS[kind])
    about = {"level_of_theory": "x", "list": [1, (2, np.float32(0.5))], "array": np.arange(3)}
    path = model.save(tmp_path / "my.potential.safetensors", **about, nan=float("nan"))
    again = anipot.load(path)
    assert not again.training
    before = model.predict(molecules, forces=True, atomic=True)
    after = again.predict(molecules, forces=True, atomic=True)
    for name in ("energies", "forces", "atomic_energies"):
        a, b = getattr(before, name), getattr(after, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    for name, value in model.networks.state_dict().items():
        other = again.networks.state_dict()[name]
        assert torch.equal(value, other)
        assert value.dtype == other.dtype
    assert again.networks.options() == model.networks.options()
    assert str(again.networks) == str(model.networks)
    assert again.aev.settings == model.aev.settings
    assert np.array_equal(again.self_energies.values, model.self_energies.values)
    assert again.self_energies.note == model.self_energies.note
    assert (again.output_unit, again.dtype) == (model.output_unit, model.dtype)
    assert again.about["list"] == [1, [2, 0.5]]
    assert again.about["array"] == [0, 1, 2]
    assert again.about["nan"] is None
    assert all(p.requires_grad for p in again.networks.parameters())
    # Saved again it is the same file.
    assert again.save(tmp_path / "2.safetensors").read_bytes() == path.read_bytes()


def test_constants_of_ones_own_come_back_exactly(tmp_path, molecules):
    ani1x = AEVSettings.ani1x("HCNO")
    own_settings = dataclasses.replace(
        ani1x,
        radial_cutoff=4.7,
        radial_eta=(16.0, 1 / 3),
        angle_shifts=(0.1, np.pi / 3),
        zeta=(8.0, 14.1),
    )
    model = ANIModel.create("HCNO", aev=own_settings, hidden=[4], dtype="float64")
    again = anipot.load(model.save(tmp_path / "p.safetensors"))
    assert again.aev.settings == own_settings
    assert np.array_equal(again.predict(molecules).energies, model.predict(molecules).energies)


def test_loading_leaves_the_random_state_of_the_caller_alone(saved, tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(saved)
    before = torch.get_rng_state()
    anipot.load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_potential_does_not_change_with_its_file(saved, tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(saved)
    model = anipot.load(path)
    weights = [p.clone() for p in model.networks.parameters()]
    values = model.self_energies.values.copy()
    with path.open("r+b") as file:  # in place: the same file to whoever has it mapped
        file.seek(len(saved) // 2)
        file.write(b"\x00" * (len(saved) - len(saved) // 2))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.networks.parameters(), strict=True))
    assert np.array_equal(values, model.self_energies.values)


# ---- damage ------------------------------------------------------------------------------------


def load_bytes(folder, data: bytes) -> ANIModel:
    path = folder / "bad.safetensors"
    path.write_bytes(data)
    return anipot.load(path)


def contents(data: bytes) -> tuple:
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    return header, data[8 + n :]


def same_contents(a: bytes, b: bytes) -> bool:
    """Whether two files differ in white space of their description at most."""
    try:
        return contents(a) == contents(b)
    except (ValueError, OverflowError):
        return False


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_file_cut_short_anywhere_is_refused(saved, folder, data):
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    length = data.draw(
        st.one_of(
            st.integers(0, 8),
            st.integers(8, header),
            st.integers(header, len(saved) - 1),
            st.sampled_from([0, 7, 8, 9, header - 1, header, header + 1, len(saved) - 1]),
        )
    )
    with pytest.raises(PotentialError, match=r"bad\.safetensors"):
        load_bytes(folder, saved[:length])
    with pytest.raises(PotentialError, match=r"bad\.safetensors"):
        load_bytes(folder, saved + saved[: max(length, 1)])  # and one with more behind it


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_byte_anywhere_is_noticed(saved, folder, data):
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(saved) - 1)))
    changed = bytearray(saved)
    changed[place] ^= data.draw(st.integers(1, 255))
    if place < header and same_contents(bytes(changed), saved):
        assert load_bytes(folder, bytes(changed)).elements == ("H", "O")  # changed white space
        return
    with pytest.raises(PotentialError, match=r"bad\.safetensors"):
        load_bytes(folder, bytes(changed))


def test_every_byte_of_the_weights_is_covered(saved, folder):
    """Each of the bytes behind the header, one by one, with its lowest bit turned."""
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    for place in range(header, len(saved), 37):
        changed = bytearray(saved)
        changed[place] ^= 1
        with pytest.raises(PotentialError, match="damaged"):
            load_bytes(folder, bytes(changed))


# ---- files made by hand, with a right checksum -------------------------------------------------


def parts(saved: bytes) -> tuple[dict, dict[str, torch.Tensor]]:
    text = contents(saved)[0]["__metadata__"]["anipot"]
    return json.loads(text.split(" ", 1)[1]), load_tensors(saved)


def made(header, tensors: dict[str, torch.Tensor]) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    # The checksum written out, so that the reader is not tested against itself.
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"\n{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.contiguous().numpy().tobytes())
    return save_tensors(tensors, {"anipot": f"{digest.hexdigest()} {text}"})


def test_the_checksum_is_as_described(saved, folder, molecules):
    header, tensors = parts(saved)
    water = random_conformers(np.random.default_rng(0), [3], "HO")
    again = load_bytes(folder, made(header, tensors))
    (folder / "p.safetensors").write_bytes(saved)
    expected = anipot.load(folder / "p.safetensors").predict(water).energies
    assert np.array_equal(again.predict(water).energies, expected)


WEIGHT = "networks.0.H.0.weight"


def nets(header: dict) -> dict:
    return header["members"][0]["networks"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, t: t.pop(WEIGHT), f"{WEIGHT} must be .* is missing"),
        (lambda h, t: t.pop("self_energies"), "self_energies are missing"),
        (lambda h, t: t.update({WEIGHT: t[WEIGHT].T.contiguous()}), r"\(2, .*\(112, 2\)|must be"),
        (lambda h, t: t.update({WEIGHT: t[WEIGHT].double()}), "float64"),
        (lambda h, t: t.update({WEIGHT: t[WEIGHT] * torch.nan}), f"{WEIGHT} holds .* not finite"),
        (lambda h, t: t.update(self_energies=t["self_energies"].float()), "in float64"),
        (lambda h, t: t.update(self_energies=t["self_energies"][:, :1]), r"not \(1, 2\)"),
        (lambda h, t: t.update(self_energies=t["self_energies"] * torch.inf), "one finite number"),
        (lambda h, t: t.update(more=torch.zeros(1)), "unexpected tensors: more"),
        (lambda h, t: h.update(format="anipot potential 9", news=1), "'anipot potential 9'"),
        (lambda h, t: h.pop("format"), "written as None"),
        (lambda h, t: h.pop("aev"), "aev: Field required"),
        (lambda h, t: h.update(extra="x"), "extra"),
        (lambda h, t: h.update(members=8), "members"),
        (lambda h, t: h.update(members=[]), "members"),
        (lambda h, t: h.update(members=h["members"] * 2), "self_energies .* not \\(2, 2\\)"),
        (lambda h, t: h["members"][0].update(trained=["C"]), "trained for"),
        (lambda h, t: h["members"][0].update(news=1), "news"),
        (lambda h, t: h.update(dtype="float16"), "'float16'"),
        (lambda h, t: h["members"][0].update(output_unit="parsec"), "'parsec'"),
        (lambda h, t: h.update(units={"length": "bohr", "energy": "hartree"}), "bohr"),
        (lambda h, t: h["aev"].update(elements=["H", "Xx"]), "'Xx'"),
        (lambda h, t: h["aev"].update(zeta="__import__('os').abort()"), "bad"),
        (lambda h, t: h["aev"].update(zeta=7), "bad"),
        (lambda h, t: h["aev"].update(radial_cutoff=None), "bad"),
        (lambda h, t: h["aev"].update(nothing=7), "nothing"),
        (lambda h, t: nets(h).update(activation="os.system"), "'os.system'"),
        (lambda h, t: nets(h).update(activation="__class__"), "'__class__'"),
        (lambda h, t: nets(h).update(hidden={"H": [-1], "O": [2]}), "positive"),
        (lambda h, t: nets(h).update(hidden={"H": [10**15], "O": [2]}), "must be|bad"),
        (lambda h, t: nets(h).update(hidden={"H": [10**30], "O": [2]}), "bad"),
        (lambda h, t: nets(h).update(hidden={"H": [3], "O": [2]}), "must be"),
        (lambda h, t: nets(h).update(dropout=2.0), "dropout"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(saved, folder, change, match):
    header, tensors = parts(saved)
    change(header, tensors)
    with pytest.raises(PotentialError, match=match) as e:
        load_bytes(folder, made(header, tensors))
    assert "bad.safetensors" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"x"', "{", "[" * 100_000, '{"format": NaN}', "__import__('os')"],
)
def test_a_description_that_is_none_is_refused(saved, folder, text):
    with pytest.raises(PotentialError, match=r"bad\.safetensors"):
        load_bytes(folder, made(text, parts(saved)[1]))


def test_text_that_looks_like_code_is_only_text(tmp_path, saved, folder):
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    header, tensors = parts(saved)
    header["about"] = {code: code, "nested": [{"__reduce__": code}, f"{{{code}}}", f"${{{code}}}"]}
    header["members"][0]["self_energies_note"] = header["anipot_version"] = code
    model = load_bytes(folder, made(header, tensors))
    assert model.about == header["about"]
    assert model.self_energies.note == code
    model.save(tmp_path / "again.safetensors")
    assert not trap.exists()


@pytest.mark.parametrize(
    "about",
    [
        {"name": "a\x1b[2Jb\nc"},
        {"data": {"files": 5, "conformers": []}},
        {"errors_kcalmol": {"test": {"mae": 10**400, "n": "many"}, "x": 1}, "assumed": 3},
    ],
)
def test_whatever_a_file_says_of_itself_can_be_shown(saved, folder, about):
    header, tensors = parts(saved)
    header["about"] = about
    text = describe(load_bytes(folder, made(header, tensors)))
    assert all(line.isprintable() for line in text.split("\n"))
    assert ("name" in about) == ("a [2Jb c" in text)


def test_other_files_are_refused(folder, tmp_path):
    foreign = save_tensors({"w": torch.zeros(3, dtype=torch.bfloat16)}, {"format": "pt"})
    with pytest.raises(PotentialError, match="not a potential saved by anipot"):
        load_bytes(folder, foreign)
    half = save_tensors({"w": torch.zeros(3, dtype=torch.bfloat16)}, {"anipot": "x {}"})
    with pytest.raises(PotentialError, match=r"bad\.safetensors"):
        load_bytes(folder, half)
    for data in (b"", b"\x80\x04.", b"PK\x03\x04" * 100, b"{}", b"\xff" * 64):
        with pytest.raises(PotentialError, match=r"bad\.safetensors: not a safetensors file"):
            load_bytes(folder, data)
    torch.save({"w": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(PotentialError, match=r"state\.pt"):
        anipot.load(tmp_path / "state.pt")
    with pytest.raises(PotentialError, match="there is no such file"):
        anipot.load(tmp_path / "none.safetensors")
    with pytest.raises(PotentialError, match=tmp_path.name):
        anipot.load(tmp_path)


# ---- writing -----------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = new_model("HO", hidden=[2])
    path = model.save(tmp_path / "p.safetensors")
    before = path.read_bytes()
    with torch.no_grad():
        next(iter(model.networks.parameters()))[0, 0] = torch.nan
    with pytest.raises(PotentialError, match=r"p\.safetensors: not saved.*H\.layers\.0\.weight"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_json_cannot_hold_is_refused(tmp_path):
    model = new_model("HO", hidden=[2])
    with pytest.raises(PotentialError, match=r"not (Posix|Windows)Path"):
        model.save(tmp_path / "p.safetensors", data=[{"path": tmp_path}])
    with pytest.raises(PotentialError, match=r"p\.safetensors"):
        model.save(tmp_path / "p.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = new_model("HO", hidden=[2]).save(tmp_path / "p.safetensors")
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anipot_format, "save", full)
    with pytest.raises(OSError, match="No space left"):
        new_model("HO", hidden=[64]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
def test_a_file_that_the_system_cuts_short_does_not_replace_the_old_one(tmp_path):
    """The system itself refuses to write more than some kilobytes."""
    path = new_model("HO", hidden=[2]).save(tmp_path / "p.safetensors")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            new_model("HO", hidden=[256]).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_self_describing(saved):
    """What a program without anipot finds in it."""
    header, tensors = parts(saved)
    assert header["aev"]["elements"] == ["H", "O"]
    assert header["units"] == {"length": "angstrom", "energy": "hartree"}
    assert header["about"]["level_of_theory"] == "wB97X/6-31G(d)"
    assert tensors["self_energies"].dtype == torch.float64
    assert tensors["networks.0.H.0.weight"].shape == (2, 2 * 16 + 3 * 32)
    assert tensors["networks.0.O.1.bias"].shape == (1,)
