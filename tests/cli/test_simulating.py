"""anipot relax, vibrations, md, scan: files, refusals, interruption."""

import json
from pathlib import Path

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian

from anipot.formats.load import load
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.simulation.constraints import fixed
from anipot.system.interruption import Interruption


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with an ensemble's file and structures."""
    folder = tmp_path_factory.mktemp("simulating")
    options = {"hidden": [12, 8], "output_unit": "eV"}  # forces of a size that matters
    members = [ANIModel.create("HCNO", seed=k, **options) for k in range(2)]
    ANIEnsemble(members).save(folder / "p.safetensors")
    water = ase.build.molecule("H2O")
    ase.io.write(folder / "water.xyz", water, format="xyz")
    ase.io.write(folder / "two.xyz", [water, ase.build.molecule("CH3OH")], format="xyz")
    return folder


@pytest.fixture
def here(files, tmp_path, monkeypatch):
    """An empty working folder; the potential and the structures by their paths."""
    monkeypatch.chdir(tmp_path)
    return files / "p.safetensors", files / "water.xyz", files / "two.xyz"


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C at the n-th time that a command asks for it."""

    def at(n: int) -> None:
        asked = []
        requested = property(lambda self: asked.append(1) or len(asked) >= n, lambda self, v: None)
        monkeypatch.setattr(Interruption, "requested", requested, raising=False)

    return at


def test_relax_writes_every_structure(anipot, here, tmp_path):
    potential, _, two = here
    result = anipot("relax", potential, two, "--fmax", "0.05", "--double")
    assert result.code == 0, result.err
    assert "2 of 2 converged to 0.05 eV/angstrom" in result.out
    frames = ase.io.read(tmp_path / "two_relaxed.extxyz", ":")
    assert [f.get_chemical_formula() for f in frames] == ["H2O", "CH4O"]
    for f in frames:
        assert f.info["converged"]
        assert np.linalg.norm(f.get_forces(), axis=1).max() < 0.05
        assert f.info["energy_before"] > f.info["energy_after"] == f.get_potential_energy()
        assert f"{f.get_potential_energy():.6f}" in result.out


def test_relax_interrupted_and_resumed(anipot, here, tmp_path, interrupt, monkeypatch):
    potential, _, two = here
    anipot("relax", potential, two, "-o", "whole.extxyz")
    steps = ase.io.read("whole.extxyz", 0).info["steps"]
    interrupt(steps + 4)
    result = anipot("relax", potential, two)
    assert result.code == 130
    assert "1 structures are left; run the same command with --resume to continue" in result.err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert len(ase.io.read("two_relaxed.extxyz", ":")) == 1


def test_relax_goes_on_after_the_last_structure(anipot, here):
    potential, water, two = here
    anipot("relax", potential, two, "-o", "whole.extxyz")
    anipot("relax", potential, water, "-o", "part.extxyz")
    result = anipot("relax", potential, two, "-o", "part.extxyz", "--resume")
    assert result.code == 0
    assert "1 of 1 converged" in result.out
    frames = [ase.io.read(name, ":") for name in ("whole.extxyz", "part.extxyz")]
    for one, two_ in zip(*frames, strict=True):
        np.testing.assert_array_equal(one.positions, two_.positions)
    wrong = anipot("relax", potential, water, "-o", "whole.extxyz", "--resume")
    assert wrong.code == 2
    assert "does not hold the beginning of these structures" in wrong.err
    ANIModel.create("HCNO", seed=9, hidden=[12, 8]).save("other.safetensors")
    anipot("relax", potential, water, "-o", "kept.extxyz")
    other = anipot("relax", "other.safetensors", two, "-o", "kept.extxyz", "--resume")
    assert other.code == 2
    assert "this is not the potential of that run" in other.err
    assert len(ase.io.read("kept.extxyz", ":")) == 1


def test_vibrations_table_and_json(anipot, here):
    potential, water, _ = here
    refused = anipot("vibrations", potential, water)
    assert refused.code == 2
    assert "not a stationary point: the largest force is" in refused.err
    assert "--relax" in refused.err
    result = anipot("vibrations", potential, water, "--relax", "--symmetry", 2, "-o", "v.json")
    assert result.code == 0, result.err
    found = json.loads(Path("v.json").read_text())
    frequencies = found["frequencies_cm-1"]
    assert len(frequencies) == 3
    assert len(found["translations_and_rotations_cm-1"]) == 6
    assert found["max_force_ev_angstrom"] < 1e-4
    zero_point = sum(f for f in frequencies if f > 0) / 2 / 8065.544
    assert found["zero_point_energy_ev"] == pytest.approx(zero_point, rel=1e-5)
    for f in frequencies:
        assert f"{abs(f):.1f}" in result.out
    by_differences = anipot("vibrations", potential, water, "--relax", "--differences")
    assert "finite-difference Hessian" in by_differences.out


def test_md_files_and_resume(anipot, here, tmp_path, interrupt, monkeypatch):
    potential, water, _ = here
    words = ("md", potential, water, "--time", 10, "--timestep", 0.25, "--every", 4)
    words += ("--max-temperature", 1e6)
    whole = anipot(*words, "-o", "whole.extxyz")
    assert whole.code == 0, whole.err
    assert "300 K, 10 fs in 40 steps of 0.25 fs, seed 0" in whole.out
    assert "energy drift" in whole.out
    for ending in ("extxyz", "csv", "restart.npz", "png", "svg"):
        assert (tmp_path / f"whole.{ending}").stat().st_size > 0
    interrupt(15)
    cut = anipot(*words, "-o", "cut.extxyz")
    assert cut.code == 130
    assert (
        "interrupted after 15 of 40 steps; run the same command with --resume to continue"
        in cut.err
    )
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert anipot(*words, "-o", "cut.extxyz", "--resume").code == 0
    for ending in ("extxyz", "csv"):
        one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("whole", "cut"))
        assert one == two
    nvt = anipot(*words, "--nvt", "-o", "nvt.traj")
    assert nvt.code == 0
    assert "drift" not in nvt.out
    assert len(ase.io.read("nvt.traj", ":")) == 11


def test_md_that_goes_wrong_says_so_and_keeps_what_there_is(anipot, here):
    potential, water, _ = here
    result = anipot("md", potential, water, "--max-temperature", 10)
    assert result.code == 2
    assert "above 10 K: the simulation has exploded" in result.err
    assert "Everything up to there is saved" in result.err
    assert len(ase.io.read("water_md.extxyz", ":")) >= 1
    stopped = anipot("md", potential, water, "--overwrite", "--max-disagreement", 1e-9)
    assert stopped.code == 2
    assert "cannot begin: the members disagree" in stopped.err


def test_scan_table_file_and_figure(anipot, here, tmp_path):
    potential, water, _ = here
    result = anipot("scan", potential, water, "--distance", 0, 1, "--range", "0.9:1.1:5")
    assert result.code == 0, result.err
    frames = ase.io.read("water_scan.extxyz", ":")
    np.testing.assert_allclose([f.get_distance(0, 1) for f in frames], np.linspace(0.9, 1.1, 5))
    np.testing.assert_allclose(
        [f.info["distance_angstrom"] for f in frames], np.linspace(0.9, 1.1, 5)
    )
    energies = np.array([f.get_potential_energy() for f in frames])
    table = [line.split() for line in result.out.splitlines()[1:6]]
    relative = (energies - energies.min()) * 23.06055
    np.testing.assert_allclose([float(t[1]) for t in table], relative, atol=2e-3)
    assert (tmp_path / "water_scan.png").exists()


def test_scan_that_goes_wrong_keeps_what_there_is(anipot, here):
    potential, water, _ = here
    words = ("scan", potential, water, "--angle", 1, 0, 2, "--range", "120:180:3", "--relaxed")
    result = anipot(*words, "--steps", 1)
    assert result.code == 2
    assert "after 2 points: angle 1-0-2 cannot be 180 degrees here" in result.err
    assert len(ase.io.read("water_scan.extxyz", ":")) == 2


def test_scan_interrupted_says_what_is_left(anipot, here, interrupt):
    potential, water, _ = here
    interrupt(3)
    result = anipot("scan", potential, water, "--distance", 0, 1, "--range", "0.9:1.1:5")
    assert result.code == 130
    assert "3 points are left; --range 1:1.1:3 goes on" in result.err
    assert len(ase.io.read("water_scan.extxyz", ":")) == 2


@pytest.mark.parametrize("command", ["md", "scan"])
def test_figures_are_not_overwritten_unasked(anipot, here, tmp_path, command):
    potential, water, _ = here
    more = ("--distance", 0, 1, "--range", "0.9:1.1:2") if command == "scan" else ("--time", 1)
    figure = tmp_path / "out.svg"
    figure.write_text("precious")
    result = anipot(command, potential, water, *more, "-o", "out.extxyz")
    assert result.code == 2
    assert "out.svg exists" in result.err
    assert figure.read_text() == "precious"


@pytest.mark.parametrize("command", ["relax", "md", "scan"])
def test_nothing_is_overwritten_unasked(anipot, here, tmp_path, command):
    potential, water, _ = here
    more = ("--distance", 0, 1, "--range", "0.9:1.1:2") if command == "scan" else ()
    more += ("--time", 1) if command == "md" else ()
    out = tmp_path / "out.extxyz"
    out.write_text("precious")
    result = anipot(command, potential, water, *more, "-o", out)
    assert result.code == 2
    assert "exists; name another file with --out, or replace it with --overwrite" in result.err
    assert out.read_text() == "precious"
    assert anipot(command, potential, water, *more, "-o", out, "--overwrite").code == 0
    assert "precious" not in out.read_text()
    (tmp_path / "in.extxyz").write_text(water.read_text())
    same = anipot(command, potential, "in.extxyz", *more, "-o", "in.extxyz", "--overwrite")
    assert "is an input file" in same.err


def test_what_cannot_be_done_is_said(anipot, here):
    potential, water, two = here

    def refused(*words: object) -> str:
        result = anipot(*words)
        assert result.code == 2
        return result.err

    assert "has 2 structures; choose one with --frame" in refused("md", potential, two)
    assert "no frame 7" in refused("md", potential, two, "--frame", 7)
    assert "timestep" in refused("md", potential, water, "--timestep", -1)
    assert "has no step of 0.5 fs" in refused("md", potential, water, "--time", 0.2)
    assert "written as .extxyz or .traj" in refused("md", potential, water, "-o", "a.xyz")
    scan = ("scan", potential, water, "--range")
    assert "give one of --dihedral" in refused(*scan, "0:1:2")
    assert "write START:STOP:N" in refused(*scan, "0-1", "--distance", 0, 1)
    assert "no atom 9" in refused(*scan, "0:1:2", "--distance", 0, 9)
    kept = Path("kept.extxyz")
    kept.write_text("precious")
    relax = ("relax", potential, water, "-o", kept, "--overwrite")
    assert "known: BFGS, LBFGS, FIRE" in refused(*relax, "--optimizer", "x")
    assert "of structure 0 pbc is [False" in refused(*relax, "--cell")
    assert kept.read_text() == "precious"
    ase.io.write("s.xyz", ase.build.molecule("SH2"), format="xyz")
    assert "is S, which this model does not know" in refused("relax", potential, "s.xyz")


SELECTIVE = """water
1.0
9 0 0
0 9 0
0 0 9
O H
1 2
Selective dynamics
Cartesian
4.5 4.5 4.5 F F F
4.5 5.3 5.1 T T T
4.5 3.7 5.1 T T F
"""


@pytest.mark.parametrize("kind", ["POSCAR", "extxyz", "traj"])
def test_constraints_of_files_hold(anipot, here, tmp_path, kind):
    potential, *_ = here
    (tmp_path / "POSCAR").write_text(SELECTIVE)
    start = ase.io.read("POSCAR")
    if kind != "POSCAR":
        mask = [False, False, True]
        start.set_constraint([FixAtoms([0]), FixCartesian([2], mask)])
        ase.io.write(f"a.{kind}", start)
    file = "POSCAR" if kind == "POSCAR" else f"a.{kind}"
    relaxed = anipot("relax", potential, file, "-o", "r.extxyz", "--steps", 3)
    md = anipot("md", potential, file, "-o", "m.extxyz", "--time", 5, "--timestep", 0.25)
    for result, name in ((relaxed, "r"), (md, "m")):
        assert result.code == 0, result.err
        assert "constraints of 1 of 1 structures hold: FixAtoms" in result.out
        end = ase.io.read(f"{name}.extxyz", -1)
        np.testing.assert_allclose(end.positions[0], start.positions[0], atol=1e-8)
        np.testing.assert_allclose(end.positions[2, 2], start.positions[2, 2], atol=1e-8)
        assert np.abs(end.positions - start.positions).max() > 1e-3
        assert fixed(end.constraints, end)[0].all()
    refused = anipot("vibrations", potential, file)
    assert refused.code == 2
    assert "cannot be held in vibrations" in refused.err
    assert "not read" in anipot("data", "info", file).out


def test_several_molecules_of_one_file(anipot, here, tmp_path):
    potential, *_ = here
    rows = "    0.0000    0.0000    {:.4f} {}   0  0\n"
    one = "h\n\n\n  2  0  0  0  0  0  0  0  0  0999 V2000\n{}M  END\n$$$$\n"
    pairs = [rows.format(0, "H") + rows.format(0.8 + k / 10, "O") for k in range(2)]
    (tmp_path / "two.sdf").write_text("".join(one.format(pair) for pair in pairs))
    result = anipot("relax", potential, "two.sdf", "--steps", 0)
    assert result.code == 0, result.err
    assert len(ase.io.read("two_relaxed.extxyz", ":")) == 2


def test_atoms_in_one_place_or_far_away_are_told(anipot, here):
    potential, _, _ = here
    for name, x in (("near", 0.0), ("far", 14.0)):
        ase.io.write(f"{name}.xyz", ase.Atoms("H2", [[0, 0, 0], [x, 0, 0]]), format="xyz")
    near = anipot("relax", potential, "near.xyz", "--steps", 0)
    assert "are 0.000 angstrom apart" in near.err
    far = anipot("md", potential, "far.xyz", "--time", 1)
    assert "has no other atom within 5.2 angstrom" in far.err
    assert "Are the lengths in angstrom" in far.err
    assert "--length-unit" not in far.err


def test_beyond_the_calibration_there_are_warnings(anipot, here):
    potential, water, two = here
    ensemble = load(potential)
    limits = {"largest_molecule_atoms": 4, "disagreement_kcalmol": 1e-3, "scale": 1.0, "n": 2,
              "data": "two molecules", "rank_correlation": 0.5}  # fmt: skip
    ensemble.save("known.safetensors", calibrated=limits)
    result = anipot("relax", "known.safetensors", two, "--steps", "2", "--fmax", "1e-9")
    assert "frame 1 CH4O (6)" in result.err
    assert "more atoms than the 4 of the largest molecule" in result.err
    assert "the members disagree by" in result.err
    # What is asked for takes the place of the calibration.
    known = anipot("md", "known.safetensors", water, "--time", "1", "--max-disagreement", "1e6")
    assert known.code == 0, known.err
    assert "the members disagree" not in known.err
    assert "more atoms" not in known.err
