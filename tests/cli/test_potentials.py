"""anipot potentials: what is known by name, what a potential is, fetching, converting."""

import io
import re
import zipfile

import numpy as np
import pytest
import torch
from helpers import random_conformers
from neurochem_files import LENGTH, write_ensemble

import anipot as package
from anipot.data.published.bundled import bundled_path
from anipot.formats.neurochem_constants import read_params

COMMANDS = ["list", "info", "fetch", "convert"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANIPOT_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("ANIPOT_ZOO_URL", "http://127.0.0.1:9/none.zip")
    return folder


@pytest.fixture
def tiny(tmp_path):
    return write_ensemble(tmp_path)[0]


def python_of(text: str) -> str:
    return "\n".join(
        line[2:] for line in text.split("In Python:\n\n")[1].split("\n\n")[0].splitlines()
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_readable_and_its_python_is_python(command, anipot, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = anipot("potentials", command, "--help")
    assert result.code == 0
    assert all(len(line) <= 88 for line in result.out.splitlines())
    compile(python_of(result.out), command, "exec")
    listed = anipot("potentials").out + anipot("potentials", "--help").out
    assert re.search(rf"^  {command} .*\.$", listed, re.MULTILINE)
    assert "..." not in listed.replace("[ARGS]...", "")


def test_python_of_the_help_works_when_pasted(anipot, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command, printed in (("list", "'ani1x': None"), ("info", "O, H"), ("convert", "")):
        text = python_of(anipot("potentials", command, "--help").out)
        exec(text.replace("POTENTIAL", str(tiny)), {})
        assert printed in capsys.readouterr().out
    assert (tmp_path / "OUT.safetensors").is_file()


def test_list_tells_what_is_where(anipot, cache, shared_potentials):
    result = anipot("potentials", "list")
    assert result.code == 0
    assert "not here: anipot potentials fetch ani1ccx" in result.out
    assert f"looked for in {cache}, " in result.out
    cache.mkdir()
    for name in ("ani-1x_8x", "ani-1x_8x.info"):
        (cache / name).symlink_to(shared_potentials / name)
    result = anipot("potentials", "list")
    assert re.search(
        rf"^ani1x +HCNO +wB97X/6-31G\(d\) +{re.escape(str(cache / 'ani-1x_8x.info'))}$",
        result.out,
        re.MULTILINE,
    )
    (cache / "ani-1x_8x").unlink()
    result = anipot("potentials", "list")
    assert result.code == 1
    assert re.search("^ani1x .* damaged, see below$", result.out, re.MULTILINE)
    assert "rHCNO-5.2R_16-3.5A_a4-8.params: cannot be read" in result.err


def test_info_of_any_potential(anipot, tiny, trained):
    result = anipot("potentials", "info", tiny)
    assert result.code == 0
    for part in (
        "read from        NeuroChem",
        "elements         O, H",
        "members          2, together 338 parameters, float32",
        "hidden layers    O 5-4; H 3; celu",
        "AEV              16 columns, cutoffs 5.2 (radial) and 3.5 (angular) angstrom",
        "O    -75.20000000 hartree",
        "errors           none known; anipot evaluate measures them",
    ):
        assert part in result.out
    own = anipot("potentials", "info", trained).out
    errors = package.load(trained).about["errors_kcalmol"]["test"]
    assert f"test: MAE {errors['mae']:.3f}, RMSE {errors['rmse']:.3f}" in own
    assert f"(N {errors['n']})" in own
    assert "trained on       hcno_wb97x_631gd.h5" in own
    assert "members          1, " in own


def test_info_of_a_published_potential(anipot, shared_potentials, monkeypatch):
    monkeypatch.setenv("ANIPOT_CACHE", str(shared_potentials))
    out = anipot("potentials", "info", "ANI-2x").out
    assert "level of theory  wB97X/6-31G(d)" in out
    assert (
        "hidden layers    H 256-192-160; C 224-192-160; N O 192-160-128; S F Cl 160-128-96" in out
    )
    assert "J. Chem. Theory Comput. 2020, 16, 4192" in out


def test_convert_loses_nothing(anipot, tiny, tmp_path):
    out = tmp_path / "one.safetensors"
    result = anipot("potentials", "convert", tiny, out)
    assert result.code == 0
    assert result.out.endswith(f"written to {out}\n")
    assert "members          2" in result.out
    molecules = random_conformers(np.random.default_rng(0), [1, 5, 9], "HO")
    before, after = (package.load(p).predict(molecules, forces=True) for p in (tiny, out))
    assert np.array_equal(before.energies, after.energies)
    assert np.array_equal(before.energy_std, after.energy_std)
    assert np.array_equal(before.forces, after.forces)
    assert anipot("potentials", "convert", tiny, out).out.endswith(f"written to {out} (replaced)\n")
    again = anipot("potentials", "convert", out, out)
    assert again.code == 2
    assert f"{out} is the potential to convert" in again.err
    wrong = anipot("potentials", "convert", tiny, tmp_path / "one.pt")
    assert wrong.code == 2
    assert "a potential is saved as a .safetensors file" in wrong.err


def test_fetch(anipot, cache, shared_potentials, tmp_path, monkeypatch):
    result = anipot("potentials", "fetch", "ani1x")
    assert result.code == 2
    assert "anipot potentials fetch ani1x" in result.err
    assert str(cache) in result.err
    assert anipot("potentials", "fetch", "ani9x").code == 2
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in (shared_potentials / "ani-1x_8x").rglob("*.*"):
            archive.write(path, f"zoo/{path.relative_to(shared_potentials).as_posix()}")
        archive.write(shared_potentials / "ani-1x_8x.info", "zoo/ani-1x_8x.info")
    (tmp_path / "zoo.zip").write_bytes(content.getvalue())
    monkeypatch.setenv("ANIPOT_ZOO_URL", (tmp_path / "zoo.zip").as_uri())
    result = anipot("potentials", "fetch", "ANI-1x")
    assert result.code == 0
    assert result.out == f"{cache / 'ani-1x_8x.info'} and {cache / 'ani-1x_8x'} (checked)\n"
    assert result.err.startswith("fetching ani1x from file:")
    again = anipot("potentials", "fetch", "ani1x")
    assert (again.out, again.err) == (result.out, "")


def test_constants_from_a_parameter_file(anipot, tmp_path):
    """Or all of them on the command line; for info, too."""
    write_ensemble(tmp_path)
    params = tmp_path / "tiny" / "tiny.params"
    nets = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(LENGTH, 1)) for _ in range(2))
    source = tmp_path / "net.pt"
    torch.save(nets.state_dict(), source)
    energies = "self_energies={H: -0.6, O: -75.2}"
    out = tmp_path / "net.safetensors"
    result = anipot("potentials", "convert", source, out, f"aev={params}", energies)
    assert result.code == 0, result.err
    assert package.load(out).aev.settings == read_params(params)
    text = (
        "aev={Rcr: 5.2, Rca: 3.5, EtaR: [16], ShfR: [0.9, 2.1], Zeta: 32, ShfA: [0.9, 1.55], "
        "EtaA: 8, ShfZ: [0.19634954, 1.3744468], Atyp: [O, H]}"
    )
    for aev in (text, f"aev={params}"):
        info = anipot("potentials", "info", source, aev, energies)
        assert info.code == 0, info.err
        assert "O, H" in info.out
        assert "cutoffs 5.2 (radial) and 3.5 (angular)" in info.out
    wrong = anipot("potentials", "info", source, "aev={Rcr: 5.2}", energies)
    assert (wrong.code, wrong.out) == (2, "")
    assert "wrong or missing" in wrong.err
    assert "aev=FILE.params" in anipot("potentials", "convert", "--help").out


def test_convert_a_notebook_with_hints(anipot, tmp_path):
    torch.manual_seed(0)
    source, out = tmp_path / "net.pt", tmp_path / "net.safetensors"
    nets = [torch.nn.Sequential(torch.nn.Linear(384, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))]
    torch.save({f"{i}.{k}": v for i in range(4) for k, v in nets[0].state_dict().items()}, source)
    without = anipot("potentials", "convert", source, out, "aev=ani1x")
    assert without.code == 2
    assert "activation" in without.err
    assert not out.exists()
    wrong = anipot("potentials", "convert", source, out, "activation")
    assert "'activation' is no hint such as activation=relu" in wrong.err
    for hint, reason in (
        ("self_energies=-0.5", "self_energies= must be a number for each of H, C, N, O, not -0.5"),
        ("self_energies={H: x, C: 1, N: 1, O: 1}", "self_energies= must be a number for each"),
        ("radial_cutoff=far", "radial_cutoff must be a number, but is 'far'"),
        ("output_unit=5", "unknown unit of energy '5'"),
        ("dtype=[1]", "unknown precision dtype='[1]'"),
    ):
        wrong = anipot("potentials", "convert", source, out, "aev=ani1x", "activation=relu", hint)
        assert (wrong.code, wrong.out) == (2, "")
        assert reason in wrong.err
    energies = "self_energies={H: -0.5, C: -38, N: -54.5, O: -75}"
    words = ["aev=ani1x", "elements=HCNO", "activation=relu", energies]
    result = anipot("potentials", "convert", source, out, *words)
    assert result.code == 0, result.err
    assert "assumed" in result.out
    assert "-54.5" in result.out
    assert package.load(out).networks["H"].activation_name == "relu"
    found = anipot("potentials", "convert", source, tmp_path / "b.safetensors", "aev=ani1x",
                   f"data={bundled_path()}")  # fmt: skip
    assert found.code == 0, found.err
