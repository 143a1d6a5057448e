"""anipot predict: the numbers of the model, in every form, for what it can describe."""

import csv
import json

import ase
import ase.io
import numpy as np
import pytest

import anipot as package
from anipot.data.load import load_dataset

KCAL = 627.5094738898777
EV = 27.211386024367243

WATERS = """3
first, as a program writes it
O 0.000 0.000 0.119
H 0.000 0.763 -0.477
H 0.000 -0.763 -0.477
3
second
O 0.000 0.000 0.130
H 0.000 0.800 -0.480
H 0.000 -0.700 -0.460
2

H 0 0 0
H 0 0 0.74
"""


@pytest.fixture
def potential(trained):
    return trained / "potential.safetensors"


@pytest.fixture
def xyz(tmp_path):
    path = tmp_path / "waters.xyz"
    path.write_text(WATERS)
    return path


@pytest.fixture
def expected(potential, xyz):
    return package.load(potential).predict(load_dataset(xyz, keep_unlabelled=True), forces=True)


def test_a_table(anipot, potential, xyz, expected):
    result = anipot("predict", potential, xyz)
    assert result.code == 0
    assert result.err == ""  # no progress bar where nobody looks
    head, *lines = result.out.rstrip().splitlines()
    assert head.split("  ")[0].strip() == "frame"
    found = [line.split() for line in lines]
    assert [f[1] for f in found] == ["H2O", "H2O", "H2"]
    np.testing.assert_allclose([float(f[2]) for f in found], expected.energies, atol=6e-9)
    e = expected.energies
    relative = [e[0] - min(e[:2]), e[1] - min(e[:2]), 0]
    np.testing.assert_allclose([float(f[3]) for f in found], np.array(relative) * KCAL, atol=6e-4)
    assert "force" not in result.out
    assert "max force / kcal/mol/A" in anipot("predict", potential, xyz, "--forces").out


def test_json_csv_and_extxyz(anipot, potential, xyz, expected, tmp_path):
    for ending in ("json", "csv", "extxyz"):
        out = tmp_path / f"out.{ending}"
        result = anipot("predict", potential, xyz, "--forces", "-o", out)
        assert result.code == 0
        assert result.out == f"3 predictions written to {out}\n"
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [r["energy_hartree"] for r in rows] == expected.energies.tolist()
    np.testing.assert_allclose(
        np.concatenate([r["forces_kcalmol_angstrom"] for r in rows]),
        expected.forces * KCAL,
        rtol=1e-6,
    )
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(r["energy_hartree"]) for r in table] == expected.energies.tolist()
    frames = ase.io.read(tmp_path / "out.extxyz", ":")
    energies = [f.get_potential_energy() for f in frames]
    np.testing.assert_allclose(energies, expected.energies * EV, rtol=1e-14)
    forces = np.concatenate([f.get_forces() for f in frames])
    np.testing.assert_allclose(forces, expected.forces * EV, atol=1e-6)


def test_forces_point_downhill(anipot, potential, tmp_path):
    """One step along the forces lowers the energy by about the step times their square."""
    path = tmp_path / "w.xyz"
    path.write_text(WATERS)
    anipot("predict", potential, path, "--forces", "-o", tmp_path / "a.extxyz")
    before = ase.io.read(tmp_path / "a.extxyz", ":")[1]
    step = 1e-3 / np.abs(before.get_forces()).max()
    moved = ase.Atoms(before.symbols, before.positions + step * before.get_forces())
    ase.io.write(tmp_path / "b.xyz", moved, format="xyz")
    anipot("predict", potential, tmp_path / "b.xyz", "-o", tmp_path / "b.extxyz")
    after = ase.io.read(tmp_path / "b.extxyz")
    gain = before.get_potential_energy() - after.get_potential_energy()
    assert gain == pytest.approx(step * (before.get_forces() ** 2).sum(), rel=0.1)
    assert gain > 0


