"""anipot evaluate: the numbers of the run again, and a warning where they are too good."""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

import anipot as package
from anipot.data.published.bundled import bundled_path, load_bundled

KCAL = 627.5094738898777


@pytest.fixture
def potential(trained):
    return trained / "potential.safetensors"


def test_the_test_part_gives_the_error_of_the_run(anipot, trained, potential, tmp_path):
    """The potential alone knows which conformers these were."""
    result = anipot("evaluate", potential, "--part", "test", "-o", tmp_path / "out")
    assert result.code == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    expected = json.loads((trained / "run.json").read_text())["results"]
    assert found["energy"] == expected["test"]["energy"]
    assert found["by_formula"] == expected["test"]["by_formula"]
    assert found["note"] == ""
    assert "Beware" not in result.out
    for name in ("parity", "error_by_composition"):
        for ending in ("png", "svg"):
            assert (tmp_path / "out" / f"{name}.{ending}").stat().st_size > 1000
    assert f"test: {expected['test']['energy']['n']} conformers" in result.out
    assert "error by number of heavy atoms (kcal/mol)" in result.out


@pytest.mark.parametrize("part", ["train", "validation"])
def test_the_other_parts(part, anipot, trained, potential, tmp_path, quick_figures):
    assert anipot("evaluate", potential, "--part", part, "-o", tmp_path).code == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    report = json.loads((trained / "run.json").read_text())
    assert found["energy"]["n"] == report["data"]["split"][part]
    if part == "validation":
        assert found["energy"] == report["results"]["validation"]["energy"]


def test_training_data_is_worth_a_warning(anipot, potential):
    result = anipot("evaluate", potential, bundled_path())
    assert result.code == 0
    n = f"{len(load_bundled()):,}"
    assert f"Beware: the potential was trained on 164 of these {n} conformers" in result.out
    assert re.search(rf"^{n} conformers of ", result.out, re.MULTILINE)


def test_other_data(anipot, potential, tmp_path, quick_figures):
    data = load_bundled().select(heavy_atoms=2, per_molecule=3, seed=9)
    other = replace(data, sources=("other.npz",))
    other.save(tmp_path / "other.npz")
    result = anipot("evaluate", potential, tmp_path / "other.npz", "-o", tmp_path / "out")
    assert result.code == 0
    assert "Beware" not in result.out
    model = package.load(potential)
    error = (model.predict(data).energies - data.energies) * KCAL
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["energy"]
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-9)
    refused = anipot("evaluate", potential, tmp_path / "other.npz", "--part", "test")
    assert refused.code == 2
    assert "part 'test' cannot be told: this is not the data" in refused.err
    assert "hcno_wb97x_631gd.h5" in refused.err


def test_keys_and_units_of_a_file(anipot, potential, tmp_path, quick_figures):
    """Ethane in electronvolt and nanometre, under names of its own."""
    data = load_bundled().select(molecules=["CC"], per_molecule=4)
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        group = file.create_group("ethane")
        group["where"] = data.coordinates.reshape(4, -1, 3) * 0.1
        group["who"] = data.atomic_numbers[:8]
        group["ev"] = data.energies * 27.211386024367243
    result = anipot(
        *("evaluate", potential, tmp_path / "odd.h5", "-o", tmp_path / "out"),
        *("--energy-key", "ev", "--energy-unit", "eV", "--length-unit", "nm"),
        *("--coordinates-key", "where", "--species-key", "who"),
    )
    assert result.code == 0, result.err
    error = (package.load(potential).predict(data).energies - data.energies) * KCAL
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["energy"]
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)


def test_what_cannot_be_evaluated(anipot, potential, tmp_path):
    data = load_bundled().select(heavy_atoms=1, per_molecule=2)
    numbers = data.atomic_numbers.copy()
    numbers[0] = 17
    replace(data, atomic_numbers=numbers).save(tmp_path / "cl.npz")
    result = anipot("evaluate", potential, tmp_path / "cl.npz")
    assert result.code == 2
    assert "atom 0 of conformer 0" in result.err
    assert "Cl, which this model does not know; it knows H, C, N, O" in result.err
    (tmp_path / "bad.safetensors").write_bytes(potential.read_bytes()[:1000])
    result = anipot("evaluate", tmp_path / "bad.safetensors")
    assert result.code == 2
    assert "bad.safetensors: not a safetensors file, or cut short" in result.err
    (tmp_path / "plain.xyz").write_text("1\n\nH 0 0 0\n")
    result = anipot("evaluate", potential, tmp_path / "plain.xyz")
    assert result.code == 2
    assert "energy" in result.err


def test_energies_of_another_unit_are_told(anipot, potential, tmp_path):
    data = load_bundled().select(heavy_atoms=1, per_molecule=3)
    wrong = replace(data, energies=data.energies * 27.211386024367243, sources=("ev.npz",))
    wrong.save(tmp_path / "ev.npz")
    result = anipot("evaluate", potential, tmp_path / "ev.npz")
    assert "WARNING" in result.err
    assert "they look like eV; if so, give energy_unit='eV' (or --energy-unit eV)" in result.err
    assert "WARNING" not in anipot("evaluate", potential).err


def test_gradients_and_what_is_replaced(anipot, trained, tmp_path, quick_figures):
    path = tmp_path / "frame.extxyz"
    path.write_text(
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.17 family=mine\n"
        "H 0 0 0 0 0 0.1\nH 0 0 0.74 0 0 -0.1\n"
    )
    words = ("--energy-unit", "hartree", "--forces-sign", "gradient", "--group-key", "family")
    out = tmp_path / "out"
    first = anipot("evaluate", trained, path, *words, "-o", out)
    assert first.code == 0
    assert "replaced" not in first.out
    assert (
        f"written to {out}/ (replaced): evaluation.json"
        in anipot("evaluate", trained, path, *words, "-o", out).out
    )
    wrong = anipot("evaluate", trained, path, "--forces-sign", "minus")
    assert wrong.code == 2
    assert "option 'forces_sign'" in wrong.err
    assert "'forces' or 'gradient'" in wrong.err
