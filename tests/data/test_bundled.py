import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anipot.data.published.bundled import (
    TEST_MOLECULES,
    VALIDATION_MOLECULES,
    bundled_path,
    load_bundled,
    read_molecule_list,
)
from anipot.errors import DataError
from anipot.units import HARTREE_TO_KCALMOL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data():
    return load_bundled()


def test_the_bundled_data_is_what_its_readme_says(data):
    assert (len(data), len(data.molecule_names), len(data.atomic_numbers)) == (7419, 63, 43875)
    assert data.grouped_by == "molecule"
    assert data.elements == ("H", "C", "N", "O")
    assert data.level_of_theory.startswith("RKS wB97X / 6-31G(d)")
    assert np.bincount([int(n[5:7]) for n in data.molecule_names]).tolist() == [0, 3, 14, 28, 18]
    heavy = {name: int(name[5:7]) for name in data.molecule_names}
    assert all(
        heavy[data.molecule_names[m]] == h
        for m, h in zip(data.molecule, data.heavy_atoms, strict=True)
    )
    assert data.has("forces").all()


def test_its_forces_are_forces_of_its_energies(data):
    # Free molecules: no net force. Along a displacement between two conformers of nitrogen, a
    # one-dimensional curve, the force must be minus the slope of the energy.
    n2 = data.select(molecules=["N#N"])
    x = n2.coordinates.astype(float).reshape(-1, 2, 3)
    bond = x[:, 1] - x[:, 0]
    r = np.linalg.norm(bond, axis=1)
    along = (n2.forces.reshape(-1, 2, 3)[:, 1] * bond).sum(axis=1) / r
    order = np.argsort(r)
    curve = np.polynomial.Polynomial.fit(r[order], n2.energies[order], 8)
    error = np.abs(-curve.deriv()(r) - along) * HARTREE_TO_KCALMOL
    assert np.median(error) < 1.0
    assert np.abs(along).max() * HARTREE_TO_KCALMOL > 50


def test_the_lists_of_the_split_by_molecule(data):
    test = read_molecule_list(bundled_path(TEST_MOLECULES))
    validation = read_molecule_list(bundled_path(VALIDATION_MOLECULES))
    parts = data.split_molecules(validation, test)
    assert [len(p) for p in parts] == [6203, 556, 660]
    assert len(test) == 7
    assert len(validation) == 6
    for part in parts[1:]:
        assert set(data.heavy_atoms[part]) == {2, 3, 4}
    assert set(data.take(parts[2]).elements) == set("HCNO")


def test_a_list_of_molecules(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# a comment\n\nC#C\n  gdb/CC#N   # a nitrile\n#\n")
    assert read_molecule_list(path) == ["C#C", "gdb/CC#N"]
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="no molecule in the list"):
        read_molecule_list(path)
    path.write_text("CC\nCC\n")
    with pytest.raises(DataError, match="'CC' is listed twice"):
        read_molecule_list(path)
    with pytest.raises(DataError, match=r"nowhere.txt"):
        read_molecule_list(tmp_path / "nowhere.txt")


def test_a_file_that_is_not_bundled():
    with pytest.raises(DataError, match=r"nothing.h5 is not where"):
        bundled_path("nothing.h5")


@pytest.mark.slow
def test_an_installed_wheel_finds_its_data(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    source.mkdir()
    # A copy: a build writes beside its sources.
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    for name in ("anipot", "data"):
        shutil.copytree(ROOT / name, source / name)
    made = subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
    )
    if made.returncode and "setuptools" in made.stderr and "No module" in made.stderr:
        pytest.skip("setuptools is not installed here")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("anipot-*.whl")
    target = tmp_path / "target"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    code = (
        "import anipot.data.published.bundled as d\n"
        "print(d.bundled_path())\n"
        "print(len(d.load_bundled()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert Path(out[0]).is_relative_to(target)
    assert out[1] == "7419"