def test_reference_energies_are_compared(anipot, potential, tmp_path, expected, xyz):
    frames = ase.io.read(xyz, ":")
    frames[1].info["energy"] = -76.4 * EV
    ase.io.write(tmp_path / "labelled.extxyz", frames, format="extxyz")
    result = anipot("predict", potential, tmp_path / "labelled.extxyz", "-o", tmp_path / "o.json")
    assert result.code == 0
    rows = json.loads((tmp_path / "o.json").read_text())
    assert "error_kcalmol" not in rows[0]
    error = (expected.energies[1] + 76.4) * KCAL
    assert rows[1]["error_kcalmol"] == pytest.approx(error, abs=1e-3)


def test_several_files_are_read_in_order(anipot, potential, xyz, expected, tmp_path):
    anipot("predict", potential, xyz, xyz, "-o", tmp_path / "o.json")
    rows = json.loads((tmp_path / "o.json").read_text())
    assert [r["frame"] for r in rows] == list(range(6))
    found = [r["energy_hartree"] for r in rows]
    np.testing.assert_allclose(found, np.tile(expected.energies, 2), rtol=1e-9)


def test_periodic_cells_and_stress(anipot, potential, tmp_path):
    water = ase.Atoms("OH2", [[0, 0, 0], [0, 0.76, -0.6], [0, -0.76, -0.6]], cell=[6] * 3, pbc=True)
    ase.io.write(tmp_path / "cell.extxyz", water)
    out = tmp_path / "o.extxyz"
    result = anipot("predict", potential, tmp_path / "cell.extxyz", "--stress", "-o", out)
    assert result.code == 0
    model = package.load(potential)
    found = model.predict(load_dataset(tmp_path / "cell.extxyz", keep_unlabelled=True), stress=True)
    stress = ase.io.read(out).get_stress(voigt=False)
    np.testing.assert_allclose(stress, found.stress[0] * EV, atol=1e-8)
    refused = anipot("predict", potential, xyz_of(tmp_path), "--stress", "-o", tmp_path / "p.json")
    assert refused.code == 2
    assert "stress needs a periodic cell" in refused.err


def xyz_of(folder):
    (folder / "w.xyz").write_text(WATERS)
    return folder / "w.xyz"


