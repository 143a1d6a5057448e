"""The materials table on crystals of two elements that a classical potential labels."""

from functools import partial

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from anipot.errors import DataError
from anipot.studies import materials


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rattled, strained crystals of copper and aluminium with the labels of EMT."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for element in ("Cu", "Al"):
        for part, n in (("training", 30), ("test", 6)):
            frames = []
            for k in range(n):
                atoms = bulk(element, cubic=True) * ((2, 1, 1) if k % 2 else (1, 1, 1))
                strain = np.eye(3) + rng.normal(scale=0.01, size=(3, 3))
                atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
                atoms.rattle(0.1, rng=rng)
                atoms.calc = EMT()
                atoms.get_forces()
                frames.append(atoms)
            ase.io.write(folder / f"{element}_{part}.extxyz", frames)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read, in order."""
    names = []
    load = materials.load_dataset

    def counted(file, **options):
        names.append(file.name)
        return load(file, **options)

    monkeypatch.setattr(materials, "load_dataset", counted)
    return names


@pytest.mark.slow
def test_potentials_learn_and_each_test_file_is_read_once(data, tmp_path, reads, capsys):
    results = materials.run(data, folder=tmp_path / "out", members=2, epochs=(16, 8))
    assert list(results) == ["Al", "Cu"]
    assert sorted(reads) == [
        f"{element}_{part}.extxyz" for element in ("Al", "Cu") for part in ("test", "training")
    ]
    for element, result in results.items():
        test = ase.io.read(data / f"{element}_test.extxyz", ":")
        energies = np.array([a.get_potential_energy() / len(a) for a in test])
        forces = np.concatenate([a.get_forces() for a in test])
        assert result["test"]["energy"] < 0.5 * 1000 * energies.std()
        assert result["test"]["forces"] < 0.5 * np.sqrt(np.mean(forces**2))
        assert result["test_evaluations"] == 1
        # What is said is what the saved potential does.
        potential = materials.load(tmp_path / "out" / "potentials" / f"{element}.safetensors")
        assert len(potential) == 2
        again = []
        for atoms in test:
            reference = atoms.get_potential_energy()
            atoms.calc = potential.calculator()
            again.append(1000 * (atoms.get_potential_energy() - reference) / len(atoms))
        rmse = np.sqrt(np.mean(np.square(again)))
        assert result["test"]["energy"] == pytest.approx(rmse, rel=1e-3)
    out = capsys.readouterr().out
    table = next(part for part in out.split("\n\n") if part.startswith("| RMSE"))
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert set(materials.PUBLISHED) < set(rows)
    assert "0.56" in rows["GAP"]  # copper is in the published table
    assert f"{results['Cu']['test']['energy']:.2f}" in rows["anipot"]
    assert (tmp_path / "out" / "figures" / "Cu-parity.png").exists()


def test_folds_read_no_test_file(data, tmp_path, reads):
    found = materials.run(data, ["Cu"], tmp_path / "out", members=1, epochs=(1, 1), folds=2)
    assert reads == ["Cu_training.extxyz"]
    assert len(found["Cu"]) == 2
    assert found["Cu"][0] != found["Cu"][1]


def test_a_study_that_goes_on_counts_every_evaluation(data, tmp_path, monkeypatch):
    def broken(*arguments):
        raise KeyboardInterrupt

    run = partial(materials.run, data, ["Cu"], tmp_path / "out", members=1, epochs=(1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(materials, "seconds_per_atom", broken)
        with pytest.raises(KeyboardInterrupt):
            run()

    def trained(*arguments):
        raise AssertionError("a finished member was trained again")

    monkeypatch.setattr(materials, "train_member", trained)
    assert run()["Cu"]["test_evaluations"] == 2


def test_missing_files_are_named(data, tmp_path):
    with pytest.raises(DataError, match=r"Mo_training\.extxyz"):
        materials.run(data, ["Cu", "Mo"], tmp_path / "out")
    with pytest.raises(DataError, match="has no file such as"):
        materials.run(tmp_path, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # processes of their own, which load everything anew
def test_members_side_by_side_are_those_of_one_after_another(data, tmp_path):
    one = materials.run(data, ["Cu"], tmp_path / "one", members=2, epochs=(1, 1))
    two = materials.run(data, ["Cu"], tmp_path / "two", members=2, epochs=(1, 1), threads=2)
    assert one["Cu"]["test"] == two["Cu"]["test"]
