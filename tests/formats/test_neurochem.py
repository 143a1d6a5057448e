"""NeuroChem's files: the right numbers from good ones, the file and the reason from bad ones."""

import bz2
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_conformers
from hypothesis import given, settings
from hypothesis import strategies as st
from neurochem_files import LENGTH, SELF_ENERGIES, network_text, packed, write_ensemble

import anipot
from anipot.aev.settings import AEVSettings
from anipot.data.conformers import Conformers
from anipot.errors import PotentialError, SettingsError
from anipot.formats.neurochem import is_neurochem, read_neurochem
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

METHANE = Conformers(
    np.array([6, 1, 1, 1, 1], dtype=np.uint8),
    np.array(
        [
            [0.03192167, 0.00638559, 0.01301679],
            [-0.83140486, 0.39370209, -0.26395324],
            [-0.66518241, -0.84461308, 0.20759389],
            [0.45554739, 0.54289633, 0.81170881],
            [0.66091919, -0.16799635, -0.91037834],
        ]
    ),
    np.array([0, 5]),
)
#: hartree: total energy, networks' part (two independent implementations in float64 agree on them)
ANCHORS = {
    "ani-1x": (-40.459022103410, 0.027951056590),
    "ani-1ccx": (-40.425620576244, 0.008488014297),
    "ani-2x": (-40.459790738036, 0.020981619993),
}
PUBLISHED = pytest.mark.parametrize("name", ANCHORS)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The ``.info`` file of a small ensemble of two; its files are in ``tiny/`` beside it."""
    return write_ensemble(tmp_path)[0]


def water(seed: int = 0) -> Conformers:
    return random_conformers(np.random.default_rng(seed), [3, 1, 7], ["O", "H"])


# ---- published potentials ------------------------------------------------------------------------


@PUBLISHED
def test_anchor_energies(shared_potentials, name):
    total, networks = ANCHORS[name]
    path = shared_potentials / f"{name}_8x.info"
    double = read_neurochem(path, dtype=torch.float64)
    single = read_neurochem(path)
    assert single.dtype == torch.float32
    assert len(double) == 8
    for ensemble in (double, single.double(), read_neurochem(path.with_suffix("")).double()):
        found = ensemble.predict(METHANE)
        assert found.energies[0] == pytest.approx(total, abs=1e-9, rel=0)
        part = found.energies - ensemble[0].self_energies.of(METHANE)
        assert part[0] == pytest.approx(networks, abs=1e-9, rel=0)
    if name == "ani-1x":
        spread = found.energy_std[0] / 5**0.5
        assert spread == pytest.approx(1.5443e-3, abs=5e-8, rel=0)
        assert found.disagreement(METHANE)[0] == pytest.approx(spread, rel=1e-12)


@PUBLISHED
def test_published_constants_and_what_is_told(shared_potentials, name):
    ensemble = read_neurochem(shared_potentials / f"{name}_8x.info")
    assert ensemble.aev.settings == (
        AEVSettings.ani2x() if name == "ani-2x" else AEVSettings.ani1x()
    )
    assert ensemble.trained == ensemble.elements
    assert not ensemble.training
    assert ensemble.about["name"].lower() == name
    wanted = "CCSD(T)*/CBS" if name == "ani-1ccx" else "wB97X/6-31G(d)"
    assert ensemble.about["level_of_theory"] == wanted


def amine() -> Conformers:
    """C20H43N, stretched out: 64 atoms."""
    heavy = np.array([[1.27 * k, 0.44 * (-1) ** k, 0.0] for k in range(21)])
    numbers, points = [6] * 20 + [7], list(heavy)
    for k, (x, y, _) in enumerate(heavy):
        out = np.sign(y)
        for side in (-1, 1):
            numbers.append(1)
            points.append([x, y + 0.6 * out, 0.88 * side])
        if k == 0:
            numbers.append(1)
            points.append([x - 0.95, y - 0.5 * out, 0.0])
    return Conformers(np.array(numbers, dtype=np.uint8), np.array(points), np.array([0, 64]))


@PUBLISHED
def test_float32_is_close_enough_for_64_atoms(shared_potentials, name):
    path = shared_potentials / f"{name}_8x.info"
    molecule = amine()
    single = read_neurochem(path).predict(molecule)
    double = read_neurochem(path, dtype=torch.float64).predict(molecule)
    assert double.energies[0] < -800  # where float32 itself resolves 6e-5
    assert abs(single.energies[0] - double.energies[0]) < 1e-6


@PUBLISHED
def test_one_anipot_file_loses_nothing(shared_potentials, name, tmp_path):
    ensemble = read_neurochem(shared_potentials / f"{name}_8x.info")
    again = anipot.load(ensemble.save(tmp_path / "one.safetensors"))
    molecules = random_conformers(np.random.default_rng(3), [5, 12, 23], ensemble.elements)
    before, after = (p.predict(molecules, forces=True) for p in (ensemble, again))
    assert np.array_equal(before.energies, after.energies)
    assert np.array_equal(before.forces, after.forces)
    assert np.array_equal(before.energy_std, after.energy_std)
    assert again.about == ensemble.about


def test_a_member_is_a_model_of_its_own(shared_potentials):
    folder = shared_potentials / "ani-1x_8x"
    ensemble = read_neurochem(folder)
    model = read_neurochem(folder / "train3")
    assert isinstance(model, ANIModel)
    assert model.predict(METHANE).energies == ensemble[3].predict(METHANE).energies
    with pytest.raises(PotentialError, match=r"several potentials; name one of ani-1ccx_8x.info"):
        read_neurochem(shared_potentials)


# ---- a potential of the tests --------------------------------------------------------------------


@pytest.mark.parametrize("activation", [9, 5])
def test_energies_are_those_of_the_formula(tmp_path, activation):
    """Layer by layer in numpy, from the weights that were written."""
    path, weights = write_ensemble(tmp_path, 3, activation)
    ensemble = read_neurochem(path, dtype=torch.float64)
    assert ensemble.elements == ("O", "H")
    molecules = water()
    batch = ensemble[0].batch(molecules)
    aevs = batch.conformer_order(ensemble.aev(batch)).numpy()
    assert aevs.shape[1] == LENGTH

    def act(x: np.ndarray) -> np.ndarray:
        if activation == 5:
            return np.exp(-(x**2))
        return np.maximum(x, 0) + np.minimum(0, 0.1 * np.expm1(np.minimum(x, 0) / 0.1))

    expected = np.zeros((3, len(molecules)))
    conformer = np.repeat(np.arange(len(molecules)), molecules.n_atoms)
    for k, member in enumerate(weights):
        for number, aev, c in zip(molecules.atomic_numbers, aevs, conformer, strict=True):
            symbol = {1: "H", 8: "O"}[int(number)]
            *hidden, last = member[symbol]
            for w, b in hidden:
                aev = act(w @ aev + b)
            expected[k, c] += (last[0] @ aev + last[1])[0] + SELF_ENERGIES[symbol]
    found = ensemble.predict(molecules)
    np.testing.assert_allclose(found.energies, expected.mean(0), rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.energy_std, expected.std(0, ddof=1), rtol=0, atol=1e-11)


def test_all_ways_to_name_it_give_the_same(tiny):
    folder = tiny.with_suffix("")
    energies = read_neurochem(tiny).predict(water()).energies
    for path in (folder, str(folder), tiny.parent):
        assert np.array_equal(read_neurochem(path).predict(water()).energies, energies)
    one = read_neurochem(folder / "train1")
    shutil.copytree(folder / "train1", folder / "alone")
    for name in ("tiny.params", "sae_linfit.dat"):
        (folder / name).rename(folder / "alone" / name)
    alone = read_neurochem(folder / "alone")
    assert alone.predict(water()).energies.tolist() == one.predict(water()).energies.tolist()


def test_what_is_recognised(tiny, tmp_path):
    folder = tiny.with_suffix("")
    assert all(map(is_neurochem, (tiny, folder, folder / "train0", tmp_path)))
    (tmp_path / "empty").mkdir()
    others = (tmp_path / "empty", tmp_path / "no.info", folder / "tiny.params", Path("\0"))
    assert not any(map(is_neurochem, others))


def test_the_random_state_is_not_touched(tiny):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    read_neurochem(tiny)
    assert torch.equal(torch.get_rng_state(), before)


def test_options_that_are_wrong(tiny):
    with pytest.raises(SettingsError, match="unknown AEV engine 'fast'"):
        read_neurochem(tiny, engine="fast")
    with pytest.raises(SettingsError, match="dtype must be one of float32, float64"):
        read_neurochem(tiny, dtype=torch.float16)


# ---- broken files --------------------------------------------------------------------------------


def refused(path: Path, file: str, *reasons: str) -> None:
    """The error names the file first, and the reasons after it."""
    with pytest.raises(PotentialError) as e:
        read_neurochem(path)
    message = str(e.value)
    assert message.startswith(f"{path.parent / file}: "), message
    for reason in reasons:
        assert reason in message, message
    assert message.count(str(path.parent / file)) == 1


def text_of(path: Path) -> str:
    return bz2.decompress(path.read_bytes().partition(b"=\n")[2]).decode()


NETWORK = "tiny/train1/networks/ANN-O.nnf"


@pytest.mark.parametrize(
    ("file", "old", "new", "reasons"),
    [
        ("tiny.info", "2\n", "3\n", ["it says 3 members", "only 2", "missing", "train2"]),
        ("tiny.info", "2\n", "0\n", ["must be 1 to 1000, not '0'"]),
        ("tiny.info", "2\n", "9" * 50 + "\n", ["must be 1 to 1000"]),
        ("tiny.info", "2\n", "__import__('os')\n", ['must be 1 to 1000, not "__import__']),
        ("tiny.info", "2\n", "\n", ["four lines", "this one has 3"]),
        ("tiny.info", "tiny/train", "../tiny/train", ["leads out of the potential's folder"]),
        ("tiny.info", "tiny/tiny.params", "/etc/passwd", ["'/etc/passwd' leads out"]),
        ("tiny.info", "tiny/sae", "C:\\sae", ["leads out"]),
        ("tiny.info", "tiny", "tïny", ["not a text in ASCII"]),
        ("tiny/tiny.params", "Rca = 3.5", "Rcb = 3.5", ["Rca missing"]),
        ("tiny/tiny.params", "ShfR = [9", "ShfR = [open('x').read(),9", ["ShfR must be a number"]),
        ("tiny/tiny.params", "[1.6000000e+01]", "1.6", ["EtaR must be a list in brackets"]),
        ("tiny/tiny.params", "5.2000e+00", "nan", ["Rcr must be a number, but is 'nan'"]),
        ("tiny/tiny.params", "5.2000e+00", "1e999", ["radial_cutoff must be a positive"]),
        ("tiny/tiny.params", "Rcr = 5.2", "Rcr = 2.2", ["angular_cutoff (3.5) must not exceed"]),
        ("tiny/tiny.params", "Atyp = [O,H]", "Atyp = [O,Xx]", ["'Xx' is not the symbol"]),
        ("tiny/tiny.params", "TM = 1", "Atyp = [O,H]", ["Atyp is there twice"]),
        ("tiny/sae_linfit.dat", "H,1=", "C,1=", ["no self energy of H"]),
        ("tiny/sae_linfit.dat", "H,1=-", "H,1=-1e999", ["must be a number"]),
        ("tiny/sae_linfit.dat", "-0.600000000000", "-1e999", ["a self energy is not finite"]),
        ("tiny/sae_linfit.dat", "-0.600000000000", "exit()", ["H must be a number", "'exit()'"]),
        ("tiny/sae_linfit.dat", "H,1=", "O,1=", ["two self energies of O"]),
        ("tiny/sae_linfit.dat", "H,1=", "hydrogen ", ["line 3 must read as 'H,0=-0.6009'"]),
    ],
)
def test_broken_texts(tiny, file, old, new, reasons):
    path = tiny.parent / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    refused(tiny, file, *reasons)


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("nodes=5;", "nodes=__import__('os').system('true');", ["layer 1", "nodes must be a num"]),
        ("maxnorm=0;", "maxnorm=exit();", ["layer 1: maxnorm must be a number", "'exit()'"]),
        ("norm=-nan;", "norm=float('nan');", ["layer 1: norm must be a number"]),
        ("layer [", "import os\nlayer [", ["must begin with 'inputsize=N; atom_net O $'"]),
        ("]\n\n $", "]\nprint(1) $", ["layer 3: not understood at", "print(1)"]),
        ("activation=9;", "activation=7;", ["layer 1: activation 7", "5 (gaussian) or 9 (celu)"]),
        ("activation=9;", "activation=6;", ["layer 1: activation 6; a hidden layer"]),
        ("activation=6;", "activation=9;", ["layer 3: activation 9; the last layer may have 6"]),
        ("activation=9;", "", ["layer 1: activation is missing"]),
        ("nodes=5;", "nodes=5;\nnodes=5;", ["layer 1: nodes is there twice"]),
        ("nodes=5;", "nodes=6;", ["layer 1: 96 weights are needed", "80 are given"]),
        ("nodes=5;", "nodes=0;", ["layer 1: it has no nodes"]),
        ("nodes=5;", "nodes=5.5;", ["nodes must be a whole number, not '5.5'"]),
        ("bparam[5]", "bparam[6]", ["layer 1: 5 biases are needed"]),
        ("blocksize=5;", "blocksize=4;", ["layer 2", "20"]),
        ("inputsize=16;", "inputsize=384;", ["inputsize is 384", "an AEV of 16"]),
        ("atom_net O", "atom_net H", ["the network of H, not of O"]),
        ("btchnorm=0;", "btchnorm=1;", ["layer 1: it has batch normalization"]),
        ("FILE:ANN-O.nnf-l1.w", "FILE:../../train0/networks/w", ["leads out of the"]),
        ("FILE:ANN-O.nnf-l1.w", "FILE:/dev/zero/w", ["leads out of the"]),
        ("weights=FILE:", "weights=", ["layer 1: weights must be given as FILE:NAME[count]"]),
    ],
)
def test_broken_networks(tiny, old, new, reasons):
    path = tiny.parent / NETWORK
    text = text_of(path)
    assert old in text
    path.write_bytes(packed(text.replace(old, new, 1)))
    refused(tiny, NETWORK, *reasons)


def test_layers_that_do_not_fit(tiny):
    path = tiny.parent / NETWORK
    path.write_bytes(packed(network_text("O", [LENGTH, 5, 4, 2])))
    refused(tiny, NETWORK, "the last layer has 2 nodes instead of 1")
    other = network_text("O", [LENGTH, 5, 3, 1]).replace("blocksize=5", "blocksize=6")
    path.write_bytes(packed(other.replace("[15]", "[18]")))
    refused(tiny, NETWORK, "layer 2: blocksize is 6, but 5 goes in")
    path.write_bytes(packed(network_text("O", [LENGTH, *[1] * 65])))
    refused(tiny, NETWORK, "1 to 64 layers are needed, and there are 65")
    path.write_bytes(packed(network_text("O", [LENGTH])))
    refused(tiny, NETWORK, "must begin with")
    path.write_bytes(packed(network_text("O", [LENGTH, 5, 4, 1]).replace("=9", "=5", 1)))
    refused(tiny, NETWORK, "hidden layers with different activations: [5, 9]")
    path.write_bytes(packed(network_text("O", [LENGTH, 5, 4, 1], activation=5)))
    refused(tiny, "tiny/train1/networks/ANN-H.nnf", "activation 9 here, but 5 in the network of O")


def test_broken_streams(tiny):
    path = tiny.parent / NETWORK
    whole = path.read_bytes()
    head, _, stream = whole.partition(b"=\n")
    for content, reason in (
        (whole[:-20], "cut short"),
        (whole[: len(head) + 2], "cut short"),
        (b"", "does not begin with the length"),
        (b"os.remove('x')=\n" + stream, "does not begin with the length"),
        (head + b"=\nnot bz2 at all", "damaged"),
        (str(int(head) + 1).encode() + b"=\n" + stream, f"but has {int(head)}"),
        (str(int(head) - 1).encode() + b"=\n" + stream, "but has more"),
        (b"9999999=\n" + stream, "9,999,999 bytes, and 1,048,576 are the most"),
        (packed("inputsize=16; ätom"), "not ASCII"),
        (b"1=\n" + bytes(1 << 21), "more than the 1,048,576 bytes"),
    ):
        path.write_bytes(content)
        refused(tiny, NETWORK, reason)


def test_broken_weights(tiny):
    name = "tiny/train0/networks/ANN-H.nnf-l1.wparam"
    path = tiny.parent / name
    whole = path.read_bytes()
    numbers = np.frombuffer(whole, "<f4").copy()
    for content, reason in (
        (whole[:-1], "191 bytes, but 3 x 16 numbers in float32 have 192"),
        (b"", "0 bytes"),
        (whole + b"\0", "more than the 192 bytes"),
        (np.where(np.arange(48) == 7, np.nan, numbers).astype("<f4").tobytes(), "not finite"),
        (np.where(np.arange(48) == 7, np.inf, numbers).astype("<f4").tobytes(), "not finite"),
    ):
        path.write_bytes(content)
        refused(tiny, name, reason)
    path.unlink()
    refused(tiny, name, "there is no such file")
    os.mkfifo(path)  # to read it would be to wait for ever
    refused(tiny, name, "this is not a file")


def test_missing_files(tiny):
    folder = tiny.parent / "tiny"
    (folder / "train1/networks/ANN-H.nnf").unlink()
    refused(tiny, "tiny/train1/networks/ANN-H.nnf", "the network of H is missing")
    (folder / "train0").rename(folder / "train2")
    with pytest.raises(PotentialError, match="train1 is there, but train0 is missing"):
        read_neurochem(folder)
    (folder / "more.params").touch()
    shutil.rmtree(folder / "train2")
    (folder / "train1").rename(folder / "train0")
    with pytest.raises(PotentialError, match=r"one \*.params file .* more.params, tiny.params"):
        read_neurochem(folder)
    (folder / "more.params").unlink()
    (folder / "sae_linfit.dat").unlink()
    with pytest.raises(PotentialError, match=re.escape(f"{folder}: no sae*.dat file in it")):
        read_neurochem(folder)
    refused(tiny, "tiny.info", "it says 2 members")
    for path, reason in ((folder / "nothing", "no such file"), (tiny.parent / "e", "not a folder")):
        if path.name == "e":
            path.mkdir()
        with pytest.raises(PotentialError, match=reason):
            read_neurochem(path)


@pytest.mark.timeout(30)  # what is quadratic in such a text takes hours
def test_hostile_lengths_cost_no_time(tiny):
    path = tiny.parent / "tiny/tiny.params"
    whole = path.read_text()
    path.write_text(whole.replace("[O,H]", "[" + "H," * 300_000 + "H]"))
    refused(tiny, "tiny/tiny.params", "Atyp has 300,001 entries; 1000 at most")
    path.write_text(whole.replace("5.2000e+00", "1" * 900_000 + "x"))
    refused(tiny, "tiny/tiny.params", "Rcr must be a number, but is '1111", "...")
    path.write_text(whole)
    network = tiny.parent / NETWORK
    text = text_of(network)
    network.write_bytes(packed(text.replace("maxnorm=0;", f"maxnorm={'1' * 900_000}x;", 1)))
    refused(tiny, NETWORK, "layer 1: maxnorm must be a number")
    network.write_bytes(packed(text.replace("layer [", "layer" + " " * 900_000, 1)))
    refused(tiny, NETWORK, "must begin with")


def test_hostile_sizes_cost_no_memory(tiny):
    path = tiny.parent / NETWORK
    bomb = bz2.compress(bytes(1 << 26))
    text = network_text("O", [LENGTH, 30_000_000, 1])
    weights = path.with_name("ANN-O.nnf-l1.wparam")
    tracemalloc.start()
    try:
        path.write_bytes(b"1000=\n" + bomb)
        refused(tiny, NETWORK, "should have 1,000 bytes, but has more")
        path.write_bytes(packed(text))
        with weights.open("wb") as file:
            file.truncate(4 * LENGTH * 30_000_000)  # 2 GB that take no space on the disk
        refused(tiny, NETWORK, "more than the 268,435,456 weights")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return write_ensemble(tmp_path_factory.mktemp("fuzz"), 1)[0]


def read_or_refuse(path: Path) -> None:
    try:
        potential = read_neurochem(path)
    except PotentialError as e:
        assert str(path.parent) in str(e)  # noqa: PT017
    else:
        assert isinstance(potential, ANIEnsemble)
        assert all(torch.isfinite(p).all() for p in potential.parameters())


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_harmless(scratch, data):
    files = sorted(p for p in scratch.parent.rglob("*") if p.is_file())
    path = files[data.draw(st.integers(0, len(files) - 1))]
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    until = data.draw(st.integers(at, min(len(whole), at + 20)))
    between = data.draw(st.binary(max_size=20))
    try:
        path.write_bytes(whole[:at] + between + whole[until:])
        read_or_refuse(scratch)
    finally:
        path.write_bytes(whole)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_text_of_a_network_is_an_error_of_ours_or_harmless(scratch, data):
    """As above, inside the compressed text, where the sum of the stream does not protect."""
    path = scratch.parent / "tiny/train0/networks/ANN-O.nnf"
    whole = path.read_bytes()
    text = text_of(path)
    at = data.draw(st.integers(0, len(text)))
    until = data.draw(st.integers(at, min(len(text), at + 30)))
    token = st.sampled_from(["[", "]", ";", "=", "9", "$", "layer [", "\0", "nodes=1;", "-", "e"])
    between = "".join(data.draw(st.lists(token, max_size=3)))
    try:
        path.write_bytes(packed(text[:at] + between + text[until:]))
        read_or_refuse(scratch)
    finally:
        path.write_bytes(whole)