def test_what_cannot_be_described_names_atom_or_frame(anipot, potential, tmp_path):
    def refused(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        result = anipot("predict", potential, tmp_path / name)
        assert result.code == 2
        return result.err

    water = "O 0 0 0\nH 0 .7 .6\nH 0 -.7 .6\n"
    error = refused("s.xyz", f"3\n\n{water}2\n\nH 0 0 0\nS 0 0 1.3\n")
    assert "atom 1 of conformer 1" in error
    assert "S, which this model does not know; it knows H, C, N, O" in error
    for key, what in (("charge=-1", "charge"), ("spin=2", "spin"), ("multiplicity=3", "multipl")):
        comment = f"Properties=species:S:1:pos:R:3 {key}"
        error = refused("c.extxyz", f"3\n\n{water}3\n{comment}\n{water}")
        assert "frame 1" in error
        assert what in error
        assert "neutral closed-shell" in error
    assert refused("xx.xyz", "1\n\nXx 0 0 0\n").startswith("anipot: ")
    assert refused("cut.xyz", "3\n\nO 0 0 0\n").startswith("anipot: ")
    assert "empty" in refused("e.xyz", "")


def test_no_input_is_overwritten(anipot, potential, xyz, monkeypatch):
    before = xyz.read_bytes()
    monkeypatch.chdir(xyz.parent)
    for out in (xyz, xyz.name, f"../{xyz.parent.name}/{xyz.name}"):
        result = anipot("predict", potential, xyz, "-o", out)
        assert result.code == 2
        assert "is an input file; name another file to write to" in result.err
    assert xyz.read_bytes() == before


def test_reading_options(anipot, potential, tmp_path):
    """A file with names and units of its own gives what the same structure gives elsewhere."""
    bohr = 0.52917721067
    x = np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
    np.savez(tmp_path / "b.npz", xyz=x[None] / bohr, elem=["O", "H", "H"], etot=[-76.4])
    keys = ("--coordinates-key", "xyz", "--species-key", "elem", "--length-unit", "bohr")
    result = anipot("predict", potential, tmp_path / "b.npz", *keys, "-o", tmp_path / "b.json")
    assert result.code == 0
    plain = tmp_path / "w.xyz"
    plain.write_text("3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n")
    expected = package.load(potential).predict(load_dataset(plain, keep_unlabelled=True)).energies
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row["energy_hartree"] == pytest.approx(expected[0], abs=1e-6)
    assert "error_kcalmol" not in row  # its energies were not asked for
    keys += ("--energy-key", "etot", "--energy-unit", "hartree")
    anipot("predict", potential, tmp_path / "b.npz", *keys, "-o", tmp_path / "b.json")
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row["error_kcalmol"] == pytest.approx((expected[0] + 76.4) * KCAL, abs=1e-3)
    wrong = anipot("predict", potential, plain, "--length-unit", "furlong")
    assert wrong.code == 2
    assert "unknown unit of length 'furlong'" in wrong.err


def test_energies_of_an_unknown_unit_are_left_out(anipot, potential, tmp_path):
    x = np.array([[[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]])
    np.savez(tmp_path / "md.npz", R=x, z=[8, 1, 1], E=[-47911.0])
    result = anipot("predict", potential, tmp_path / "md.npz")
    assert result.code == 0
    assert "does not say in which unit its energies are: it is read without them" in result.err
    assert "error" not in result.out


def test_structures_of_another_length_unit_are_told(anipot, potential, tmp_path, xyz):
    near, far = tmp_path / "near.xyz", tmp_path / "far.xyz"
    for path, scale in ((near, 0.1), (far, 10.0)):
        atoms = ase.io.read(xyz, index=0)
        atoms.positions *= scale
        other = ase.io.read(xyz, index=1)
        ase.io.write(path, [other, atoms, atoms], format="xyz")
    result = anipot("predict", potential, near)
    assert result.code == 0
    assert result.err.count("WARNING") == 1
    assert "conformer 1 " in result.err
    assert "angstrom apart (less than 0.3); 2 of 3" in result.err
    result = anipot("predict", potential, far)
    assert result.err.count("WARNING") == 1
    assert "of conformer 1 (H2O" in result.err
    assert "has no other atom within 5.2 angstrom" in result.err
    assert "--length-unit" in result.err
    assert anipot("predict", potential, xyz).err == ""


def test_what_is_replaced_is_said(anipot, potential, xyz, tmp_path):
    out = tmp_path / "out.csv"
    first = anipot("predict", potential, xyz, "-o", out)
    assert first.out == f"3 predictions written to {out}\n"
    again = anipot("predict", potential, xyz, "-o", out)
    assert again.out == f"3 predictions written to {out} (replaced)\n"


def test_the_folder_of_a_run_is_its_potential(anipot, trained, xyz, tmp_path):
    by_folder = anipot("predict", trained, xyz)
    assert by_folder.code == 0
    assert by_folder.out == anipot("predict", trained / "potential.safetensors", xyz).out
    empty = anipot("predict", tmp_path, xyz)
    assert empty.code == 2
    assert "is a folder without a potential.safetensors" in empty.err
    checkpoint = anipot("predict", trained / "checkpoint.pt", xyz)
    assert checkpoint.code == 2
    assert f"not a potential; name {trained / 'potential.safetensors'}" in checkpoint.err


@pytest.mark.parametrize(("n", "tty", "shown"), [(1025, True, True), (1024, True, False),
                                                 (5000, False, False)])  # fmt: skip
def test_a_bar_where_it_is_of_use(n, tty, shown, monkeypatch):
    from anipot.cli.output import shows_progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: tty)
    assert shows_progress(n) is shown


def test_a_file_that_cannot_be_written_is_named(anipot, potential, xyz):
    result = anipot("predict", potential, xyz, "-o", xyz / "out.json")
    assert result.code == 2
    assert f"{xyz} is a file" in result.err
    assert f"'{xyz / 'out.json'}'" in result.err
    missing = anipot("predict", potential, xyz, "-o", xyz.parent / "no" / "out.json")
    assert f"the folder {xyz.parent / 'no'} is not there" in missing.err
